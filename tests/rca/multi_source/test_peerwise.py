from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from tasks.rca.method import Ranking
from tasks.rca.multi_source.peerwise import holm, peerwise
from tasks.rca.view import CaseView
from tests.rca.serving_views import BEFORE, Break, becomes, lost, serving_view, times


def judge(view: CaseView, **parameters: object) -> Ranking:
    return peerwise(view, np.random.default_rng(0), **parameters)  # type: ignore[arg-type]


def named(ranking: Ranking) -> set[tuple[str | None, str]]:
    assert ranking.findings is not None
    return {(finding.service, finding.kind) for finding in ranking.findings if finding.role == "root"}


def top(ranking: Ranking) -> str:
    return max(ranking.services, key=lambda each: each[1])[0]


def killed(values: np.ndarray) -> np.ndarray:
    """Gone for four steps, then as before."""
    return np.concatenate([np.full(4, 1.0), values[4:]])


STOPPED = {"cpu_usage": becomes(0.0), "generation_tokens_rate": lost(), "requests_running": lost()}
FAULTS: Mapping[str, Mapping[str, Break]] = {
    "cpu-stress": {"cpu_usage": times(3), "inter_token_latency_mean": times(2)},
    "memory-stress": {"memory_rss": times(1.4), "cpu_usage": times(1.6)},
    "accelerator-throttle": {"inter_token_latency_mean": times(4), "cpu_throttled": becomes(0.8)},
    "process-freeze": {**STOPPED, "network_transmit": times(0.01)},
    "network-partition": {**STOPPED, "cpu_usage": times(0.3), "network_transmit": becomes(0.0)},
    "process-kill": {"processes": killed, "memory_rss": killed},
    "engine-stall": {"generation_tokens_rate": becomes(0.0), "cpu_usage": times(0.3)},
}


@pytest.mark.parametrize("service", ["r0", "r2"])
@pytest.mark.parametrize("kind", FAULTS)
def test_each_kind_is_found_and_named(kind: str, service: str) -> None:
    ranking = judge(serving_view({(service, metric): change for metric, change in FAULTS[kind].items()}))
    assert named(ranking) == {(service, kind)}
    assert top(ranking) == service


def test_nothing_is_named_without_a_fault() -> None:
    assert [judge(serving_view(seed=seed)).findings for seed in range(20)] == [()] * 20


def test_two_roots_are_both_named() -> None:
    view = serving_view(
        {("r0", metric): change for metric, change in FAULTS["accelerator-throttle"].items()}
        | {("r1", metric): change for metric, change in FAULTS["memory-stress"].items()}
    )
    assert named(judge(view)) == {("r0", "accelerator-throttle"), ("r1", "memory-stress")}


def test_two_of_three_with_the_same_fault() -> None:
    slow = FAULTS["accelerator-throttle"]
    view = serving_view({(service, metric): change for service in ("r0", "r2") for metric, change in slow.items()})
    assert named(judge(view)) == {("r0", "accelerator-throttle"), ("r2", "accelerator-throttle")}


@pytest.mark.parametrize("factor", [0.3, 3.0])
@pytest.mark.parametrize("start", [10, BEFORE, 45])
def test_load_that_changes_is_no_fault(factor: float, start: int) -> None:
    assert judge(serving_view(load=lambda t: np.where(t >= start, factor, 1.0))).findings == ()


def test_a_fault_under_a_surge_is_found() -> None:
    faults = {("r1", metric): change for metric, change in FAULTS["accelerator-throttle"].items()}
    view = serving_view(faults, load=lambda t: np.where(t >= BEFORE, 3.0, 1.0))
    assert named(judge(view)) == {("r1", "accelerator-throttle")}


def test_lost_telemetry_is_no_fault() -> None:
    view = serving_view()
    columns = [column for column in view.metrics.columns if column[0] == "r1"]
    view.metrics.loc[view.metrics.index >= view.inject_time, columns] = np.nan
    assert judge(view).findings == ()


def test_holm() -> None:
    """Sorted .01, .02, .04 times 3, 2, 1; none below one before it."""
    assert holm(np.array([0.02, 0.01, 0.04])) == pytest.approx([0.04, 0.03, 0.04])
