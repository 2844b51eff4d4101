"""The agent's side of the API: NodeFaults of this node are carried out, reported and let go.

It asks for all of them once a second: they are few, and a watch on a connection that died in silence would cost
minutes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from tasks.kube.client import Cluster
from tasks.kube.errors import ClusterError, ConflictError, NotFoundError
from tasks.kube.node_fault import (
    API_VERSION,
    FINALIZER,
    KIND,
    NodeFault,
    NodeFaultError,
    NodeFaultStatus,
    Phase,
)
from tasks.node_agent.journal import Entry
from tasks.node_agent.keeper import Keeper

log = logging.getLogger(__name__)

FINAL: frozenset[Phase] = frozenset({"Restored", "Failed"})

LINGER_S = 1.0
"""A restored fault stays for this long, so that whoever waits for its end can read when and how that was."""
AGE_SLACK_S = 2.0
"""Creation times are whole seconds, and of another clock."""


class Reconciler:
    def __init__(
        self,
        cluster: Cluster,
        keeper: Keeper,
        node_name: str,
        linger_s: float = LINGER_S,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._cluster = cluster
        self._keeper = keeper
        self._node_name = node_name
        self._linger_s = linger_s
        self._now = now
        self.accepting = True
        """Off: nothing new is carried out, what there is is reported and let go."""

    def round(self) -> None:
        """Look at every NodeFault once. Raises ClusterError when they cannot be listed."""
        documents = [each for each in self._cluster.list(API_VERSION, KIND) if self._is_ours(each)]
        for document in documents:
            try:
                self._reconcile(NodeFault.of(document))
            except NodeFaultError as error:
                self._reject(document, error)
            except (ConflictError, NotFoundError) as error:
                log.info("%s: changed meanwhile: %s", document["metadata"]["name"], error)
            except ClusterError as error:
                log.warning("%s: %s", document["metadata"]["name"], error)
        self._forget_all_but({str(each["metadata"]["uid"]) for each in documents})

    def _is_ours(self, document: dict[str, Any]) -> bool:
        return bool((document.get("spec") or {}).get("nodeName") == self._node_name)

    def _reconcile(self, fault: NodeFault) -> None:
        entry = self._keeper.entry(fault.uid)
        if fault.deleted:
            self._let_go(fault, entry)
            return
        if entry is None:
            if fault.status.phase in FINAL:
                return
            entry = self._begin(fault)
        if entry is not None:
            self._report(fault, entry)

    def _begin(self, fault: NodeFault) -> Entry | None:
        if fault.status.phase == "Active" and fault.status.saved is not None:
            return self._keeper.adopt(fault)
        if not self.accepting:
            return None
        age_s = (self._now() - fault.created_at).total_seconds()
        if age_s > fault.spec.duration_seconds + AGE_SLACK_S:
            why = f"it is {age_s:.0f} s old and was to last {fault.spec.duration_seconds:g} s: its owner waits no more"
            return self._keeper.refuse(fault, f"not carried out: {why}")
        if FINALIZER not in fault.finalizers:
            self._set_finalizers(fault, (*fault.finalizers, FINALIZER))
        return self._keeper.apply(fault)

    def _let_go(self, fault: NodeFault, entry: Entry | None) -> None:
        """Restore, say so, and only then take the finalizer away."""
        if entry is None and fault.status.phase == "Active" and fault.status.saved is not None:
            entry = self._keeper.adopt(fault)
        if entry is not None and entry.open and not entry.problem:  # with a problem the keeper's tick tries again
            entry = self._keeper.restore(fault.uid, "its owner ended it")
        if FINALIZER not in fault.finalizers:
            return
        if entry is not None:
            self._report(fault, entry)
            restored_at = entry.restored_at
            if entry.open or (restored_at and (self._now() - restored_at).total_seconds() < self._linger_s):
                return
        self._set_finalizers(fault, tuple(each for each in fault.finalizers if each != FINALIZER))

    def _set_finalizers(self, fault: NodeFault, finalizers: tuple[str, ...]) -> None:
        patch: dict[str, Any] = {"metadata": {"finalizers": list(finalizers)}}
        if not fault.deleted:  # on its way out only we and other controllers touch it, and a conflict costs a round
            patch["metadata"]["resourceVersion"] = fault.resource_version
        self._cluster.merge_patch(API_VERSION, KIND, fault.name, patch, namespace=fault.namespace)

    def _report(self, fault: NodeFault, entry: Entry) -> None:
        status = NodeFaultStatus(
            phase=_phase(entry),
            saved=entry.saved,
            applied_at=entry.applied_at,
            restored_at=entry.restored_at,
            message=entry.problem or entry.message,
        )
        if status != fault.status:
            self._set_status(fault.name, fault.namespace, status.document())

    def _set_status(self, name: str, namespace: str, status: dict[str, Any]) -> None:
        patch = {"status": status}
        self._cluster.merge_patch(API_VERSION, KIND, name, patch, namespace=namespace, subresource="status")

    def _reject(self, document: dict[str, Any], error: NodeFaultError) -> None:
        """An object that breaks the schema: say so, and do not hold it back."""
        status = {"phase": "Failed", "message": f"not carried out: {error}"}
        log.error("%s", error)
        if document.get("status") == status:
            return
        name, namespace = document["metadata"]["name"], document["metadata"]["namespace"]
        try:
            self._set_status(name, namespace, status)
        except ClusterError as failure:
            log.warning("%s: %s", name, failure)

    def _forget_all_but(self, uids: set[str]) -> None:
        for entry in self._keeper.entries():
            if entry.uid not in uids:
                self._keeper.forget(entry.uid)


def _phase(entry: Entry) -> Phase:
    if entry.problem or entry.state == "refused":
        return "Failed"
    phases: dict[str, Phase] = {"planned": "Pending", "active": "Active", "restored": "Restored"}
    return phases[entry.state]
