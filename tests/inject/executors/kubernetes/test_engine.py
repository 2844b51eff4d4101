"""Faults of the engine: a real process is stopped and killed by the agent, asked through the emulated API."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.inject import catalogue
from tasks.stack import Role
from tests.inject.gpu_stack import GpuStack, gpu_stack
from tests.waiting import HANG_S


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GpuStack]:
    with gpu_stack(tmp_path_factory.mktemp("engine"), dict) as running:
        yield running


@pytest.fixture
def engine(stack: GpuStack) -> Iterator[subprocess.Popen[bytes]]:
    machine, pod = stack.agent.machine, stack.runtime.service("ray-replicas-1").pods[0]
    with subprocess.Popen(["sleep", "60"]) as process:
        machine.add_process(process.pid, pod.uid, title="VLLM::EngineCore", real=True)
        for path in (machine.proc / "10").glob("*"):
            path.unlink()
        yield process
        process.kill()


def state(process: subprocess.Popen[bytes]) -> str:
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.parametrize("kind", ["engine-stall", "process-freeze"])
def test_a_stall_or_freeze_of_a_replica_stops_its_engine(stack: GpuStack, engine: subprocess.Popen[bytes], kind: str):
    fault = stack.fault(kind, f"case-{kind}.0")
    assert fault.refusal() is None
    assert fault.apply(30) == "node agent: 1 engine processes stopped"
    assert state(engine) == "T"
    (step,) = fault.undo_steps()
    step.undo(fault.target)
    assert state(engine) == "S"
    assert step.left(fault.target) == []


def test_a_kill_ends_the_engine(stack: GpuStack, engine: subprocess.Popen[bytes]):
    fault = stack.fault("engine-kill", "case-4.0")
    assert fault.apply(30) == "node agent: 1 engine processes killed"
    assert engine.wait(HANG_S) == -9
    (step,) = fault.undo_steps()
    step.undo(fault.target)
    assert step.left(fault.target) == []


@pytest.mark.parametrize("kind", ["engine-stall", "process-freeze"])
def test_a_service_without_an_engine_is_refused(kind: str):
    """On a cluster both stop the engine; locally a freeze stops any service."""
    roles: dict[str, Role] = {"nginx-proxy": "gateway", "ray-replicas-0": "replica"}
    (problem,) = catalogue.validate_injection(kind, "nginx-proxy", {}, roles, "x.target", backend="kubernetes")
    assert problem == f"x.target: {kind} cannot act on 'nginx-proxy' (role gateway); allowed: ray-replicas-0"
    assert catalogue.fault_kind(kind).group_on("kubernetes") == "engine-stall"
    assert catalogue.fault_kind(kind).group_on("local") == kind


def test_the_criterion_is_a_stop_and_idleness_shows_nothing(stack: GpuStack):
    fault = stack.fault("engine-kill")
    assert fault.shows_effect(800, 10)
    assert not fault.shows_effect(800, 200)
    assert not fault.shows_effect(0, 0)
    assert fault.settle_s == 900
