"""Samples that stop at the fault, or begin with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tasks.rca.features.silence import fill_silence, find_silence
from tasks.rca.registry import get_method
from tasks.rca.run.pair import run_pair
from tasks.rca.view import CaseView
from tests.rca.call_views import call_view, stepped
from tests.rca.traces import Call, call, with_traces
from tests.rca.views import view_of

NORMAL, ABNORMAL = 25, 35
ROWS = np.arange(NORMAL + ABNORMAL)
AFTER = ROWS >= NORMAL


def table_of(**missing: np.ndarray) -> pd.DataFrame:
    """One column per name, without samples in the ``missing`` rows, and four more without a gap."""
    columns = {(name, "cpu"): np.where(gap, np.nan, 1.0) for name, gap in missing.items()}
    columns |= {(f"other-{i}", "cpu"): np.ones(len(ROWS)) for i in range(4)}
    table = pd.DataFrame(columns)
    table.columns = pd.MultiIndex.from_tuples(table.columns, names=["service", "metric"])
    return table


def silence_of(missing: np.ndarray) -> tuple[float, float, float]:
    found = find_silence(table_of(x=missing), AFTER)
    return float(found.stopped[0]), float(found.began[0]), float(found.share[0])


def test_known_answer() -> None:
    """All of 25 there, none of 35: G = -2 (25 ln(25 / 60) + 35 ln(35 / 60))."""
    full = np.sqrt(-2 * (25 * np.log(25 / 60) + 35 * np.log(35 / 60)))
    assert silence_of(AFTER) == pytest.approx((full, 0, 1))
    assert silence_of(~AFTER) == pytest.approx((0, full, 1))


def test_the_more_is_missing_the_higher_the_score_and_one_missed_scrape_is_weak() -> None:
    scores = [silence_of(AFTER & (len(ROWS) - lost <= ROWS))[0] for lost in (0, 1, 3, 9, 18, 27, 35)]
    assert scores == sorted(scores)
    assert scores[0] == 0
    assert scores[1] < 1.1
    assert scores[2] < 2
    assert scores[-1] > 9
    assert 0.4 < scores[4] / scores[-1] < 0.7  # half of the samples
    alternate = silence_of(AFTER & (ROWS % 2 == 0))
    assert alternate[0] == pytest.approx(4.8, abs=0.1)
    assert alternate[2] == pytest.approx(0.49, abs=0.02)


@pytest.mark.parametrize("step", [2, 3, 4])
def test_a_metric_that_is_sampled_every_few_rows_is_not_silent_until_it_stops(step: int) -> None:
    sparse = ROWS % step != 0
    assert silence_of(sparse) == (0, 0, 0)
    assert silence_of(sparse | AFTER)[0] > 2.9
    assert silence_of(sparse | ~AFTER)[1] > 2.9


def test_a_metric_with_samples_at_random_is_hardly_ever_silent() -> None:
    rng = np.random.default_rng(0)
    for share in (0.1, 0.5, 0.8):
        worst = [max(silence_of(rng.random(len(ROWS)) < share)[:2]) for _ in range(100)]
        assert np.mean(np.array(worst) >= 3) <= 0.01
        assert np.mean(worst) < 1


def test_what_stopped_or_began_before_the_fault_did_not_do_so_because_of_it() -> None:
    for missing, side in ((lambda k: NORMAL - k <= ROWS, 0), (lambda k: NORMAL - k > ROWS, 1)):
        scores = [silence_of(missing(k))[side] for k in (0, 1, 2, 5, 12, 20)]
        assert scores == sorted(scores, reverse=True)
        assert scores[-2:] == [0, 0]


def test_what_stops_some_rows_after_the_fault_still_counts() -> None:
    """A rate window keeps a dead service alive for a while."""
    assert silence_of(ROWS >= NORMAL + 5)[0] > 7


@pytest.mark.parametrize("gone", [AFTER, ~AFTER, AFTER & (ROWS % 3 > 0)])
def test_telemetry_that_most_services_lose_accuses_none(gone: np.ndarray) -> None:
    for lost in range(1, 6):
        table = table_of()
        table[("last", "cpu")] = 1.0
        table.iloc[gone, :lost] = np.nan
        found = find_silence(table, AFTER).score
        assert (found[:lost] > 0).all() == (lost <= 2)
        assert (found[lost:] == 0).all()


def test_peers_are_services_where_a_metric_belongs_to_one_only() -> None:
    """One service with many metrics of its own may lose them all; all services with theirs may not."""
    names = [("a", f"a{i}") for i in range(10)] + [("b", "b0"), ("b", "b1")]
    table = pd.DataFrame(1.0, index=ROWS, columns=pd.MultiIndex.from_tuples(names))
    table.loc[AFTER, "a"] = np.nan
    assert (find_silence(table, AFTER).stopped[:10] > 9).all()
    table.loc[AFTER, ("b", "b0")] = np.nan
    table.loc[AFTER, ("b", "b1")] = np.nan
    assert (find_silence(table, AFTER).score == 0).all()


@settings(max_examples=100, deadline=None)
@given(
    present=arrays(bool, st.tuples(st.integers(1, 30), st.integers(1, 6))),
    normal=st.integers(0, 30),
    values=st.integers(0, 10_000),
)
def test_scores_are_finite_whatever_is_missing_and_do_not_see_values_or_order(
    present: np.ndarray, normal: int, values: int
) -> None:
    rows, width = present.shape
    abnormal = np.arange(rows) >= normal
    rng = np.random.default_rng(values)
    names = pd.MultiIndex.from_tuples([(f"s{i}", f"m{i % 2}") for i in range(width)])
    table = pd.DataFrame(np.where(present, rng.normal(size=present.shape), np.nan), columns=names)
    found = find_silence(table, abnormal)
    assert np.isfinite(found.score).all()
    assert (found.score >= 0).all()
    assert ((found.stopped == 0) | (found.began == 0)).all()
    assert ((found.share >= 0) & (found.share <= 1)).all()
    assert not (found.cells & present).any()
    order = rng.permutation(width)
    np.testing.assert_array_equal(find_silence((table * 7 + 1).iloc[:, order], abnormal).score, found.score[order])
    filled = fill_silence(table.to_numpy(), found, abnormal, away=-1.0)
    np.testing.assert_array_equal(filled[present], table.to_numpy()[present])


# ---- every method that could drop or overlook a service without samples ----

FINDS_THE_SILENT = ["nsigma", "baro", "e_diagnosis", "mmbaro", "pdiagnose", "rcd", "causalai"]
LISTS_THE_SILENT = [
    *("circa", "microcause", "pc_pagerank", "pc_randomwalk", "fci_pagerank", "fci_randomwalk"),
    *("granger_pagerank", "granger_randomwalk", "lingam_pagerank", "lingam_randomwalk"),
]


def noisy_view(seed: int) -> CaseView:
    rng = np.random.default_rng(seed)
    columns = {
        (service, metric): rng.normal(10, 1, len(ROWS)).tolist() for service in "abcde" for metric in ("cpu", "memory")
    }
    view = view_of(columns, normal_rows=NORMAL)
    sli = view.metrics[("a", "cpu")].rename("sli")
    return replace(view, sli=sli)


def silent(view: CaseView, rows: np.ndarray, *, service: str = "c") -> CaseView:
    metrics = view.metrics.copy()
    metrics.loc[rows, service] = np.nan
    return replace(view, metrics=metrics)


@pytest.mark.parametrize("name", FINDS_THE_SILENT)
@pytest.mark.parametrize("rows", [AFTER, ~AFTER], ids=["stops", "begins"])
def test_a_service_whose_samples_stop_or_begin_is_found(name: str, rows: np.ndarray) -> None:
    for seed in range(3):
        result = run_pair(get_method(name), silent(noisy_view(seed), rows), seed)
        assert result.suspects[0].service == "c", result
        assert not result.suspects[0].tied


@pytest.mark.parametrize("name", LISTS_THE_SILENT)
def test_a_service_whose_samples_stop_is_listed(name: str) -> None:
    result = run_pair(get_method(name), silent(noisy_view(1), AFTER), 1)
    assert "c" in {suspect.service for suspect in result.suspects}, result


@pytest.mark.parametrize("name", ["nsigma", "baro", "e_diagnosis", "mmbaro"])
def test_a_lost_telemetry_source_leaves_the_others_in_the_race(name: str) -> None:
    """All but one service lose their samples: no evidence against any, and the one that strays leads."""
    view = noisy_view(2)
    metrics = view.metrics.copy()
    metrics.loc[AFTER, list("acde")] = np.nan
    metrics.loc[AFTER, ("b", "cpu")] += 8
    result = run_pair(get_method(name), replace(view, metrics=metrics), 0)
    assert result.suspects[0].service == "b"
    assert {suspect.service for suspect in result.suspects} == set("abcde")


@pytest.mark.parametrize("name", ["microscope", "microrca", "monitorrank"])
def test_calls_that_stop_are_calls_that_take_long(name: str) -> None:
    def latency(seed: int) -> list[float]:
        return stepped(len(ROWS), NORMAL, 1.0, seed=seed)

    columns = {("f", "latency_p90"): stepped(len(ROWS), NORMAL, 6.0)}
    columns |= {(service, "latency_p90"): latency(i + 1) for i, service in enumerate("bcd")}
    columns |= {(service, "cpu_usage"): latency(i + 9) for i, service in enumerate("fbcd")}
    calls = [("f", service) for service in "bcd"]
    view = call_view(columns, normal_rows=NORMAL, calls=calls, sli=columns[("f", "latency_p90")])
    result = run_pair(get_method(name), silent(view, AFTER), 0)
    ranked = [suspect.service for suspect in result.suspects if suspect.service != "f"]
    assert ranked[0] == "c", result


@pytest.mark.parametrize(
    ("name", "metrics"),
    [(name, known) for name in ("microrank", "tracerca", "pdiagnose") for known in (False, True)] + [("mmbaro", True)],
)
def test_a_service_whose_spans_stop_is_found(name: str, metrics: bool) -> None:
    rng = np.random.default_rng(4)

    def request(at: float, services: str) -> Call:
        return call("f", at, 0.5, *[call(s, at + 0.05, float(rng.uniform(0.1, 0.2))) for s in services])

    roots = [request(-at, "bcd") for at in np.arange(1, 25, 0.5)] + [request(at, "bd") for at in np.arange(0, 30, 0.5)]
    view = view_of({("f", "cpu"): rng.normal(5, 1, 60).tolist()}, normal_rows=25)
    if not metrics:
        view = replace(view, metrics=view.metrics.iloc[:0, :0])
    result = run_pair(get_method(name), with_traces(view, roots), 0)
    assert result.suspects[0].service == "c", result


@pytest.mark.parametrize("change", [lambda m: m * 1e-9, lambda m: m * 1e12 + 3])
def test_units_do_not_matter_to_what_is_filled_in(change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    view = silent(noisy_view(3), AFTER)
    other = replace(view, metrics=change(view.metrics))
    for name in ("circa", "causalai"):
        first, second = (run_pair(get_method(name), v, 0).suspects for v in (view, other))
        assert [s.service for s in first] == [s.service for s in second]
