"""Waits for a stack to become ready, reports what is missing and why, and gives up early on incurable problems."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from tasks.deploy.errors import DeployError
from tasks.deploy.kubernetes import names
from tasks.deploy.kubernetes.diagnosis import Problem, Watcher
from tasks.deploy.kubernetes.params import KubernetesDeployParams
from tasks.kube.client import Cluster, Object
from tasks.kube.manifest import Manifest, stack_selector
from tasks.kube.status import condition

Progress = Callable[[str], None]

RAY_SERVICE = ("ray.io/v1", "RayService", names.RAY_SERVICE)
WORKLOADS = frozenset({"Deployment", "DaemonSet", "StatefulSet"})
POLL_S = 2.0
REPEAT_S = 60.0
"""An unchanged line is repeated after this time, so that the log shows that the process is alive."""


@dataclass(frozen=True)
class Observation:
    """State of a starting stack: texts of what is not ready, and the problems found."""

    missing: tuple[str, ...]
    problems: tuple[Problem, ...]

    def __str__(self) -> str:
        text = ", ".join(self.missing)
        return f"{text} ({'; '.join(map(str, self.problems[:3]))})" if self.problems else text


def await_ready(
    cluster: Cluster,
    params: KubernetesDeployParams,
    manifests: tuple[Manifest, ...],
    watcher: Watcher,
    progress: Progress,
    timeout_s: float,
) -> None:
    """Wait until every CRD is established, every workload available and the RayService serves on every replica.

    Raises:
        DeployError: not ready within ``timeout_s``, or a problem needs a person.
        ClusterError: the cluster cannot be asked.
    """
    deadline = time.monotonic() + timeout_s
    shown, shown_at = "", 0.0
    while True:
        seen = observe(cluster, params, manifests, watcher)
        if not seen.missing:
            return
        overdue = watcher.overdue(list(seen.problems))
        if overdue is not None:
            raise DeployError(f"the stack does not start: {overdue}\nwhat to do: {overdue.cure}")
        if time.monotonic() >= deadline:
            cures = list(dict.fromkeys(f"what to do: {each.cure}" for each in seen.problems))
            waited = f"not ready within deploy.start_timeout_s ({params.start_timeout_s:g} s): {seen}"
            raise DeployError("\n".join([waited, *cures]))
        if str(seen) != shown or time.monotonic() - shown_at > REPEAT_S:
            shown, shown_at = str(seen), time.monotonic()
            progress(f"stack: waiting for {shown}")
        time.sleep(min(POLL_S, max(0.0, deadline - time.monotonic())))


def observe(
    cluster: Cluster, params: KubernetesDeployParams, manifests: tuple[Manifest, ...], watcher: Watcher
) -> Observation:
    """Return what is missing now and why. Raises ClusterError."""
    missing = [line for manifest in manifests if (line := _not_ready(cluster, manifest)) is not None]
    ray_service = cluster.find(*RAY_SERVICE)
    pods = [
        pod
        for pod in cluster.list("v1", "Pod", label_selector=stack_selector(cluster.namespace))
        if not pod["metadata"].get("deletionTimestamp")
    ]
    serving = _not_serving(ray_service, params, pods)
    if serving:
        missing.append(serving)
    return Observation(tuple(missing), tuple(watcher.problems(cluster, pods, ray_service)) if missing else ())


def is_ready(pod: Object) -> bool:
    """Return whether the pod is Ready and not being deleted."""
    return not pod["metadata"].get("deletionTimestamp") and condition(pod, "Ready")


def available(workload: Object) -> tuple[int, int]:
    """Return the available and the desired pods of a Deployment, DaemonSet or StatefulSet.

    Return (0, 1) while its controller has not seen the current spec.
    """
    status, generation = workload.get("status") or {}, workload["metadata"].get("generation", 1)
    if int(status.get("observedGeneration") or 0) < generation:
        return 0, 1
    if workload["kind"] == "DaemonSet":
        return int(status.get("numberAvailable") or 0), int(status.get("desiredNumberScheduled") or 0)
    wanted = (workload.get("spec") or {}).get("replicas")
    return int(status.get("availableReplicas") or 0), 1 if wanted is None else int(wanted)


def _not_ready(cluster: Cluster, manifest: Manifest) -> str | None:
    if manifest.kind == "CustomResourceDefinition":
        live = cluster.find(manifest.api_version, manifest.kind, manifest.name)
        return None if live and condition(live, "Established") else f"{manifest} to be established"
    if manifest.kind not in WORKLOADS:
        return None
    live = cluster.find(manifest.api_version, manifest.kind, manifest.name, namespace=manifest.namespace)
    if live is None:
        return f"{manifest} to exist"
    ready, wanted = available(live)
    return None if ready >= wanted else f"{manifest.kind} {manifest.name} ({ready} of {wanted} pods)"


def _not_serving(ray_service: Object | None, params: KubernetesDeployParams, pods: list[Object]) -> str | None:
    if ray_service is None:
        return f"RayService {names.RAY_SERVICE} to exist"
    status = ray_service.get("status") or {}
    endpoints = int(status.get("numServeEndpoints") or 0)
    observed = int(status.get("observedGeneration") or 0) >= ray_service["metadata"].get("generation", 1)
    if observed and condition(ray_service, "Ready") and endpoints >= params.replicas:
        return None
    ray_pods = [pod for pod in pods if (pod["metadata"].get("labels") or {}).get("ray.io/is-ray-node") == "yes"]
    applications = {
        str(each.get("status"))
        for each in ((status.get("activeServiceStatus") or {}).get("applicationStatuses") or {}).values()
    }
    parts = [f"{endpoints} of {params.replicas} endpoints", f"{sum(map(is_ready, ray_pods))} of {len(ray_pods)} pods"]
    parts += [f"applications {', '.join(sorted(applications))}"] if applications else []
    return f"RayService {names.RAY_SERVICE} ({', '.join(parts)})"
