from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import pandas as pd
import pytest

from tasks.params import ScoreParams
from tasks.rca.method import Method
from tasks.rca.registry import get_method
from tasks.rca.run.pair import PairResult
from tasks.score.results import TABLE_WIDTH, ScoreResult
from tasks.score.set_tables import kind_table, negative_table, set_pairs, set_score_table, set_table
from tasks.score.tables import Scored, comparison_table, misattribution_table, score_pair, score_table
from tasks.score.truth import Truth
from tests.score.test_sets import CASCADE, broken, found, result, truth

PARAMS = ScoreParams(methods=("nsigma", "baro"), profile="llm", bootstrap_samples=200)
SAYS, RANKS = get_method("nsigma"), get_method("baro")
NEGATIVE = replace(truth([], excluded="fault-free"), watched_s=900.0)


def pairs_of(method: Method, *answers: tuple[Truth, PairResult]) -> list[Scored]:
    """One case per answer."""
    return [score_pair(replace(of, case=f"case-{i}"), method, answer) for i, (of, answer) in enumerate(answers)]


def overall(pairs: Sequence[Scored]) -> dict[tuple[str, str], tuple[float, int]]:
    table = set_score_table(set_pairs(pairs), PARAMS)
    table = table[table["level"] == "overall"]
    return {(row.method, row.score): (row.value, row.n) for row in table.itertuples()}


ONE, TWO = truth([broken("r0")]), truth([broken("r0"), broken("r1", "network-delay", 6.0)])


def test_means_over_cases_and_kinds_over_roots() -> None:
    """Three cases: exact; one of two roots, of the wrong kind; a failure. F1 1, 0, 0; services 1, 2/3, 0."""
    pairs = pairs_of(
        SAYS,
        (ONE, result(["r0"], [found("r0")])),
        (TWO, result(["r1"], [found("r1", "cpu-stress")])),
        (ONE, PairResult("error", "out of luck")),
    )
    found_ = overall(pairs)
    assert found_["nsigma", "set_f1"] == (pytest.approx(1 / 3), 3)
    assert found_["nsigma", "service_f1"] == (pytest.approx((1 + 2 / 3) / 3), 3)
    assert found_["nsigma", "set_exact"] == (pytest.approx(1 / 3), 3)
    assert found_["nsigma", "kind_accuracy"] == (0.5, 2)
    assert found_["nsigma", "order"] == (0, 1)
    assert ("nsigma", "victim_order") not in found_
    kinds = kind_table(set_pairs(pairs))
    assert [tuple(row) for row in kinds.itertuples(index=False)] == [
        ("nsigma", "cpu-stress", "cpu-stress", 1),
        ("nsigma", "network-delay", "cpu-stress", 1),
    ]


def test_a_method_without_findings_has_no_sets_and_only_the_order_of_victims() -> None:
    pairs = pairs_of(RANKS, (ONE, result(["r0"])), (CASCADE, result(["gate", "r0", "head"])), (TWO, result(["r0"])))
    assert overall(pairs) == {("baro", "victim_order"): (0.5, 1), ("baro", "root_first"): (0.0, 1)}
    (row,) = set_table(set_pairs(pairs)).to_dict("records")
    assert (row["case_id"], row["victim_pairs"], row["victims_right"]) == ("case-1", 2, 1)
    assert pd.isna(row["answers"])
    assert pd.isna(row["root_pairs"])
    assert negative_table([*pairs, *pairs_of(RANKS, (NEGATIVE, result(["r0"])))], PARAMS).empty


def test_groups_add_up() -> None:
    made = [replace(ONE, scenario="surge", stratum="I"), replace(TWO, stratum="III"), replace(ONE, stratum="I")]
    pairs = pairs_of(SAYS, *((each, result(["r0"], [found("r0")])) for each in made))
    table = set_score_table(set_pairs(pairs), PARAMS).query("score == 'set_f1'")
    sizes = {(row.level, row.group): row.n for row in table.itertuples()}
    assert sizes == {
        ("overall", "all"): 3,
        ("fault", "fault"): 3,
        ("roots", "1"): 2,
        ("roots", "2"): 1,
        ("scenario", "surge"): 1,
        ("stratum", "I"): 2,
        ("stratum", "III"): 1,
    }


def test_false_roots_on_negatives() -> None:
    """Four negatives of 15 minutes: quiet, workload only, two roots (one of them disturbed), and a failure."""
    disturbed = replace(NEGATIVE, disturbed=frozenset({"head"}), scenario="restart")
    pairs = pairs_of(
        SAYS,
        (NEGATIVE, result(["r0"], [])),
        (NEGATIVE, result(["r0"], [found(None, "workload"), found("gate", role="victim")])),
        (disturbed, result(["r0"], [found("r0"), found("r0", "network-delay"), found("head")])),
        (NEGATIVE, PairResult("error", "out of luck")),
        (ONE, result(["r0"], [found("r0")])),
    )
    table = negative_table(pairs, PARAMS).set_index("group")
    row = table.loc["all"]
    assert (row["cases"], row["silent"], row["alarmed"]) == (3, 1, 1)
    assert (row["false_roots"], row["disturbances"]) == (2, 1)
    assert (row["share"], row["per_case"]) == (pytest.approx(1 / 3), pytest.approx(2 / 3))
    assert (row["hours"], row["per_hour"]) == (0.75, pytest.approx(2 / 0.75))
    assert row["low"] < 1 / 3 < row["high"]
    assert row["per_hour_low"] < row["per_hour"] < row["per_hour_high"]
    assert table.loc["restart", "alarmed"] == 1
    assert len(set_pairs(pairs)) == 1, "negatives are in no set"


def test_a_method_that_failed_on_every_negative_has_no_share() -> None:
    pairs = pairs_of(SAYS, (NEGATIVE, PairResult("error", "x")), (ONE, result(["r0"], [found("r0")])))
    (row,) = negative_table(pairs, PARAMS).to_dict("records")
    assert (row["cases"], row["silent"]) == (0, 1)
    assert math.isnan(row["share"])
    assert math.isnan(row["per_hour"])


def test_strata_weigh_the_same_in_the_macro_mean() -> None:
    """Eight easy cases, all right; two hard ones, both wrong: .8 of the cases, half of the strata."""
    easy, hard = replace(ONE, stratum="I"), replace(ONE, stratum="III")
    pairs = pairs_of(RANKS, *[(easy, result(["r0"]))] * 8, *[(hard, result(["r1", "r0"]))] * 2)
    table = (
        score_table(pairs, PARAMS).query("granularity == 'service' and score == 'ac1'").set_index(["level", "group"])
    )
    assert table.loc[("overall", "all"), "value"] == pytest.approx(0.8)
    assert table.loc[("macro", "strata"), "value"] == pytest.approx(0.5)
    assert table.loc[("macro", "strata"), "chance"] == pytest.approx(0.2)
    assert (table.loc[("stratum", "I"), "value"], table.loc[("stratum", "III"), "value"]) == (1, 0)
    assert (table.loc[("stratum", "I"), "cases"], table.loc[("stratum", "III"), "cases"]) == (8, 2)
    assert table.loc[("stratum", "I"), "wilson_low"] == pytest.approx(0.6756, abs=1e-4)
    assert table.loc[("stratum", "I"), "wilson_high"] == 1


def test_excluded_cases_are_in_no_score() -> None:
    pairs = pairs_of(SAYS, (ONE, result(["r0"], [found("r0")])), (NEGATIVE, result(["r0"], [found("r0")])))
    assert set(score_table(pairs, PARAMS)["cases"]) == {1}
    assert set(misattribution_table(pairs)["cases"]) == {1}


def test_misattribution_splits_what_was_named_and_sums_to_the_cases() -> None:
    noisy = replace(ONE, disturbed=frozenset({"r1"}))
    pairs = pairs_of(RANKS, (noisy, result(["r1"])), (ONE, result(["r1"])), (CASCADE, result(["gate"])))
    table = misattribution_table(pairs)
    assert dict(zip(table["error"], table["cases"], strict=True)) == {"disturbance": 1, "replica": 1, "victim": 1}
    assert table["cases"].sum() == 3


def test_mcnemar_is_of_the_first_place_only() -> None:
    cases = [ONE] * 6
    pairs = pairs_of(SAYS, *((each, result(["r0"])) for each in cases))
    pairs += pairs_of(RANKS, *((each, result(["r1"])) for each in cases))
    table = comparison_table(pairs, PARAMS).set_index("score")
    assert table.loc["ac1", "mcnemar_p"] == table.loc["ac1", "mcnemar_p_holm"] == pytest.approx(2 / 64)
    assert table.loc[["avg5", "mrr"], "mcnemar_p"].isna().all()


def test_people_see_one_compact_block_of_the_methods_that_say() -> None:
    pairs = pairs_of(SAYS, (ONE, result(["r0"], [found("r0")])), (NEGATIVE, result(["r0"], [found("head")])))
    pairs += pairs_of(RANKS, (ONE, result(["r0"])), (NEGATIVE, result(["r0"])))
    shown = shown_of(pairs)
    assert shown is not None
    head, row = shown.splitlines()
    assert head.split("  ")[0] == "says how many roots"
    assert len(row) <= TABLE_WIDTH
    assert row.split() == ["nsigma", "1.00", "1.00", "1.00", "[0.21,", "1.00]", "1/1", "[0.21,", "1.00]", "4.0"]
    assert shown_of(pairs_of(RANKS, (ONE, result(["r0"])))) is None


def shown_of(pairs: Sequence[Scored]) -> str | None:
    tables = {"set_scores": set_score_table(set_pairs(pairs), PARAMS), "negatives": negative_table(pairs, PARAMS)}
    table = ScoreResult.set_table(cast("ScoreResult", SimpleNamespace(**tables)))
    return table.text() if table else None


def test_the_macro_mean_stands_beside_the_plain_one_where_there_are_strata() -> None:
    easy, hard = replace(ONE, stratum="I"), replace(ONE, stratum="III")
    first, second = (easy, result(["r0"])), (hard, result(["r1", "r0"]))
    assert macro_column(pairs_of(RANKS, first, first, first, second)) == ("0.50", "0.20")
    assert macro_column(pairs_of(RANKS, first, first)) is None


def macro_column(pairs: Sequence[Scored]) -> tuple[str, str] | None:
    """AC@1 macro of the method and of chance."""
    shown = SimpleNamespace(scores=score_table(pairs, PARAMS), costs={"baro": {"wall_s_mean": 0.1}}, notes=())
    table = ScoreResult.score_table(cast("ScoreResult", shown))
    if "AC@1 macro" not in table.columns:
        return None
    rows = {row[0]: row[table.columns.index("AC@1 macro")] for row in table.rows}
    assert {len(row) for row in table.rows} == {len(table.columns)}
    return rows["baro"], rows["(chance)"]
