"""Recovery in a study: the figures that the experiment wrote, as sentences and tables."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tasks.errors import ParamsError
from tasks.study.plan import read_study
from tasks.study.recovery import RecoveryTables
from tests.remediate.runs import experiment, written
from tests.study.conftest import BASE, STUDY


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> RecoveryTables:
    root = tmp_path_factory.mktemp("recovery")
    return RecoveryTables({"made-up": written(experiment(), root / "made-up"), "absent": root / "absent"})


def test_single_figures_for_sentences(tables: RecoveryTables) -> None:
    assert "made-up" in tables
    assert "absent" not in tables
    assert (tables.cases("made-up"), tables.pairs_of("made-up")) == (4, 5)
    assert tables.mttm("made-up", "table:peerwise") == "40 s (.40 [.40, .40])"
    assert tables.mttm("made-up", "none") == "100 s"
    assert tables.wrong("made-up", "restart-random").startswith("1.00 [")
    assert tables.wrong("made-up", "none") == "–"
    assert tables.ratio("made-up", "none") == "1.00 [1.00, 1.00]"
    with pytest.raises(KeyError, match="made-up: no policy table:baro on all faults"):
        tables.ratio("made-up", "table:baro")


def test_tables(tables: RecoveryTables) -> None:
    rows = tables.policies("made-up").splitlines()
    assert [row.split("|")[1].strip() for row in rows[2:]] == [
        "`none`",
        "`table:peerwise`",
        "`restart-random`",
        "`oracle`",
    ]
    assert "| 0.38 | 40 s (.40 [.40, .40]) | – | 4 of 4 | .00 [.00, .49] (0 of 4) |" in rows[3]
    kinds = tables.kinds("made-up", "table:peerwise", "oracle").splitlines()
    head = "| kind | cases | `table:peerwise`: ratio | MTTM | wrong | `oracle`: ratio | MTTM | wrong |"
    assert kinds[0] == f"{head} `table:peerwise`: ratio, of all |"
    assert kinds[2].startswith("| `cpu-stress` | 2 | ")
    assert kinds[2].endswith(" | 0 of 2 | .37 (3) |")
    assert "| `restart-random` | surge | 1 | 1.00 [.21, 1.00] (1 of 1) |" in tables.harm("made-up")
    assert tables.plain("made-up", "refused", "guard", "would_be_wrong").splitlines()[0] == "| guard | would be wrong |"
    pairs = tables.pairs("made-up", "table:peerwise").splitlines()
    assert pairs[3] == "| `cpu-stress` | 2 | `table:peerwise` | 6.0 | .33 | 10 | 20 | 0 of 2 |"
    assert re.match(r"\| `all faults` \| 4 \| `table:peerwise` \| 6\.5 \| \.35 \[\.\d+, \.\d+\] \|", pairs[-1])
    goals = tables.goals("made-up", "table:peerwise").splitlines()
    assert goals[3] == "| MTTM, of that without | ≤ .50 | 40 s (.40 [.40, .40]) | surely |"
    assert goals[4] == "| the same until it lasts | ≤ .50 | – | – |"
    assert goals[5] == "| wrong actions | ≤ .05 | .00 [.00, .49] (0 of 4) | yes, its interval not |"
    assert tables.goals("made-up", "restart-random").count("**no**") == 3
    assert tables.plain("made-up", "windows") == "*No such case.*"


def test_a_folder_without_results_is_named(root: Path, tmp_path: Path) -> None:
    file = root / f"{tmp_path.name}.yaml"
    file.write_text(STUDY + f"recovery: {{fleet: {tmp_path}}}\n")
    with pytest.raises(ParamsError, match=r"recovery\.fleet: .* has no results of `rcarena remediate`"):
        read_study(file, BASE)
    written(experiment(), tmp_path)
    assert read_study(file, BASE).params.recovery == {"fleet": str(tmp_path)}
