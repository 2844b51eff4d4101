"""``ChaosMeshController``: a stand-in for Chaos Mesh's controller and daemons, for ``EmulatedCluster``.

It does what theirs do to the resources (finalizer, records with events, conditions, pause, end by ``duration``), and to
pods what the API shows of a fault. What telemetry shows of it is told by ``acting_on``.
"""

from __future__ import annotations

import re
import threading
import time
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from tests.kubernetes.cluster import EmulatedCluster
from tests.kubernetes.store import Object

API = "chaos-mesh.org/v1alpha1"
KINDS = ("StressChaos", "NetworkChaos", "PodChaos")
FINALIZER = "chaos-mesh/records"
PAUSE = "experiment.chaos-mesh.org/pause"
FORCE = "chaos-mesh.chaos-mesh.org/cleanFinalizer"
ONE_SHOT = ("pod-kill", "container-kill")
IN, OUT = "Injected", "Not Injected"
MAX_EVENTS = 5


@dataclass
class ChaosMeshController:
    """``delay_s``: from a decision to its effect. The rest are switches for what goes wrong:

    ``never_inject``: applying fails with this message. ``stuck``: taking back fails with this message. ``deaf``: the
    annotation that forces the finalizer away is not obeyed. ``skip_pods``: not selected. ``asleep``: nothing is done.
    """

    delay_s: float = 0.05
    never_inject: str = ""
    stuck: str = ""
    deaf: bool = False
    skip_pods: tuple[str, ...] = ()
    asleep: bool = False
    injected: int = 0
    recovered: int = 0
    _due: dict[tuple[str, str], float] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def reconcile(self, cluster: EmulatedCluster) -> None:
        if self.asleep:
            return
        with self._lock:
            for kind in KINDS:
                for chaos in cluster.objects(API, kind):
                    self._reconcile(cluster, kind, chaos)

    def acting_on(self, cluster: EmulatedCluster, namespace: str, pod: str) -> list[Object]:
        """Specs of the faults that the pod has now."""
        found = []
        for kind in KINDS:
            for chaos in cluster.objects(API, kind, namespace):
                records = _records(chaos) or []
                if any(each["id"].split("/")[1] == pod and each["phase"] == IN for each in records):
                    found.append(chaos["spec"])
        return found

    def _reconcile(self, cluster: EmulatedCluster, kind: str, chaos: Object) -> None:
        metadata = chaos["metadata"]
        deleted = bool(metadata.get("deletionTimestamp"))
        records = _records(chaos)
        if not deleted and FINALIZER not in (metadata.get("finalizers") or []):
            _change(cluster, chaos, lambda live: live["metadata"].update(finalizers=[FINALIZER]))
        if records is None:
            records = self._select(cluster, kind, chaos["spec"]) or None
        over = _passed(chaos) or metadata.get("annotations", {}).get(PAUSE) == "true"
        stop = deleted or (over and chaos["spec"].get("action") not in ONE_SHOT)
        for record in records or []:
            if record["phase"] == (IN if stop else OUT) and self._is_due(metadata["uid"], record["id"] + str(stop)):
                self._step(cluster, chaos["spec"], record, stop)
        status = _status(records, stop)
        _change(cluster, chaos, lambda live: live.update(status=status))
        forced = metadata.get("annotations", {}).get(FORCE) == "forced" and not self.deaf
        if deleted and (forced or all(record["phase"] == OUT for record in records or [])):
            _change(cluster, chaos, lambda live: live["metadata"].update(finalizers=[]))

    def _is_due(self, uid: str, what: str) -> bool:
        return time.monotonic() >= self._due.setdefault((uid, what), time.monotonic() + self.delay_s)

    def _select(self, cluster: EmulatedCluster, kind: str, spec: Object) -> list[Object]:
        selector = spec["selector"]
        labels = ",".join(f"{key}={value}" for key, value in selector.get("labelSelectors", {}).items())
        named = selector.get("pods")
        pods = [
            pod
            for namespace in selector["namespaces"]
            for pod in cluster.objects("v1", "Pod", namespace, labels)
            if not pod["metadata"].get("deletionTimestamp") and pod["metadata"]["name"] not in self.skip_pods
            if named is None or pod["metadata"]["name"] in named.get(namespace, [])
        ]
        by_container = kind == "StressChaos" or spec.get("action") == "container-kill"
        ids = [
            f"{pod['metadata']['namespace']}/{pod['metadata']['name']}" + (f"/{container}" if container else "")
            for pod in pods
            for container in (spec.get("containerNames", [""]) if by_container else [""])
        ]
        return [
            {"id": each, "selectorKey": ".", "phase": OUT, "injectedCount": 0, "recoveredCount": 0, "events": []}
            for each in ids
        ]

    def _step(self, cluster: EmulatedCluster, spec: Object, record: Object, stop: bool) -> None:
        operation, problem = ("Recover", self.stuck) if stop else ("Apply", self.never_inject)
        event = {"operation": operation, "type": "Failed" if problem else "Succeeded", "timestamp": _now()}
        record["events"] = [*record["events"], event | ({"message": problem} if problem else {})][-MAX_EVENTS:]
        if problem:
            return
        record["phase"] = OUT if stop else IN
        record["recoveredCount" if stop else "injectedCount"] += 1
        self.recovered += stop
        self.injected += not stop
        _act(cluster, spec, record["id"], stop)


def _act(cluster: EmulatedCluster, spec: Object, record_id: str, stop: bool) -> None:
    namespace, pod = record_id.split("/")[:2]
    action = spec.get("action")
    if action == "pod-kill" and not stop:
        cluster.remove("v1", "Pod", pod, namespace)
    elif (action == "container-kill" and not stop) or action == "pod-failure":
        failing = action == "pod-failure" and not stop

        def restart(live: Object) -> None:
            for each in live["status"]["containerStatuses"]:
                each.update(containerID=f"containerd://{uuid.uuid4().hex}", restartCount=each["restartCount"] + 1)
            for each in live["status"]["conditions"]:
                if each["type"] == "Ready":
                    each["status"] = "False" if failing else "True"

        cluster.change("v1", "Pod", pod, restart, namespace)


def _records(chaos: Object) -> list[Object] | None:
    experiment = (chaos.get("status") or {}).get("experiment") or {}
    records: list[Object] | None = experiment.get("containerRecords")
    return records


def _status(records: list[Object] | None, stop: bool) -> Object:
    phases = {record["phase"] for record in records or []}
    conditions = {
        "Selected": records is not None,
        "AllInjected": phases == {IN},
        "AllRecovered": phases == {OUT},
        "Paused": False,
    }
    experiment: Object = {"desiredPhase": "Stop" if stop else "Run"}
    if records is not None:
        experiment["containerRecords"] = records
    return {
        "conditions": [{"type": name, "status": str(value), "reason": ""} for name, value in conditions.items()],
        "experiment": experiment,
    }


def _passed(chaos: Object) -> bool:
    duration = re.fullmatch(r"(\d+)s", chaos["spec"].get("duration", ""))
    created = datetime.fromisoformat(chaos["metadata"]["creationTimestamp"])
    return duration is not None and (datetime.now(UTC) - created).total_seconds() >= int(duration[1])


def _change(cluster: EmulatedCluster, chaos: Object, change: Any) -> None:
    cluster.change(API, chaos["kind"], chaos["metadata"]["name"], change, chaos["metadata"]["namespace"])


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
