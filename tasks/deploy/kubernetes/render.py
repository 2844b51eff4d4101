"""``KubernetesDeployParams`` -> manifests. A pure function: no cluster, no clock, no environment."""

from __future__ import annotations

from pathlib import Path

from tasks.deploy.kubernetes.manifest import Manifest
from tasks.stack import KubernetesDeployParams


def render_stack(params: KubernetesDeployParams) -> tuple[Manifest, ...]:
    """Our objects in the order in which to apply them; every one carries ``manifest.stack_labels(namespace)``."""
    raise NotImplementedError


def write_manifests(params: KubernetesDeployParams, directory: Path) -> list[Path]:
    """One numbered file per manifest, ``charts/<release>/values.yaml`` and ``charts/install.sh``.

    ``directory`` is replaced as a whole, or left as it was.
    """
    raise NotImplementedError
