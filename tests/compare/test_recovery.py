"""What changed in recovery between two campaigns."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.compare.compare import compare
from tasks.compare.recovery import read_recovered, recovery_changes
from tasks.compare.side import Side, read_side
from tasks.compare.statistics import Resampling
from tasks.compare.tables import blocks, document
from tests.remediate.runs import experiment, run, written
from tests.report.scores import truth_at, write_scores
from tests.synthetic import synthetic_case


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> tuple[Side, Side]:
    """The same campaign, once with actions that leave twice as much."""
    root = tmp_path_factory.mktemp("sides")
    for seed in range(2):
        synthetic_case(root / "cases", f"cpu-{seed}", seed=seed)
    write_scores(root / "cases", root / "scores", {"good": truth_at(1)})
    without = read_side(root, "campaign: {name: x}", "a")
    assert without.recovery == {}
    recoveries = [read_recovered(written(experiment(better), root / str(better))) for better in (2.0, 1.0)]
    a, b = (replace(without, recovery=each) for each in recoveries)
    return a, b


def test_what_a_policy_did_is_of_faults_with_an_alarm(sides: tuple[Side, Side]) -> None:
    found = sides[1].recovery["table:peerwise"]
    assert (found.actions, found.wrong, found.calm, found.acted) == (4, 0, 2, 0)
    assert found.bad_request_s == {f"case-{i}": 5.0 + i for i in range(4)}
    assert (found.mean_bad_request_s, found.mttm_s) == (6.5, 40)
    assert sides[1].recovery["none"].mttm_s == 100
    random = sides[1].recovery["restart-random"]
    assert (random.actions, random.wrong, random.calm, random.acted) == (4, 4, 2, 1)


def test_what_is_compared_with_its_own_kind_only_is_left_out(tmp_path: Path) -> None:
    policies = ("none", "table:peerwise", "table:peerwise@30", "forged:any-root")
    found = read_recovered(written([run("case-0", "cpu-stress", name) for name in policies], tmp_path))
    assert list(found) == ["none", "table:peerwise"]


def test_times_are_restricted_to_what_both_sides_can_see(sides: tuple[Side, Side], tmp_path: Path) -> None:
    newer = read_recovered(written([each | {"watched_s": 80.0} for each in experiment()], tmp_path))
    assert newer["none"].mttm_s == 80
    found = {each.policy: each for each in recovery_changes(sides[0].recovery, newer, Resampling(samples=50))}
    none = found["none"]
    assert none.a is not None
    assert none.b is not None
    assert none.time_s is not None
    assert (none.a.mttm_s, none.b.mttm_s, none.time_s.value) == (80, 80, 0)


def test_a_policy_that_leaves_less_is_better(sides: tuple[Side, Side]) -> None:
    found = compare(*sides, Resampling(samples=50))
    changes = {change.policy: change for change in found.recovery}
    better = changes["table:peerwise"]
    assert better.ratio is not None
    expected = math.exp(sum(math.log((6 + i) / (11 + i)) for i in range(4)) / 4)
    assert better.ratio[0] == pytest.approx(expected)
    assert changes["none"].ratio == (1, 1, 1)
    block = next(block for block in blocks(found) if block.title == "Recovery")
    assert all(len(row) == len(block.columns) for row in block.rows)
    row = next(row for row in block.rows if row[0] == "table:peerwise")
    assert row[1:3] == ("11.5", "6.5")
    assert row[5:12] == ("40", "40", "+0 [+0, +0]", "0 of 4", "0 of 4", "0 of 2", "0 of 2")
    assert dict(zip((row[0] for row in block.rows), block.marks, strict=True))["table:peerwise"] == "better"
    said = next(each for each in document(found, None)["recovery"] if each["policy"] == "table:peerwise")
    assert (said["a"]["bad_request_s"], said["b"]["wrong"], said["time_s"]["value"]) == (11.5, 0, 0)


def test_a_campaign_without_the_experiment_has_no_block(sides: tuple[Side, Side], tmp_path: Path) -> None:
    assert read_recovered(tmp_path) == {}
    without = replace(sides[0], recovery={})
    assert "Recovery" not in {block.title for block in blocks(compare(without, without, Resampling(samples=50)))}
    only_b = compare(without, sides[1], Resampling(samples=50))
    block = next(block for block in blocks(only_b) if block.title == "Recovery")
    assert block.rows[0][1] == "–"
    assert block.rows[0][3] == "–"
