from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from tasks.rca.context import Context
from tasks.rca.method import Coverage, MethodError, Ranking
from tasks.rca.multi_source.peerwise import holm, peerwise
from tasks.rca.view import CaseView
from tests.rca.serving_views import BEFORE, ROWS, Break, becomes, lost, serving_view, times, with_calls


def judge(view: CaseView, **parameters: object) -> Ranking:
    return peerwise(view, np.random.default_rng(0), **parameters)  # type: ignore[arg-type]


def named(ranking: Ranking) -> set[tuple[str | None, str]]:
    assert ranking.findings is not None
    roots = [finding for finding in ranking.findings if finding.role == "root" and finding.service is not None]
    return {(finding.service, finding.kind) for finding in roots}


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
    assert named(judge(serving_view(load=lambda t: np.where(t >= start, factor, 1.0)))) == set()


def test_a_fault_under_a_surge_is_found() -> None:
    faults = {("r1", metric): change for metric, change in FAULTS["accelerator-throttle"].items()}
    view = serving_view(faults, load=lambda t: np.where(t >= BEFORE, 3.0, 1.0))
    assert named(judge(view)) == {("r1", "accelerator-throttle")}


@pytest.mark.parametrize("factor", [0.3, 3.0])
def test_a_load_that_changed_is_said_to_have_where_nobody_is_at_fault(factor: float) -> None:
    ranking = judge(serving_view(load=lambda t: np.where(t >= BEFORE, factor, 1.0)))
    (finding,) = ranking.findings or ()
    assert (finding.service, finding.kind, finding.role) == (None, "workload", "root")
    assert finding.significance < 1e-3
    arrived, used = finding.evidence[:2]
    assert (arrived.signal, arrived.before, arrived.during) == (
        "request_rate",
        pytest.approx(9, rel=0.1),
        pytest.approx(9 * factor, rel=0.1),
    )
    assert used.signal == "cpu_usage"


def test_a_load_as_ever_and_a_load_beside_a_fault_are_no_finding() -> None:
    steady = serving_view(load=lambda t: np.where(t >= BEFORE, 1.1, 1.0))
    assert judge(steady).findings == ()
    faults = {("r1", metric): change for metric, change in FAULTS["accelerator-throttle"].items()}
    surge = serving_view(faults, load=lambda t: np.where(t >= BEFORE, 3.0, 1.0))
    assert [finding.service for finding in judge(surge).findings or ()] == ["r1"]


def test_lost_telemetry_is_no_fault() -> None:
    view = serving_view()
    columns = [column for column in view.metrics.columns if column[0] == "r1"]
    view.metrics.loc[view.metrics.index >= view.inject_time, columns] = np.nan
    ranking = judge(view)
    assert ranking.findings == ()
    assert ranking.coverage is not None
    assert "metrics of r1" in ranking.coverage.missing


def test_it_says_which_evidence_it_had() -> None:
    inside = ("CPU", "memory", "network traffic", "processes", "decode step times", "tokens")
    assert judge(serving_view()).coverage == Coverage(inside, ("GPU clocks", "GPU limits", "spans", "requests"))
    everything = judge(with_calls(serving_view(extra=GPU))).coverage
    assert everything == Coverage((*inside, "GPU clocks", "GPU limits", "spans", "requests"))


@pytest.mark.parametrize("late", ["gateway", "head", "r1"])
@pytest.mark.parametrize("replicas", [1, 3])
def test_a_late_link_is_blamed_on_who_sends(late: str, replicas: int) -> None:
    service = late if replicas == 3 or late != "r1" else "r0"
    view = serving_view(replicas=replicas, noise=0.15)  # a real link's traffic varies; one that does not is full
    ranking = judge(with_calls(view, late=service))
    assert named(ranking) == {(service, "network-delay")}
    assert top(ranking) == service


def test_some_late_calls_are_a_loss() -> None:
    assert named(judge(with_calls(serving_view(), late="r1", share=0.6))) == {("r1", "network-loss")}


def test_calls_as_ever_are_no_fault() -> None:
    assert judge(with_calls(serving_view())).findings == ()


def restarted(values: np.ndarray) -> np.ndarray:
    return np.concatenate([values[:4], np.zeros(2), values[6:]])


def test_a_restart_in_order_is_no_fault_and_a_crash_is_one() -> None:
    view = serving_view({("gateway", "processes"): restarted, ("gateway", "memory_rss"): restarted})
    assert judge(with_calls(view, refused=True)).findings == ()
    ranking = judge(with_calls(view, broken=True))
    assert named(ranking) == {("gateway", "process-kill")}


def test_a_gateway_that_is_back_within_a_scrape_is_killed_if_it_broke_requests_off() -> None:
    """One missing sample, two refused requests: a restart looks the same. Two that it had passed on are what tells."""
    view = with_calls(serving_view(), refused=True)
    gone = view.metrics.index[BEFORE + 4]
    view.metrics.loc[gone, [column for column in view.metrics.columns if column[0] == "gateway"]] = np.nan
    assert judge(view).findings == ()
    view = with_calls(serving_view(), broken=True)
    view.metrics.loc[gone, [column for column in view.metrics.columns if column[0] == "gateway"]] = np.nan
    ranking = judge(view)
    assert named(ranking) == {("gateway", "process-kill")}
    (finding,) = ranking.findings or ()
    assert "broke off requests" in finding.evidence[0].sentence


def test_a_client_that_falls_behind_is_no_slow_link() -> None:
    """Requests leave later and later than planned, and are read as late: the gateway's link is as ever."""
    view = with_calls(serving_view())
    requests = view.requests.copy()
    lag = pd.to_timedelta(np.where(requests["scheduled"] >= view.inject_time, 0.2, 0.0), unit="s")
    requests["sent"] = requests["scheduled"] + lag
    requests["last_token"] = requests["last_token"] + 2 * lag
    assert judge(replace(view, requests=requests)).findings == ()
    requests["sent"] = requests["scheduled"]
    assert named(judge(replace(view, requests=requests))) == {("gateway", "network-delay")}


def test_a_full_link_is_told_from_a_late_one_by_traffic_that_no_longer_varies() -> None:
    view = with_calls(serving_view(noise=0.15), late="r1")
    filled = view.metrics.copy()
    after = filled.index >= view.inject_time
    filled.loc[after, ("r1", "network_transmit")] = 1.2e4 * (1 + 0.01 * np.sin(np.arange(after.sum())))
    filled.loc[filled.index[BEFORE : BEFORE + 4], ("r1", "network_transmit")] = 2.4e4  # the rate looks back
    assert named(judge(replace(view, metrics=filled))) == {("r1", "network-bandwidth")}
    even = filled.copy()
    even.loc[~after, ("r1", "network_transmit")] = 3e4 * (1 + 0.01 * np.sin(np.arange((~after).sum())))
    assert named(judge(replace(view, metrics=even))) == {("r1", "network-delay")}


def test_telemetry_lost_where_calls_go_on() -> None:
    view = with_calls(serving_view())
    columns = [column for column in view.metrics.columns if column[0] == "r1"]
    view.metrics.loc[view.metrics.index >= view.inject_time, columns] = np.nan
    assert judge(view).findings == ()


GPU = {"gpu_sm_clock": 1800.0, "gpu_power_limit": 700.0, "gpu_power_violation": 0.0, "gpu_sm_active": 0.6}
SLOW = {"inter_token_latency_mean": times(2.5)}
GPU_FAULTS: Mapping[str, tuple[str, Mapping[str, Break]]] = {
    "clock lock": ("accelerator-throttle", {**SLOW, "gpu_sm_clock": times(0.4)}),
    "power limit": (
        "accelerator-throttle",
        {**SLOW, "gpu_power_limit": becomes(200), "gpu_power_violation": becomes(0.8)},
    ),
    "neighbour on the GPU": ("gpu-contention", {**SLOW, "gpu_sm_active": becomes(0.95)}),
    "slow at a normal clock": ("unknown", SLOW),
}


@pytest.mark.parametrize("fault", GPU_FAULTS)
@pytest.mark.parametrize("replicas", [1, 2, 3, 8, 50])
def test_gpu_faults_by_what_they_do(fault: str, replicas: int) -> None:
    kind, broken = GPU_FAULTS[fault]
    view = serving_view({("r0", metric): how for metric, how in broken.items()}, extra=GPU, replicas=replicas)
    assert named(judge(view)) == {("r0", kind)}


@pytest.mark.parametrize("seconds", [5, 15, 30])
def test_gpu_sampled_as_seldom_as_dcgm_does(seconds: int) -> None:
    """A row per step; the exporter's own interval may be longer: the samples between are missing."""
    broken = {("r0", metric): how for metric, how in GPU_FAULTS["clock lock"][1].items()}
    view = serving_view(broken, extra=GPU)
    seldom = [column for column in view.metrics.columns if column[1].startswith("gpu_")]
    view.metrics.loc[np.arange(len(view.metrics)) % seconds != seconds // 2, seldom] = np.nan
    assert named(judge(view)) <= {("r0", "accelerator-throttle"), ("r0", "unknown")}
    assert top(judge(view)) == "r0"


def test_settings_and_counters_without_effect_are_no_fault() -> None:
    quiet: Mapping[tuple[str, str], Break] = {
        ("r0", "gpu_power_limit"): becomes(400),
        ("r1", "gpu_power_violation"): becomes(0.5),
        ("r2", "gpu_sm_clock"): times(0.85),
    }
    assert judge(serving_view(quiet, extra=GPU)).findings == ()


def test_an_idle_clock_is_no_throttle() -> None:
    """Each replica idles in some steps, one of them more from the inject time on; idle clocks are low."""
    view = serving_view(extra=GPU)
    idle = np.random.default_rng(0).random((len(view.metrics), 3)) < 0.2
    idle[BEFORE:, 0] |= np.arange(len(view.metrics) - BEFORE) % 2 == 0
    for i in range(3):
        view.metrics.loc[idle[:, i], (f"r{i}", "gpu_sm_clock")] = 300.0
        view.metrics.loc[idle[:, i], [(f"r{i}", "requests_running"), (f"r{i}", "gpu_sm_active")]] = 0.0
        view.metrics.loc[idle[:, i], (f"r{i}", "generation_tokens_rate")] = 0.0
    assert judge(view).findings == ()


@pytest.mark.parametrize("seconds", [-10, -5, 5, 10])
def test_a_time_that_is_off_is_put_right(seconds: int) -> None:
    view = serving_view({("r1", metric): how for metric, how in FAULTS["accelerator-throttle"].items()})
    ranking = judge(replace(view, inject_time=view.inject_time + pd.Timedelta(seconds=seconds)))
    assert named(ranking) == {("r1", "accelerator-throttle")}
    assert ranking.findings is not None
    assert ranking.findings[0].onset_s == pytest.approx(-seconds, abs=2)


def later(fault: Mapping[str, Break], rows: int) -> dict[str, Break]:
    return {
        metric: lambda values, how=how: np.concatenate([values[:rows], how(values)[rows:]])  # type: ignore[misc]
        for metric, how in fault.items()
    }


def test_the_earlier_root_comes_first() -> None:
    view = serving_view(
        {("r2", metric): how for metric, how in FAULTS["memory-stress"].items()}
        | {("r0", metric): how for metric, how in later(FAULTS["accelerator-throttle"], 9).items()}
    )
    ranking = judge(view)
    assert named(ranking) == {("r2", "memory-stress"), ("r0", "accelerator-throttle")}
    assert [name for name, _ in sorted(ranking.services, key=lambda each: -each[1])][:2] == ["r2", "r0"]


def test_a_caller_that_breaks_later_is_a_victim() -> None:
    view = serving_view(
        {("r2", metric): how for metric, how in FAULTS["process-freeze"].items()}
        | {("head", metric): how for metric, how in later({"memory_rss": times(1.6)}, 10).items()}
    )
    view = replace(view, topology=pd.DataFrame({"relation": ["calls"], "source": ["head"], "target": ["r2"]}))
    ranking = judge(view)
    assert ranking.findings is not None
    assert {(each.service, each.role) for each in ranking.findings} == {("r2", "root"), ("head", "victim")}
    assert top(ranking) == "r2"


def shuffled(view: CaseView, seed: int) -> CaseView:
    rng = np.random.default_rng(seed)
    return replace(
        view,
        services=tuple(rng.permutation(view.services).tolist()),
        metrics=view.metrics.iloc[:, rng.permutation(view.metrics.shape[1])],
        spans=view.spans.sample(frac=1, random_state=seed),
        requests=view.requests.sample(frac=1, random_state=seed),
    )


@pytest.mark.parametrize("late", [None, "head", "r1"])
def test_order_says_nothing(late: str | None) -> None:
    view = with_calls(serving_view({("r0", "memory_rss"): times(1.3)}), late=late)
    plain = judge(view)
    for seed in range(3):
        other = judge(shuffled(view, seed))
        assert dict(other.services) == pytest.approx(dict(plain.services))
        assert other.findings == plain.findings


@pytest.mark.parametrize("metric", ["disk_io", "gpu_temperature", "preemptions_rate", "memory_limit"])
def test_a_constant_column_changes_nothing(metric: str) -> None:
    view = serving_view({("r0", "memory_rss"): times(1.3)})
    more = view.metrics.copy()
    for service in view.services:
        more[service, metric] = 7.0
    assert dict(judge(replace(view, metrics=more)).services) == dict(judge(view).services)
    assert judge(replace(view, metrics=more)).findings == judge(view).findings


def test_evidence_is_for_people() -> None:
    view = serving_view({("r1", metric): how for metric, how in FAULTS["accelerator-throttle"].items()})
    (finding,) = judge(view).findings or ()
    assert "a decode step takes longer at equal batch" in " ".join(each.sentence for each in finding.evidence)
    step = next(each for each in finding.evidence if each.signal == "inter_token_latency_mean")
    assert (step.unit, step.before, step.siblings) == ("ms", pytest.approx(12, rel=0.1), pytest.approx(12, rel=0.1))
    assert step.during == pytest.approx(48, rel=0.1)


@pytest.mark.parametrize(
    "parameters",
    [{"reference": "none"}, {"reference": "median"}, {"history": False}, {"derived": False}, {"floors": False}],
)
def test_ablations_run(parameters: dict[str, object]) -> None:
    view = with_calls(serving_view({("r0", "memory_rss"): times(1.3)}))
    assert top(judge(view, **parameters)) == "r0"


def test_the_median_of_two_faults_among_three_is_the_fault() -> None:
    slow = FAULTS["accelerator-throttle"]
    view = serving_view({(service, metric): change for service in ("r0", "r2") for metric, change in slow.items()})
    assert len(named(judge(view, reference="median"))) < 2


def test_holm() -> None:
    """Sorted .01, .02, .04 times 3, 2, 1; none below one before it."""
    assert holm(np.array([0.02, 0.01, 0.04])) == pytest.approx([0.04, 0.03, 0.04])


NO_WORK = {"generation_tokens_rate": becomes(0.0), "requests_running": becomes(0.0)}


@pytest.mark.parametrize(("inside", "roots"), [(0.0, set()), (4.0, {("r1", "engine-stall")})])
def test_who_is_asked_nothing_is_idle_and_who_holds_requests_stalls(inside: float, roots: set[tuple[str, str]]) -> None:
    """The engine counts nothing in both; the door in front of it tells."""
    broken = {("r1", metric): how for metric, how in (NO_WORK | {"serve_ongoing_requests": becomes(inside)}).items()}
    assert named(judge(serving_view(broken, extra={"serve_ongoing_requests": 1.0}))) == roots


@pytest.mark.parametrize(("siblings", "roots"), [(0.05, set()), (1.0, {("r1", "engine-stall")})])
def test_silence_may_be_chance_where_hardly_anything_is_asked(siblings: float, roots: set[tuple[str, str]]) -> None:
    """Nobody counts what waits: a third of very few requests may well be none."""
    broken = {("r1", metric): becomes(0.0) for metric in ("generation_tokens_rate", "requests_running")}
    load = lambda t: np.where(t >= BEFORE, siblings, 1.0)  # noqa: E731
    assert named(judge(serving_view(broken, load=load, extra={"request_rate": 0.3}))) == roots


@pytest.mark.parametrize("replicas", [1, 3])
def test_telemetry_that_ends_altogether_is_no_stall(replicas: int) -> None:
    view = with_calls(serving_view(replicas=replicas))
    end = view.inject_time + pd.Timedelta(seconds=2)
    view.metrics.loc[view.metrics.index >= end] = np.nan
    view = replace(view, spans=view.spans[(view.spans["start"] < end).to_numpy()])
    assert named(judge(view)) == set()
    assert named(judge(replace(view, requests=view.requests.iloc[:0]))) == set()


def test_a_first_root_before_a_late_time_comes_first() -> None:
    """Told the time at which the second begins: the first is not taken for normal."""
    view = serving_view(
        {("r2", metric): how for metric, how in FAULTS["accelerator-throttle"].items()}
        | {("r0", metric): how for metric, how in later(FAULTS["cpu-stress"], 10).items()}
    )
    ranking = judge(replace(view, inject_time=view.inject_time + pd.Timedelta(seconds=10)))
    assert top(ranking) == "r2"
    assert named(ranking) == {("r2", "accelerator-throttle"), ("r0", "cpu-stress")}


def test_the_change_is_looked_for_as_far_as_a_rate_looks_back() -> None:
    view = serving_view({("r1", metric): how for metric, how in FAULTS["accelerator-throttle"].items()})
    late = replace(view, inject_time=view.inject_time + pd.Timedelta(seconds=19))
    onsets = [
        (judge(replace(late, context=Context(rate_window_s=window))).findings or ())[0].onset_s for window in (5, 24)
    ]
    assert onsets[1] == pytest.approx(-19, abs=2)
    assert onsets[0] > -14


@pytest.mark.parametrize("rows", [1, ROWS - 1])
def test_a_time_at_the_edge_of_the_recording(rows: int) -> None:
    view = serving_view({("r1", metric): how for metric, how in FAULTS["accelerator-throttle"].items()})
    at = view.metrics.index[rows]
    near = view.metrics.index[abs(np.arange(ROWS) - rows) < 20]
    ranking = judge(replace(view, metrics=view.metrics.loc[near], inject_time=at))
    assert len(ranking.services) == len(view.services)


def test_a_time_far_outside_the_recording_is_an_error() -> None:
    view = serving_view()
    with pytest.raises(MethodError, match="fewer than 3 metric rows"):
        judge(replace(view, inject_time=view.metrics.index[-1] + pd.Timedelta(minutes=1)))
