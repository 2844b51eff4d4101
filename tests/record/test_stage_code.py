"""What DVC and a recording take for the code of a stage is what the stage imports."""

from __future__ import annotations

from pathlib import Path

from tasks.record.outputs import foreign_code
from tasks.record.stage_code import PACKAGES, stage_code
from tests.command import ROOT
from tests.stage_code import copy_stage_code


def test_all_that_a_stage_reads_cases_and_parameters_with_is_its_code() -> None:
    for stage in PACKAGES:
        assert {"tasks/case.py", "tasks/params.py", "tasks/requests.py"} <= set(stage_code(stage))
        assert not [path for path in stage_code(stage) if path.startswith(("tasks/load", "tasks/kube", "tasks/cli"))]
        assert all((ROOT / path).exists() for path in stage_code(stage))


def test_an_edit_of_what_a_stage_imports_is_foreign_code(tmp_path: Path) -> None:
    copy_stage_code(tmp_path)
    assert foreign_code(tmp_path) == ()
    (tmp_path / "tasks" / "rca" / "more.py").write_text("")
    (tmp_path / "tasks" / "requests.py").unlink()
    case = tmp_path / "tasks" / "case.py"
    case.write_text(case.read_text() + "\n")
    (tmp_path / "tasks" / "cli.py").write_text("# No part of a stage.\n")
    assert foreign_code(tmp_path) == ("tasks/case.py", "tasks/rca/more.py", "tasks/requests.py")
