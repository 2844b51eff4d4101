from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.export.join import Row, bucket_quantile, join_buckets, join_series, ratio_of
from tasks.export.matrix import Series
from tasks.export.placement import Placement, PodPlacement
from tasks.export.prometheus import PrometheusClient, TimeGrid

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
