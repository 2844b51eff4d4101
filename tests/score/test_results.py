from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import pandas as pd
import pytest

from tasks.rca.registry import get_method
from tasks.rca.run.pair import PairResult
from tasks.score import files
from tasks.score.files import RANKING_TABLE
from tasks.score.results import TABLE_WIDTH, ScoreResult, ScoreTable, _left_out, method_costs
from tasks.score.tables import Scored
from tasks.score.truth import MetricTruth, Truth

TRUTH = Truth("c", (), ("a",), MetricTruth(frozenset(), (), "unknown"), "cpu", "a", "", ())


def test_a_wide_table_is_folded_and_names_the_methods_again() -> None:
    columns = ("method", *(f"some-fault-kind-{i} (12)" for i in range(9)))
    rows = tuple((f"method-{m}", *(f"0.{m}{i} / 0.50" for i in range(9))) for m in range(24))
    lines = ScoreTable(columns, rows, ("a note",)).text().splitlines()
    assert max(map(len, lines)) <= TABLE_WIDTH
    headers = [line for line in lines if line.startswith("method ")]
    assert "  ".join(line.removeprefix("method").lstrip() for line in headers) == "  ".join(columns[1:])
    assert len([line for line in lines if line.startswith("method-7 ")]) == len(headers) == 3
    assert lines[-1] == "a note"


def test_a_table_that_fits_is_one_block() -> None:
    assert ScoreTable(("method", "AC@1"), (("nsigma", "1.00"),), ()).text() == "method  AC@1\nnsigma  1.00"


def test_costs_count_the_cases_on_which_a_method_ran() -> None:
    nsigma, baro = get_method("nsigma"), get_method("baro")
    ran = [PairResult("ok", wall_s=1.0, peak_mb=100), PairResult("timeout", wall_s=3.0, peak_mb=300)]
    missing = PairResult("missing", "needs spans")
    pairs = [Scored(TRUTH, nsigma, result, {}) for result in (*ran, missing)]
    costs = method_costs([*pairs, Scored(TRUTH, baro, missing, {})])
    assert (costs["nsigma"]["cases"], costs["nsigma"]["wall_s_mean"], costs["nsigma"]["peak_mb_max"]) == (2, 2.0, 300)
    assert (costs["baro"]["cases"], costs["baro"]["wall_s_mean"]) == (0, 0)


def test_failures_that_differ_in_numbers_only_are_one_note() -> None:
    rankings = pd.DataFrame(
        {
            "method": ["m", "m", "m", "n"],
            "status": ["error", "error", "timeout", "ok"],
            "message": ["9 metrics, 3 rows", "12 metrics, 4.5 rows", "took longer than 1 s", ""],
        }
    )
    result = cast("ScoreResult", SimpleNamespace(rankings=rankings, truths=(TRUTH,) * 3))
    assert ScoreResult._failures(result) == [
        "failed: m on 2 of 3 cases: error: 9 metrics, 3 rows (and the like)",
        "failed: m on 1 of 3 cases: timeout: took longer than 1 s",
    ]


def test_a_table_made_in_parts_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def row(case: int) -> tuple[object, ...]:
        nobody = case % 2 == 0
        found = (None, None, None, float("nan"), None, None) if nobody else (1, "ray-head", None, 0.5, False, True)
        status = "error" if nobody else "ok"
        return (f"case-{case}", "f", "t", "t", "", "", "m", "metric", False, False, status, "", *found)

    rows = [row(case) for case in range(7)]
    whole = RANKING_TABLE.of(rows)
    monkeypatch.setattr(files, "_ROWS_AT_ONCE", 3)
    pd.testing.assert_frame_equal(RANKING_TABLE.of(iter(rows)), whole)
    pd.testing.assert_frame_equal(RANKING_TABLE.of([]), whole[:0])


def test_thousands_of_cases_without_a_fault_are_one_line() -> None:
    truths = [replace(TRUTH, case=f"c{i}", excluded="fault-free", notes=(f"c{i}: no effect",)) for i in range(1000)]
    notes = _left_out(truths)
    assert notes[0] == "not scored: 1000 cases (c0, c1, c2, …): fault-free"
    assert notes[1] == "not counted: c0: no effect"
    assert notes[-1] == "not counted: 980 more; the case.json of each says why"
    assert len(notes) == 22
