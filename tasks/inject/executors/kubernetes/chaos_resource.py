"""Creates a Chaos Mesh resource named after its injection, follows its records, and removes it.

The controller (Chaos Mesh 2.x) puts a finalizer on the resource, selects pods or containers into
``status.experiment.containerRecords``, applies the fault to each, and takes it back when ``duration`` is over or the
resource is deleted; then it drops the finalizer. Each attempt is an event of its record, with its time.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from tasks.inject.errors import FaultError
from tasks.inject.executor import UndoReport
from tasks.inject.executors.kubernetes.injected import create_injected, injected_metadata
from tasks.inject.executors.kubernetes.target import REQUEST_DEADLINE_S, KubernetesTarget, translate_errors
from tasks.kube.errors import NotFoundError

log = logging.getLogger(__name__)

CHAOS_API = "chaos-mesh.org/v1alpha1"
ChaosKind = Literal["StressChaos", "NetworkChaos", "PodChaos"]
SPEC_ANNOTATION = "rcarena.io/spec-sha256"

PAUSE_ANNOTATION = {"experiment.chaos-mesh.org/pause": "true"}
"""Makes the controller undo the fault while the resource, with the times in its records, stays."""
ONE_SHOT = ("pod-kill", "container-kill")
"""Actions that leave nothing to undo."""
FORCE_ANNOTATION = {"chaos-mesh.chaos-mesh.org/cleanFinalizer": "forced"}
"""Makes the controller drop its finalizer although it could not undo the fault."""

INJECT_TIMEOUT_S = 30.0
RECOVER_TIMEOUT_S = 20.0
FORCE_TIMEOUT_S = 8.0
LOOK_INTERVAL_S = 0.25


def resource_name(injection_id: str) -> str:
    """Return a DNS label that is unique to the injection and the same at every attempt."""
    words = re.sub(r"[^a-z0-9]+", "-", injection_id.lower())[:40].strip("-")
    return "-".join(filter(None, ("fault", words, hashlib.sha256(injection_id.encode()).hexdigest()[:8])))


@dataclass(frozen=True)
class ChaosStatus:
    """The status that the controller reports: a record with phase and events for each thing that it selected."""

    records: tuple[dict[str, Any], ...]
    conditions: frozenset[str]

    @classmethod
    def of(cls, document: dict[str, Any]) -> ChaosStatus:
        status = document.get("status") or {}
        records = (status.get("experiment") or {}).get("containerRecords") or ()
        true = {each["type"] for each in status.get("conditions") or () if each.get("status") == "True"}
        return cls(tuple(records), frozenset(true))

    @property
    def ids(self) -> frozenset[str]:
        return frozenset(str(record["id"]) for record in self.records)

    @property
    def injected(self) -> bool:
        return "AllInjected" in self.conditions

    @property
    def recovered(self) -> bool:
        """True when nothing is injected (any more)."""
        return all(record.get("phase") == "Not Injected" for record in self.records)

    def not_in(self, phase: Literal["Injected", "Not Injected"]) -> list[str]:
        """Name each record that is in another phase, with the reason of its last failure."""
        found = []
        for record in self.records:
            if record.get("phase") != phase:
                failures = [event for event in record.get("events") or () if event.get("type") == "Failed"]
                reason = f": {failures[-1].get('message', '')}" if failures else ""
                found.append(f"{record['id']} is {record.get('phase', 'unknown')}{reason}")
        return found

    def times(self, operation: Literal["Apply", "Recover"]) -> list[datetime]:
        """Return the times of the successes, to the second."""
        return [
            datetime.fromisoformat(str(event["timestamp"])).astimezone(UTC)
            for record in self.records
            for event in record.get("events") or ()
            if event.get("operation") == operation and event.get("type") == "Succeeded" and event.get("timestamp")
        ]


@dataclass(frozen=True)
class ChaosResource:
    """One Chaos Mesh resource. All methods raise FaultError when the cluster does not comply."""

    target: KubernetesTarget
    kind: ChaosKind
    namespace: str
    name: str

    def document(self, injection_id: str, spec: dict[str, Any]) -> dict[str, Any]:
        digest = hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()
        metadata = injected_metadata(self.target, self.name, self.name, injection_id)
        metadata["annotations"][SPEC_ANNOTATION] = digest
        return {"apiVersion": CHAOS_API, "kind": self.kind, "metadata": metadata, "spec": spec}

    def create(self, document: dict[str, Any]) -> None:
        """Create it; an existing equal one (a lost answer, a retry) is success."""
        if not create_injected(self.target, document, f"Chaos Mesh is not installed (no {self.kind})"):
            self._check_same(document)

    def find(self, deadline_s: float = REQUEST_DEADLINE_S) -> dict[str, Any] | None:
        with translate_errors(self.target):
            return self.target.api(deadline_s).find(CHAOS_API, self.kind, self.name, namespace=self.namespace)

    def await_injected(self, expected: frozenset[str]) -> ChaosStatus:
        """Wait until the controller has injected every record.

        Raises:
            FaultError: it has not within ``INJECT_TIMEOUT_S``, or it selected less than ``expected``; records and
                reasons are named.
        """
        deadline = time.monotonic() + INJECT_TIMEOUT_S
        while True:
            document = self.find()
            if document is None:
                raise FaultError(f"{self}: it was deleted before it was injected")
            status = ChaosStatus.of(document)
            missing = sorted(expected - status.ids) if status.records else []
            if missing:
                raise FaultError(f"{self}: Chaos Mesh did not select {', '.join(missing)}")
            if status.injected:
                return status
            if time.monotonic() > deadline:
                why = "; ".join(status.not_in("Injected")) or "nothing was selected"
                raise FaultError(f"{self}: not injected within {INJECT_TIMEOUT_S:g} s: {why}")
            time.sleep(LOOK_INTERVAL_S)

    def remove(self) -> UndoReport | None:
        """Make the controller undo the fault, and delete the resource, if it exists.

        A finalizer that stays is dropped, first by the controller, else by us. Then nothing confirms that the fault was
        taken back, and the returned ``unconfirmed`` says so.
        """
        found = self.find()
        if found is None:
            return None
        one_shot = found["spec"].get("action") in ONE_SHOT
        ended: list[datetime] = []
        if not one_shot and not found["metadata"].get("deletionTimestamp"):
            self._patch({"metadata": {"annotations": PAUSE_ANNOTATION}})
            ended = self._wait(lambda seen: seen.recovered, RECOVER_TIMEOUT_S).status.times("Recover")
        with translate_errors(self.target):
            self.target.api().delete(CHAOS_API, self.kind, self.name, namespace=self.namespace)
        last = self._wait(None, FORCE_TIMEOUT_S)
        if last.gone:
            return UndoReport(ended_at=max(ended or last.status.times("Recover"), default=None))
        stuck = "; ".join(last.status.not_in("Not Injected")) or "its finalizer stays"
        log.warning("%s: its deletion does not end (%s): forcing it", self, stuck)
        forced = "Chaos Mesh's controller"
        self._patch({"metadata": {"annotations": FORCE_ANNOTATION}})
        if not self._wait(None, FORCE_TIMEOUT_S).gone:
            forced = "hand"
            self._patch({"metadata": {"finalizers": None}})
            if not self._wait(None, FORCE_TIMEOUT_S).gone:
                raise FaultError(f"{self}: it stays in spite of its deletion, also without finalizers")
        still = sorted(record["id"] for record in last.status.records if record.get("phase") != "Not Injected")
        where = ", ".join(still) or self.target.name
        return UndoReport(
            unconfirmed=(
                f"{self.kind} {self.name} was removed by {forced} without a confirmed recovery: the fault may still be "
                f"in {where}; delete the pod when it is",
            )
        )

    def _check_same(self, document: dict[str, Any]) -> None:
        existing = self.find()
        if existing is None:
            raise FaultError(f"{self}: it was there and vanished while it was made")
        metadata = existing["metadata"]
        if metadata.get("deletionTimestamp"):
            raise FaultError(f"{self}: an earlier one is still being deleted")
        known = (metadata.get("annotations") or {}).get(SPEC_ANNOTATION)
        if known != document["metadata"]["annotations"][SPEC_ANNOTATION]:
            raise FaultError(f"{self}: one with another spec exists; run `rcarena inject --recover`")

    def _wait(self, condition: Callable[[ChaosStatus], bool] | None, timeout_s: float) -> _LastSeen:
        """Wait until ``condition`` holds, the resource is gone (None: only that), or the time is over."""
        deadline = time.monotonic() + timeout_s
        last = ChaosStatus.of({})
        while (document := self.find()) is not None:
            last = ChaosStatus.of(document)
            if (condition and condition(last)) or time.monotonic() > deadline:
                return _LastSeen(last, gone=False)
            time.sleep(LOOK_INTERVAL_S)
        return _LastSeen(last, gone=True)

    def _patch(self, patch: dict[str, Any]) -> None:
        with translate_errors(self.target):
            try:
                self.target.api().merge_patch(CHAOS_API, self.kind, self.name, patch, namespace=self.namespace)
            except NotFoundError:
                return

    def __str__(self) -> str:
        return f"{self.target.name}: {self.kind} {self.name}"


@dataclass(frozen=True)
class _LastSeen:
    status: ChaosStatus
    gone: bool
