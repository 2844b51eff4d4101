"""Makes a process of this machine a pod of the emulated cluster: the kubeconfig of its service account stands for the
files that a pod finds its API server by. Python imports this first where the folder is on its path."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.kube import address
from tasks.kube.errors import NoClusterError

if TYPE_CHECKING:
    from kubernetes.client import Configuration

load_outside = address.load_configuration


def load_configuration(asked: address.ClusterAddress) -> Configuration:
    file = Path(os.environ["EMULATED_ACCOUNT"])
    if not file.exists():
        raise NoClusterError(f"{file.name} has no token")
    return load_outside(asked.model_copy(update={"kubeconfig": str(file), "context": "emulated"}))


address.load_configuration = load_configuration
