"""Diagnoses a stack that does not come up, from pods, events and Ray Serve: problem, cure and grace period."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from tasks.kube.client import Cluster, Object
from tasks.kube.errors import ClusterError

LOG_LINES = 5
MAX_RESTARTS = 3
SCALE_UP = "TriggeredScaleUp"
FAILED_CREATE = "FailedCreate"
REPEATED_WITHIN = timedelta(minutes=15)
"""Longest pause before a controller that cannot create its pods repeats its event."""


@dataclass(frozen=True)
class Problem:
    """A problem that keeps ``subject`` from starting; after ``grace_s`` only a person can cure it (None: never)."""

    subject: str
    reason: str
    message: str
    cure: str
    grace_s: float | None

    def __str__(self) -> str:
        return f"{self.subject}: {self.reason}: {self.message}"


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
    """Collects problems and remembers when each first appeared."""

    gpus_exist: bool
    """The cluster has as many accelerators as the stack needs, free or in use."""
    grace_divisor: float = 1.0
    """Divides every grace period."""
    _since: dict[tuple[str, str], float] = field(default_factory=dict)

    def overdue(self, problems: list[Problem]) -> Problem | None:
        """Return the first problem that has outlasted its grace period, or None."""
        now = time.monotonic()
        keys = {(each.subject, each.reason) for each in problems}
        self._since = {key: since for key, since in self._since.items() if key in keys}
        for each in problems:
            since = self._since.setdefault((each.subject, each.reason), now)
            if each.grace_s is not None and now - since >= each.grace_s / self.grace_divisor:
                return each
        return None

    def problems(self, cluster: Cluster, pods: list[Object], ray_service: Object | None) -> list[Problem]:
        """Return all present problems. Raises ClusterError."""
        found = [problem for pod in pods for problem in self._pod_problems(cluster, pod)]
        return [*found, *_controller_problems(cluster), *_serve_problems(ray_service or {})]

    def _pod_problems(self, cluster: Cluster, pod: Object) -> Iterator[Problem]:
        name, status = str(pod["metadata"]["name"]), pod.get("status") or {}
        for condition in status.get("conditions") or ():
            if condition["type"] == "PodScheduled" and condition["status"] == "False":
                yield self._unschedulable(cluster, pod, str(condition.get("message") or condition.get("reason")))
        for container in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
            waiting = (container.get("state") or {}).get("waiting") or {}
            reason = str(waiting.get("reason", ""))
            if reason in _WAITING:
                grace_s, cure = _WAITING[reason]
                yield Problem(name, reason, str(waiting.get("message", "no message")), cure, grace_s)
            elif reason == "CrashLoopBackOff":
                yield _crashing(cluster, name, container)

    def _unschedulable(self, cluster: Cluster, pod: Object, message: str) -> Problem:
        name = str(pod["metadata"]["name"])
        scaling = any(event.get("reason") == SCALE_UP for event in _events(cluster, pod))
        if "Insufficient" in message and "/gpu" in message:
            cure = "free GPUs, add nodes, or ask for less: deploy.replicas, deploy.parallelism"
            grace_s = 300 if self.gpus_exist else 60
        elif "unbound immediate PersistentVolumeClaims" in message or "persistentvolumeclaim" in message:
            cure, grace_s = "check deploy.storage: class_name (see `kubectl get sc`), size_gb and access_mode", 120
        elif "Insufficient" in message:
            cure, grace_s = "ask for less in deploy.resources, or add nodes", 300
        else:
            cure, grace_s = (
                "check deploy.accelerator: node_selector and tolerations against the nodes' labels and taints",
                120,
            )
        return Problem(name, "Unschedulable", message, cure, None if scaling else grace_s)


def _controller_problems(cluster: Cluster) -> Iterator[Problem]:
    """Yield controllers (DaemonSet, ReplicaSet, RayCluster) that may not create their pods; only events show them."""
    try:
        events = cluster.list("v1", "Event", field_selector=f"reason={FAILED_CREATE}")
    except ClusterError:
        return
    newest: dict[str, tuple[datetime, Object]] = {}
    for event in events:
        about = event.get("involvedObject") or {}
        subject, when = f"{about.get('kind')} {about.get('name')}", _last_seen(event)
        if when > datetime.now(UTC) - REPEATED_WITHIN and (subject not in newest or when > newest[subject][0]):
            newest[subject] = (when, event)
    for subject, (_, event) in newest.items():
        message = str(event.get("message") or "no message")
        yield Problem(subject, FAILED_CREATE, message, *_refusal_cure(message))


def _refusal_cure(message: str) -> tuple[str, float | None]:
    """Return the cure for pods that the API server refuses, and the grace period."""
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


def _crashing(cluster: Cluster, pod: str, container: Object) -> Problem:
    last = (container.get("lastState") or {}).get("terminated") or {}
    log = _previous_log(cluster, pod, str(container["name"]))
    out_of_memory = last.get("reason") == "OOMKilled"
    cure = "raise memory_gb in deploy.resources" if out_of_memory else f"see `kubectl logs {pod} --previous`"
    restarts = int(container.get("restartCount") or 0)
    why = f"{last.get('reason', 'ended')} (exit code {last.get('exitCode')}), {restarts} restarts"
    message = f"{why}; its last log lines: {log}" if log else why
    return Problem(pod, "CrashLoopBackOff", message, cure, 0 if restarts >= MAX_RESTARTS else None)


def _serve_problems(ray_service: Object) -> Iterator[Problem]:
    active = (ray_service.get("status") or {}).get("activeServiceStatus") or {}
    pending = (ray_service.get("status") or {}).get("pendingServiceStatus") or {}
    for part in (active, pending):
        for name, application in (part.get("applicationStatuses") or {}).items():
            status = application.get("status")
            if status in ("DEPLOY_FAILED", "UNHEALTHY"):
                message = " ".join(str(application.get("message") or "no message").split())[-400:]
                cure = "see the log of the Ray head; often the model does not fit: deploy.model, engine_arguments"
                yield Problem(
                    f"application {name}", str(status), message, cure, 60 if status == "DEPLOY_FAILED" else None
                )


def _events(cluster: Cluster, pod: Object) -> list[Object]:
    try:
        return cluster.list("v1", "Event", field_selector=f"involvedObject.name={pod['metadata']['name']}")
    except ClusterError:
        return []


def _previous_log(cluster: Cluster, pod: str, container: str) -> str:
    try:
        log = cluster.logs(pod, container=container, tail_lines=LOG_LINES, previous=True)
    except ClusterError:
        return ""
    return " | ".join(line.strip() for line in log.splitlines() if line.strip())[-400:]
