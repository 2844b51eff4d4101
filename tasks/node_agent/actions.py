"""Actions on a node: plan (read only), act (set and read back), undo (set back and read back)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Literal

from tasks.kube.node_fault import Action, NodeFaultSpec, Saved, SavedGpu
from tasks.node_agent.nvidia_smi import Gpu, NvidiaSmi, NvidiaSmiError
from tasks.node_agent.processes import ProcessTable

WATTS_TOLERANCE = 1.0
"""GPUs round a limit; two that are nearer than this are the same."""

LOWEST_CLOCK_MHZ = 210.0
"""Below this no data-centre GPU runs; a lock that asks for less is lifted to it."""

FALLBACK = "a clock lock (gpu-clock-lock)"

Certainty = Literal["maybe", "surely"]


class ActionError(RuntimeError):
    """A fault cannot be carried out, or not be undone now; the message says why in one line."""


@dataclass(frozen=True)
class Node:
    """GPUs and processes of this node. ``found_limits``: power limit (W) that each GPU was first found with."""

    smi: NvidiaSmi
    processes: ProcessTable
    found_limits: dict[str, float] = field(default_factory=dict)

    def gpus_of(self, spec: NodeFaultSpec) -> list[Gpu]:
        """Return the GPU that the fault names, or else those the pod computes on, or else those it was given."""
        gpus = self.smi.gpus()
        if spec.gpu_uuid is not None:
            wanted = {spec.gpu_uuid}
        else:
            wanted = self._computing(spec.pod_uid) or self.processes.assigned_gpus(spec.pod_uid)
        if not wanted:
            raise ActionError(f"pod {spec.pod_name} has no GPU on this node: none of its processes computes on one")
        unknown = sorted(wanted - set(gpus))
        if unknown:
            raise ActionError(
                f"there is no GPU {unknown[0]} on this node; there is {', '.join(sorted(gpus)) or 'none'}"
            )
        return [gpus[uuid] for uuid in sorted(wanted)]

    def computing_pids(self) -> list[int]:
        """Return pids that compute on a GPU; none on a node without NVIDIA's driver."""
        try:
            return [pid for pid, _ in self.smi.compute_processes()]
        except NvidiaSmiError:
            return []

    def _computing(self, pod_uid: str) -> set[str]:
        return {uuid for pid, uuid in self.smi.compute_processes() if self.processes.pod_of(pid) == pod_uid}


class NodeAction(ABC):
    """Every method raises ActionError, NvidiaSmiError or ProcessError, and returns a sentence for the status."""

    def __init__(self, node: Node) -> None:
        self.node = node

    @abstractmethod
    def plan(self, spec: NodeFaultSpec) -> tuple[Saved, str]:
        """Return the present state with the values to set, and a note. Change nothing."""

    @abstractmethod
    def act(self, saved: Saved) -> str: ...

    @abstractmethod
    def undo(self, saved: Saved, acted: Certainty) -> str:
        """Restore; may be repeated. ``maybe``: a crash left open whether ``act`` was done."""


class GpuAction(NodeAction):
    def plan(self, spec: NodeFaultSpec) -> tuple[Saved, str]:
        planned = [self._plan(gpu, spec) for gpu in self.node.gpus_of(spec)]
        return Saved(gpus=tuple(gpu for gpu, _ in planned)), "; ".join(note for _, note in planned if note)

    @staticmethod
    @abstractmethod
    def _plan(gpu: Gpu, spec: NodeFaultSpec) -> tuple[SavedGpu, str]: ...


class PowerLimit(GpuAction):
    @staticmethod
    def _plan(gpu: Gpu, spec: NodeFaultSpec) -> tuple[SavedGpu, str]:
        if gpu.power_limit is None or gpu.min_limit is None or gpu.max_limit is None:
            raise ActionError(f"GPU {gpu.uuid} has no power limit that can be set; use {FALLBACK}")
        default = gpu.default_limit or gpu.max_limit
        asked = spec.amount(default)
        watts = min(max(asked, gpu.min_limit), gpu.max_limit)
        if watts >= gpu.power_limit - WATTS_TOLERANCE:
            raise ActionError(
                f"GPU {gpu.uuid}: {asked:g} W would not lower its power limit, which is {gpu.power_limit:g} W "
                f"(allowed: {gpu.min_limit:g} to {gpu.max_limit:g} W); ask for less or use {FALLBACK}"
            )
        note = f"{asked:g} W was clamped to {watts:g} W: the GPU allows {gpu.min_limit:g} to {gpu.max_limit:g} W"
        if not gpu.persistence:
            note = f"{note}; persistence mode is off" if watts != asked else "persistence mode is off"
        saved = SavedGpu(
            uuid=gpu.uuid,
            old_watts=gpu.power_limit,
            min_watts=gpu.min_limit,
            default_watts=gpu.default_limit,
            max_watts=gpu.max_limit,
            set_watts=watts,
        )
        return saved, note if watts != asked or not gpu.persistence else ""

    def act(self, saved: Saved) -> str:
        for gpu in saved.gpus:
            assert gpu.set_watts is not None
            try:
                self.node.smi.set_power_limit(gpu.uuid, gpu.set_watts)
            except NvidiaSmiError as error:
                raise ActionError(f"{error}; use {FALLBACK} where power limits are refused") from error
            now = self._limit(gpu.uuid)
            if abs(now - gpu.set_watts) > WATTS_TOLERANCE:
                raise ActionError(
                    f"GPU {gpu.uuid}: its power limit reads {now:g} W after {gpu.set_watts:g} W was set; "
                    f"use {FALLBACK} if it refuses"
                )
        return ", ".join(f"{gpu.old_watts:g} W -> {gpu.set_watts:g} W" for gpu in saved.gpus)

    def undo(self, saved: Saved, acted: Certainty) -> str:
        return "; ".join(self._undo(gpu, acted) for gpu in saved.gpus)

    def _undo(self, gpu: SavedGpu, acted: Certainty) -> str:
        assert gpu.old_watts is not None
        assert gpu.set_watts is not None
        now = self._limit(gpu.uuid)
        if abs(now - gpu.old_watts) <= WATTS_TOLERANCE:
            return f"the power limit is {now:g} W as before"
        if acted == "surely" and abs(now - gpu.set_watts) > WATTS_TOLERANCE:
            return (
                f"the power limit is {now:g} W, neither what the fault set ({gpu.set_watts:g} W) nor what was before "
                f"({gpu.old_watts:g} W): somebody else changed it, so it is left as it is"
            )
        self.node.smi.set_power_limit(gpu.uuid, gpu.old_watts)
        now = self._limit(gpu.uuid)
        if abs(now - gpu.old_watts) > WATTS_TOLERANCE:
            raise ActionError(f"GPU {gpu.uuid}: its power limit reads {now:g} W after {gpu.old_watts:g} W was restored")
        return f"the power limit is {now:g} W again"

    def _limit(self, uuid: str) -> float:
        limit = self.node.smi.gpu(uuid).power_limit
        if limit is None:
            raise ActionError(f"GPU {uuid} does not say its power limit")
        return limit


class ClockLock(GpuAction):
    """Locks the SM clock. The driver does not tell whether it was locked before: the undo unlocks it."""

    @staticmethod
    def _plan(gpu: Gpu, spec: NodeFaultSpec) -> tuple[SavedGpu, str]:
        if gpu.max_sm_clock is None:
            raise ActionError(f"GPU {gpu.uuid} does not say its highest SM clock: its clocks cannot be locked")
        asked = spec.amount(gpu.max_sm_clock)
        mhz = max(asked, LOWEST_CLOCK_MHZ)
        if mhz >= gpu.max_sm_clock:
            raise ActionError(
                f"GPU {gpu.uuid}: {asked:g} MHz is not below its highest SM clock, {gpu.max_sm_clock:g} MHz"
            )
        note = f"{asked:g} MHz was lifted to {mhz:g} MHz" if mhz != asked else ""
        return SavedGpu(uuid=gpu.uuid, max_mhz=gpu.max_sm_clock, set_mhz=round(mhz)), note

    def act(self, saved: Saved) -> str:
        for gpu in saved.gpus:
            assert gpu.set_mhz is not None
            self.node.smi.lock_clocks(gpu.uuid, min(gpu.set_mhz, LOWEST_CLOCK_MHZ), gpu.set_mhz)
        return ", ".join(f"SM clock at most {gpu.set_mhz:g} of {gpu.max_mhz:g} MHz" for gpu in saved.gpus)

    def undo(self, saved: Saved, acted: Certainty) -> str:
        known = self.node.smi.gpus()
        for gpu in saved.gpus:
            if gpu.uuid not in known:
                raise ActionError(f"there is no GPU {gpu.uuid} on this node now")
            self.node.smi.reset_clocks(gpu.uuid)
        return "the clocks are unlocked"


class RestoreLimits(NodeAction):
    """Sets the power limit to what the GPU was first found with, and unlocks the SM clock. The way back of limits of
    whatever origin: it has none itself."""

    def plan(self, spec: NodeFaultSpec) -> tuple[Saved, str]:
        gpus = self.node.gpus_of(spec)
        unknown = [gpu.uuid for gpu in gpus if gpu.uuid not in self.node.found_limits]
        note = f"{', '.join(unknown)}: its power limit is left, since no agent knows an earlier one" if unknown else ""
        saved = (
            SavedGpu(uuid=gpu.uuid, old_watts=gpu.power_limit, set_watts=self.node.found_limits.get(gpu.uuid))
            for gpu in gpus
        )
        return Saved(gpus=tuple(saved)), note

    def act(self, saved: Saved) -> str:
        return "; ".join(self._restore(gpu) for gpu in saved.gpus)

    def undo(self, saved: Saved, acted: Certainty) -> str:
        return "limits that were restored stay"

    def _restore(self, gpu: SavedGpu) -> str:
        smi, done = self.node.smi, ""
        if gpu.set_watts is not None and abs(gpu.set_watts - (gpu.old_watts or 0)) > WATTS_TOLERANCE:
            smi.set_power_limit(gpu.uuid, gpu.set_watts)
            now = smi.gpu(gpu.uuid).power_limit
            if now is None or abs(now - gpu.set_watts) > WATTS_TOLERANCE:
                raise ActionError(f"GPU {gpu.uuid}: its power limit reads {now} W after {gpu.set_watts:g} W was set")
            done = f"power limit {gpu.old_watts} W -> {gpu.set_watts:g} W, "
        smi.reset_clocks(gpu.uuid)
        return f"{done}SM clock unlocked"


class EngineAction(NodeAction):
    def plan(self, spec: NodeFaultSpec) -> tuple[Saved, str]:
        found = self.node.processes.engine_of_pod(spec.pod_uid, self.node.computing_pids())
        if not found:
            raise ActionError(f"pod {spec.pod_name} has no engine process on this node (VLLM::* or one on a GPU)")
        return Saved(processes=tuple(found)), ""


class EnginePause(EngineAction):
    def act(self, saved: Saved) -> str:
        self.node.processes.stop(saved.processes)
        if not any(self.node.processes.is_stopped(each) for each in saved.processes):
            raise ActionError("every engine process ended before it could be stopped")
        return f"{len(saved.processes)} engine processes stopped"

    def undo(self, saved: Saved, acted: Certainty) -> str:
        self.node.processes.resume(saved.processes)
        alive = sum(self.node.processes.is_same(each) for each in saved.processes)
        return f"{alive} of {len(saved.processes)} engine processes run again"


class EngineKill(EngineAction):
    """Kills the engine. Ray starts it again, so there is nothing to restore."""

    def act(self, saved: Saved) -> str:
        self.node.processes.kill(saved.processes)
        return f"{len(saved.processes)} engine processes killed"

    def undo(self, saved: Saved, acted: Certainty) -> str:
        return "killed processes are started again by Ray"


ACTIONS: dict[Action, type[NodeAction]] = {
    "power-limit": PowerLimit,
    "clock-lock": ClockLock,
    "restore-limits": RestoreLimits,
    "engine-pause": EnginePause,
    "engine-kill": EngineKill,
}
