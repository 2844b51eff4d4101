from __future__ import annotations

import ast
import inspect
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from tasks.cli import app
from tests.command import ROOT, params_with_score, rcarena, rcarena_here
from tests.synthetic import synthetic_case


@pytest.mark.parametrize("command", ["campaign", "preflight"])
def test_a_typo_in_the_parameters_ends_with_2_and_one_line(tmp_path: Path, command: str) -> None:
    text = (ROOT / "params.yaml").read_text().replace("kind: cpu-stress", "kind: cpu-strss")
    (tmp_path / "params.yaml").write_text(text)
    done = rcarena(command, "--params", str(tmp_path / "params.yaml"), "--workspace", str(tmp_path / "w"))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "unknown fault 'cpu-strss'; did you mean 'cpu-stress'?" in done.stderr
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    "arguments",
    ["nonsense", "campaign --nonsense", "campaign --params missing.yaml", "inject cpu-stress", "case case-1"],
)
def test_wrong_usage_ends_with_2_and_no_traceback(arguments: str) -> None:
    done = rcarena_here(*arguments.split())
    assert done.exit_code == 2
    assert isinstance(done.exception, SystemExit)
    assert done.stderr


def _commands(group: Any, *above: str) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, *above, name)
        else:
            yield " ".join((*above, name)), command


COMMANDS = dict(_commands(get_command(app)))


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_help_and_uses_every_option_that_it_takes(name: str) -> None:
    done = rcarena_here(*name.split(), "--help")
    assert done.exit_code == 0
    assert COMMANDS[name].help.split("\n")[0][:20] in done.stdout
    (function,) = ast.parse(inspect.getsource(inspect.unwrap(COMMANDS[name].callback))).body
    assert isinstance(function, ast.FunctionDef)
    used = {node.id for line in function.body for node in ast.walk(line) if isinstance(node, ast.Name)}
    assert {each.name for each in COMMANDS[name].params if each.param_type_name == "option"} <= used


@pytest.mark.parametrize(
    ("command", "options"),
    {
        "campaign collect plan case inject score report record compare preflight": "--params --workspace",
        "load benchmark": "--params",
        "import export performance": "--workspace",
    }.items(),
)
def test_commands_of_a_campaign_take_its_parameters_and_its_workspace(command: str, options: str) -> None:
    for name in command.split():
        known = {each for option in COMMANDS[name].params for each in option.opts}
        assert set(options.split()) <= known, name


@pytest.mark.parametrize(
    ("command", "option"),
    {
        "methods --workspace w": "--workspace",
        "params show --workspace w": "--workspace",
        "compare main --margin-score 0.1": "--margin-score",
        "benchmark a=tests --as-is --workers 2": "--workers",
        "import petshop tests --service ray-head": "--service",
        "inject cpu-stress ray-head --recover": "--recover",
        "remediate --finished --workers 2": "--workers",
        "remediate --case c --json": "--json",
        "remediate --workers 2": "--workers",
        "remediate --keep-stack --params presets/remediate.yaml": "--keep-stack",
        "study --as-is --workers 2": "--workers",
        "act eject ray-replicas-0 --undo --dry-run": "--dry-run",
        "collect --workers 2": "--workers",
        "load --url http://h --model m --out o --fault-start 5": "--fault-start",
        "attach --prometheus http://h --context c": "--context",
        "attach --prometheus http://h --password-env P": "--password-env",
        "dashboard --token-file t": "--token-file",
    }.items(),
)
def test_an_option_that_would_be_ignored_is_refused(command: str, option: str) -> None:
    done = rcarena_here(*command.split())
    assert done.exit_code == 2
    assert option in done.stderr


def test_a_stage_that_cannot_run_ends_with_1_and_says_why(tmp_path: Path) -> None:
    done = rcarena_here("score", "--workspace", str(tmp_path))
    assert done.exit_code == 1
    assert done.stderr.startswith("rcarena: ")
    assert "no finished case" in done.stderr


def test_score_and_report_recorded_cases(tmp_path: Path) -> None:
    for number, target in enumerate(("ray-replicas-0", "ray-replicas-2")):
        synthetic_case(tmp_path / "cases", f"case-{number}", target=target, seed=number)
    params = str(params_with_score(tmp_path, methods=["nsigma", "tracerca"]))
    scored = rcarena("score", "--params", params, "--workspace", str(tmp_path))
    assert scored.returncode == 0, scored.stderr
    assert "AC@1 (2 cases)" in scored.stdout
    metrics = json.loads((tmp_path / "scores" / "metrics.json").read_text())
    assert metrics["methods"]["nsigma"]["ac1"] == 1.0
    reported = rcarena_here("report", "--params", params, "--workspace", str(tmp_path))
    assert reported.exit_code == 0, reported.stderr
    assert (tmp_path / "report" / "index.html").exists()


def test_score_runs_again_only_what_is_asked_for(tmp_path: Path) -> None:
    synthetic_case(tmp_path / "cases", "case-1")
    params = params_with_score(tmp_path, methods=["nsigma", "baro"], method_parameters={"baro": {"direction": "up"}})
    where = ["--params", str(params), "--workspace", str(tmp_path)]
    assert "were there" not in rcarena_here("score", "--workers", "1", *where).stdout
    assert "2 of 2 rankings were there" in rcarena_here("score", *where).stdout
    assert "were there" not in rcarena_here("score", "--fresh", "--workers", "1", *where).stdout
    metrics = json.loads((tmp_path / "scores" / "metrics.json").read_text())
    assert metrics["methods"]["baro"]["parameters"] == {"direction": "up"}
    assert metrics["methods"]["nsigma"]["parameters"] == {"direction": "both"}
    refused = rcarena_here("score", "--ray-address", "auto", *where)
    assert (refused.exit_code, refused.stderr) == (2, "rcarena: --ray-address: needs --engine ray\n")


def test_a_wrong_method_parameter_ends_with_2_and_names_the_key(tmp_path: Path) -> None:
    params = params_with_score(tmp_path, method_parameters={"baro": {"direction": "x"}})
    done = rcarena_here("score", "--params", str(params))
    assert done.exit_code == 2
    assert "score.method_parameters.baro.direction: Input should be 'both' or 'up' (got 'x')" in done.stderr


def test_methods_are_listed_without_importing_what_they_need() -> None:
    script = (
        "import sys; from typer.testing import CliRunner; from tasks.cli import app\n"
        "done = CliRunner().invoke(app, ['methods', '--json']); print(done.stdout)\n"
        "heavy = {'torch', 'ray', 'causallearn', 'statsmodels', 'sklearn', 'networkx'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else done.exit_code)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    methods = {each["name"]: each for each in json.loads(done.stdout)}
    baro = methods["baro"]
    assert (baro["family"], baro["needs"], baro["cost"], baro["seeded"]) == ("metric", ["metrics"], "cheap", False)
    assert (baro["paper"]["venue"], baro["paper"]["year"]) == ("FSE", 2024)
    assert baro["parameters"] == {"direction": {"default": "both", "type": "Literal['both', 'up']"}}
    assert baro["installed"]
    assert baro["missing_packages"] == []
    assert not baro["beyond"]
    assert methods["random"]["seeded"]


def test_validate_names_what_is_wrong(tmp_path: Path) -> None:
    case = synthetic_case(tmp_path)
    assert rcarena_here("validate", str(case.path)).exit_code == 0
    (case.path / "spans.parquet").unlink()
    done = rcarena_here("validate", str(case.path))
    assert done.exit_code == 1
    assert "spans.parquet: listed in manifest.json but missing" in done.stdout
    assert rcarena_here("validate", str(tmp_path / "no")).stdout == f"{tmp_path / 'no'}: no such directory\n"


def test_lists_are_readable_by_machines() -> None:
    for command in ("methods", "faults", "plan"):
        assert json.loads(rcarena_here(command, "--json").stdout)


def test_without_a_stack_the_live_commands_say_how_to_get_one(tmp_path: Path) -> None:
    done = rcarena_here("inject", "cpu-stress", "ray-replicas-0", "--workspace", str(tmp_path))
    assert done.exit_code == 1
    assert "rcarena deploy up" in done.stderr
    assert rcarena_here("deploy", "status", "--workspace", str(tmp_path)).stdout.startswith("down:")
