"""The address of a cluster: it can be pickled, written to a journal and opened again."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict

from tasks.kube.errors import NoClusterError
from tasks.text import suggest

if TYPE_CHECKING:
    from kubernetes.client import Configuration

SERVICE_HOST = "KUBERNETES_SERVICE_HOST"
LOOPBACK = ("localhost", "127.0.0.1", "::1")
DEFAULT_KUBECONFIG = "~/.kube/config"


class ClusterAddress(BaseModel):
    """``kubeconfig`` (one path, or several joined as in ``$KUBECONFIG``) and ``context``, or, with ``kubeconfig`` None,
    the service account of the pod that this process runs in. ``namespace`` is where the stack is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    namespace: str
    context: str | None = None
    kubeconfig: str | None = None

    @property
    def in_cluster(self) -> bool:
        return self.kubeconfig is None

    @property
    def label(self) -> str:
        return "the cluster of this pod" if self.in_cluster else f"context '{self.context}'"


def find_cluster(context: str | None, namespace: str, environment: Mapping[str, str] | None = None) -> ClusterAddress:
    """Return the address for ``deploy.context``, pinned: `kubectl config use-context` does not move a campaign.

    Without a context: the pod's own service account inside a pod (unless ``$KUBECONFIG`` is set), else the current
    context of the kubeconfig.

    Raises:
        NoClusterError: there is neither, or the kubeconfig has no such context.
    """
    values = os.environ if environment is None else environment
    if context is None and values.get(SERVICE_HOST) and not values.get("KUBECONFIG"):
        return ClusterAddress(namespace=namespace)
    kubeconfig = _absolute(values.get("KUBECONFIG") or DEFAULT_KUBECONFIG)
    contexts, current = _contexts(kubeconfig)
    chosen = context or current
    if chosen is None:
        raise NoClusterError(
            f"{kubeconfig} has no current context: set deploy.context ({suggest('', contexts)}), "
            "or run `kubectl config use-context`"
        )
    if chosen not in contexts:
        raise NoClusterError(f"deploy.context: {kubeconfig} has no context '{chosen}'; {suggest(chosen, contexts)}")
    return ClusterAddress(namespace=namespace, context=chosen, kubeconfig=kubeconfig)


def load_configuration(address: ClusterAddress) -> Configuration:
    """Read host, TLS and credentials afresh from the kubeconfig (exec plugins are run) or the pod's files.

    Raises:
        NoClusterError: they cannot be read.
    """
    from kubernetes import config
    from kubernetes.client import Configuration

    configuration = Configuration()
    try:
        if address.in_cluster:
            config.load_incluster_config(client_configuration=configuration)
        else:
            config.load_kube_config(
                config_file=address.kubeconfig,
                context=address.context,
                client_configuration=configuration,
                persist_config=False,
            )
    except _kubeconfig_failures() as error:
        raise NoClusterError(f"{address.label}: cannot be used: {_first_line(error)}") from error
    if urlsplit(str(configuration.host)).hostname in LOOPBACK:
        configuration.proxy = None  # as kubectl does
    return configuration


def _absolute(kubeconfig: str) -> str:
    paths = [Path(part).expanduser().absolute() for part in kubeconfig.split(os.pathsep) if part]
    return os.pathsep.join(map(str, paths))


def _contexts(kubeconfig: str) -> tuple[list[str], str | None]:
    """Return the names of the contexts and of the current one (None when there is none)."""
    documents = [document for part in kubeconfig.split(os.pathsep) if (document := _read(Path(part)))]
    if not documents:
        raise NoClusterError(
            f"no cluster: no kubeconfig at {kubeconfig}. Set KUBECONFIG, or make a cluster first (docs/kubernetes.md)"
        )
    contexts = [str(entry["name"]) for document in documents for entry in document.get("contexts") or ()]
    if not contexts:
        raise NoClusterError(f"no cluster: {kubeconfig} has no context. Make a cluster first (docs/kubernetes.md)")
    current = next((str(name) for document in documents if (name := document.get("current-context"))), None)
    return contexts, current


def _read(path: Path) -> dict[str, Any] | None:
    import yaml

    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise NoClusterError(f"{path}: cannot be read as a kubeconfig: {_first_line(error)}") from error
    return document if isinstance(document, dict) else None


def _kubeconfig_failures() -> tuple[type[Exception], ...]:
    import yaml
    from kubernetes.config import ConfigException

    return (ConfigException, OSError, yaml.YAMLError, ValueError, KeyError, TypeError)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
