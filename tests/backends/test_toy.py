"""A third backend is one folder (``tests/backends/toy``): ``rcarena`` finds it by its entry point."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.case import read_cases, validate_case
from tasks.workspace import Workspace
from tests.command import ROOT
from tests.plugin_packages import install
from tests.waiting import HANG_S, until

pytestmark = pytest.mark.timeout(300)

CONFIG: dict[str, Any] = {
    "campaign": {
        "name": "toy",
        "seed": 3,
        "fault_free_cases": 0,
        "windows": {"warmup_s": 1, "baseline_s": 4, "fault_s": 5, "recovery_s": 1},
    },
    "deploy": {"backend": "toy", "replicas": 2},
    "load": {"arrival": "constant", "rate": 4, "output_tokens": {"mean": 4}},
    "inject": {"faults": [{"kind": "network-delay", "targets": ["ray-replicas-1"]}]},
    "export": {"rate_window_s": 1},
    "score": {"methods": ["random"], "profile": "paper", "bootstrap_samples": 100},
    "report": {},
}

Rcarena = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Where the package with the toy is installed."""
    site = tmp_path_factory.mktemp("site")
    install(site, "rcarena-toy", {"rcarena.backends": {"toy": "tests.backends.toy"}})
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(site), str(ROOT)])}


@pytest.fixture
def rcarena(tmp_path: Path, environment: dict[str, str]) -> Iterator[Rcarena]:
    """Runs a command on the toy; keyword arguments change the section ``deploy``."""

    def run(*command: str, **deploy: Any) -> subprocess.CompletedProcess[str]:
        file = tmp_path / "params.yaml"
        file.write_text(yaml.safe_dump({**CONFIG, "deploy": CONFIG["deploy"] | deploy}))
        place = {"--params": str(file), "--workspace": str(tmp_path / "w")}
        unused = {"plan": "--workspace", "exec": "--params"}
        place.pop(next((option for word, option in unused.items() if word in command), ""), None)
        options = [word for option in place.items() for word in option]
        argv = [sys.executable, "-m", "tasks.cli", *command[:2], *options, *command[2:]]
        return subprocess.run(argv, env=environment, cwd=tmp_path, capture_output=True, text=True)

    yield run
    if (tmp_path / "w" / "stack").exists():
        run("deploy", "down")


def succeeded(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_its_parameters_are_checked(rcarena: Rcarena) -> None:
    for wrong, problems in [
        (
            {"replica": 2, "replicas": 9},
            [
                "deploy.replicas: Input should be less than or equal to 4 (got 9)",
                "deploy.replica: unknown key; did you mean 'replicas'? allowed: answer_ms, backend, replicas, stacks",
            ],
        ),
        ({"answer_ms": 600}, ["deploy.answer_ms: 2 replicas would be busy 1200 ms"]),
        (
            {"backend": "toi"},
            [
                "deploy.backend: unknown value 'toi'; did you mean 'toy'? "
                "allowed: attached, kubernetes, local, simulated, toy"
            ],
        ),
    ]:
        done = rcarena("deploy", "up", **wrong)
        assert done.returncode == 2
        assert [line.split("params.yaml: ")[1] for line in done.stderr.splitlines()] == problems


@pytest.mark.slow
def test_every_command_works_on_it_or_says_what_it_lacks(rcarena: Rcarena, tmp_path: Path) -> None:
    place = tmp_path / "w"
    assert succeeded(rcarena("preflight")) == "a toy runs everywhere\n"
    assert json.loads(succeeded(rcarena("deploy", "plan", "--json")))[0] == "nginx-proxy"
    (rendered,) = succeeded(rcarena("deploy", "render")).splitlines()
    assert json.loads(Path(rendered).read_text())["answer_ms"] == 10
    assert "gateway http://127.0.0.1:" in succeeded(rcarena("deploy", "up", "--hold", "60"))
    assert succeeded(rcarena("deploy", "status")) == "ready: 4 services\n"
    for command, problem in [
        (("deploy", "exec", "nginx-proxy", "ls"), "`deploy exec` needs kubernetes or local (got toy)"),
        (("deploy", "down", "--charts"), "--charts needs kubernetes (got toy)"),
        (("inject", "cpu-stress", "ray-head"), "inject.kind: the toy backend has no cpu-stress"),
    ]:
        done = rcarena(*command)
        assert (done.returncode, problem in done.stderr) == (2, True), done.stderr

    told = succeeded(rcarena("inject", "network-delay", "ray-replicas-0", "--duration", "3"))
    assert "effective: time of an answer: " in told
    (journal,) = (place / "journal").glob("*.json")
    closed = json.loads(journal.read_text())
    assert (closed["state"], closed["undo"]) == ("recovered", [{"step": "remove-delay"}])
    assert closed["parameters"]["delay_ms"] == 150  # the toy's own default
    stray = place / "stack" / "delays" / "ray-head"
    stray.write_text("5")
    assert "ray-head: it waits: undone" in succeeded(rcarena("inject", "--recover"))
    assert not stray.exists()

    assert succeeded(rcarena("deploy", "down")) == "the stack is down\n"
    done = rcarena("deploy", "status")
    assert (done.returncode, done.stdout) == (1, "down: no toy runs\n")


def test_a_case_is_recorded_scored_and_reported(rcarena: Rcarena, tmp_path: Path) -> None:
    succeeded(rcarena("campaign"))
    (case,) = read_cases(tmp_path / "w" / "cases")
    assert validate_case(case.path) == []
    assert (case.record.stack.backend, case.record.stack.model) == ("toy", "toy")
    (injection,) = case.record.injections
    assert (injection.kind, injection.verdict, injection.executor) == ("network-delay", "effective", "toy: a file")
    assert set(case.logs["service"]) >= {"nginx-proxy", "ray-replicas-0", "ray-replicas-1"}
    assert case.record.completeness["metrics"].status == "missing"
    assert case.requests["status"].eq(200).all()
    assert (tmp_path / "w" / "report" / "index.html").exists()
    assert not (tmp_path / "w" / "stack").exists()


@pytest.mark.timeout(600)
def test_scenarios_are_recorded_with_their_own_load_and_roles_even_after_a_kill(
    environment: dict[str, str], tmp_path: Path
) -> None:
    delay = {"kind": "network-delay", "parameters": {"delay_ms": 150}}
    scenarios = [
        {
            "name": "cascade",
            "load": {"shapes": [{"kind": "surge", "start_s": 0, "duration_s": 5, "factor": 3}]},
            "injections": [
                {**delay, "target": "ray-replicas-1"},
                {**delay, "target": "ray-replicas-0", "role": "victim", "offset_s": 2},
            ],
        },
        {"name": "noise", "injections": [{**delay, "target": "ray-head", "role": "disturbance", "duration_s": 2}]},
    ]
    file, place = tmp_path / "params.yaml", Workspace(tmp_path / "w")
    file.write_text(yaml.safe_dump({**CONFIG, "inject": {"faults": [], "scenarios": scenarios}}))
    words = ["collect", "--params", str(file), "--workspace", str(place.root)]
    command = [sys.executable, "-m", "tasks.cli", *words]

    def finished() -> dict[str, int]:
        return {path.parent.name: path.stat().st_mtime_ns for path in place.cases.glob("case-*/manifest.json")}

    def injecting() -> bool:
        return any('"state": "active"' in path.read_text() for path in place.journal.glob("case-*.json"))

    def in_the_second_case() -> bool:
        return (bool(finished()) and injecting()) or first.poll() is not None

    with (tmp_path / "log").open("wb") as log:
        first = subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=log, stderr=log)
        until(in_the_second_case, (tmp_path / "log").read_text, seconds=2 * HANG_S, pause_s=0.1)
        first.kill()
    assert first.wait() == -signal.SIGKILL, (tmp_path / "log").read_text()
    (before,) = finished().items()
    again = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert again.returncode == 0, again.stdout + again.stderr
    assert before in finished().items()

    cases = {case.record.scenario: case for case in read_cases(place.cases)}
    assert set(cases) == {"cascade", "noise"}
    cascade, noise = cases["cascade"].record, cases["noise"].record
    assert [each.target for each in cascade.counted()] == ["ray-replicas-1"]
    assert [each.target for each in cascade.victims()] == ["ray-replicas-0"]
    assert cascade.victims()[0].begin > cascade.injection_time
    assert (noise.roots, [each.target for each in noise.disturbances()]) == ((), ["ray-head"])
    assert noise.injection_time == noise.phases[1].start
    assert [len(each.load.parameters["shapes"]) for each in (cascade, noise)] == [1, 0]
    assert cascade.parameters["load"]["shapes"][0]["factor"] == 3
    sent = {name: case.requests["scheduled"] for name, case in cases.items()}
    during = {
        name: int(sent[name].between(fault.start, fault.end, inclusive="left").sum())
        for name, case in cases.items()
        if (fault := case.record.phase("fault"))
    }
    assert (during["cascade"], during["noise"]) == (60, 20)
