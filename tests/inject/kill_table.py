"""kill -9 of an injection's owner, guardian, or both at random moments, and what ``recover`` leaves.

``python -m tests.inject.kill_table [MOMENTS]`` prints a table for each executor (as root with the local ones).
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal, Protocol

from tasks.backends.base import Runtime
from tasks.inject import catalogue
from tasks.inject.errors import FaultError, JournalError
from tasks.inject.executor import FaultExecutor
from tasks.inject.executors.kubernetes.chaos_mesh import ChaosExecutor
from tasks.inject.executors.kubernetes.contention import GpuPodExecutor
from tasks.inject.executors.kubernetes.node_fault import NodeFaultExecutor
from tasks.inject.executors.kubernetes.restart import PodRestart
from tasks.inject.journal import journal_path, read_journal
from tasks.inject.recover import recover, residue
from tasks.inject.start import start_injection
from tasks.injection import PlannedInjection
from tasks.system.marked_processes import DEAD_MAN_MARKER, MARKER, marked_processes
from tasks.workspace import Workspace
from tests.inject.cluster_stack import ClusterStack, cluster_stack
from tests.inject.gpu_stack import REPLICA, GpuStack, gpu_stack
from tests.inject.ministack import mini_stack
from tests.node_agent.machine import GPU
from tests.waiting import until

Victim = Literal["owner", "guardian", "both"]
VICTIMS: tuple[Victim, ...] = ("owner", "guardian", "both")
STATES = ("planned", "applying", "active", "undoing")
TARGETS = ("ray-replicas-0", "nginx-proxy")
"""Of the stacks but that with GPUs: the first that a kind can act on."""
FIGURES = {
    "DCGM_FI_DEV_POWER_USAGE": 300.0,
    "DCGM_FI_DEV_SM_CLOCK": 1700.0,
    "DCGM_FI_DEV_GPU_UTIL": 40.0,
    "DCGM_FI_DEV_FB_FREE": 9000.0,
    "DCGM_FI_DEV_FB_USED": 70_000.0,
}
LEAD_S, WINDOW_S = 1.5, 4.0

_owners = multiprocessing.get_context("forkserver")
_owners.set_forkserver_preload(["tasks.inject.start"])


def kinds_by(*executors: type[FaultExecutor[Any, Any]]) -> tuple[str, ...]:
    """The kinds that one of these carries out on a cluster."""
    on_cluster = [kind for kind in catalogue.list_fault_kinds() if kind.runs_on("kubernetes")]
    return tuple(kind.name for kind in on_cluster if issubclass(kind.executor("kubernetes"), executors))


CLUSTER_KINDS = kinds_by(ChaosExecutor, PodRestart)
GPU_KINDS = tuple(kind for kind in kinds_by(NodeFaultExecutor, GpuPodExecutor) if kind != "engine-kill")
"""A killed engine is not started again on the emulated node."""
LOCAL_KINDS = tuple(catalogue.fault_kind_names("local"))


class Stack(Protocol):
    runtime: Any
    workspace: Workspace


@dataclass(frozen=True)
class GpuTrials:
    """A stack with GPUs, published in a workspace."""

    stack: GpuStack
    workspace: Workspace

    @property
    def runtime(self) -> Runtime:
        return self.stack.runtime


@dataclass(frozen=True)
class Trial:
    """``moment_s`` counts from the start of the owner; ``left`` is what ``recover`` could not remove."""

    executor: str
    victim: Victim
    state: str
    moment_s: float
    before: int
    left: tuple[str, ...]


def own(runtime: Runtime, workspace: Workspace, name: str, kind: str, target: str) -> None:
    """An owner like the campaign; what it says of its failures is not asked."""
    resolved = catalogue.resolve_parameters(kind, {}, runtime.backend).model_dump(mode="json")
    planned = PlannedInjection(kind=kind, target=target, parameters=resolved, duration_s=WINDOW_S)
    start = datetime.now(UTC) + timedelta(seconds=LEAD_S)
    with contextlib.suppress(FaultError):
        start_injection(runtime, workspace, planned, injection_id=name, window_start=start).wait()


def target_of(kind: str, runtime: Any) -> str:
    roles = catalogue.fault_kind(kind).roles_on(runtime.backend)
    return next(name for name in TARGETS if runtime.service(name).role in roles)


def kill_once(stack: Stack, kind: str, victim: Victim, draw: random.Random) -> Trial:
    """One injection, killed some moment after it reached a random state, then recovered."""
    name = f"kill-{draw.getrandbits(40):010x}"
    backend = stack.runtime.backend
    path = journal_path(stack.workspace.journal.resolve(), name)
    gpu_before = stack.stack.agent.machine.state["gpus"][GPU] if isinstance(stack, GpuTrials) else None
    began = time.monotonic()
    target = REPLICA if isinstance(stack, GpuTrials) else target_of(kind, stack.runtime)
    owner = _owners.Process(target=own, args=(stack.runtime, stack.workspace, name, kind, target))
    owner.start()
    try:
        _await_state(path, draw.choice(STATES), owner)
        time.sleep(draw.uniform(0, 0.5))
        state, moment = _state(path), time.monotonic() - began
        _kill(owner, path, victim)
        before = len(residue(stack.workspace))
        recover(stack.workspace)
        left = residue(stack.workspace)
        left += [f"process {pid} lives" for pid in marked_processes(MARKER, stack.workspace.journal.resolve())]
        left += [f"dead-man {pid} lives" for pid in marked_processes(DEAD_MAN_MARKER, path)]
    finally:
        owner.kill()
        owner.join()
    if isinstance(stack, ClusterStack):
        left += [f"still acting: {spec}" for spec in _acting(stack)]
    if isinstance(stack, GpuTrials):
        left += _gpu_traces(stack.stack, gpu_before)
    return Trial(f"{backend} {kind}", victim, state, moment, before, tuple(left))


def _acting(stack: ClusterStack) -> list[dict[str, Any]]:
    return stack.mesh.acting_on(stack.cluster, stack.runtime.namespace, stack.pod()["metadata"]["name"])


def _gpu_traces(stack: GpuStack, before: Any) -> list[str]:
    """The GPU is not as before, or a pod of a fault is there."""
    now = stack.agent.machine.state["gpus"][GPU]
    pods = [str(pod["metadata"]["name"]) for pod in stack.cluster.objects("v1", "Pod", stack.runtime.namespace)]
    left = [f"pod {name}" for name in pods if not name.startswith(("nginx-proxy", REPLICA))]
    return left if now == before else [*left, f"GPU is {now}, was {before}"]


def _await_state(path: Path, state: str, owner: BaseProcess) -> None:
    """Until the journal has reached ``state`` or a later one."""
    later = (*STATES[STATES.index(state) :], "failed", "recovered")

    def is_there() -> bool:
        assert owner.is_alive() or path.exists(), f"{path.stem}: its owner ended before it began"
        return _state(path) in later

    until(is_there, f"{path.stem} did not become {state}", pause_s=0.005)


def _state(path: Path) -> str:
    try:
        return read_journal(path).state
    except JournalError:
        return "none"


def _kill(owner: BaseProcess, path: Path, victim: Victim) -> None:
    if victim in ("owner", "both"):
        owner.kill()
    if victim in ("guardian", "both"):
        for pid in marked_processes(MARKER, path):
            with contextlib.suppress(ProcessLookupError, FileNotFoundError):
                if b"tasks.inject.guardian" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    os.kill(pid, signal.SIGKILL)


def trials(stack: Stack, kinds: tuple[str, ...], moments: int, seed: str) -> Iterator[Trial]:
    draw = random.Random(seed)
    for kind in kinds:
        for moment in range(moments):
            yield kill_once(stack, kind, VICTIMS[moment % len(VICTIMS)], draw)


def _all_trials(moments: int) -> Iterator[Trial]:
    with tempfile.TemporaryDirectory() as place:
        with cluster_stack(Path(place) / "cluster") as cluster:
            cluster.mesh.delay_s = 0.3
            yield from trials(cluster, CLUSTER_KINDS, moments, "cluster")
        with gpu_stack(Path(place) / "gpu" / "stack", lambda: FIGURES) as gpu:
            gpu.runtime.write()
            yield from trials(GpuTrials(gpu, Workspace(Path(place) / "gpu")), GPU_KINDS, moments, "gpu")
        if os.geteuid() == 0:
            with mini_stack(Path(place) / "local") as local:
                yield from trials(local, LOCAL_KINDS, moments, "local")


def main() -> int:
    moments = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    print(f"{'executor':<28} {'killed':<9} {'in state':<10} {'at':>6}  traces before -> after recover")
    bad = count = 0
    for trial in _all_trials(moments):
        count += 1
        bad += bool(trial.left)
        after = "; ".join(trial.left) or "0"
        when = f"{trial.victim:<9} {trial.state:<10} {trial.moment_s:5.2f}s"
        print(f"{trial.executor:<28} {when}  {trial.before} -> {after}", flush=True)
    print(f"{count} kills, {bad} with residue after recover")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
