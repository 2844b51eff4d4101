"""MicroRank: spectrum analysis with traces weighted by personalised PageRank."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tasks.rca.features.deviation import RESOLUTION
from tasks.rca.features.silent_services import rank_with_silence
from tasks.rca.features.spans import (
    SpanTable,
    link_traces,
    normal_mean_and_deviation,
    of_candidates,
    require_spans,
    self_time,
    span_table,
)
from tasks.rca.method import MethodError, Paper, Ranking, method
from tasks.rca.view import CaseView
from tasks.spans import Traces

Formula = Literal["dstar2", "ochiai", "jaccard", "sorensen_dice", "tarantula", "russell_rao", "goodman", "m2"]
NormalTraces = Literal["after", "all"]

FEW_SPANS_SHARE = 0.5
"""Share of the preference for an anomalous trace due to its few spans; the rest is due to its rare kind."""
UNSEEN = 1e-7
"""Count of an operation on a side where no trace covers it."""


@method(
    name="microrank",
    family="trace",
    needs={"spans"},
    paper=Paper(
        "MicroRank: End-to-End Latency Issue Localization with Extended Spectrum Analysis in Microservice Environments",
        "WWW",
        2021,
    ),
)
def microrank(
    view: CaseView,
    rng: np.random.Generator,
    *,
    n_sigma: float = 1.0,
    margin_s: float = 0.05,
    formula: Formula = "dstar2",
    normal_traces: NormalTraces = "after",
    damping: float = 0.85,
    call_weight: float = 0.01,
    iterations: int = 25,
    silence: bool = True,
) -> Ranking:
    """Operations that slow traces cover and fast ones do not, each trace weighted by personalised PageRank.

    Ranks (service, operation); a service scores as its worst operation, and one without spans in the traces that are
    compared is left out. A trace is anomalous if it takes ``margin_s`` longer than the sum over its spans of the
    operation's normal mean + ``n_sigma`` standard deviations (of self time, see :mod:`tasks.rca.features.spans`).
    PageRank runs over operations and traces (an operation and the traces that cover it; caller to callee with weight
    ``call_weight``), once for the anomalous and once for the normal traces, and prefers traces of a rare kind (set of
    operations) and, if anomalous, with few spans. An operation's rank times its number of covering and of not covering
    traces gives its weighted spectrum, and ``formula`` its score. Inputs: spans, inject time. Parameters: ``n_sigma`` 1
    and ``margin_s`` 0.05 (by which the authors' code tells anomalous traces from normal ones; it raises its alarm at
    1.5 and no margin, and arXiv 2603.02057 flags single spans at 3), ``formula`` dstar2, ``normal_traces`` (``after``:
    those after the inject time, as in the paper, or those before it if every later one is anomalous; ``all``: both),
    ``damping`` 0.85, ``call_weight`` 0.01, ``iterations`` 25, ``silence`` (services whose spans stop come first, see
    :mod:`tasks.rca.features.silent_services`; the paper knows slow traces only). Complexity: O(spans x (log spans +
    iterations)). Randomness: none. Source: Yu et al., WWW 2021, and the authors' public code. Deviations: self time
    leaves out the union of the children, not their sum, so that parallel calls do not make it negative; an operation
    that was not seen before is expected to take what it takes; a trace lasts from its first start to its last end,
    whichever service is in front. Against a widely used implementation: PageRank runs on the anomalous and the normal
    traces, not on all of a window; counts of one side use that side only, so none is negative; every call edge counts.
    """
    table = span_table(view)
    require_spans(table)
    traces = link_traces(view)

    def rank() -> Mapping[str, float]:
        sides = _sides(table, traces, n_sigma, margin_s, normal_traces, damping, call_weight, iterations)
        covered, scores = _spectrum_scores(*sides, FORMULAS[formula])
        return of_candidates([(table.operations[i][0], scores[i]) for i in np.flatnonzero(covered)], view)

    return rank_with_silence(view, table, traces, rank, silence=silence)


def _sides(
    table: SpanTable,
    traces: Traces,
    n_sigma: float,
    margin_s: float,
    normal_traces: NormalTraces,
    damping: float,
    call_weight: float,
    iterations: int,
) -> tuple[_Side, _Side]:
    """Return the anomalous and the normal traces."""
    after = np.bincount(traces.trace[table.after], minlength=traces.count) > 0
    anomalous = after & _too_slow(table, traces, ~after, n_sigma, margin_s)
    if not anomalous.any():
        raise MethodError("no trace after the inject time is slower than expected")
    normal = after & ~anomalous
    if normal_traces == "all" or not normal.any():
        normal |= ~after
    return (
        _rank_side(table, traces, anomalous, FEW_SPANS_SHARE, damping, call_weight, iterations),
        _rank_side(table, traces, normal, 0.0, damping, call_weight, iterations),
    )


def _too_slow(table: SpanTable, traces: Traces, normal: np.ndarray, n_sigma: float, margin_s: float) -> np.ndarray:
    """Per trace: does it last longer than its operations, as known from the ``normal`` traces, explain?"""
    if not normal.any():
        raise MethodError("no whole trace before the inject time")
    own = self_time(table, traces)
    mean, deviation = normal_mean_and_deviation(own, table.operation, len(table.operations), normal[traces.trace])
    bound = (mean + n_sigma * deviation)[table.operation]
    bound = np.where(np.isnan(bound), own, bound)
    expected = np.bincount(traces.trace, weights=bound, minlength=traces.count)
    begin = np.full(traces.count, np.iinfo(np.int64).max)
    finish = np.full(traces.count, np.iinfo(np.int64).min)
    np.minimum.at(begin, traces.trace, table.start)
    np.maximum.at(finish, traces.trace, table.end)
    return (finish - begin) / 1e9 > (expected + margin_s) * (1 + RESOLUTION)


@dataclass(frozen=True)
class _Side:
    """PageRank weight of each operation, and how many of the ``traces`` cover it."""

    weight: np.ndarray
    covering: np.ndarray
    traces: int


def _rank_side(
    table: SpanTable,
    traces: Traces,
    chosen: np.ndarray,
    few_spans_share: float,
    damping: float,
    call_weight: float,
    iterations: int,
) -> _Side:
    """Personalised PageRank over the ``chosen`` traces and their operations."""
    from scipy.sparse import csr_array

    operations, count = len(table.operations), int(np.count_nonzero(chosen))
    spans = np.flatnonzero(chosen[traces.trace])
    trace = (np.cumsum(chosen) - 1)[traces.trace[spans]]
    covers = np.unique(trace * operations + table.operation[spans])
    cover_trace, cover_operation = np.divmod(covers, operations)
    per_trace = np.bincount(cover_trace, minlength=count)
    covering = np.bincount(cover_operation, minlength=operations)

    called = spans[traces.parent[spans] >= 0]
    calls = np.unique(table.operation[traces.parent[called]] * operations + table.operation[called])
    caller, callee = np.divmod(calls, operations)
    callees = np.bincount(caller, minlength=operations)

    to_operation = csr_array((1 / per_trace[cover_trace], (cover_operation, cover_trace)), shape=(operations, count))
    to_trace = csr_array((1 / covering[cover_operation], (cover_trace, cover_operation)), shape=(count, operations))
    to_callee = csr_array((1 / callees[caller], (callee, caller)), shape=(operations, operations))

    rarity = 1 / _kind_sizes(cover_trace, cover_operation, per_trace)
    brevity = 1 / np.bincount(trace, minlength=count)
    preference = few_spans_share * brevity / brevity.sum() + (1 - few_spans_share) * rarity / rarity.sum()

    nodes = np.count_nonzero(covering) + count
    rank = np.where(covering > 0, 1 / nodes, 0.0)
    trace_rank = np.full(count, 1 / nodes)
    for _ in range(iterations):
        next_rank = damping * (to_operation @ trace_rank + call_weight * (to_callee @ rank))
        next_trace_rank = damping * (to_trace @ rank) + (1 - damping) * preference
        rank, trace_rank = next_rank / next_rank.max(), next_trace_rank / next_trace_rank.max()
    return _Side(rank * rank[covering > 0].mean(), covering, count)


def _kind_sizes(cover_trace: np.ndarray, cover_operation: np.ndarray, per_trace: np.ndarray) -> np.ndarray:
    """Per trace: how many traces cover exactly the same operations. The pairs are sorted by trace, then operation."""
    place = np.arange(len(cover_trace)) - np.repeat(np.cumsum(per_trace) - per_trace, per_trace)
    sets = np.full((len(per_trace), per_trace.max()), -1, dtype=np.int32)
    sets[cover_trace, place] = cover_operation
    _, kind, size = np.unique(sets, axis=0, return_inverse=True, return_counts=True)
    return size[kind.reshape(-1)]


SpectrumFormula = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""Function of ef, nf, ep, np: anomalous traces that cover the operation or not, normal ones that do or not."""

FORMULAS: dict[Formula, SpectrumFormula] = {
    "dstar2": lambda ef, nf, ep, np_: ef**2 / (ep + nf),
    "ochiai": lambda ef, nf, ep, np_: ef / np.sqrt((ep + ef) * (ef + nf)),
    "jaccard": lambda ef, nf, ep, np_: ef / (ef + ep + nf),
    "sorensen_dice": lambda ef, nf, ep, np_: 2 * ef / (2 * ef + ep + nf),
    "tarantula": lambda ef, nf, ep, np_: ef / (ef + nf) / (ef / (ef + nf) + ep / (ep + np_)),
    "russell_rao": lambda ef, nf, ep, np_: ef / (ef + nf + ep + np_),
    "goodman": lambda ef, nf, ep, np_: (2 * ef - nf - ep) / (2 * ef + nf + ep),
    "m2": lambda ef, nf, ep, np_: ef / (ef + np_ + 2 * (nf + ep)),
}


def _spectrum_scores(anomalous: _Side, normal: _Side, formula: SpectrumFormula) -> tuple[np.ndarray, np.ndarray]:
    """Return the operations that any trace covers, and the score of each."""
    counts = []
    for side in (anomalous, normal):
        counts += [side.weight * side.covering, side.weight * (side.traces - side.covering)]
        for i in (-2, -1):
            counts[i] = np.where(side.covering > 0, counts[i], UNSEEN)
    return (anomalous.covering > 0) | (normal.covering > 0), formula(*counts)
