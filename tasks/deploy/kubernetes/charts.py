"""The Helm charts of third parties: which, in which version, with which values, and how to see that they are ready."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from tasks.stack import KubernetesDeployParams


@dataclass(frozen=True)
class ContainerRuntime:
    """The nodes' container runtime, as preflight found it; Chaos Mesh needs its socket."""

    name: Literal["containerd", "crio", "docker"] = "containerd"
    socket: str = "/run/containerd/containerd.sock"


@dataclass(frozen=True)
class ReadinessCheck:
    """What must be ready before the release counts as up: objects of ``kind`` by ``name`` or by ``selector``."""

    kind: Literal["Deployment", "DaemonSet", "StatefulSet"]
    name: str | None = None
    selector: str | None = None


@dataclass(frozen=True)
class ChartRelease:
    """One ``helm upgrade --install``. ``name`` is the name of the release and ``crds`` what it must have brought."""

    name: str
    repo: str
    chart: str
    version: str
    namespace: str
    values: dict[str, Any]
    readiness: tuple[ReadinessCheck, ...]
    crds: tuple[str, ...] = ()
    switch: str | None = None
    namespace_labels: dict[str, str] = field(default_factory=dict)


def chart_releases(
    params: KubernetesDeployParams, runtime: ContainerRuntime = ContainerRuntime()
) -> tuple[ChartRelease, ...]:
    """The releases that ``params`` switch on, in the order in which to install; empty with ``telemetry.install`` off."""
    raise NotImplementedError
