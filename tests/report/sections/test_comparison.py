from dataclasses import replace

import pandas as pd
import pytest

from tasks.html.formatting import p_value
from tasks.report.critical_difference import BAR_OVERHANG, critical_difference
from tasks.report.sections.comparison import Comparison, comparisons, fewest_cases
from tasks.score.comparison import holm, sign_flip_p_values

RANKS = {"a": 1.2, "b": 2.0, "c": 3.4, "d": 3.4}
CLIQUES = {"a": "1", "b": "1+2", "c": "2", "d": "2"}


def tables(friedman_p: float = 0.01) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows out of order, as no contract promises one."""
    methods = ["d", "b", "a", "c"]
    ranks = pd.DataFrame(
        {
            "score": "avg5",
            "method": methods,
            "average_rank": [RANKS[m] for m in methods],
            "cases": 20,
            "friedman_p": friedman_p,
            "cliques": [CLIQUES[m] for m in methods],
        }
    )
    rows = [
        ("a", "b", 0.1, 9, 5, 6, 0.2, 0.4, False),
        ("a", "c", 0.4, 15, 3, 2, 0.001, 0.006, True),
        ("a", "d", 0.4, 15, 2, 3, 0.001, 0.006, True),
        ("b", "c", 0.3, 10, 4, 6, 0.05, 0.2, False),
        ("b", "d", 0.3, 10, 4, 6, 0.05, 0.2, False),
        ("c", "d", 0.0, 5, 10, 5, 1.0, 1.0, False),
    ]
    columns = ["method_a", "method_b", "difference", "wins", "ties", "losses", "p", "p_holm", "significant"]
    return ranks, pd.DataFrame(rows, columns=columns).assign(score="avg5", cases=20)


@pytest.fixture
def comparison() -> Comparison:
    found = comparisons(*tables())
    assert found is not None
    assert len(found) == 1
    return found[0]


def test_tables_are_read_both_ways(comparison: Comparison) -> None:
    assert list(comparison.average_ranks) == ["a", "b", "d", "c"]
    assert [set(clique) for clique in comparison.cliques] == [{"a", "b"}, {"b", "c", "d"}]
    assert (comparison.couples, comparison.significant) == (6, 2)
    there, back = comparison.pairs["a", "c"], comparison.pairs["c", "a"]
    assert (there.difference, there.wins, there.ties, there.losses) == (0.4, 15, 3, 2)
    assert (back.difference, back.wins, back.ties, back.losses) == (-0.4, 2, 3, 15)
    assert (back.p, back.p_holm, back.significant) == (0.001, 0.006, True)


def test_no_comparison_without_its_tables() -> None:
    ranks, pairs = tables()
    assert comparisons(None, pairs) is None
    assert comparisons(ranks, None) is None
    assert comparisons(ranks.iloc[:0], pairs.iloc[:0]) == ()


def test_sentences_say_what_is_known(comparison: Comparison) -> None:
    alike, pairs = comparison.statements(0.05)
    assert alike == "Friedman's test, p = 0.01: the methods are not all alike."
    assert pairs == "2 of 6 pairs of methods differ significantly with 20 cases; the order of the others may be luck."
    assert "cannot be ruled out" in replace(comparison, friedman_p=0.2).statements(0.05)[0]
    assert "says nothing here" in replace(comparison, friedman_p=None).statements(0.05)[0]
    assert "how often luck alone" in comparison.statements(None)[0]


def test_nothing_significant_is_said_with_the_number_of_cases(comparison: Comparison) -> None:
    nothing = replace(
        comparison, cases=4, pairs={key: replace(pair, significant=False) for key, pair in comparison.pairs.items()}
    )
    sentences = nothing.statements(0.05)
    assert "Nothing is significant with 4 cases: no two methods can be told apart." in sentences
    assert any("for 6 pairs at least 8 cases are needed" in sentence for sentence in sentences)
    assert not any("needed" in sentence for sentence in replace(nothing, cases=8).statements(0.05))
    assert not any("needed" in sentence for sentence in nothing.statements(None))


@pytest.mark.parametrize(("methods", "level"), [(2, 0.05), (5, 0.05), (24, 0.05), (24, 0.1)])
def test_fewest_cases_is_where_a_method_that_always_wins_becomes_significant(methods: int, level: float) -> None:
    """Told by the test of the score stage itself."""
    import numpy as np

    couples = methods * (methods - 1) // 2

    def significant(cases: int) -> bool:
        differences = np.zeros((cases, couples))
        differences[:, 0] = 1.0
        return bool(holm(sign_flip_p_values(differences, seed=1, label="x"))[0] <= level)

    fewest = fewest_cases(couples, level)
    assert significant(fewest)
    assert not significant(fewest - 1)


@pytest.mark.parametrize(("p", "shown"), [(0.0, "< 0.0001"), (0.00012, "= 0.00012"), (0.5, "= 0.5"), (1.0, "= 1")])
def test_p_values(p: float, shown: str) -> None:
    assert p_value(p) == shown


def test_plot_places_methods_by_rank_and_bars_over_their_cliques(comparison: Comparison) -> None:
    plot = critical_difference(comparison)
    leaders = {leader.method: leader for leader in plot.leaders}
    begin, end = plot.axis
    assert [tick.label for tick in plot.ticks] == ["1", "2", "3", "4"]
    assert (plot.ticks[0].x, plot.ticks[-1].x) == plot.axis
    assert leaders["b"].x == pytest.approx(begin + (end - begin) / 3)
    assert leaders["c"].x == leaders["d"].x
    assert [leaders[m].side for m in "abdc"] == ["left", "left", "right", "right"]
    first, second = plot.bars
    assert (first.x1, first.x2) == pytest.approx((leaders["a"].x - BAR_OVERHANG, leaders["b"].x + BAR_OVERHANG))
    assert (second.x1, second.x2) == pytest.approx((leaders["b"].x - BAR_OVERHANG, leaders["c"].x + BAR_OVERHANG))
    assert plot.axis_y < first.y < second.y < min(leader.y for leader in plot.leaders)


def test_leaders_do_not_cross() -> None:
    ranks = {f"m{i:02d}": 1.0 + 0.9 * i for i in range(24)}
    plot = critical_difference(Comparison("avg5", 9, 0.1, ranks, (), {}))
    for side, outward in (("left", -1), ("right", 1)):
        leaders = sorted((leader for leader in plot.leaders if leader.side == side), key=lambda each: each.y)
        towards = [outward * leader.x for leader in leaders]
        assert len(leaders) == 12
        assert towards == sorted(towards, reverse=True)
    assert max(leader.y for leader in plot.leaders) <= plot.height
    assert plot.width <= 1000


def test_equal_methods_have_an_axis_too() -> None:
    plot = critical_difference(Comparison("avg5", 9, None, {"a": 1.5, "b": 1.5}, (("a", "b"),), {}))
    assert [tick.label for tick in plot.ticks] == ["1", "2"]
    same = critical_difference(Comparison("avg5", 9, None, {"a": 2.0, "b": 2.0, "c": 2.0}, (), {}))
    assert len(same.ticks) == 2
