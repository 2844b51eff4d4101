"""A throttle is effective only if a decode step takes longer, too: how that is measured, and what the verdict says."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.deploy.local.layout import SPANS_FILE
from tasks.inject.executors.kubernetes.gpu_probes import PrometheusStepTime
from tasks.inject.executors.local.probes import SpanStepTime
from tasks.inject.guardian import Guardian
from tasks.inject.probe import Sample, StepTime
from tasks.injection import ProbeRecord
from tasks.system.record_file import RecordFile
from tests.inject.gpu_stack import StubPrometheus
from tests.inject.ministack_spans import export_request

BEFORE = [Sample(at, at + 0.2, 10 + at % 3, load=1 + at % 2, work=100) for at in range(20)]


def shown(during: list[Sample], before: list[Sample] = BEFORE) -> bool:
    probe = StepTime()
    return probe.shows_effect(
        probe.reduce([each.value for each in before]), probe.reduce(probe.comparable(during, before))
    )


def test_a_slower_step_at_an_equal_batch_is_an_effect() -> None:
    assert shown([Sample(30, 31, 20, load=1.5, work=300)])
    assert not shown([Sample(30, 31, 11, load=1.5, work=300)])


def test_a_slow_engine_that_collects_requests_is_an_effect() -> None:
    """Four times the batch, a step that is three times as long, and no more tokens per second than before."""
    assert shown([Sample(30, 31, 33, load=6, work=105)])


def test_under_more_work_only_a_step_slower_than_any_engine_s_is_an_effect() -> None:
    assert not shown([Sample(30, 31, 33, load=6, work=150)])
    assert shown([Sample(30, 31, 60, load=6, work=150)])


@given(loads=st.lists(st.floats(0.1, 200), min_size=1, max_size=10), share=st.floats(0.45, 1))
def test_a_surge_alone_is_no_effect(loads: list[float], share: float) -> None:
    """``share``: the part of a usual step that does not grow with the batch; below it the engine was full before."""
    before = [Sample(at, at, 10, load=2, work=200) for at in range(5)]
    steps = [10 * (share + (1 - share) * load / 2) for load in loads]
    surge = [Sample(30, 30, step, load=load, work=1e3 * load / step) for load, step in zip(loads, steps, strict=True)]
    assert not shown(surge, before)


def test_without_samples_before_nothing_is_comparable() -> None:
    assert StepTime().comparable([Sample(0, 1, 20)], []) == []


def spans_of(directory: Path, service: str, bursts: list[tuple[int, float]]) -> None:
    file = RecordFile(directory / SPANS_FILE, 2**20)
    assert file.append(export_request(service, bursts))
    file.close()


def test_requests_are_read_from_the_spans_of_the_replica(tmp_path: Path) -> None:
    target: Any = SimpleNamespace(name="ray-replicas-1", directory=tmp_path)
    probe = SpanStepTime(target)
    now = time.time_ns()
    spans_of(tmp_path, "ray-replicas-1", [(now, 0.02), (now, 0.04)])
    spans_of(tmp_path, "ray-replicas-2", [(now, 9.0)])
    found: list[Sample] = []
    deadline = time.monotonic() + 60
    while len(found) < 2 and time.monotonic() < deadline:
        found += probe.tick()
    assert [each.value for each in found] == pytest.approx([20, 40])
    assert [each.end - each.start for each in found] == pytest.approx([0.02, 0.04], abs=1e-3)
    assert probe.tick() == []
    loaded = probe._loaded(found)
    assert [each.load for each in loaded] == pytest.approx([2, 1.5], rel=0.1)
    assert [each.work for each in loaded] == pytest.approx([50, 50], rel=0.1)


def test_a_stack_without_spans_has_no_samples(tmp_path: Path) -> None:
    target: Any = SimpleNamespace(name="ray-replicas-1", directory=tmp_path)
    assert SpanStepTime(target).tick() == []


def test_steps_of_a_busy_engine_are_counted() -> None:
    """200 steps and 800 tokens a second: a step takes 5 ms, with four requests in the batch."""
    counters = ("ray_vllm_iteration_tokens_total_count", "ray_vllm_generation_tokens_total")
    names = (*counters, "ray_vllm_num_requests_running")
    figures = dict(zip(names, (200.0, 800.0, 4.0), strict=True))
    prometheus = StubPrometheus(lambda: figures)
    try:
        found = PrometheusStepTime(prometheus.url, *names).tick()
        figures[names[2]] = 0.5
        idle = PrometheusStepTime(prometheus.url, *names).tick()
    finally:
        prometheus.close()
    assert found
    assert idle == []
    for each in found:
        assert (each.value, each.load, each.work) == (pytest.approx(5), pytest.approx(4), pytest.approx(800))


def judged(limit: tuple[float, float], step: tuple[float | None, float | None]) -> Any:
    """The journal after a fault whose first figure falls by 10 % when it acts."""
    guardian = Guardian.__new__(Guardian)
    guardian.stop_reason = None
    outcome: Any = StepTime()
    outcome.why_unmeasured = "it was idle"
    guardian._outcome = outcome
    guardian.journal = SimpleNamespace(  # type: ignore[assignment]  # what the verdict needs of it
        probe=ProbeRecord(name="clock", unit="MHz", before=limit[0], during=limit[1], after=limit[0]),
        outcome=ProbeRecord(name=outcome.name, unit="ms", before=step[0], during=step[1], after=None),
        normal_seen_at="then",
        state="recovered",
    )
    executor: Any = SimpleNamespace(
        spares_processes=True,
        target=SimpleNamespace(stack_alive=True),
        criterion="a fall by 10 %",
        settle_s=8,
        shows_effect=lambda before, during: during <= 0.9 * before,
    )
    guardian._judge(executor, 3, 3)
    return guardian.journal


STEP = "decode step under equal load"


@pytest.mark.parametrize(
    ("limit", "step", "problem"),
    [
        ((1700, 900), (10.0, 20.0), None),
        ((1700, 900), (10.0, 10.5), f"{STEP} did not move (an effect is a rise of 15 %)"),
        ((1700, 1690), (10.0, 20.0), f"no effect (an effect is a fall by 10 %), though {STEP} moved"),
        ((1700, 1690), (10.0, 10.0), f"no effect (an effect is a fall by 10 %), and {STEP} did not move"),
        ((1700, 900), (None, 20.0), f"{STEP} is not known before the fault (it was idle)"),
        ((1700, 900), (10.0, None), f"{STEP} is not known during the fault (it was idle)"),
    ],
)
def test_the_verdict_says_which_of_the_two_did_not_move(
    limit: tuple[float, float], step: tuple[float | None, float | None], problem: str | None
) -> None:
    journal = judged(limit, step)
    assert journal.verdict == ("ineffective" if problem else "effective")
    assert journal.reason.startswith(problem or "clock: 1700 MHz before, 900 during, 1700 after; decode step")
    assert f"{STEP}: " in journal.reason
