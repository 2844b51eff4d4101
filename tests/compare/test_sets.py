"""What two campaigns say beyond a rank, side by side."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tasks.case import CaseRecord
from tasks.compare.compare import compare
from tasks.compare.side import Side, read_side
from tasks.compare.statistics import Resampling
from tasks.compare.tables import blocks, document
from tasks.rca.method import Finding
from tasks.rca.run.pair import PairResult
from tests.report.scores import Ranker, as_an_older_stage_wrote, ranked, truth_at, write_scores
from tests.synthetic import synthetic_case


def says(kind: str, alarms: int = 0) -> Ranker:
    """Names the root with ``kind``, and the head in the first ``alarms`` cases without one."""

    def answer(record: CaseRecord) -> PairResult:
        roots = [each.target for each in record.counted()]
        if not roots and int(record.case_id[-1]) < alarms:
            roots = ["ray-head"]
        return replace(ranked(["ray-head"]), findings=tuple(Finding(root, kind, 0.01) for root in roots))

    return answer


def side(root: Path, label: str, **methods: Ranker) -> Side:
    for i in range(3):
        synthetic_case(root / label / "cases", f"cpu-{i}", seed=i)
        synthetic_case(root / label / "cases", f"quiet-{i}", kind=None, seed=i)
    write_scores(root / label / "cases", root / label / "scores", methods)
    return read_side(root / label, "campaign: {name: x}", label)


def test_sets_kinds_and_false_alarms_of_the_methods_that_say(tmp_path: Path) -> None:
    a = side(tmp_path, "a", says=says("memory-stress", alarms=3), ranks=truth_at(1))
    b = side(tmp_path, "b", says=says("cpu-stress"), ranks=truth_at(1))
    found = compare(a, b, Resampling(samples=50))
    (change,) = found.sets
    assert change.method == "says"
    assert (change.a["set_f1"].value, change.b["set_f1"].value) == (0, 1)
    assert (change.a["kind_accuracy"].value, change.b["kind_accuracy"].value) == (0, 1)
    assert (change.a["false_alarms"].value, change.b["false_alarms"].value) == (1, 0)
    assert change.difference is not None
    assert (change.difference.value, change.difference.p) == (1, pytest.approx(2 / 8))
    block = next(block for block in blocks(found) if block.title == "Sets, kinds and false alarms")
    assert len(block.rows[0]) == len(block.columns)
    assert block.marks == ("better",)
    assert document(found, None)["sets"][0]["difference"]["value"] == 1


def test_an_older_score_folder_is_compared_without_sets(tmp_path: Path) -> None:
    side(tmp_path, "a", says=says("cpu-stress"))
    as_an_older_stage_wrote(tmp_path / "a" / "scores")
    old = read_side(tmp_path / "a", "campaign: {name: x}", "a")
    new = side(tmp_path, "b", says=says("cpu-stress"))
    (change,) = compare(old, new, Resampling(samples=50)).sets
    assert (change.a, change.difference) == ({}, None)
    assert compare(old, old, Resampling(samples=50)).sets == ()
