"""Why a stack does not come up: what pods, their events and Ray Serve say, each with its cure and how long to hope."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from tasks.kube.client import Cluster, Object
from tasks.kube.errors import ClusterError

LOG_LINES = 5
HOPELESS_RESTARTS = 3
SCALE_UP = "TriggeredScaleUp"
FAILED_CREATE = "FailedCreate"
REPEATED_WITHIN = timedelta(minutes=15)
"""A controller that cannot make its pods says so again after ever longer pauses, up to this."""


@dataclass(frozen=True)
class Trouble:
    """``who`` is stuck for ``reason``. ``patience_s``: after how long nothing but a person can help; None: never."""

    who: str
    reason: str
    message: str
    cure: str
    patience_s: float | None

    def __str__(self) -> str:
        return f"{self.who}: {self.reason}: {self.message}"


_WAITING: dict[str, tuple[float | None, str]] = {
    "InvalidImageName": (0, "correct the name in deploy.images"),
    "ErrImageNeverPull": (0, "load the image into the nodes, or set deploy.images.pull_policy"),
    "ErrImagePull": (120, "check the name in deploy.images, and that the nodes may pull it"),
    "ImagePullBackOff": (120, "check the name in deploy.images, and that the nodes may pull it"),
    "CreateContainerConfigError": (30, "make what it names (a Secret or ConfigMap) in the stack's namespace"),
    "CreateContainerError": (60, "see `kubectl describe pod`; often a wrong runtime class or a missing device"),
    "RunContainerError": (60, "see `kubectl describe pod`; often a wrong runtime class or a missing device"),
}


@dataclass
class Watcher:
    """Remembers since when each trouble has been there."""

    gpus_exist: bool
    """Whether the cluster has as many accelerators as the stack needs, used by others or not."""
    haste: float = 1.0
    """Divides every patience."""
    _since: dict[tuple[str, str], float] = field(default_factory=dict)

    def hopeless(self, troubles: list[Trouble]) -> Trouble | None:
        """The first trouble that has outlasted its patience."""
        now = time.monotonic()
        keys = {(each.who, each.reason) for each in troubles}
        self._since = {key: since for key, since in self._since.items() if key in keys}
        for each in troubles:
            since = self._since.setdefault((each.who, each.reason), now)
            if each.patience_s is not None and now - since >= each.patience_s / self.haste:
                return each
        return None

    def troubles(self, cluster: Cluster, pods: list[Object], ray_service: Object | None) -> list[Trouble]:
        """Everything that is wrong now. Raises ClusterError."""
        found = [trouble for pod in pods for trouble in self._of_pod(cluster, pod)]
        return [*found, *_of_controllers(cluster), *_of_serve(ray_service or {})]

    def _of_pod(self, cluster: Cluster, pod: Object) -> Iterator[Trouble]:
        name, status = str(pod["metadata"]["name"]), pod.get("status") or {}
        for condition in status.get("conditions") or ():
            if condition["type"] == "PodScheduled" and condition["status"] == "False":
                yield self._unschedulable(cluster, pod, str(condition.get("message") or condition.get("reason")))
        for container in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
            waiting = (container.get("state") or {}).get("waiting") or {}
            reason = str(waiting.get("reason", ""))
            if reason in _WAITING:
                patience_s, cure = _WAITING[reason]
                yield Trouble(name, reason, str(waiting.get("message", "no message")), cure, patience_s)
            elif reason == "CrashLoopBackOff":
                yield _crashing(cluster, name, container)

    def _unschedulable(self, cluster: Cluster, pod: Object, message: str) -> Trouble:
        name = str(pod["metadata"]["name"])
        scaling = any(event.get("reason") == SCALE_UP for event in _events(cluster, pod))
        if "Insufficient" in message and "/gpu" in message:
            cure = "free GPUs, add nodes, or ask for less: deploy.replicas, deploy.parallelism"
            hope = 300 if self.gpus_exist else 60
        elif "unbound immediate PersistentVolumeClaims" in message or "persistentvolumeclaim" in message:
            cure, hope = "check deploy.storage: class_name (`kubectl get storageclass`), size_gb and access_mode", 120
        elif "Insufficient" in message:
            cure, hope = "ask for less in deploy.resources, or add nodes", 300
        else:
            cure, hope = (
                "check deploy.accelerator: node_selector and tolerations against the nodes' labels and taints",
                120,
            )
        return Trouble(name, "Unschedulable", message, cure, None if scaling else hope)


def _of_controllers(cluster: Cluster) -> Iterator[Trouble]:
    """Pods that a DaemonSet, ReplicaSet or RayCluster may not even make: only its events tell."""
    try:
        events = cluster.list("v1", "Event", field_selector=f"reason={FAILED_CREATE}")
    except ClusterError:
        return
    newest: dict[str, tuple[datetime, Object]] = {}
    for event in events:
        about = event.get("involvedObject") or {}
        who, when = f"{about.get('kind')} {about.get('name')}", _last_seen(event)
        if when > datetime.now(UTC) - REPEATED_WITHIN and (who not in newest or when > newest[who][0]):
            newest[who] = (when, event)
    for who, (_, event) in newest.items():
        message = str(event.get("message") or "no message")
        yield Trouble(who, FAILED_CREATE, message, *_cure_of_refusal(message))


def _cure_of_refusal(message: str) -> tuple[str, float | None]:
    """What to do about pods that the API server refuses, and how long to hope."""
    if "PodSecurity" in message:
        label = "pod-security.kubernetes.io/enforce=privileged"
        return f"label the namespace {label}, or let whoever enforces Pod Security exempt it", 30
    if "exceeded quota" in message:
        return "raise the namespace's ResourceQuota, or ask for less in deploy.resources", 60
    return "see the message; an admission webhook or a limit of the namespace refuses the pods", 120


def _last_seen(event: Object) -> datetime:
    series = event.get("series") or {}
    text = event.get("lastTimestamp") or series.get("lastObservedTime") or event.get("eventTime")
    return datetime.fromisoformat(str(text)) if text else datetime.now(UTC)


def _crashing(cluster: Cluster, pod: str, container: Object) -> Trouble:
    last = (container.get("lastState") or {}).get("terminated") or {}
    said = _last_words(cluster, pod, str(container["name"]))
    out_of_memory = last.get("reason") == "OOMKilled"
    cure = "raise memory_gb in deploy.resources" if out_of_memory else f"see `kubectl logs {pod} --previous`"
    restarts = int(container.get("restartCount") or 0)
    why = f"{last.get('reason', 'ended')} (exit code {last.get('exitCode')}), {restarts} restarts"
    message = f"{why}; its last words: {said}" if said else why
    return Trouble(pod, "CrashLoopBackOff", message, cure, 0 if restarts >= HOPELESS_RESTARTS else None)


def _of_serve(ray_service: Object) -> Iterator[Trouble]:
    active = (ray_service.get("status") or {}).get("activeServiceStatus") or {}
    pending = (ray_service.get("status") or {}).get("pendingServiceStatus") or {}
    for part in (active, pending):
        for name, application in (part.get("applicationStatuses") or {}).items():
            status = application.get("status")
            if status in ("DEPLOY_FAILED", "UNHEALTHY"):
                message = " ".join(str(application.get("message") or "no message").split())[-400:]
                cure = "see the log of the Ray head; often the model does not fit: deploy.model, engine_arguments"
                yield Trouble(
                    f"application {name}", str(status), message, cure, 60 if status == "DEPLOY_FAILED" else None
                )


def _events(cluster: Cluster, pod: Object) -> list[Object]:
    try:
        return cluster.list("v1", "Event", field_selector=f"involvedObject.name={pod['metadata']['name']}")
    except ClusterError:
        return []


def _last_words(cluster: Cluster, pod: str, container: str) -> str:
    try:
        log = cluster.logs(pod, container=container, tail_lines=LOG_LINES, previous=True)
    except ClusterError:
        return ""
    return " | ".join(line.strip() for line in log.splitlines() if line.strip())[-400:]
