from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.synthetic import synthetic_case

ROOT = Path(__file__).parents[1]


def rcarena(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "tasks.cli", *arguments], cwd=cwd, capture_output=True, text=True)


def test_a_typo_in_the_parameters_ends_with_2_and_one_line(tmp_path: Path) -> None:
    text = (ROOT / "params.yaml").read_text().replace("kind: cpu-stress", "kind: cpu-strss")
    (tmp_path / "params.yaml").write_text(text)
    done = rcarena("campaign", "--params", str(tmp_path / "params.yaml"), "--workspace", str(tmp_path / "w"))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "unknown fault 'cpu-strss'; did you mean 'cpu-stress'?" in done.stderr
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    "arguments",
    ["nonsense", "campaign --nonsense", "campaign --params missing.yaml", "inject cpu-stress", "case case-1"],
)
def test_wrong_usage_ends_with_2_and_no_traceback(arguments: str) -> None:
    done = rcarena(*arguments.split())
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_every_command_has_help_and_takes_parameters_and_workspace() -> None:
    commands = ["campaign", "collect", "plan", "case", "inject", "load", "score", "report", "methods", "faults"]
    commands += ["validate", "preflight", "deploy up", "deploy status", "deploy down", "params check", "params show"]
    for command in commands:
        done = rcarena(*command.split(), "--help")
        assert done.returncode == 0, command
        assert "--params" in done.stdout, command
        assert "--workspace" in done.stdout, command


def test_a_stage_that_cannot_run_ends_with_1_and_says_why(tmp_path: Path) -> None:
    done = rcarena("score", "--workspace", str(tmp_path))
    assert done.returncode == 1
    assert "no finished case" in done.stderr
    assert "Traceback" not in done.stderr


def test_score_and_report_recorded_cases(tmp_path: Path) -> None:
    for number, target in enumerate(("ray-replicas-0", "ray-replicas-2")):
        synthetic_case(tmp_path / "cases", f"case-{number}", target=target, seed=number)
    scored = rcarena("score", "--workspace", str(tmp_path))
    assert scored.returncode == 0, scored.stderr
    assert "AC@1 (2 cases)" in scored.stdout
    metrics = json.loads((tmp_path / "scores" / "metrics.json").read_text())
    assert metrics["methods"]["nsigma"]["ac1"] == 1.0
    reported = rcarena("report", "--workspace", str(tmp_path))
    assert reported.returncode == 0, reported.stderr
    assert (tmp_path / "report" / "index.html").exists()


def test_validate_names_what_is_wrong(tmp_path: Path) -> None:
    case = synthetic_case(tmp_path)
    assert rcarena("validate", str(case.path)).returncode == 0
    (case.path / "spans.parquet").unlink()
    done = rcarena("validate", str(case.path))
    assert done.returncode == 1
    assert "spans.parquet: listed in manifest.json but missing" in done.stdout


def test_lists_are_readable_by_machines() -> None:
    for command in ("methods", "faults", "plan"):
        assert json.loads(rcarena(command, "--json").stdout)


def test_without_a_stack_the_live_commands_say_how_to_get_one(tmp_path: Path) -> None:
    done = rcarena("inject", "cpu-stress", "ray-replicas-0", "--workspace", str(tmp_path))
    assert done.returncode == 1
    assert "rcarena deploy up" in done.stderr
    assert rcarena("deploy", "status", "--workspace", str(tmp_path)).stdout.startswith("down:")
