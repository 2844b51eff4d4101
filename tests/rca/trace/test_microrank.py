from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tasks.rca.features.spans import link_traces, span_table
from tasks.rca.method import MethodError
from tasks.rca.trace.microrank import FORMULAS, Formula, microrank
from tests.rca.traces import Call, call, no_metrics, with_traces

RNG = np.random.default_rng(0)


def visit(service: str, start: float, own: float = 1.0, **other: Any) -> Call:
    """The front end calls ``service``, which takes ``own`` seconds; the front end itself takes one."""
    return call("front", start, 1.0 + own, call(service, start + 0.5, own, **other))


BEFORE = [visit("b", -40), visit("c", -30), visit("b", -20), visit("c", -10)]


def scores(roots: list[Call], **parameters: Any) -> dict[str, float]:
    return dict(microrank(with_traces(no_metrics(), [*BEFORE, *roots]), RNG, **parameters).services)


def test_known_answer() -> None:
    """One slow trace through front and b, one fast one through front and c.

    On each side the front end's rank a solves a = 1/2 / (1/2 + a/100): it shares the trace's rank with the called
    service, which also gets a hundredth of a for being called. Weights are the ranks times their mean, and each side
    has one trace: ef, nf, ep, np are (a m, 0, a m, 0) for front, (m, 0, 1e-7, 1e-7) for b, (1e-7, 1e-7, m, 0) for c.
    """
    a = (-0.5 + np.sqrt(0.25 + 0.02)) / 0.02
    m = (1 + a) / 2
    roots = [visit("b", 10, 5.0), visit("c", 20)]
    expected = {"front": a * m, "b": m**2 / 1e-7, "c": 1e-14 / (m + 1e-7)}
    assert scores(roots) == pytest.approx(expected, rel=1e-9)
    assert scores(roots, formula="jaccard") == pytest.approx({"front": 0.5, "b": 1, "c": 0}, abs=1e-6)


def test_agrees_with_the_matrices_of_the_paper() -> None:
    """Many traces of several kinds, against dense matrices filled span by span."""
    rng = np.random.default_rng(3)
    services = "bcdefg"
    roots = []
    for i in range(60):
        visited = rng.choice(list(services), rng.integers(1, 5))
        start = 100 * (i + 1) * (-1 if i < 20 else 1)
        own = 50.0 if "e" in visited and start > 0 else 10.0
        calls = [call(s, start + j + 0.1, 0.5, call("h", start + j + 0.2, 0.1)) for j, s in enumerate(visited)]
        roots.append(call("front", start, own, *calls))
    view = with_traces(no_metrics(), roots)
    spans = view.spans.assign(trace=view.spans["trace_id"], op=view.spans["service"].astype(str))
    late = spans[spans["start"] >= view.inject_time]
    slow_traces = set(late[late["op"] == "e"]["trace"])
    sides = []
    for names, share in ((slow_traces, 0.5), (set(late["trace"]) - slow_traces, 0.0)):
        rows = late[late["trace"].isin(names)]
        ops, traces = sorted(set(rows["op"])), sorted(names)
        covered = {t: set(rows[rows["trace"] == t]["op"]) for t in traces}
        to_op = np.array([[(o in covered[t]) / len(covered[t]) for t in traces] for o in ops])
        to_trace = np.array([[(o in covered[t]) / sum(o in c for c in covered.values()) for o in ops] for t in traces])
        parent = rows.merge(rows, left_on=["trace", "parent_span_id"], right_on=["trace", "span_id"])
        edges = set(zip(parent["op_y"], parent["op_x"], strict=True))
        calls = np.array([[((q, p) in edges) / max(1, sum(x == q for x, _ in edges)) for q in ops] for p in ops])
        rare = np.array([1 / sum(covered[t] == other for other in covered.values()) for t in traces])
        few = np.array([1 / (rows["trace"] == t).sum() for t in traces])
        v = share * few / few.sum() + (1 - share) * rare / rare.sum()
        s, r = np.ones(len(ops)), np.ones(len(traces))
        for _ in range(200):
            s, r = 0.85 * (to_op @ r + 0.01 * calls @ s), 0.85 * to_trace @ s + 0.15 * v
            s, r = s / s.max(), r / r.max()
        covering = np.array([sum(o in c for c in covered.values()) for o in ops])
        weight = s * s.mean()
        sides.append({o: (w * n, w * (len(traces) - n)) for o, w, n in zip(ops, weight, covering, strict=True)})
    expected = {}
    for op in {*sides[0], *sides[1]}:
        (ef, nf), (ep, _) = (side.get(op, (1e-7, 1e-7)) for side in sides)
        expected[op] = ef**2 / (ep + nf)
    assert dict(microrank(view, RNG, n_sigma=3.0, iterations=200).services) == pytest.approx(expected, rel=1e-6)


def test_only_traces_slower_than_their_operations_explain_are_anomalous() -> None:
    """Fast traces after the inject time are normal: d is in most of them, but in no slow one."""
    before = [visit("d", -5)]
    ranked = scores([*before, visit("b", 10, 5.0), visit("c", 20), *[visit("d", 30 + 5 * i) for i in range(9)]])
    assert max(ranked, key=ranked.__getitem__) == "b"
    assert ranked["d"] < 1e-9


def test_an_operation_that_was_not_seen_before_is_no_error_and_explains_its_own_time() -> None:
    new = visit("new", 10, 50.0)
    with pytest.raises(MethodError, match="slower than expected"):
        scores([new])
    ranked = scores([new, visit("b", 100, 5.0)])
    assert max(ranked, key=ranked.__getitem__) == "b"
    assert set(ranked) == {"front", "b", "new"}


@pytest.mark.parametrize("formula", sorted(FORMULAS))
def test_no_count_is_negative_where_fast_traces_outnumber_slow_ones(formula: Formula) -> None:
    """All of the window's traces cover front: its count of slow traces that do not must be 0, not negative."""
    roots = [visit("b", 10, 5.0), *[visit("c", 20 + 5 * i) for i in range(20)]]
    ranked = scores(roots, formula=formula)
    assert np.isfinite(list(ranked.values())).all()
    assert ranked["b"] > ranked["front"] > ranked["c"]


def test_every_call_edge_counts_not_only_those_of_the_last_span() -> None:
    slow = [visit("b", 10, 5.0), visit("c", 20, 5.0)]
    for roots in (slow, slow[::-1]):
        ranked = scores(roots, call_weight=0.5, formula="russell_rao")
        assert ranked["b"] == pytest.approx(ranked["c"])


def test_parallel_calls_do_not_make_normal_time_negative() -> None:
    """Two calls of 1 s side by side within 1.5 s: the caller's own time is 0.5 s, not -0.5 s."""

    def parallel(start: float, own: float) -> Call:
        return call("front", start, own + 0.5, call("b", start, 1.0), call("c", start, own))

    view = with_traces(no_metrics(), [parallel(-20, 1.0), parallel(-10, 1.0), parallel(10, 1.0), parallel(20, 9.0)])
    assert len(span_table(view)) == len(link_traces(view).trace) == 12
    assert set(dict(microrank(view, RNG).services)) == {"front", "b", "c"}


def test_the_worst_operation_of_a_service_counts() -> None:
    roots = [visit("b", 10, 5.0, operation="bad"), visit("b", 20, operation="good")]
    before = [visit("b", -5, operation="bad"), visit("b", -8, operation="good")]
    ranked = scores([*before, *roots])
    assert ranked["b"] > 1e6 > ranked["front"]


def test_normal_traces_are_those_before_the_fault_if_no_later_one_is() -> None:
    """c is in no slow trace, but only traces before the fault can tell."""
    ranked = scores([visit("b", 10, 5.0)])
    assert ranked["b"] > ranked["front"] > ranked["c"]


def test_services_that_are_no_candidates_are_left_out() -> None:
    view = with_traces(no_metrics(), [*BEFORE, visit("b", 10, 5.0), visit("c", 20)])
    assert set(dict(microrank(replace(view, services=("b", "c", "idle")), RNG).services)) == {"b", "c"}


def test_without_normal_or_without_slow_traces_the_reason_is_given() -> None:
    with pytest.raises(MethodError, match="no span before the inject time"):
        microrank(with_traces(no_metrics(), [visit("b", 10)]), RNG)
    with pytest.raises(MethodError, match="slower than expected"):
        scores([visit("b", 10), visit("c", 20)])
