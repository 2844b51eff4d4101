from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.export.queries.join import Row, bucket_quantile, join_buckets, join_series, ratio_of
from tasks.export.sources.matrix import Series
from tasks.export.sources.placement import Placement, PodPlacement
from tasks.export.sources.prometheus import PrometheusClient, TimeGrid

T0 = 1_760_000_000
STEPS = 6
GRID = TimeGrid(T0 * 1000, 1000, STEPS)
SERVICES = ("a", "b")


def _at(step: float) -> datetime:
    return datetime.fromtimestamp(T0 + step, UTC)


def _series(labels: dict[str, str], samples: dict[int, float]) -> Series:
    times = GRID.times_ns[list(samples)] if samples else np.empty(0, np.int64)
    return Series(labels, times, np.array(list(samples.values()), dtype=float))


_SAMPLES = st.dictionaries(st.integers(0, STEPS - 1), st.one_of(st.just(math.nan), st.integers(0, 9).map(float)))


@settings(deadline=None, max_examples=60)
@given(
    pods=st.lists(st.tuples(st.sampled_from(SERVICES), st.one_of(st.none(), st.integers(1, STEPS))), max_size=5),
    samples=st.lists(st.tuples(st.integers(0, 5), _SAMPLES), max_size=8),
    combine=st.sampled_from(["sum", "mean", "max", "min"]),
)
def test_join_is_what_a_loop_over_the_samples_gives(
    pods: list[tuple[str, int | None]], samples: list[tuple[int, dict[int, float]]], combine: str
) -> None:
    """Pods come and go, some series are of nobody, some pods have several series; any order."""
    placement = Placement(
        SERVICES,
        tuple(
            PodPlacement(service, f"p{i}", end=None if end is None else _at(end))
            for i, (service, end) in enumerate(pods)
        ),
    )
    series = [_series({"pod": f"p{pod}", "n": str(i)}, found) for i, (pod, found) in enumerate(samples)]
    rows = join_series(series, GRID, placement, "pod", combine)  # type: ignore[arg-type]
    for service in SERVICES:
        for step in range(STEPS):
            of_pod: dict[int, list[float]] = {}
            for pod, found in samples:
                owner, end = pods[pod] if pod < len(pods) else ("", None)
                if owner == service and step in found and (end is None or step < end):
                    of_pod.setdefault(pod, []).append(found[step])
            row = rows.get(service)
            assert (row is not None and bool(row.present[step])) == bool(of_pod)
            if row is None:
                continue
            known = [max(v for v in vs if not math.isnan(v)) for vs in of_pod.values() if not all(map(math.isnan, vs))]
            functions: dict[str, Callable[[list[float]], float]] = {"sum": sum, "max": max, "min": min}
            functions["mean"] = lambda values: sum(values) / len(values)
            expected = functions[combine](known) if known else math.nan
            np.testing.assert_allclose(row.values[step], expected)


def test_a_rate_of_nothing_is_no_sample_and_nothing_by_nothing_is_nan() -> None:
    placement = Placement(SERVICES, (PodPlacement("a", "p"), PodPlacement("b", "q")))
    sums = join_series([_series({"pod": "p"}, {1: 6.0, 2: 0.0, 3: 1.0})], GRID, placement, "pod", "sum")
    counts = join_series(
        [_series({"pod": "p"}, {1: 2.0, 2: 0.0}), _series({"pod": "q"}, {1: 5.0})], GRID, placement, "pod", "sum"
    )
    row = ratio_of(sums, counts)["a"]
    np.testing.assert_array_equal(row.present, [False, True, True, False, False, False])
    np.testing.assert_array_equal(row.values[1:3], [3.0, np.nan])
    assert set(ratio_of(sums, counts)) == {"a"}


def test_units_move_between_services() -> None:
    pods = (
        PodPlacement("a", "p", gpus=("GPU-1",), end=_at(3)),
        PodPlacement("b", "q", gpus=("GPU-1",), start=_at(4)),
    )
    gpu = _series({"UUID": "GPU-1"}, {i: float(i) for i in range(STEPS)})
    rows = join_series([gpu], GRID, Placement(SERVICES, pods), "gpu", "mean")
    np.testing.assert_array_equal(rows["a"].values, [0, 1, 2, np.nan, np.nan, np.nan])
    np.testing.assert_array_equal(rows["b"].values, [np.nan] * 4 + [4, 5])


def test_calls_by_several_names_are_added_not_taken_for_duplicates() -> None:
    placement = Placement(SERVICES, (PodPlacement("a", "p", address="10.0.0.1"),))
    by_address = _series({"destination_address": "10.0.0.1:80", "destination_service_name": "x"}, {0: 2.0})
    by_name = _series({"destination_canonical_service": "a"}, {0: 3.0})
    rows = join_series([by_address, by_name], GRID, placement, "callee", "sum")
    assert rows["a"].values[0] == 5.0


def test_buckets_of_all_units_are_added_before_the_quantile() -> None:
    placement = Placement(SERVICES, (PodPlacement("a", "p"), PodPlacement("a", "q")))
    series = [
        _series({"pod": pod, "le": bound}, {0: count})
        for pod, counts in (("p", (4.0, 4.0, 4.0)), ("q", (0.0, 4.0, 4.0)))
        for bound, count in zip(("1", "2", "+Inf"), counts, strict=True)
    ]
    rows = join_buckets([*series, _series({"pod": "p", "le": "x"}, {0: 1.0})], GRID, placement, "pod", 0.75)
    np.testing.assert_allclose(rows["a"].values, [1.5] + [np.nan] * (STEPS - 1))
    np.testing.assert_array_equal(rows["a"].present, [True] + [False] * (STEPS - 1))


@pytest.mark.parametrize("quantile", [0.1, 0.5, 0.9, 1.0])
def test_quantiles_are_those_of_prometheus(start_prometheus: Callable[..., str], quantile: float) -> None:
    rng = np.random.default_rng(3)
    bounds = ["0.5", "1", "2.5", "5", "+Inf"]
    counts = np.cumsum(rng.integers(0, 4, (40, len(bounds))), axis=1)
    counts[0] = 0
    counts[1, :-1] = 0
    lines = ["# TYPE h gauge"]
    for n, bound in enumerate(bounds):
        lines += [f'h{{le="{bound}"}} {counts[i, n]} {T0 + i}' for i in range(len(counts))]
    grid = TimeGrid(T0 * 1000, 1000, len(counts))
    with PrometheusClient(start_prometheus("\n".join(lines) + "\n")) as client:
        (theirs,) = (c for chunk in client.query_range(f"histogram_quantile({quantile}, h)", grid) for c in chunk)
    everywhere = np.ones(len(counts), dtype=bool)
    rows = {float(bound): Row(counts[:, n].astype(float), everywhere) for n, bound in enumerate(bounds)}
    np.testing.assert_allclose(bucket_quantile(rows, quantile).values, theirs.values)


@pytest.mark.parametrize("spelling", ["1", "1.0", "1e0", "+1", "01.00"])
@pytest.mark.parametrize("infinite", ["+Inf", "Inf", "inf", "+inf", "Infinity"])
def test_a_bound_is_a_number_however_it_is_written(spelling: str, infinite: str) -> None:
    placement = Placement(SERVICES, (PodPlacement("a", "p"), PodPlacement("a", "q")))
    of_p = [("0.5", 10.0), ("1", 10.0), ("+Inf", 10.0)]
    of_q = [("0.5", 0.0), (spelling, 10.0), (infinite, 10.0)]
    series = [
        _series({"pod": pod, "le": bound}, {0: count}) for pod, of in (("p", of_p), ("q", of_q)) for bound, count in of
    ]
    np.testing.assert_allclose(join_buckets(series, GRID, placement, "pod", 0.9)["a"].values[0], 0.9)
    reversed_ = join_buckets(series[::-1], GRID, placement, "pod", 0.9)
    np.testing.assert_allclose(reversed_["a"].values[0], 0.9)


@pytest.mark.parametrize("bound", ["", "x", "NaN", "1_0", None])
def test_series_without_a_bound_are_none_of_the_histogram(bound: str | None) -> None:
    placement = Placement(SERVICES, (PodPlacement("a", "p"),))
    odd = _series({"pod": "p"} if bound is None else {"pod": "p", "le": bound}, {0: 5.0})
    assert join_buckets([odd], GRID, placement, "pod", 0.9) == {}
    good = [_series({"pod": "p", "le": le}, {0: 4.0}) for le in ("2", "+Inf")]
    np.testing.assert_allclose(join_buckets([*good, odd], GRID, placement, "pod", 0.5)["a"].values[0], 1.0)


def test_buckets_that_change_with_a_version_leave_no_hole() -> None:
    placement = Placement(SERVICES, (PodPlacement("a", "p", end=_at(3)), PodPlacement("a", "q")))
    series = [
        _series({"pod": pod, "le": bound}, dict.fromkeys(steps, count))
        for pod, steps, middle in (("p", range(3), "2"), ("q", range(3, 6), "5"))
        for bound, count in (("1", 5.0), (middle, 10.0), ("+Inf", 10.0))
    ]
    row = join_buckets(series, GRID, placement, "pod", 0.75)["a"]
    np.testing.assert_allclose(row.values, [1.5] * 3 + [3.0] * 3)
    assert row.present.all()


def test_falling_counts_are_taken_to_stay() -> None:
    everywhere = np.ones(1, dtype=bool)
    rows = {bound: Row(np.array([n]), everywhere) for bound, n in ((1.0, 4.0), (2.0, 3.0), (np.inf, 8.0))}
    np.testing.assert_allclose(bucket_quantile(rows, 0.5).values, [1.0])


def test_victoriametrics_ranges_are_buckets() -> None:
    placement = Placement(SERVICES, (PodPlacement("a", "p"), PodPlacement("a", "q")))
    series = [
        _series({"pod": pod, "vmrange": label}, {0: count})
        for pod, label, count in (
            ("p", "1.000e+00...2.000e+00", 4.0),
            ("q", "1.000e+00...2.000e+00", 2.0),
            ("q", "4.000e+00...8.000e+00", 2.0),
            ("q", "nonsense", 50.0),
        )
    ]
    for quantile, value in ((0.375, 1.5), (0.75, 2.0), (0.875, 6.0)):
        np.testing.assert_allclose(join_buckets(series, GRID, placement, "pod", quantile)["a"].values[0], value)


@settings(deadline=None, max_examples=60)
@given(
    samples=st.lists(st.tuples(st.integers(-3000, 9000), st.integers(0, 9).map(float)), min_size=1, max_size=30),
    seed=st.randoms(use_true_random=False),
    pieces=st.integers(1, 3),
)
def test_alignment_order_split_and_duplication_make_one_matrix(
    samples: list[tuple[int, float]], seed: np.random.Generator, pieces: int
) -> None:
    placement = Placement(SERVICES, (PodPlacement("a", "p"),))

    def row(found: list[list[tuple[int, float]]]) -> Row | None:
        series = [
            Series({"pod": "p"}, np.array([(T0 * 1000 + ms) * 10**6 for ms, _ in part]), np.array([v for _, v in part]))
            for part in found
            if part
        ]
        return join_series(series, GRID, placement, "pod", "sum").get("a")

    mixed = [*samples, *samples[::2]]
    seed.shuffle(mixed)
    one, other = row([samples]), row([mixed[i::pieces] for i in range(pieces)])
    assert (one is None) == (other is None)
    if one is not None and other is not None:
        np.testing.assert_array_equal(one.values, other.values)
        np.testing.assert_array_equal(one.present, other.present)
