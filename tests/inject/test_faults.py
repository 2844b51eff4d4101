"""Each fault on the miniature stack: it is seen, it ends, and nothing is left."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tasks.inject import catalogue
from tasks.inject.faults import memory_stress
from tasks.inject.injection import InjectionError, InjectionPlan, injection_record, start_injection
from tasks.inject.journal import journal_path, read_journal
from tasks.inject.recover import residue, stack_residue
from tests.inject.ministack import MiniStack, fetch

pytestmark = pytest.mark.privileged

CASES: dict[str, dict[str, Any]] = {
    "cpu-stress": {},
    "memory-stress": {"size_mb": 64},
    "network-delay": {"delay_ms": 100, "jitter_ms": 20},
    "network-loss": {"loss_percent": 50},
    "network-bandwidth": {},
    "network-partition": {},
    "accelerator-throttle": {},
    "process-freeze": {},
    "process-kill": {},
}
TARGET = "ray-replicas-0"


def plan(
    name: str, kind: str, target: str = TARGET, lead_s: float = 1.5, duration_s: float = 2.5, **more: Any
) -> InjectionPlan:
    parameters = more.pop("parameters", CASES[kind])
    start = datetime.now(UTC) + timedelta(seconds=lead_s)
    return InjectionPlan(name, kind, target, parameters, start, duration_s)


def test_every_kind_is_tried():
    assert set(CASES) == set(catalogue.kinds())


@pytest.mark.parametrize("kind", CASES)
def test_effect_is_seen_and_undone(clean: MiniStack, kind: str):
    duration_s = 6 if kind in ("cpu-stress", "memory-stress") else 2.5
    with start_injection(clean.runtime, clean.workspace, plan(kind, kind, duration_s=duration_s)) as injection:
        record = injection.wait(60)
    assert record.verdict == "effective", record.reason
    assert record.executor
    assert record.observed is not None
    assert record.verified is not None
    assert record.probe is not None
    assert None not in (record.probe.before, record.probe.during, record.probe.after)
    assert set(record.parameters) == set(catalogue.fault(kind).parameters.model_fields)
    assert record.observed.start >= record.planned.start
    assert residue(clean.workspace) == []
    with clean.connect() as connection:
        assert len(fetch(connection, 100_000)) == 100_000


def test_a_throttled_idle_service_is_honestly_ineffective(clean: MiniStack):
    idle = plan("idle", "accelerator-throttle", "ray-replicas-1", duration_s=2)
    record = start_injection(clean.runtime, clean.workspace, idle).wait(60)
    assert record.verdict == "ineffective"
    assert record.reason.startswith("no effect (an effect is a rise of 0.05 s/s and 30 %)")


def test_faults_combine_on_one_target_and_on_several(clean: MiniStack):
    plans = [
        plan("a", "accelerator-throttle"),
        plan("b", "network-delay"),
        plan("c", "network-loss", "ray-replicas-1"),
        plan("d", "process-freeze", "nginx-proxy"),
    ]
    running = [start_injection(clean.runtime, clean.workspace, each) for each in plans]
    verdicts = {each.kind: (each.verdict, each.reason) for each in (injection.wait(60) for injection in running)}
    assert {verdict for verdict, _ in verdicts.values()} == {"effective"}, verdicts
    assert residue(clean.workspace) == []


def test_one_undo_leaves_the_other_fault_alone(clean: MiniStack):
    long = start_injection(clean.runtime, clean.workspace, plan("long", "network-delay", duration_s=20))
    short = start_injection(clean.runtime, clean.workspace, plan("short", "accelerator-throttle", duration_s=1))
    short.wait(60)
    assert not long.done
    found = stack_residue(clean.runtime)
    assert any("queueing discipline clsact" in line for line in found), found
    assert not any("quota" in line for line in found), found
    assert long.stop().verdict == "ineffective"


def test_two_faults_that_need_one_thing_are_refused(clean: MiniStack):
    with start_injection(clean.runtime, clean.workspace, plan("first", "accelerator-throttle")):
        with pytest.raises(InjectionError, match="both need the CPU quota of ray-replicas-0"):
            start_injection(clean.runtime, clean.workspace, plan("second", "accelerator-throttle"))
        with pytest.raises(InjectionError, match="injection first is open"):
            start_injection(clean.runtime, clean.workspace, plan("first", "network-delay"))
    assert not journal_path(clean.workspace.journal, "second").exists()


def test_stop_undoes_at_once(clean: MiniStack):
    injection = start_injection(
        clean.runtime, clean.workspace, plan("stopped", "network-delay", lead_s=0, duration_s=60)
    )
    wait_for_state(clean, "stopped", "active")
    assert residue(clean.workspace)
    started = time.monotonic()
    record = injection.stop()
    assert time.monotonic() - started < 10
    assert residue(clean.workspace) == []
    assert record.verdict == "ineffective"
    assert "SIGTERM" in record.reason
    assert injection.stop() == record


def test_an_injection_stopped_before_it_began_did_nothing(clean: MiniStack):
    with start_injection(clean.runtime, clean.workspace, plan("early", "cpu-stress", lead_s=60)) as injection:
        pass
    record = injection.wait(5)
    assert record.observed is None
    assert record.verdict == "ineffective"


def test_a_name_can_be_used_again_when_its_journal_is_closed(clean: MiniStack):
    for _ in range(2):
        with start_injection(
            clean.runtime, clean.workspace, plan("again", "process-freeze", duration_s=1)
        ) as injection:
            assert injection.wait(60).verdict == "effective"


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
        start_injection(clean.runtime, clean.workspace, InjectionPlan(**values))
    assert residue(clean.workspace) == []


def test_memory_that_the_machine_does_not_have_is_refused(clean: MiniStack):
    too_much = {"size_mb": int(memory_stress.available_mb())}
    too_big = plan("big", "memory-stress", parameters=too_much, lead_s=1)
    record = start_injection(clean.runtime, clean.workspace, too_big).wait(30)
    assert record.observed is None
    assert record.reason.startswith("not carried out: ")
    assert "available on this machine" in record.reason


def test_a_memory_limit_with_headroom_spares_the_service(clean: MiniStack):
    before = set(clean.target().processes())
    squeeze = plan("squeeze", "memory-stress", parameters={"size_mb": 64, "headroom_mb": 64}, duration_s=5)
    record = start_injection(clean.runtime, clean.workspace, squeeze).wait(60)
    assert record.verdict == "effective", record.reason
    assert before == set(clean.target().processes())
    assert clean.target().cgroup.memory_limit() is None


def wait_for_state(stack: MiniStack, name: str, state: str, timeout_s: float = 30) -> None:
    path = journal_path(stack.workspace.journal, name)
    deadline = time.monotonic() + timeout_s
    while not path.exists() or read_journal(path).state != state:
        assert time.monotonic() < deadline, f"{name} did not become {state}: {path.read_text(encoding='utf-8')}"
        time.sleep(0.02)


def test_the_record_of_a_journal_is_complete(clean: MiniStack):
    with start_injection(clean.runtime, clean.workspace, plan("record", "process-freeze", duration_s=1)) as injection:
        record = injection.wait(60)
    journal = read_journal(injection.path)
    assert not journal.open
    assert injection_record(journal) == record
    assert record.planned.end - record.planned.start == timedelta(seconds=1)
