from __future__ import annotations

from dataclasses import replace
from itertools import combinations, permutations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from tasks.rca.features.panel import build_panel
from tasks.rca.method import MethodError
from tasks.rca.metric.causalai import causalai
from tasks.rca.view import CaseView
from tests.rca.views import view_of

RNG = np.random.default_rng(0)


def planted(seed: int, *, columns: int = 40, rows: int = 200) -> CaseView:
    """The fault raises column 0, whose effects are 1 to 3, one after the other; the rest is unrelated."""
    values = np.random.default_rng(seed).normal(size=(rows, columns))
    values[rows // 2 :, 0] += 3
    for effect in range(1, min(4, columns)):
        values[:, effect] += values[:, effect - 1]
    return view_of({(f"s{i}", "x"): values[:, i].tolist() for i in range(columns)}, normal_rows=rows // 2)


def strength(p_value: float) -> float:
    return -np.log(p_value) / (1 - np.log(p_value))


def test_known_answer_of_a_lone_metric() -> None:
    values, flag = [1.0, 2, 3, 2, 5, 4, 6, 4], [0, 0, 0, 0, 1, 1, 1, 1]
    p_value = 2 * norm.sf(np.arctanh(np.corrcoef(values, flag)[0, 1]) * np.sqrt(8 - 3))
    view = view_of({("a", "x"): values}, normal_rows=4)
    assert 0.001 < p_value < 0.01
    assert dict(causalai(view, RNG, alpha=0.01).services) == pytest.approx({"a": 5 + strength(p_value)})
    assert dict(causalai(view, RNG, alpha=0.001).services) == pytest.approx({"a": strength(p_value)})


@pytest.mark.parametrize("seed", range(5))
def test_the_planted_root_cause_is_the_child_of_the_fault(seed: int) -> None:
    scores = dict(causalai(planted(seed), RNG).services)
    assert [name for name, score in scores.items() if score >= 5] == ["s0"]
    assert set(sorted(scores, key=scores.__getitem__)[-4:]) == {"s0", "s1", "s2", "s3"}


def test_every_metric_is_listed() -> None:
    """The reference gave the children only, as a set: in an order that changed from process to process."""
    ranking = causalai(planted(1), RNG)
    assert len(ranking.services) == 40
    assert ranking == causalai(planted(1), RNG)


def test_metrics_that_explain_each_other_still_outrank_those_without_a_link() -> None:
    """Ten metrics of one service that show the fault: each is separated given the others, none is a child."""
    random = np.random.default_rng(7)
    level = 20.0 * (np.arange(60) >= 30)
    columns = {("faulty", f"m{i}"): (level + random.normal(size=60)).tolist() for i in range(10)}
    columns |= {(f"s{i}", "x"): random.normal(size=60).tolist() for i in range(10)}
    scores = dict(causalai(view_of(columns, normal_rows=30), RNG).services)
    assert max(scores, key=scores.__getitem__) == "faulty"
    assert scores["faulty"] > 1 > max(score for name, score in scores.items() if name != "faulty")


def test_the_inject_time_decides_unless_the_context_is_the_clock() -> None:
    """The reference asked which metrics drift with the clock, whenever the fault was."""
    rows = np.arange(120.0)
    noise = np.random.default_rng(0).normal(size=(3, 120))
    step = ((rows >= 60) & (rows < 90)) + 0.1 * noise[1]
    columns = {("drifts", "x"): rows + noise[0], ("faulty", "x"): step, ("calm", "x"): noise[2]}
    whole = view_of({name: values.tolist() for name, values in columns.items()}, normal_rows=60)
    view = replace(whole, metrics=whole.metrics.iloc[30:90], sli=whole.sli.iloc[30:90])
    later = replace(view, inject_time=view.inject_time + pd.Timedelta(seconds=20))
    by_fault, by_time = causalai(view, RNG), causalai(view, RNG, context="time")
    assert max(by_fault.services, key=lambda entry: entry[1])[0] == "faulty"
    assert max(by_time.services, key=lambda entry: entry[1])[0] == "drifts"
    assert causalai(later, RNG) != by_fault
    assert causalai(later, RNG, context="time") == by_time


def test_copies_of_the_root_cause_do_not_cut_each_other_off() -> None:
    view = planted(3, columns=6)
    metrics = view.metrics.copy()
    metrics[("s0", "copy")] = 2 * metrics[("s0", "x")]
    scores = {(service, name): score for service, name, score in causalai(replace(view, metrics=metrics), RNG).metrics}
    assert scores[("s0", "copy")] == pytest.approx(scores[("s0", "x")])
    assert scores[("s0", "copy")] > 5


def test_a_metric_that_equals_the_fault_has_a_finite_score() -> None:
    scores = dict(causalai(view_of({("a", "x"): [0.0] * 500 + [1.0] * 500}, normal_rows=500), RNG).services)
    assert 5.99 < scores["a"] < 6


@pytest.mark.parametrize("max_conditions", [0, 1, 2, 3])
def test_scores_sum_up_all_tests_of_the_link(max_conditions: int) -> None:
    """Every test that PC-stable makes of a link to the context, one at a time."""
    view = planted(4, columns=7, rows=60)
    panel = build_panel(view)
    correlation = np.corrcoef(np.column_stack([panel.abnormal, panel.values]).T)
    n = len(correlation)
    adjacent, largest, survived = ~np.eye(n, dtype=bool), np.zeros(n), np.zeros(n)
    for size in range(max_conditions + 1):
        before = adjacent.copy()
        for i, j in permutations(range(n), 2):
            pool = np.flatnonzero(before[i] & (np.arange(n) != j))
            for given in combinations(pool, size) if before[i, j] else ():
                chosen = [i, j, *given]
                inverse = np.linalg.inv(correlation[np.ix_(chosen, chosen)])
                r = abs(inverse[0, 1]) / np.sqrt(inverse[0, 0] * inverse[1, 1])
                p = 2 * norm.sf(np.arctanh(r) * np.sqrt(60 - size - 3))
                if 0 in (i, j):
                    largest[i + j], survived[i + j] = max(largest[i + j], p), size
                if p > 0.05:
                    adjacent[i, j] = adjacent[j, i] = False
    survived[adjacent[0]] = max_conditions + 1
    expected = panel.scores(survived[1:] + [strength(p) for p in largest[1:]]).to_dict()
    ranking = causalai(view, RNG, alpha=0.05, max_conditions=max_conditions)
    assert {(s, m): score for s, m, score in ranking.metrics} == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_needs_rows_on_both_sides_of_the_fault_and_more_than_one_moment() -> None:
    view = planted(0, columns=2)
    before = view.metrics.iloc[:50]
    with pytest.raises(MethodError, match="after the inject time"):
        causalai(replace(view, metrics=before), RNG)
    one_moment = before.set_axis(pd.DatetimeIndex([before.index[0]] * 50, name="time"))
    with pytest.raises(MethodError, match="one moment"):
        causalai(replace(view, metrics=one_moment, sli=view.sli.iloc[:0]), RNG, context="time")
