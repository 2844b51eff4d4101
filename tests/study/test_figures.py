from __future__ import annotations

import math

import pytest

from tasks.study.data import StudyData
from tasks.study.figures import Mean, Rate, Share, false_roots, kind_accuracy, paired, set_f1, short


def test_shares_have_wilsons_interval() -> None:
    """By hand: (.9 + 1.92/10 ± 1.96 sqrt(.09/10 + .96/100)) / (1 + 3.84/10)."""
    assert str(Share(9, 10)) == ".90 [.60, .98] (9 of 10)"
    assert str(Share(10, 10)) == "1.00 [.72, 1.00] (10 of 10)"
    assert (str(Share(0, 0)), Share(0, 0).brief, Share(3, 4).brief) == ("–", "–", "3/4")


def test_numbers_are_short() -> None:
    assert [short(value) for value in (0.0, 0.904, 1.0, math.nan)] == [".00", ".90", "1.00", "–"]
    assert str(Mean(0.5, math.nan, math.nan, 1)) == ".50 (1)"
    assert str(Rate(3, 0.5)) == "6.0 [1.2, 17.5]"


def test_sets_and_kinds_over_cases(data: StudyData) -> None:
    """By hand, F1: a 1, b 0 (nginx for head), c 1/2 (a kind of two), d 1, e 1. Kinds of roots named: 5 of a, c, c, d, e
    less the one of c."""
    scored = data.of("nsigma", "unseen")
    assert set_f1(scored, "x").value == pytest.approx(3.5 / 5)
    assert set_f1(scored, "x").n == 5
    assert kind_accuracy(scored) == Share(4, 5)


def test_false_roots_count_per_case_and_hour(data: StudyData) -> None:
    quiet = data.of("nsigma", "unseen", ("negative",))
    share, total, rate = false_roots(quiet)
    assert (share, total) == (Share(1, 2), 1)
    assert rate.hours == pytest.approx(2 * 60 / 3600)
    assert false_roots(data.of("tracerca", "unseen", ("negative",)))[0].n == 0, "it does not say"


def test_paired_counts_and_holm(data: StudyData) -> None:
    """Sharp misses one of five; blunt is right only where the gateway is, never; 4 : 0 gives 2 / 2^4."""
    others = {name: data.of(name, "unseen") for name in ("baro", "tracerca@paper")}
    against_blunt, against_first = paired(data.of("nsigma", "unseen"), others)
    assert (against_blunt.wins, against_blunt.losses, against_blunt.n) == (4, 0, 5)
    assert against_blunt.p == pytest.approx(0.125)
    assert against_blunt.p_holm == pytest.approx(0.25)
    assert (against_first.wins, against_first.losses, against_first.p) == (0, 1, 1)
