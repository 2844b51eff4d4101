"""Third-party Helm charts: pinned versions, values for the parameters, and readiness checks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from tasks.deploy.kubernetes import names
from tasks.deploy.kubernetes.params import KubernetesDeployParams

SAFE_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
DIRECTORY = Path(__file__).parent
CHARTS_FILE = DIRECTORY / "charts.yaml"
GPU_PRESENT_LABEL = "nvidia.com/gpu.present"

SWITCHES: Mapping[str, Callable[[KubernetesDeployParams], bool]] = {
    "telemetry.istio": lambda params: params.telemetry.istio,
    "telemetry.deepflow": lambda params: params.telemetry.deepflow,
    "telemetry.gpu_operator": lambda params: params.telemetry.gpu_operator,
    "accelerator.kind": lambda params: params.accelerator.kind == "nvidia",
}
"""Parameter in the ``switch`` of a release -> whether it turns the release on."""


Distribution = Literal["", "k3s", "rke2", "k0s", "microk8s", "kind", "gke", "openshift"]


@dataclass(frozen=True)
class ContainerRuntime:
    """The nodes' container runtime, and their Kubernetes distribution (empty: none in particular).

    Chaos Mesh needs the socket; the directories of plugins and configurations depend on the distribution.
    """

    name: Literal["containerd", "crio", "docker"] = "containerd"
    socket: str = "/run/containerd/containerd.sock"
    distribution: Distribution = ""

    def __str__(self) -> str:
        return f"{self.name} at {self.socket}" + (f" ({self.distribution})" if self.distribution else "")


DEFAULT_RUNTIME = ContainerRuntime()

TOOLKIT_ENVIRONMENTS: Mapping[Distribution, Mapping[str, str]] = {
    "k3s": {
        "CONTAINERD_CONFIG": "/var/lib/rancher/k3s/agent/etc/containerd/config.toml",
        "CONTAINERD_SOCKET": "/run/k3s/containerd/containerd.sock",
    },
    "rke2": {
        "CONTAINERD_CONFIG": "/var/lib/rancher/rke2/agent/etc/containerd/config.toml",
        "CONTAINERD_SOCKET": "/run/k3s/containerd/containerd.sock",
    },
    "microk8s": {
        "CONTAINERD_CONFIG": "/var/snap/microk8s/current/args/containerd-template.toml",
        "CONTAINERD_SOCKET": "/var/snap/microk8s/common/run/containerd.sock",
    },
    "k0s": {
        "RUNTIME_CONFIG": "/etc/k0s/containerd.d/nvidia.toml",
        "RUNTIME_SOCKET": "/run/k0s/containerd.sock",
        "RUNTIME_EXECUTABLE_PATH": "/var/lib/k0s/bin/containerd",
        "NVIDIA_RUNTIME_NAME": "nvidia",
    },
    "kind": {"RUNTIME_CONFIG_SOURCE": "file"},
}
"""Environment of the GPU operator's container toolkit: where a distribution keeps containerd's configuration. On kind
the toolkit must not ask containerd for it: that ends containerd."""


@dataclass(frozen=True)
class ReadinessCheck:
    """An object in the release's namespace that must be ready before the release counts as up."""

    kind: Literal["Deployment", "DaemonSet", "StatefulSet"]
    name: str


@dataclass(frozen=True)
class PinnedChart:
    """A chart in the version that we use; ``seen`` says where and when that version was found."""

    name: str
    repo: str
    chart: str
    version: str
    seen: str


@dataclass(frozen=True)
class ChartRelease(PinnedChart):
    """One ``helm upgrade --install``. ``crds`` are the CRDs that it installs; ``switch`` is the parameter that turns it
    on (None: every stack needs it)."""

    namespace: str
    values: dict[str, Any]
    readiness: tuple[ReadinessCheck, ...]
    crds: tuple[str, ...] = ()
    switch: str | None = None
    namespace_labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Prerequisite:
    """A CRD that no chart installs, and the URL of its manifest."""

    crd: str
    manifest: str


def chart_releases(
    params: KubernetesDeployParams, runtime: ContainerRuntime = DEFAULT_RUNTIME
) -> tuple[ChartRelease, ...]:
    """Return the releases that ``params`` turn on, in install order; none with ``telemetry.install`` off."""
    if not params.telemetry.install:
        return ()
    context = _values_context(params, runtime)
    return tuple(_release(entry, context) for entry in _document()["releases"] if _is_on(entry.get("switch"), params))


def pinned_charts() -> tuple[PinnedChart, ...]:
    """Return all charts of ``charts.yaml``, whether or not parameters turn them on."""
    names = [field.name for field in fields(PinnedChart)]
    return tuple(PinnedChart(**{name: entry[name] for name in names}) for entry in _document()["releases"])


def gpu_nodes_only(params: KubernetesDeployParams) -> dict[str, Any]:
    """Return an affinity for GPU nodes, as labelled by the GPU operator; empty without the operator, where
    ``accelerator.node_selector`` chooses the nodes."""
    if not params.telemetry.gpu_operator:
        return {}
    expression = {"key": GPU_PRESENT_LABEL, "operator": "In", "values": ["true"]}
    required = {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}


def prerequisites(params: KubernetesDeployParams) -> tuple[Prerequisite, ...]:
    """Return the CRDs to apply before the charts."""
    return tuple(
        Prerequisite(entry["crd"], entry["manifest"])
        for entry in _document()["prerequisites"]
        if _is_on(entry.get("switch"), params)
    )


def _is_on(switch: str | None, params: KubernetesDeployParams) -> bool:
    return switch is None or SWITCHES[switch](params)


def _release(entry: dict[str, Any], context: dict[str, Any]) -> ChartRelease:
    plain = {key: value for key, value in entry.items() if key not in ("values", "readiness", "crds")}
    text = environment("values").get_template(entry["values"]).render(context)
    values = yaml.load(text, SAFE_LOADER)  # noqa: S506 (a safe loader)
    return ChartRelease(
        **plain,
        values=values or {},
        readiness=tuple(ReadinessCheck(**check) for check in entry["readiness"]),
        crds=tuple(entry.get("crds", ())),
    )


def _values_context(params: KubernetesDeployParams, runtime: ContainerRuntime) -> dict[str, Any]:
    return {
        "alloy_configuration": environment("values").get_template("alloy-configuration.alloy.j2").render(names=names),
        "dcgm_counters": environment("values").get_template("dcgm-counters.csv.j2").render(),
        "names": names,
        "runtime": runtime,
        "toolkit_environment": TOOLKIT_ENVIRONMENTS.get(runtime.distribution, {}),
        "interval": f"{params.scrape_interval_s}s",
        "interval_ms": params.scrape_interval_s * 1000,
        "lookback": f"{max(15, 3 * params.scrape_interval_s)}s",
        "storage_class": params.storage.class_name,
        "images": params.images,
        "accelerator": params.accelerator,
        "gpu": params.accelerator.kind == "nvidia",
        "gpu_nodes_only": gpu_nodes_only(params),
        "tolerations": tolerations(params),
    }


@cache
def _document() -> dict[str, Any]:
    document: dict[str, Any] = yaml.load(CHARTS_FILE.read_text(encoding="utf-8"), SAFE_LOADER)  # noqa: S506 (safe)
    return document


def tolerations(params: KubernetesDeployParams) -> list[dict[str, Any]]:
    """Return the tolerations of all pods: on a cluster with only GPU nodes, the head runs there, too."""
    if params.accelerator.kind == "none":
        return []
    return [toleration.model_dump(exclude_none=True) for toleration in params.accelerator.tolerations]


@cache
def environment(folder: str) -> Environment:
    """Return what renders the templates of a folder beside this module."""
    found = Environment(
        loader=FileSystemLoader(DIRECTORY / folder),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # noqa: S701 (YAML, not HTML)
    )
    found.filters["digest"] = lambda text: hashlib.sha256(text.encode()).hexdigest()[:16]
    found.filters["tojson"] = json.dumps
    return found
