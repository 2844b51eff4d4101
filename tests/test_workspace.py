from __future__ import annotations

import json
from pathlib import Path

import pytest

from tasks.workspace import Workspace
from tests.command import rcarena_here

CASE = "case-0123456789ab"
ESCAPES = ["..", "../../elsewhere", "/etc", "a/b", "", ".hidden", "-rf", "a" * 200]


@pytest.mark.parametrize("name", ESCAPES)
def test_an_attempt_stays_inside_its_case(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="allowed are letters"):
        Workspace(tmp_path).run(CASE, name)


def test_an_attempt_with_a_plain_name_has_a_folder() -> None:
    assert Workspace(Path("w")).run(CASE, "0df06a09dd-1") == Path("w/runs") / CASE / "0df06a09dd-1"


def test_the_live_state_of_several_stacks_is_apart_and_their_results_together(tmp_path: Path) -> None:
    only = Workspace(tmp_path)
    first, second = only.on(0), only.on(1)
    for name in ("stack", "journal", "live"):
        assert len({getattr(each, name) for each in (only, first, second)}) == 3
    assert len({each.run(CASE) for each in (only, first, second)}) == 3
    for name in ("cases", "scores", "report", "claims"):
        assert getattr(first, name) == getattr(second, name) == getattr(only, name)
    assert only.stack == tmp_path / "stack"
    assert first.on_disk() == (only,)
    for each in (second, first, only.on(10)):
        each.live.mkdir(parents=True)
    only.claims.mkdir()
    assert only.on_disk() == (only, first, second, only.on(10))


def test_a_wrong_attempt_ends_with_2_and_touches_nothing(tmp_path: Path) -> None:
    planned = json.loads(rcarena_here("plan", "--json").stdout)[0]["case_id"]
    (tmp_path / "precious").mkdir()
    done = rcarena_here("step", "prepare", planned, "--attempt", "../../precious", "--workspace", str(tmp_path))
    assert done.exit_code == 2
    assert "--attempt: '../../precious': allowed are letters" in done.stderr
    assert (tmp_path / "precious").is_dir()
