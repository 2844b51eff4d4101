"""Checks a cluster before a stack is deployed there: one table, each failure with its cure."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from tasks.deploy.kubernetes.chart_index import check_charts
from tasks.deploy.kubernetes.charts import chart_releases
from tasks.deploy.kubernetes.crds import missing_crds, missing_prerequisites
from tasks.deploy.kubernetes.models import model_preset
from tasks.deploy.kubernetes.nodes import NodeGpus, container_runtimes, gpu_nodes
from tasks.deploy.kubernetes.params import KubernetesDeployParams
from tasks.deploy.kubernetes.permissions import missing_permissions
from tasks.deploy.kubernetes.validate import validate_deploy_params
from tasks.errors import RCArenaError
from tasks.kube.client import Cluster, Object
from tasks.kube.errors import ClusterError, ForbiddenError
from tasks.kube.gpu_map import read_gpu_maps

Verdict = Literal["ok", "warning", "failed"]
MissingSeries = Callable[[], Iterable[str]]
CheckFunction = Callable[[Cluster, KubernetesDeployParams], "Iterator[Check]"]

OLDEST_MINOR = 30
POD_SECURITY_LABEL = "pod-security.kubernetes.io/enforce"
PRIVILEGED = "privileged"
OPERATORS_RUNTIME_CLASS = "nvidia"
DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"


@dataclass(frozen=True)
class Check:
    """One row: what was checked, the result, and the cure when it is not ok."""

    name: str
    verdict: Verdict
    result: str
    cure: str = ""


def preflight(
    cluster: Cluster, params: KubernetesDeployParams, missing_series: MissingSeries | None = None
) -> tuple[Check, ...]:
    """Run every check; return the rows in the order in which to cure them.

    ``missing_series`` returns the metric series that Prometheus lacks from a running stack; None: skip that check.

    Raises:
        ClusterError: the cluster cannot be reached or refuses the credentials.
    """
    version = cluster.version()
    problems = validate_deploy_params(params)
    checks = [_version(cluster, version), *(Check("parameters", "failed", each, "correct it") for each in problems)]
    if problems:
        return tuple(checks)
    for check in (
        _permissions,
        _programs,
        _charts,
        _nodes,
        _gpus,
        _runtime_class,
        _power_limits,
        _storage,
        _token,
        _pod_security,
        _crds,
    ):
        checks += _run_check(check, cluster, params)
    if missing_series is not None:
        checks.append(_series(missing_series))
    return tuple(checks)


def _run_check(check: CheckFunction, cluster: Cluster, params: KubernetesDeployParams) -> list[Check]:
    """Run one check; a forbidden one becomes a row."""
    try:
        return list(check(cluster, params))
    except ForbiddenError as error:
        name = check.__name__.strip("_").replace("_", " ")
        return [Check(name, "warning", f"cannot be looked at: {error}", "ask for the permission, or check by hand")]


def _version(cluster: Cluster, version: str) -> Check:
    result = f"{cluster.label}, Kubernetes {version}"
    digits = version.removeprefix("v").split(".")
    minor = int("".join(filter(str.isdigit, digits[1]))) if len(digits) > 1 and digits[0] == "1" else None
    if minor is not None and minor < OLDEST_MINOR:
        return Check(
            "cluster", "warning", result, f"made for Kubernetes 1.{OLDEST_MINOR} and newer: upgrade the cluster"
        )
    return Check("cluster", "ok", result)


def _permissions(cluster: Cluster, params: KubernetesDeployParams) -> Iterator[Check]:
    missing = missing_permissions(cluster, params)
    if not missing:
        yield Check("permissions", "ok", "all that deploy, inject and export need")
        return
    cure = "let an administrator grant them, or use another deploy.context; `rcarena deploy render` writes the roles"
    yield Check("permissions", "failed", f"missing: {'; '.join(missing)}", cure)


def _programs(cluster: Cluster, params: KubernetesDeployParams) -> Iterator[Check]:
    if params.telemetry.install and not cluster.address.in_cluster:  # a pod installs no charts
        cure = "install it (https://helm.sh/docs/intro/install), or set deploy.telemetry.install: false"
        yield _program("helm", "it installs the charts", cure)
    given = params.endpoints.gateway is not None and params.endpoints.prometheus is not None
    if not cluster.address.in_cluster and not given:
        cure = "install it, or give the URLs in deploy.endpoints"
        yield _program("kubectl", "it makes the way from this machine to the stack", cure)


def _program(name: str, purpose: str, cure: str) -> Check:
    found = shutil.which(name) is not None
    return Check(name, "ok", "found") if found else Check(name, "failed", f"missing: {purpose}", cure)


def _charts(cluster: Cluster, params: KubernetesDeployParams) -> Iterator[Check]:
    """Check that every chart is in its repository, before helm installs any."""
    if cluster.address.in_cluster:
        return
    findings = check_charts(chart_releases(params))
    missing = [str(each) for each in findings if each.found is False]
    unknown = [str(each) for each in findings if each.found is None]
    if missing:
        cure = "pin a version that is there in tasks/deploy/kubernetes/charts.yaml (`rcarena deploy charts --check`)"
        yield Check("charts", "failed", "; ".join(missing), cure)
    if unknown:
        cure = "let this machine reach the repositories, or install the charts and set deploy.telemetry.install: false"
        yield Check("charts", "warning", "; ".join(unknown), cure)
    if findings and not missing and not unknown:
        yield Check("charts", "ok", f"{len(findings)} are in their repositories")


def _nodes(cluster: Cluster, params: KubernetesDeployParams) -> Iterator[Check]:
    nodes = cluster.list("v1", "Node")
    runtimes = container_runtimes(nodes)
    listed = "; ".join(f"{each}, {len(names)} nodes" for each, names in runtimes.items())
    if len(runtimes) == 1:
        yield Check("container runtime", "ok", listed)
    elif runtimes:
        cure = (
            "Chaos Mesh takes one socket: its faults work on nodes with the most frequent one; use deploy.accelerator"
        )
        yield Check("container runtime", "warning", listed, f"{cure}.node_selector to stay there")
    else:
        said = ", ".join(sorted({_runtime_of(node) for node in nodes})) or "the cluster has no node"
        yield Check("container runtime", "failed", f"unknown: {said}", "use nodes with containerd, CRI-O or Docker")


def _gpus(cluster: Cluster, params: KubernetesDeployParams) -> Iterator[Check]:
    needed = params.replicas * params.parallelism.pipeline * params.gpus_per_pod
    if needed == 0:
        yield Check("GPUs", "ok", "none needed (deploy.accelerator.kind: none)")
        return
    nodes = gpu_nodes(cluster, params)
    free = sum(each.allocatable - (each.used or 0) for each in nodes)
    fit = sum((each.allocatable - (each.used or 0)) // params.gpus_per_pod for each in nodes) * params.gpus_per_pod
    listed = ", ".join(f"{each.node}: {_gpu_text(each)}" for each in nodes) or "no node offers any"
    result = f"{needed} needed, {free} free ({listed})"
    if fit >= needed:
        yield Check("GPUs", "ok", result)
    elif not nodes and params.telemetry.gpu_operator and params.telemetry.install:
        yield Check(
            "GPUs", "warning", result, "the GPU operator is still to bring them: `rcarena deploy up` installs it"
        )
    elif not nodes:
        cure = (
            f"let the nodes offer {params.accelerator.resource} (NVIDIA's device plugin, or "
            "deploy.telemetry.gpu_operator: true), or correct deploy.accelerator.node_selector and tolerations"
        )
        yield Check("GPUs", "failed", result, cure)
    else:
        yield Check("GPUs", "failed", result, "free or add GPUs, or ask for less: deploy.replicas, deploy.parallelism")


def _runtime_class(cluster: Cluster, params: KubernetesDeployParams) -> Iterator[Check]:
    wanted = params.accelerator.runtime_class
    if params.gpus_per_pod == 0 or wanted is None:
        return
    there = cluster.find("node.k8s.io/v1", "RuntimeClass", wanted) is not None
    if there:
        yield Check("runtime class", "ok", wanted)
    elif params.telemetry.gpu_operator and params.telemetry.install and wanted == OPERATORS_RUNTIME_CLASS:
        yield Check("runtime class", "ok", f"{wanted} comes with the GPU operator")
    else:
        names = ", ".join(str(each["metadata"]["name"]) for each in cluster.list("node.k8s.io/v1", "RuntimeClass"))
        cure = (
            f"deploy.accelerator.runtime_class: one of {names}"
            if names
            else "leave deploy.accelerator.runtime_class out"
        )
        yield Check("runtime class", "failed", f"no RuntimeClass '{wanted}'", cure)


def _power_limits(cluster: Cluster, params: KubernetesDeployParams) -> Iterator[Check]:
    """Check the limits reported by the agents on the GPU nodes, which run only while a stack is up."""
    if params.gpus_per_pod == 0:
        return
    maps = read_gpu_maps(cluster)
    if not maps:
        yield Check("GPU power limits", "ok", "not known before the GPU agents run; `rcarena deploy up` starts them")
        return
    for node in maps:
        if node.problem:
            yield Check(
                "GPU power limits", "failed", f"{node.node}: {node.problem}", "see the log of the GPU agent there"
            )
        for gpu in node.gpus:
            lowest, highest = gpu.min_power_limit_w, gpu.max_power_limit_w
            name = f"{node.node} {gpu.uuid[:12]}"
            if lowest is None or highest is None or lowest >= highest:
                cure = "use the fault gpu-clock-lock instead of gpu-power-limit there"
                yield Check("GPU power limits", "warning", f"{name}: cannot be set", cure)
            else:
                yield Check("GPU power limits", "ok", f"{name}: {gpu.power_limit_w} W of {lowest} to {highest} W")


def _storage(cluster: Cluster, params: KubernetesDeployParams) -> Iterator[Check]:
    classes = cluster.list("storage.k8s.io/v1", "StorageClass")
    names = {str(each["metadata"]["name"]): each for each in classes}
    wanted = params.storage.class_name
    listed = ", ".join(names) or "none"
    if wanted is None:
        wanted = next((name for name, each in names.items() if _is_default(each)), None)
        if wanted is None:
            cure = f"set deploy.storage.class_name (the cluster has: {listed}), or make one the default"
            yield Check("storage class", "failed", "no default class", cure)
            return
    if wanted not in names:
        yield Check("storage class", "failed", f"no class '{wanted}'", f"deploy.storage.class_name: one of {listed}")
        return
    yield Check("storage class", "ok", f"{wanted} ({names[wanted].get('provisioner')})")


def _token(cluster: Cluster, params: KubernetesDeployParams) -> Iterator[Check]:
    """Check that the Secret has the key, without reading its value."""
    preset, token = model_preset(params.model), params.model_token
    if not preset.gated or token is None:
        yield Check("model token", "ok", f"not needed for {preset.source}")
        return
    secret = cluster.find("v1", "Secret", token.secret)
    if secret is not None and token.key in (secret.get("data") or {}):
        yield Check("model token", "ok", f"Secret {token.secret} has the key '{token.key}'")
        return
    what = "no Secret" if secret is None else f"no key '{token.key}' in Secret"
    make = f"kubectl create namespace {params.namespace}; " if not _has_namespace(cluster) else ""
    cure = (
        f"{make}kubectl --namespace {params.namespace} create secret generic {token.secret} "
        f"--from-file={token.key}=FILE, with the token of an account that accepted the licence of {preset.source}"
    )
    yield Check("model token", "failed", f"{what} {token.secret} in namespace {params.namespace}", cure)


def _pod_security(cluster: Cluster, params: KubernetesDeployParams) -> Iterator[Check]:
    """Check that privileged pods (the GPU agent) may run; `deploy up` outside a pod labels the namespace for them."""
    namespace = cluster.find("v1", "Namespace", params.namespace)
    if params.gpus_per_pod == 0 or namespace is None:
        return
    level = (namespace["metadata"].get("labels") or {}).get(POD_SECURITY_LABEL, PRIVILEGED)
    if level == PRIVILEGED:
        yield Check("pod security", "ok", "the namespace allows privileged pods")
    elif cluster.address.in_cluster:
        cure = f"kubectl label --overwrite namespace {params.namespace} {POD_SECURITY_LABEL}={PRIVILEGED}"
        yield Check("pod security", "failed", f"{level} is enforced: the GPU agent cannot start", cure)
    else:
        result = f"{level} is enforced; `rcarena deploy up` changes it to {PRIVILEGED}, for the GPU agent"
        yield Check("pod security", "warning", result, "nothing, if that is right; else use another deploy.namespace")


def _crds(cluster: Cluster, params: KubernetesDeployParams) -> Iterator[Check]:
    for each in missing_prerequisites(cluster, params):
        cure = f"kubectl apply --server-side --filename {each.manifest}"
        yield Check("CRDs", "failed", f"{each.crd} is missing, and no chart brings it", cure)
    missing = missing_crds(cluster, params)
    if not missing:
        yield Check("CRDs", "ok", "all there")
    elif params.telemetry.install and not cluster.address.in_cluster:
        yield Check("CRDs", "ok", f"{len(missing)} come with the charts")
    else:
        cure = "install what brings them: `rcarena deploy up` from outside, with deploy.telemetry.install: true"
        yield Check("CRDs", "failed", f"missing: {', '.join(missing)}", cure)


def _series(missing_series: MissingSeries) -> Check:
    try:
        missing = list(missing_series())
    except (OSError, RCArenaError) as error:
        return Check(
            "metric series", "warning", f"Prometheus was not asked: {error}", "check deploy.endpoints.prometheus"
        )
    if not missing:
        return Check("metric series", "ok", "all there")
    listed = ", ".join(missing[:6]) + (f" and {len(missing) - 6} more" if len(missing) > 6 else "")
    cure = "see docs/telemetry.md for what each series comes from; a stack that is not up yet has few"
    return Check("metric series", "warning", f"missing: {listed}", cure)


def _has_namespace(cluster: Cluster) -> bool:
    try:
        return cluster.find("v1", "Namespace", cluster.namespace) is not None
    except ClusterError:
        return True


def _gpu_text(node: NodeGpus) -> str:
    used = f", {node.used} used by others" if node.used else ""
    return f"{node.allocatable} × {node.product}{used}"


def _is_default(storage_class: Object) -> bool:
    return str((storage_class["metadata"].get("annotations") or {}).get(DEFAULT_CLASS)) == "true"


def _runtime_of(node: Object) -> str:
    return str(((node.get("status") or {}).get("nodeInfo") or {}).get("containerRuntimeVersion", "no runtime"))
