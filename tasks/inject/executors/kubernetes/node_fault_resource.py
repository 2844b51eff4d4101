"""Creates the NodeFaults of one injection, named after it, follows them, and removes them.

The agent on the node (``tasks.node_agent``) carries each out, holds it by a finalizer until the node is restored, and
restores by its own clock after ``durationSeconds``, even when all our other processes are dead.
"""

from __future__ import annotations

import logging
import time
from datetime import datetime
from typing import Any

from tasks.inject.errors import FaultError
from tasks.inject.executor import UndoReport
from tasks.inject.executors.kubernetes.injected import InjectedObjects, create_injected
from tasks.inject.executors.kubernetes.target import translate_errors
from tasks.kube.errors import NotFoundError
from tasks.kube.node_fault import API_VERSION, KIND, NodeFaultSpec, NodeFaultStatus

log = logging.getLogger(__name__)

ACTIVE_TIMEOUT_S = 30.0
GONE_TIMEOUT_S = 40.0
"""Longer than an agent's restore with a slow ``nvidia-smi``."""
LOOK_INTERVAL_S = 0.25


class NodeFaults(InjectedObjects):
    api_version, kind = API_VERSION, KIND

    def create(self, injection_id: str, specs: tuple[NodeFaultSpec, ...]) -> None:
        """Create one per spec; an existing equal one (a lost answer, a retry) is success."""
        for number, spec in enumerate(specs):
            document = self.document(injection_id, number, spec.document())
            if not create_injected(self.target, document, f"the cluster has no {KIND}: run `rcarena deploy up` again"):
                self._check_same(document)

    def await_active(self, count: int) -> tuple[datetime | None, str]:
        """Wait until the agents have applied all; return the time of the first, and the agents' messages."""
        deadline = time.monotonic() + ACTIVE_TIMEOUT_S
        while True:
            statuses = {str(each["metadata"]["name"]): _status(each) for each in self.all()}
            if len(statuses) < count:
                raise FaultError(f"{self.target.name}: a {KIND} was deleted before it was carried out")
            for status in statuses.values():
                if status.phase in ("Failed", "Restored"):
                    raise FaultError(f"{self.target.name}: {status.message or status.phase}")
            if all(status.phase == "Active" for status in statuses.values()):
                times = [status.applied_at for status in statuses.values() if status.applied_at is not None]
                said = dict.fromkeys(status.message for status in statuses.values() if status.message)
                return min(times, default=None), "; ".join(said)
            if time.monotonic() > deadline:
                raise FaultError(
                    f"{self.target.name}: the agent of {self._nodes(self.all())} has not answered within "
                    f"{ACTIVE_TIMEOUT_S:g} s: look at the pods of the DaemonSet gpu-agent"
                )
            time.sleep(LOOK_INTERVAL_S)

    def lost(self, deadline_s: float) -> str | None:
        """Return why one of them is no longer active; None if all are."""
        found = self.all(deadline_s)
        if not found or any(each["metadata"].get("deletionTimestamp") for each in found):
            return f"the {KIND} was deleted during the fault"
        ended = [status for status in map(_status, found) if status.phase != "Active"]
        return f"the node's agent has ended the fault: {ended[0].message or ended[0].phase}" if ended else None

    def remove(self) -> UndoReport | None:
        """Delete them, if they exist, and wait until the agents have restored the nodes."""
        found = self.all()
        if not found:
            return None
        with translate_errors(self.target):
            for each in found:
                self.target.api().delete(
                    API_VERSION, KIND, str(each["metadata"]["name"]), namespace=self.target.namespace
                )
        last = {str(each["metadata"]["name"]): each for each in found}
        deadline = time.monotonic() + GONE_TIMEOUT_S
        notes: list[str] = []
        while remaining := self.all():
            last |= {str(each["metadata"]["name"]): each for each in remaining}
            if time.monotonic() > deadline:
                said = "; ".join(status.message for status in map(_status, remaining) if status.message)
                raise FaultError(
                    f"{self.target.name}: the agent of {self._nodes(remaining)} does not let go of "
                    f"{', '.join(str(each['metadata']['name']) for each in remaining)}: {said or 'it does not answer'}"
                )
            notes += self._release_lost_nodes(remaining)
            time.sleep(LOOK_INTERVAL_S)
        statuses = [_status(each) for each in last.values()]
        ended = [status.restored_at for status in statuses if status.restored_at is not None]
        return UndoReport(ended_at=max(ended, default=None), notes=(*notes, *_remarks(statuses)))

    def _release_lost_nodes(self, remaining: list[dict[str, Any]]) -> list[str]:
        """Drop the finalizers of NodeFaults whose node has left the cluster; return a note for each."""
        notes = []
        for each in remaining:
            node, name = str(each["spec"]["nodeName"]), str(each["metadata"]["name"])
            with translate_errors(self.target):
                if self.target.api().find("v1", "Node", node) is not None:
                    continue
                try:
                    patch = {"metadata": {"finalizers": None}}
                    self.target.api().merge_patch(API_VERSION, KIND, name, patch, namespace=self.target.namespace)
                except NotFoundError:
                    continue
            log.warning("%s: node %s has left the cluster: %s is let go", self.target.name, node, name)
            notes.append(f"node {node} has left the cluster: its agent restores it when it starts there again")
        return notes

    def _check_same(self, document: dict[str, Any]) -> None:
        name = document["metadata"]["name"]
        with translate_errors(self.target):
            existing = self.target.api().find(API_VERSION, KIND, name, namespace=self.target.namespace)
        if existing is None or existing["metadata"].get("deletionTimestamp"):
            raise FaultError(f"{self.target.name}: an earlier {KIND} {name} is still being deleted")
        if existing["spec"] != document["spec"]:
            raise FaultError(
                f"{self.target.name}: {KIND} {name} exists with another spec; run `rcarena inject --recover`"
            )

    @staticmethod
    def _nodes(documents: list[dict[str, Any]]) -> str:
        return ", ".join(sorted({f"node {each['spec']['nodeName']}" for each in documents})) or "the node"


def _status(document: dict[str, Any]) -> NodeFaultStatus:
    return NodeFaultStatus.model_validate(document.get("status") or {})


def _remarks(statuses: list[NodeFaultStatus]) -> list[str]:
    """Return the messages for the record."""
    return [status.message for status in statuses if "somebody else" in status.message]
