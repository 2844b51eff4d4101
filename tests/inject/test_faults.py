"""Each fault on the miniature stack: it is seen, it ends, and nothing is left."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tasks.deploy.health import is_up
from tasks.deploy.local.layout import RAY_METRICS_PORT, WITHHELD
from tasks.inject import catalogue
from tasks.inject.errors import InjectionError
from tasks.inject.executors.local import probes
from tasks.inject.faults import memory_stress
from tasks.inject.journal import journal_path, read_journal
from tasks.inject.recover import recover_journal, residue, stack_residue
from tasks.inject.start import injection_record
from tasks.system.process import ProcessId
from tasks.workspace import Workspace
from tests.inject.ministack import MiniStack, fetch
from tests.inject.once import Once, once
from tests.waiting import until

pytestmark = pytest.mark.privileged

PARAMETERS: dict[str, dict[str, Any]] = {
    "accelerator-throttle": {"fraction": 0.05},
    "memory-stress": {"size_mb": 64, "headroom_mb": 64},
    "network-delay": {"delay_ms": 100, "jitter_ms": 20},
    "network-loss": {"loss_percent": 50},
}
"""Where the defaults are not for a small stack."""
CASES: dict[str, dict[str, Any]] = {kind: PARAMETERS.get(kind, {}) for kind in catalogue.fault_kind_names("local")}
ENDING = ("process-kill", "service-restart")
"""Kinds that end the processes of the target."""
TARGET = "ray-replicas-0"
TOGETHER: list[dict[str, str]] = [
    {
        "accelerator-throttle": "ray-replicas-0",
        "network-delay": "ray-replicas-0",
        "network-loss": "ray-replicas-1",
        "process-freeze": "nginx-proxy",
    },
    {"cpu-stress": "ray-replicas-0", "network-bandwidth": "ray-replicas-1", "process-kill": "nginx-proxy"},
    {"memory-stress": "ray-replicas-0", "network-partition": "ray-replicas-1"},
]
TOGETHER += [{"service-restart": "nginx-proxy", "telemetry-loss": "ray-replicas-0", "engine-stall": "ray-replicas-0"}]
TOGETHER += [{kind: TARGET} for kind in CASES if not any(kind in together for together in TOGETHER)]


def plan(name: str, kind: str, target: str = TARGET, lead_s: float = 1.5, duration_s: float = 2.5, **more: Any) -> Once:
    parameters = more.pop("parameters", CASES[kind])
    start = datetime.now(UTC) + timedelta(seconds=lead_s)
    return once(name, kind, target, parameters, start, duration_s)


@pytest.mark.parametrize("together", TOGETHER, ids="+".join)
def test_effects_are_seen_and_undone(clean: MiniStack, together: dict[str, str]):
    """Faults on one target and on several; the targets' processes live on where they should."""
    before = {name: set(clean.target(name).processes()) for name in together.values()}
    duration_s = 12 if "telemetry-loss" in together else 6 if {"cpu-stress", "memory-stress"} & set(together) else 4
    if "telemetry-loss" in together:
        until(lambda: probes.LastSampleAge(clean.target()).tick()[0].value < 2, "Prometheus has no samples")
    plans = [plan(kind, kind, service, lead_s=1.5, duration_s=duration_s) for kind, service in together.items()]
    running = [each.start(clean) for each in plans]
    records = {each.kind: each for each in (injection.wait(60) for injection in running)}
    assert residue(clean.workspace) == []
    assert {record.verdict for record in records.values()} == {"effective"}, records
    for kind, record in records.items():
        assert record.executor
        assert record.observed is not None
        assert record.verified is not None
        assert record.probe is not None
        assert None not in (record.probe.before, record.probe.during, record.probe.after)
        assert set(record.parameters) == set(catalogue.fault_kind(kind).parameters.model_fields)
        assert record.observed.start >= record.planned.start
        target = clean.target(record.target)
        assert (before[record.target] == set(target.processes())) == (kind not in ENDING)
        assert target.cgroup.memory_limit() is None
        with clean.connect(record.target) as connection:
            assert len(fetch(connection, 100_000)) == 100_000


def test_a_throttled_idle_service_is_honestly_ineffective(clean: MiniStack):
    idle = plan("idle", "accelerator-throttle", "ray-replicas-1", duration_s=2)
    record = idle.start(clean).wait(60)
    assert record.verdict == "ineffective"
    assert record.reason.startswith(
        "no effect (an effect is a rise of 0.05 s/s and 30 %), and decode step under equal load is not known before "
        "the fault (the replica ended no request, or its spans are missing); "
    )
    assert record.outcome is not None
    assert (record.outcome.before, record.outcome.during) == (None, None)


def test_lost_telemetry_leaves_the_traffic_alone(clean: MiniStack):
    """Only the port of the metrics of the target is cut off, and only the target is left out by the exporter."""

    def answers(service: str) -> bool:
        address = clean.runtime.service(service).address
        return clean.target(service).in_fabric_network(lambda: is_up(address, RAY_METRICS_PORT, timeout_s=2))

    with plan("lost", "telemetry-loss", lead_s=0, duration_s=600).start(clean):
        wait_for_state(clean, "lost", "active")
        with clean.connect() as connection:
            assert len(fetch(connection, 1_000_000)) == 1_000_000
        assert not answers(TARGET)
        assert answers("ray-replicas-1")
        assert [file.name for file in (clean.workspace.stack / WITHHELD).iterdir()] == [TARGET]
    assert answers(TARGET)
    assert list((clean.workspace.stack / WITHHELD).iterdir()) == []


def test_a_stalled_engine_leaves_the_rest_of_its_replica_running(clean: MiniStack):
    target = clean.target()
    (engine,) = target.engine_processes()
    with plan("stalled", "engine-stall", lead_s=0, duration_s=600).start(clean):
        wait_for_state(clean, "stalled", "active")
        assert [pid for pid, state in target.processes().items() if state == "T"] == [engine]
        with clean.connect() as connection:
            assert len(fetch(connection, 1000)) == 1000
    assert "T" not in target.processes().values()


def test_a_service_without_an_engine_process_is_left_alone(clean: MiniStack):
    record = plan("no-engine", "engine-stall", "ray-replicas-1").start(clean).wait(60)
    assert record.observed is None
    assert record.reason.startswith("not carried out: ray-replicas-1: no engine runs in a process of its own")


def test_one_undo_leaves_the_other_fault_alone(clean: MiniStack):
    long = plan("long", "network-delay", lead_s=1, duration_s=20).start(clean)
    short = plan("short", "accelerator-throttle", lead_s=1, duration_s=1.5).start(clean)
    short.wait(60)
    assert not long.done
    found = stack_residue(clean.runtime)
    assert any("queueing discipline clsact" in line for line in found), found
    assert not any("quota" in line for line in found), found
    assert long.stop().verdict == "ineffective"


def test_two_faults_that_need_one_thing_are_refused(clean: MiniStack):
    with plan("first", "accelerator-throttle").start(clean):
        with pytest.raises(InjectionError, match="both need the CPU quota of ray-replicas-0"):
            plan("second", "accelerator-throttle").start(clean)
        with pytest.raises(InjectionError, match="injection first is open"):
            plan("first", "network-delay").start(clean)
    assert not journal_path(clean.workspace.journal, "second").exists()


def test_stop_undoes_at_once(clean: MiniStack):
    injection = plan("stopped", "network-delay", lead_s=0, duration_s=600).start(clean)
    wait_for_state(clean, "stopped", "active")
    assert residue(clean.workspace)
    record = injection.stop()
    assert datetime.now(UTC) < record.planned.end
    assert residue(clean.workspace) == []
    assert record.verdict == "ineffective"
    assert "SIGTERM" in record.reason
    assert injection.stop() == record


def test_an_injection_stopped_before_it_began_did_nothing(clean: MiniStack):
    with plan("early", "cpu-stress", lead_s=60).start(clean) as injection:
        pass
    record = injection.wait(5)
    assert record.observed is None
    assert record.verdict == "ineffective"


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"kind": "cpu-strss"}, "injection x.kind: unknown fault 'cpu-strss'"),
        ({"target": "nobody"}, "injection x.target: unknown service 'nobody'"),
        ({"parameters": {"workers": -1}}, "injection x.parameters.workers: "),
        ({"injection_id": "../x"}, r"injection id '../x': allowed are"),
        ({"start_at": datetime(2020, 1, 1, tzinfo=UTC)}, "its window ended at 2020-"),
    ],
)
def test_a_plan_that_cannot_work_starts_nothing(clean: MiniStack, changes: dict[str, Any], problem: str):
    values: dict[str, Any] = {"injection_id": "x", "kind": "cpu-stress", "target": TARGET} | changes
    with pytest.raises(InjectionError, match=problem):
        once(**values).start(clean)
    assert residue(clean.workspace) == []


def test_memory_that_the_machine_does_not_have_is_refused(clean: MiniStack):
    too_much = {"size_mb": int(memory_stress.available_mb())}
    too_big = plan("big", "memory-stress", parameters=too_much, lead_s=1)
    record = too_big.start(clean).wait(30)
    assert record.observed is None
    assert record.reason.startswith("not carried out: ")
    assert "available on this machine" in record.reason


def wait_for_state(stack: MiniStack, name: str, state: str) -> None:
    path = journal_path(stack.workspace.journal, name)
    until(
        lambda: path.exists() and read_journal(path).state == state,
        lambda: f"{name} did not become {state}: {path.read_text(encoding='utf-8')}",
    )


def test_an_injection_is_recorded_and_closed(clean: MiniStack):
    """Its record is complete, there is nothing to recover, and its name can be used again."""
    first = plan("once", "process-freeze", lead_s=1, duration_s=4)
    with first.start(clean) as injection:
        record = injection.wait(60)
    journal = read_journal(injection.path)
    assert not journal.open
    assert record.verdict == "effective", record.reason
    assert injection_record(journal) == record
    assert record.planned.end - record.planned.start == timedelta(seconds=4)
    before = injection.path.read_bytes()
    assert recover_journal(injection.path) is None
    assert injection.path.read_bytes() == before
    with plan("once", "process-freeze", lead_s=60).start(clean) as again:
        assert again.stop().planned != record.planned


def test_the_effect_is_never_before_its_recorded_start(clean: MiniStack):
    """The first stressor process is younger than the record says the fault is."""
    stress = plan("early-bird", "cpu-stress", lead_s=0, duration_s=60)
    with stress.start(clean) as injection:
        wait_for_state(clean, "early-bird", "active")
        target = clean.target()
        pids = target.all_processes().keys() - target.processes().keys()
        ticks = [ProcessId.of(pid).start_ticks for pid in pids]
        record = injection.stop()
    boot_s = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    first_s = boot_s + min(ticks) / os.sysconf("SC_CLK_TCK")
    assert record.observed is not None
    assert record.observed.start.timestamp() <= first_s + 0.02  # ticks are 10 ms


def test_an_injection_whose_journal_cannot_be_written_is_refused(stack: MiniStack, tmp_path: Path):
    (tmp_path / "journal").write_text("a file in the way", encoding="utf-8")
    with pytest.raises(InjectionError, match=r"injection nowhere: .*File exists"):
        plan("nowhere", "cpu-stress").start(stack, Workspace(tmp_path))
