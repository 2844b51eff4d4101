"""The keeper: applies and restores NodeFaults on this node. It needs the disk and the hardware, never the API."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

from tasks.kube.node_fault import ENGINE_ACTIONS, NodeFault
from tasks.node_agent.actions import ACTIONS, ActionError, Certainty, Node, NodeAction
from tasks.node_agent.journal import Entry, Journal
from tasks.node_agent.nvidia_smi import NvidiaSmiError
from tasks.node_agent.processes import ProcessError

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 15.0
_FAILURES = (ActionError, NvidiaSmiError, ProcessError, OSError)


class Keeper:
    """Safe to call from several threads. ``changed`` is told the UID of every entry whose state changed."""

    def __init__(self, journal: Journal, node: Node, changed: Callable[[str], None] = lambda uid: None) -> None:
        self._journal = journal
        self._node = node
        self._changed = changed
        self._lock = threading.RLock()
        self._entries: dict[str, Entry] = {}
        self._ends: dict[str, float] = {}
        """Monotonic time at which an entry is to be restored; retries are put off to later."""
        self._pauses: dict[str, float] = {}

    def load(self) -> None:
        """Read the journal of an agent that ended before, restore whatever it left, and remember the power limits of
        GPUs that no agent has seen before. Raises OSError."""
        with self._lock:
            for entry in self._journal.read():
                self._entries[entry.uid] = entry
            for entry in self.open_entries():
                self.restore(entry.uid, "found at the agent's start")
            self._remember_limits()

    def entry(self, uid: str) -> Entry | None:
        with self._lock:
            return self._entries.get(uid)

    def entries(self) -> list[Entry]:
        with self._lock:
            return list(self._entries.values())

    def open_entries(self) -> list[Entry]:
        return [entry for entry in self.entries() if entry.open]

    def apply(self, fault: NodeFault) -> Entry:
        """Carry a fault out once; a second call returns its entry. Refusals are entries, not exceptions."""
        with self._lock:
            known = self._entries.get(fault.uid)
            if known is not None:
                return known
            entry = self._carry_out(fault)
            self._entries[fault.uid] = entry
            log.log(
                logging.INFO if entry.state == "active" else logging.ERROR,
                "%s: %s on pod %s: %s: %s",
                fault.name, fault.spec.action, fault.spec.pod_name, entry.state, entry.message,
            )  # fmt: skip
        self._changed(fault.uid)
        return entry

    def refuse(self, fault: NodeFault, why: str) -> Entry:
        """Record that a fault will not be carried out."""
        with self._lock:
            entry = self._entries.setdefault(fault.uid, _entry(fault).changed(state="refused", message=why))
        self._changed(fault.uid)
        return entry

    def adopt(self, fault: NodeFault) -> Entry:
        """Restore a fault that is active in the API but missing from the journal, by what its status saved."""
        with self._lock:
            if fault.uid not in self._entries:
                status = fault.status
                assert status.saved is not None
                self._entries[fault.uid] = _entry(fault).changed(
                    state="active", saved=status.saved, applied_at=status.applied_at, message=status.message
                )
            return self.restore(fault.uid, "the node's journal was lost; restored by the status")

    def restore(self, uid: str, why: str) -> Entry:
        """Undo a fault unless that is done. ``problem`` of the entry tells a failure; ``tick`` tries again."""
        with self._lock:
            entry = self._entries[uid]
            if not entry.open:
                return entry
            certainty: Certainty = "surely" if entry.state == "active" else "maybe"
            try:
                done = self._action(entry).undo(entry.saved, certainty)
            except _FAILURES as error:
                pause = self._pauses.get(uid, FIRST_PAUSE_S)
                self._ends[uid] = time.monotonic() + pause
                self._pauses[uid] = min(2 * pause, LONGEST_PAUSE_S)
                entry = entry.changed(problem=f"not restored yet ({why}): {error}")
                log.error("%s: %s; trying again in %g s", entry.name, entry.problem, pause)
            else:
                self._ends.pop(uid, None)
                self._pauses.pop(uid, None)
                message = "; ".join(part for part in (entry.message, f"{done} ({why})") if part)
                entry = entry.changed(state="restored", restored_at=datetime.now(UTC), problem="", message=message)
                log.info("%s: %s (%s)", entry.name, done, why)
            self._entries[uid] = entry
            self._write_if_possible(entry)
        self._changed(uid)
        return entry

    def restore_all(self, why: str) -> list[Entry]:
        """Restore everything; return the entries that could not be restored."""
        return [entry for entry in (self.restore(each.uid, why) for each in self.open_entries()) if entry.open]

    def forget(self, uid: str) -> None:
        """The object is gone from the API: nobody will ask for this entry again. An open one is restored first."""
        with self._lock:
            entry = self._entries.get(uid)
            if entry is None or (entry.open and self.restore(uid, "its object is gone").open):
                return
            try:
                self._journal.remove(uid)
            except OSError as error:
                log.error("%s: its journal cannot be removed: %s", uid, error)
                return
            del self._entries[uid]

    def tick(self) -> None:
        """Restore what is due; to be called several times a second."""
        now = time.monotonic()
        with self._lock:
            due = [uid for uid, end in self._ends.items() if end <= now]
        for uid in due:
            entry = self.entry(uid)
            if entry is not None:
                self.restore(uid, f"{entry.spec.duration_seconds:g} s are over")

    def _remember_limits(self) -> None:
        """Keep the limit that each GPU was first found with; not of one whose limit a fault of ours may have set."""
        found = self._journal.read_limits()
        ours = {gpu.uuid for entry in self.open_entries() for gpu in entry.saved.gpus}
        try:
            gpus = self._node.smi.gpus()
        except NvidiaSmiError as error:
            log.warning("the power limits are not known: %s", error)
            gpus = {}
        limits = {uuid: gpu.power_limit for uuid, gpu in gpus.items() if uuid not in {*found, *ours}}
        if new := {uuid: limit for uuid, limit in limits.items() if limit is not None}:
            self._journal.write_limits(found | new)
        self._node.found_limits.update(found | new)

    def _carry_out(self, fault: NodeFault) -> Entry:
        entry = _entry(fault)
        action = self._action(entry)
        try:
            saved, note = action.plan(fault.spec)
            self._refuse_conflicts(entry.changed(saved=saved))
            entry = entry.changed(saved=saved)
            self._journal.write(entry)
        except _FAILURES as error:
            return entry.changed(state="refused", message=f"not carried out: {error}")
        self._entries[entry.uid] = entry
        began = datetime.now(UTC)
        try:
            done = action.act(saved)
        except _FAILURES as error:
            return self._take_back(entry, error)
        self._ends[entry.uid] = time.monotonic() + fault.spec.duration_seconds
        message = "; ".join(part for part in (done, note) if part)
        entry = entry.changed(state="active", applied_at=began, message=message)
        self._write_if_possible(entry)
        return entry

    def _take_back(self, entry: Entry, why: Exception) -> Entry:
        """The act failed half way. What cannot be taken back now stays open and is tried again."""
        entry = self.restore(entry.uid, "it could not be carried out")
        if entry.open:
            return entry.changed(problem=f"not carried out: {why}; {entry.problem}")
        entry = entry.changed(state="refused", message=f"not carried out: {why}; {entry.message}")
        self._write_if_possible(entry)
        return entry

    def _refuse_conflicts(self, entry: Entry) -> None:
        uuids = {gpu.uuid for gpu in entry.saved.gpus}
        for other in self.open_entries():
            shared = uuids & {gpu.uuid for gpu in other.saved.gpus}
            if shared:
                raise ActionError(f"GPU {min(shared)} is under the fault {other.name} ({other.spec.action}) already")
            engines = entry.spec.action in ENGINE_ACTIONS and other.spec.action in ENGINE_ACTIONS
            if engines and entry.spec.pod_uid == other.spec.pod_uid:
                raise ActionError(f"the engine is under the fault {other.name} ({other.spec.action}) already")

    def _action(self, entry: Entry) -> NodeAction:
        return ACTIONS[entry.spec.action](self._node)

    def _write_if_possible(self, entry: Entry) -> None:
        """The older state on the disk leads to the same restore, which can be repeated."""
        try:
            self._journal.write(entry)
        except OSError as error:
            log.error("%s: its journal cannot be written: %s", entry.name, error)


def _entry(fault: NodeFault) -> Entry:
    return Entry(uid=fault.uid, name=fault.name, namespace=fault.namespace, spec=fault.spec, state="planned")
