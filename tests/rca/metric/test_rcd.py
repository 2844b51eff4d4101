from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import chi2, chi2_contingency

from tasks.rca.method import MethodError
from tasks.rca.metric import rcd as module
from tasks.rca.metric.rcd import FNodeTest, Order, attached_to_fault, discretise, rcd
from tasks.rca.view import CaseView
from tests.rca.views import view_of


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def f_node_test(columns: list[list[int]], abnormal: list[int]) -> FNodeTest:
    return FNodeTest(np.array(columns), np.array(abnormal, dtype=bool), bins=1 + max(map(max, columns)))


def planted(seed: int, *, columns: int = 100, rows: int = 300) -> CaseView:
    """The fault raises column 0, whose effects are 1 to 4, one after the other; the rest is unrelated."""
    random = rng(seed)
    values = random.normal(size=(rows, columns))
    values[rows // 2 :, 0] += 2
    for effect in range(1, 5):
        values[:, effect] += values[:, effect - 1]
    return view_of({(f"s{i}", "x"): values[:, i].tolist() for i in range(columns)}, normal_rows=rows // 2)


def ranked(view: CaseView, seed: int = 0) -> list[str]:
    return [name for name, _ in sorted(rcd(view, rng(seed)).services, key=lambda entry: -entry[1])]


def test_marginal_p_value_is_that_of_the_contingency_table() -> None:
    codes, abnormal = [0, 0, 0, 1, 1, 2, 2, 2, 2, 1], [0, 0, 0, 0, 0, 1, 1, 1, 1, 1]
    expected = chi2_contingency([[3, 2, 0], [0, 1, 4]], correction=False).pvalue
    assert np.exp(f_node_test([codes], abnormal).marginal[0]) == pytest.approx(expected)


def test_conditional_p_value_adds_tables_up_and_empty_margins_count_for_nothing() -> None:
    # given 0: [[2, 1], [0, 3]], 1 degree; given 1: all in one column of the table, 0 degrees
    abnormal = [0, 0, 0, 1, 1, 1, 0, 1, 1]
    codes, by = [0, 0, 1, 1, 1, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0, 1, 1, 1]
    statistic = chi2_contingency([[2, 1], [0, 3]], correction=False).statistic
    log_p = f_node_test([codes, by], abnormal).log_p_values(np.array([0]), np.array([[1]]))
    assert np.exp(log_p[0]) == pytest.approx(chi2.sf(statistic, 1))


def test_many_strata_give_the_same_p_values_as_few() -> None:
    """More values of the conditioning columns than rows: only those that occur are counted."""
    random = rng(3)
    codes, abnormal = random.integers(0, 3, (4, 40)), random.random(40) < 0.5
    sparse = FNodeTest(codes, abnormal, bins=3).log_p_values(np.array([0]), np.array([[1, 2, 3]]))
    by = np.unique(codes[1:], axis=1, return_inverse=True)[1].ravel()
    dense = FNodeTest(np.stack([codes[0], by]), abnormal, bins=int(by.max()) + 1)
    assert sparse[0] == pytest.approx(dense.log_p_values(np.array([0]), np.array([[1]]))[0])


def test_no_degree_of_freedom_is_no_evidence() -> None:
    """Given a metric that tells normal from abnormal by itself, no other one adds anything."""
    test = f_node_test([[0, 0, 1, 1], [0, 0, 1, 1]], [0, 0, 1, 1])
    assert test.log_p_values(np.array([0]), np.array([[1]]))[0] == 0


def test_p_values_too_small_for_a_float_still_compare() -> None:
    abnormal = np.arange(6000) >= 3000
    clear, clearest = abnormal.astype(int), abnormal.astype(int)
    clear[:10] = 1
    log_p = FNodeTest(np.stack([clear, clearest]), abnormal, bins=2).marginal
    assert log_p[1] < log_p[0] < -2000
    assert log_p[1] == pytest.approx(-3000 - 0.5 * np.log(3000) - np.log(np.pi) / 2)


def squared_error(values: np.ndarray, codes: np.ndarray) -> float:
    return sum(float(np.sum((values[codes == c] - values[codes == c].mean()) ** 2)) for c in np.unique(codes))


@settings(max_examples=60, deadline=None)
@given(arrays(float, st.integers(3, 9), elements=st.integers(-30, 30).map(float)), st.integers(1, 4))
def test_bins_are_the_best_k_means_clusters(values: np.ndarray, bins: int) -> None:
    codes = discretise(values[:, None], bins)[0]
    ordered = np.sort(values)
    splits = combinations(range(1, len(values)), min(bins, len(values)) - 1)
    best = min(sum(float(np.sum((p - p.mean()) ** 2)) for p in np.split(ordered, s)) for s in splits)
    assert squared_error(values, codes) == pytest.approx(best, abs=1e-9)
    assert 0 <= codes.min() <= codes.max() < bins
    assert (np.diff(codes[np.argsort(values)]) >= 0).all()
    assert all(len(set(codes[values == value])) == 1 for value in values)


def test_bins_of_many_rows() -> None:
    values = np.concatenate([rng().normal(centre, 0.1, 300) for centre in (0, 5, 11)])
    assert (discretise(values[:, None], 3)[0] == np.repeat([0, 1, 2], 300)).all()


def test_an_effect_is_cut_off_by_its_cause() -> None:
    cause = np.repeat([0, 0, 0, 1, 0, 1, 1, 1], 20)
    abnormal = np.repeat([False, True], 80)
    flipped = rng().random(160) < 0.1
    test = FNodeTest(np.stack([cause ^ flipped, cause]), abnormal, bins=2)
    assert test.marginal[0] < np.log(0.01)
    for order in ([0, 1], [1, 0]):
        found = attached_to_fault(test, np.array([order]), np.array([0.01]))
        assert found.attached[0].tolist() == [column == 1 for column in order]
        assert found.log_p_value[0, order.index(0)] > np.log(0.01)
        assert found.largest_set[0].tolist() == [1 - column for column in order]


def test_of_two_copies_one_stays() -> None:
    test = f_node_test([[0, 0, 0, 0, 1, 1, 1, 1]] * 2, [0, 0, 0, 0, 1, 1, 1, 1])
    found = attached_to_fault(test, np.array([[0, 1], [1, 0]]), np.array([0.05, 0.05]))
    assert found.attached.tolist() == [[False, True], [False, True]]


def test_padding_is_never_attached() -> None:
    test = f_node_test([[0, 0, 0, 0, 1, 1, 1, 1]], [0, 0, 0, 0, 1, 1, 1, 1])
    found = attached_to_fault(test, np.array([[0, -1, -1]]), np.array([0.91]))
    assert found.attached.tolist() == [[True, False, False]]


def test_the_planted_root_cause_is_found_among_100_metrics_whatever_the_seed() -> None:
    first = [ranked(planted(case), seed)[0] for case in range(3) for seed in range(4)]
    assert first.count("s0") >= 11


def test_the_dealing_hardly_moves_the_first_places() -> None:
    view = planted(0)
    assert {ranked(view, seed)[0] for seed in range(5)} == {"s0"}


def test_every_service_is_listed_and_survivors_come_first() -> None:
    """The reference gave the one to five survivors only."""
    ranking = rcd(planted(1, columns=23), rng())
    scores = dict(ranking.services)
    assert len(scores) == 23
    assert scores["s0"] >= 2 * 5  # survived one or more rounds of groups of 5, and is attached at the end
    assert np.median(list(scores.values())) < 1


def test_metrics_that_show_the_fault_outrank_those_without_a_link_though_others_explain_them() -> None:
    random = rng(7)
    level = 20.0 * (np.arange(60) >= 30)
    columns = {(f"faulty{i}", "x"): (level + random.normal(size=60)).tolist() for i in range(5)}
    columns |= {(f"calm{i}", "x"): random.normal(size=60).tolist() for i in range(5)}
    for seed in range(5):
        first = ranked(view_of(columns, normal_rows=30), seed)[:5]
        assert sum(name.startswith("faulty") for name in first) >= 4


def test_a_group_stops_at_the_first_level_that_leaves_a_metric() -> None:
    """The reference went on unless exactly one was left, and so took in metrics that have nothing to do with it."""
    random = rng(2)
    abnormal = np.arange(400) >= 200
    clear = (random.random((2, 400)) < np.where(abnormal, 0.7, 0.3)).astype(int)
    noise = random.integers(0, 2, (3, 400))
    test = FNodeTest(np.concatenate([clear, noise]), abnormal, bins=2)
    groups = np.arange(5)[None]
    level = module._first_level_with_a_child(test, groups, 0.01)
    found = attached_to_fault(test, groups, level)
    assert level == pytest.approx([0.01])
    assert found.attached.tolist() == [[True, True, False, False, False]]


def test_the_level_rises_until_a_metric_is_left() -> None:
    test = f_node_test([[0, 0, 1, 1, 0, 1, 1, 1]], [0, 0, 0, 0, 1, 1, 1, 1])
    assert 0.41 < np.exp(test.marginal[0]) < 0.51
    assert module._first_level_with_a_child(test, np.array([[0, -1]]), 0.01) == pytest.approx([0.51])


def test_a_metric_that_is_constant_before_the_fault_takes_part() -> None:
    """The reference discarded it."""
    random = rng(4)
    columns = {(f"s{i}", "x"): random.normal(size=60).tolist() for i in range(8)}
    columns[("faulty", "errors")] = [0.0] * 40 + random.poisson(5, 20).astype(float).tolist()
    assert ranked(view_of(columns, normal_rows=40))[0] == "faulty"


def test_many_survivors_are_tested_given_smaller_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    assert module._feasible_set(5, 600, 4) == 4
    assert module._feasible_set(30, 3000, 4) == 2
    assert module._feasible_set(5000, 3000, 4) == 0
    shifted = rng(5).normal(size=(2000, 12))
    shifted[1000:] += np.linspace(0.8, 1.2, 12)
    view = view_of({(f"s{i}", "x"): shifted[:, i].tolist() for i in range(12)}, normal_rows=1000)
    monkeypatch.setattr(module, "MAX_SAMPLES", 2000 * 12 * 11)
    scores = dict(rcd(view, rng()).services)
    assert all(score > 5 for score in scores.values())
    assert scores["s11"] > scores["s0"]


def test_needs_rows_on_both_sides_of_the_fault() -> None:
    columns = {("a", "x"): rng().normal(size=30).tolist()}
    with pytest.raises(MethodError, match="before the inject time"):
        rcd(view_of(columns, normal_rows=0), rng())
    with pytest.raises(MethodError, match="after the inject time"):
        rcd(view_of(columns, normal_rows=30), rng())


def test_same_seed_same_scores() -> None:
    view = planted(2, columns=30)
    assert rcd(view, rng(1)) == rcd(view, rng(1))


@pytest.mark.parametrize("order", ["random", "weakest_first"])
@pytest.mark.parametrize("columns", [1, 4, 12])
def test_without_any_metric_linked_to_the_fault_all_tie(order: Order, columns: int) -> None:
    """As many 0 as 1 in both windows: every p value is 1. Once a ValueError."""
    alternating = np.tile([0.0, 1.0], 30).tolist()
    view = view_of({(f"s{i}", "x"): alternating for i in range(columns)}, normal_rows=30)
    assert {score for _, score in rcd(view, rng(), order=order).services} == {0.0}


def test_the_published_order_is_random_and_ours_explains_the_weaker_link_first() -> None:
    """Two metrics that explain each other: whoever is tested first goes, half of the time each, or the weaker one."""
    cause, effect = [0] * 30 + [1] * 30, [0] * 22 + [1] * 38
    test = f_node_test([cause, effect], [0] * 29 + [1] * 31)
    groups, level = np.array([[0, 1]]), np.array([1e-8])
    assert attached_to_fault(test, groups, level).attached.tolist() == [[True, False]]
    drawn = [attached_to_fault(test, groups, level, rng(seed)).attached[0].tolist() for seed in range(200)]
    assert 60 < drawn.count([True, False]) < 140
    assert drawn.count([True, False]) + drawn.count([False, True]) == 200
