"""Renders ``KubernetesDeployParams`` to manifests, without cluster, clock or environment."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tasks.deploy.kubernetes import names
from tasks.deploy.kubernetes.charts import (
    DEFAULT_RUNTIME,
    SAFE_LOADER,
    ChartRelease,
    ContainerRuntime,
    Prerequisite,
    chart_releases,
    environment,
    gpu_nodes_only,
    prerequisites,
    tolerations,
)
from tasks.deploy.kubernetes.models import model_preset
from tasks.deploy.kubernetes.params import KubernetesDeployParams, PodResources
from tasks.deploy.kubernetes.serve_config import replica_names, route_prefixes, serve_config
from tasks.kube.manifest import SHARED_LABELS, Manifest, stack_labels, with_fingerprint
from tasks.kube.node_fault import NodeFaultSpec, NodeFaultStatus
from tasks.kube.structural_schema import structural_schema
from tasks.stack import GATEWAY, HEAD

DIRECTORY = Path(__file__).parent
TEMPLATES = (
    "namespace.yaml.j2",
    "node-fault-crd.yaml.j2",
    "rbac.yaml.j2",
    "storage.yaml.j2",
    "network-policies.yaml.j2",
    "serve-code.yaml.j2",
    "gateway.yaml.j2",
    "ray-service.yaml.j2",
    "gpu-agent.yaml.j2",
    "mesh.yaml.j2",
    "monitors.yaml.j2",
    "dashboards.yaml.j2",
)
"""Templates in apply order."""
GPU_DASHBOARD = "gpu"
GPU_TEMPLATES = frozenset({"node-fault-crd.yaml.j2", "gpu-agent.yaml.j2"})

RAY_VERSION = "2.60.0"
CLUSTER_SCOPED = frozenset({"Namespace", "ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition"})
SHARED_BY_STACKS = frozenset({"CustomResourceDefinition"})
REWRITTEN_BY_OPERATORS = frozenset({"RayService"})
"""Kinds compared by fingerprint: KubeRay adds fields to the worker groups, a list that server-side apply replaces as a
whole, so a dry run always shows a change."""
SHARED_MEMORY_GB = 16
HELM_TIMEOUT = "15m"


def render_stack(params: KubernetesDeployParams) -> tuple[Manifest, ...]:
    """Return our objects in apply order, labelled ``manifest.stack_labels(namespace)``, or ``manifest.SHARED_LABELS``
    where all stacks of a cluster share them."""
    context = template_context(params)
    documents = (
        document
        for name in TEMPLATES
        if params.accelerator.kind == "nvidia" or name not in GPU_TEMPLATES
        for document in yaml.load_all(environment("templates").get_template(name).render(context), SAFE_LOADER)
        if document is not None
    )
    return tuple(Manifest(_labelled(document, params.namespace)) for document in documents)


def write_manifests(
    params: KubernetesDeployParams, directory: Path, runtime: ContainerRuntime = DEFAULT_RUNTIME
) -> list[Path]:
    """Write one numbered file per manifest, ``charts/<release>/values.yaml`` and ``charts/install.sh``; return them.

    ``directory`` is replaced as a whole, or left unchanged on failure.

    Raises:
        OSError: it cannot be written, or it contains files that this function did not write.
    """
    _check_replaceable(directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{directory.name}-", dir=directory.parent) as temporary:
        staging, old = Path(temporary, "new"), Path(temporary, "old")
        staging.mkdir(mode=0o755)
        files = [*_write_stack(params, staging), *_write_charts(params, runtime, staging)]
        (staging / MARKER).write_text("Written by `rcarena deploy render`; replaced as a whole.\n", encoding="utf-8")
        if directory.exists():
            directory.rename(old)
        staging.rename(directory)
    return [directory / file.relative_to(staging) for file in files]


MARKER = ".rcarena-render"


def _check_replaceable(directory: Path) -> None:
    if directory.is_symlink() or (directory.exists() and not directory.is_dir()):
        raise FileExistsError(f"{directory}: is not a directory")
    if directory.exists() and any(directory.iterdir()) and not (directory / MARKER).exists():
        raise FileExistsError(f"{directory}: holds other files; name an empty or a new directory")


def _write_stack(params: KubernetesDeployParams, directory: Path) -> Iterator[Path]:
    for number, manifest in enumerate(render_stack(params)):
        file = directory / f"{number:02d}-{manifest.kind.lower()}-{manifest.name}.yaml"
        file.write_text(dump(manifest.document), encoding="utf-8")
        yield file


def _write_charts(params: KubernetesDeployParams, runtime: ContainerRuntime, directory: Path) -> Iterator[Path]:
    releases = chart_releases(params, runtime)
    charts = directory / "charts"
    charts.mkdir()
    for release in releases:
        file = charts / release.name / "values.yaml"
        file.parent.mkdir()
        file.write_text(dump(release.values), encoding="utf-8")
        yield file
    script = charts / "install.sh"
    script.write_text(install_script(releases, prerequisites(params) if releases else ()), encoding="utf-8")
    script.chmod(0o755)
    yield script


def install_script(releases: tuple[ChartRelease, ...], needed: tuple[Prerequisite, ...] = ()) -> str:
    """Return an idempotent shell script that installs ``needed`` and ``releases``."""
    lines = ["#!/bin/sh", "set -eu", 'cd "$(dirname "$0")"']
    for each in needed:
        lines.append(f"kubectl get crd {each.crd} || kubectl apply --server-side --filename={each.manifest}")
    for release in releases:
        labels = " ".join(f"{key}={value}" for key, value in sorted(release.namespace_labels.items()))
        if labels:
            create = f"kubectl create namespace {release.namespace} --dry-run=client --output=yaml"
            lines.append(f"{create} | kubectl apply --filename=-")
            lines.append(f"kubectl label --overwrite namespace {release.namespace} {labels}")
        lines.append(
            f"helm upgrade --install {release.name} {release.chart} --repo {release.repo} --version {release.version}"
            f" --namespace {release.namespace} --create-namespace --values {release.name}/values.yaml"
            f" --reset-values --wait --timeout {HELM_TIMEOUT}"
        )
    return "\n".join(lines) + "\n"


_DUMPER: type[yaml.SafeDumper] = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class _Dumper(_DUMPER):  # type: ignore[valid-type,misc]  # C or Python, known at import
    """Writes multi-line text (configuration files) as blocks, readable and diffable, without aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def dump(document: dict[str, Any]) -> str:
    """Return readable YAML: keys in their order, configuration files as blocks."""
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)


def _labelled(document: dict[str, Any], namespace: str) -> dict[str, Any]:
    metadata = document["metadata"]
    if document["kind"] not in CLUSTER_SCOPED:
        metadata.setdefault("namespace", namespace)
    labels = SHARED_LABELS if document["kind"] in SHARED_BY_STACKS else stack_labels(namespace)
    metadata["labels"] = {**(metadata.get("labels") or {}), **labels}
    return with_fingerprint(document) if document["kind"] in REWRITTEN_BY_OPERATORS else document


def template_context(params: KubernetesDeployParams) -> dict[str, Any]:
    """Return the variables of the templates: parameters, names, and values derived from them."""
    replicas = replica_names(params)
    context: dict[str, Any] = {
        **{field: getattr(params, field) for field in ("namespace", "storage", "images", "resources", "telemetry")},
        "accounts_namespace": params.accounts_namespace or params.namespace,
        "parallelism": params.parallelism,
        "accelerator": params.accelerator,
        "token": params.model_token,
        "node_fault": {"spec": structural_schema(NodeFaultSpec), "status": structural_schema(NodeFaultStatus)},
        "names": names,
        "account": names.task_account,
        "model": model_preset(params.model),
        "gateway": GATEWAY,
        "head": HEAD,
        "replicas": replicas,
        "mesh": params.telemetry.istio,
        "interval": f"{params.scrape_interval_s}s",
        "gpus": params.gpus_per_pod,
        "gpu_nodes_only": gpu_nodes_only(params),
        "ray_version": RAY_VERSION,
        "ray_cpus": int(params.resources.replica.cpu_cores),
        "ray_environment": _ray_environment(params),
        "engine_environment": _engine_environment(params),
        "models_claims": _models_claims(params, replicas),
        "tolerations": tolerations(params),
        "serve_config": yaml.safe_dump(serve_config(params), sort_keys=False, width=120),
        "routing_module": (DIRECTORY.parent / "ejecting_router.py").read_text(encoding="utf-8"),
        "tracing_module": (DIRECTORY / "tracing_module.py").read_text(encoding="utf-8"),
        "dashboards": {
            file.stem: file.read_text(encoding="utf-8")
            for file in sorted((DIRECTORY / "dashboards").glob("*.json"))
            if params.gpus_per_pod or file.stem != GPU_DASHBOARD
        },
        "pod_labels": lambda service, ray=False, serve=False: _pod_labels(params, service, ray, serve),
        "pod_resources": lambda resources, gpus=0: _pod_resources(params, resources, gpus),
        "shared_memory": lambda resources: memory_quantity(min(SHARED_MEMORY_GB, resources.memory_gb / 4)),
        "ray_resources": lambda replica: _ray_resources(params, replica),
        "affinity": lambda replica: _affinity(params, replica),
    }
    context["routes"] = route_prefixes(params)
    context["shares"] = _shares(context["routes"])
    context["otlp_address"] = params.telemetry.otlp_endpoint.partition("://")[2].rstrip("/")
    context["nginx_conf"] = environment("templates").get_template("nginx.conf.j2").render(context)
    return context


def _ray_environment(params: KubernetesDeployParams) -> dict[str, str]:
    """Return the environment of every Ray pod. Ray reports twice per scrape, so that no scrape repeats a report."""
    return {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_COLOR_PREFIX": "0",
        "RAY_metrics_report_interval_ms": str(params.scrape_interval_s * 500),
        "RAY_SERVE_TRACING_EXPORTER_IMPORT_PATH": f"{names.TRACING_MODULE}:span_processors",
        "RAY_SERVE_TRACING_SAMPLING_RATIO": "1.0",
        "OTEL_EXPORTER_OTLP_ENDPOINT": params.telemetry.otlp_endpoint,
        "PYTHONPATH": names.SERVE_CODE_DIRECTORY,
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
    }


def _engine_environment(params: KubernetesDeployParams) -> dict[str, str]:
    environment = {"HF_HOME": names.MODELS_DIRECTORY, "TOKENIZERS_PARALLELISM": "false"}
    if params.accelerator.kind == "none":
        environment |= {
            "VLLM_TARGET_DEVICE": "cpu",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": str(max(1, int(params.resources.replica.cpu_cores))),
        }
    return environment


def _models_claims(params: KubernetesDeployParams, replicas: tuple[str, ...]) -> tuple[str, ...]:
    """Return the volume claim of each replica's weights: shared only if several nodes can mount it."""
    if params.storage.access_mode == "ReadWriteMany":
        return ("models",) * len(replicas)
    return tuple(f"models-{replica}" for replica in replicas)


def _pod_labels(params: KubernetesDeployParams, service: str, ray: bool, serve: bool) -> dict[str, str]:
    labels = {"app": service, "service.istio.io/canonical-name": service, **stack_labels(params.namespace)}
    if ray:
        labels["rcarena.io/ray"] = "true"
    if serve:
        labels[names.SERVE_LABEL] = "true"
    return labels


def _pod_resources(params: KubernetesDeployParams, resources: PodResources, gpus: int) -> dict[str, Any]:
    """Return resources with requests equal to limits, so that a stress acts the same whatever neighbours do."""
    quantities = {"cpu": cpu_quantity(resources.cpu_cores), "memory": memory_quantity(resources.memory_gb)}
    if gpus:
        quantities[params.accelerator.resource] = str(gpus)
    return {"requests": dict(quantities), "limits": quantities}


def cpu_quantity(cores: float) -> str:
    """Return the CPU quantity in the API server's canonical form: whole cores, else millicores."""
    return str(int(cores)) if float(cores).is_integer() else f"{round(cores * 1000)}m"


def memory_quantity(gigabytes: float) -> str:
    return f"{int(gigabytes)}G" if float(gigabytes).is_integer() else f"{round(gigabytes * 1000)}M"


def _ray_resources(params: KubernetesDeployParams, replica: str) -> str:
    """Return the replica's Ray resources as a quoted JSON object, which KubeRay passes on to ``ray start``."""
    resources = {names.NODE_MARKER: 1, names.ENGINE_SLOT: params.parallelism.tensor, replica: 1}
    return "'" + json.dumps(resources) + "'"


def _affinity(params: KubernetesDeployParams, replica: str) -> dict[str, Any] | None:
    """Return the affinity between the pods of one replica; None with one pod. Replicas are placed independently."""
    if params.parallelism.pipeline == 1:
        return None
    term = {
        "labelSelector": {"matchLabels": {"app": replica, **stack_labels(params.namespace)}},
        "topologyKey": "kubernetes.io/hostname",
    }
    preferred = {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "podAffinityTerm": term}]}
    if params.placement_strategy == "STRICT_SPREAD":
        return {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
    return {"podAntiAffinity" if params.placement_strategy == "SPREAD" else "podAffinity": preferred}


def _shares(routes: tuple[str, ...]) -> list[str]:
    """Return the lines of nginx's ``split_clients``: equal shares, the last one takes the rounding error."""
    share = int(10_000 / len(routes)) / 100
    return [f"{share:.2f}% {route}" for route in routes[:-1]] + [f"* {routes[-1]}"]
