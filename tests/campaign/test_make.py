"""Simulated cases made by several processes: the bytes of one, whatever is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import yaml

from tasks.campaign import make
from tasks.campaign.make import Made, make_cases, make_one
from tasks.campaign.plan import CasePlan, plan_campaign
from tasks.case import is_finished, validate_case
from tasks.console import Console
from tasks.params import Params, load_params
from tasks.system.file_lock import FileLock
from tasks.workspace import Workspace
from tests.campaign.dying import dies
from tests.command import ROOT, rcarena_here
from tests.slow import first_always
from tests.waiting import until

WINDOWS = {"warmup_s": 5, "baseline_s": 5, "fault_s": 5, "recovery_s": 1}


def params_file(folder: Path, cases: int) -> Path:
    document = yaml.safe_load((ROOT / "presets" / "simulated.yaml").read_text())
    document["campaign"].update(fault_free_cases=cases - 1, windows=WINDOWS)
    document["inject"] = {"faults": [{"kind": "process-freeze", "targets": ["ray-replicas-0"]}]}
    document["deploy"]["replicas"] = 1
    file = folder / "params.yaml"
    file.write_text(yaml.safe_dump(document))
    return file


@pytest.fixture
def params(tmp_path: Path) -> Params:
    return load_params(params_file(tmp_path, 4))


@pytest.fixture
def plans(params: Params) -> tuple[CasePlan, ...]:
    return plan_campaign(params)


def contents(place: Workspace) -> dict[str, bytes]:
    return {str(file.relative_to(place.root)): file.read_bytes() for file in place.root.rglob("*") if file.is_file()}


def making_processes() -> list[psutil.Process]:
    """The processes below this one that make cases, or are about to."""
    return [each for each in psutil.Process().children() if "spawn_main" in " ".join(each.cmdline())]


def test_several_processes_give_the_bytes_of_one_even_if_they_are_killed(
    params: Params, plans: tuple[CasePlan, ...], tmp_path: Path
) -> None:
    alone, together = Workspace(tmp_path / "alone"), Workspace(tmp_path / "together")
    assert list(make_cases(params, alone, plans, Console(), workers=1)) == [Made(plan) for plan in plans]
    made = make_cases(params, together, plans, Console(), workers=2)
    first = next(made)
    for each in making_processes():
        each.kill()
    done = [first, *made]
    assert [each.problem for each in done] == [""] * len(plans)
    assert {each.plan.case_id for each in done} == {plan.case_id for plan in plans}
    assert contents(together) == contents(alone)
    assert making_processes() == []


def test_a_case_that_costs_its_process_twice_is_told_and_the_others_go_on(
    params: Params, plans: tuple[CasePlan, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(make, "_work", dies)
    done = list(make_cases(params, Workspace(tmp_path), plans[:2], Console(), workers=2))
    assert {each.plan.case_id for each in done} == {plan.case_id for plan in plans[:2]}
    assert {each.problem for each in done} == {"its process was killed by SIGKILL, 2 times"}


def test_a_case_that_another_process_makes_is_waited_for_and_one_that_is_finished_is_left_alone(
    params: Params, plans: tuple[CasePlan, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, plan = Workspace(tmp_path), plans[0]
    monkeypatch.setattr(make, "ELSEWHERE_TIMEOUT_S", 0.05)
    with FileLock(place.claims / f"{plan.case_id}.lock", RuntimeError()):
        assert make_one(params, place, plan).problem == "another process has been making it for 0.05 s"
    assert make_one(params, place, plan) == Made(plan)
    written = (place.cases / plan.case_id / "manifest.json").stat().st_mtime_ns
    assert make_one(params, place, plan) == Made(plan)
    assert (place.cases / plan.case_id / "manifest.json").stat().st_mtime_ns == written
    assert list(place.claims.iterdir()) == []


def test_small_work_starts_no_process_and_much_takes_every_cpu(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(make, "usable_cpus", lambda: 8)
    assert [make._worth(params, Workspace(tmp_path), cases) for cases in (1, 9, 25, 1000)] == [1, 1, 3, 8]


@pytest.mark.parametrize("number", first_always([signal.SIGKILL, signal.SIGINT]), ids=lambda each: each.name)
def test_a_campaign_that_is_ended_leaves_no_process_and_no_half_case_and_goes_on(
    tmp_path: Path, number: signal.Signals
) -> None:
    file, place = params_file(tmp_path, 12), Workspace(tmp_path / "w")
    words = ["collect", "--workers", "2", "--params", str(file), "--workspace", str(place.root)]
    command = [sys.executable, "-m", "tasks.cli", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True) as running:
        until(lambda: finished(place))
        family = psutil.Process(running.pid).children(recursive=True)
        if number == signal.SIGINT:
            os.killpg(running.pid, number)  # as a terminal does
        else:
            running.send_signal(number)
        running.wait()
    until(lambda: not any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in family))
    kept = finished(place)
    assert 0 < len(kept) < 12
    assert [problem for path in kept for problem in validate_case(path)] == []
    if number == signal.SIGINT:
        assert list(place.cases.glob(".*")) == []
    written = {path: (path / "manifest.json").stat().st_mtime_ns for path in kept}
    assert rcarena_here(*words[:1], "--workers", "1", *words[3:]).exit_code == 0
    assert len(finished(place)) == 12
    assert list(place.cases.glob(".*")) == []
    assert {path: (path / "manifest.json").stat().st_mtime_ns for path in kept} == written


def test_a_pod_makes_a_batch_and_goes_on_where_it_was_killed(
    params: Params, plans: tuple[CasePlan, ...], tmp_path: Path
) -> None:
    place = Workspace(tmp_path / "w")
    make_one(params, place, plans[0])
    (place.cases / f".{plans[1].case_id}.partial").mkdir()  # as kill -9 leaves it
    options = ["--params", str(tmp_path / "params.yaml"), "--workspace", str(place.root)]
    done = rcarena_here("step", "make", *(plan.case_id for plan in plans[:2]), *options)
    assert done.exit_code == 0, done.output
    assert done.output.splitlines()[-1] == "2 of 2 cases are there"
    assert sorted(path.name for path in place.cases.iterdir()) == sorted(plan.case_id for plan in plans[:2])
    unknown = rcarena_here("step", "make", "case-000000000000", *options)
    assert unknown.exit_code == 2
    assert "unknown case 'case-000000000000'" in unknown.output


def test_a_backend_with_a_stack_makes_no_case(tmp_path: Path) -> None:
    done = rcarena_here("step", "make", "case-000000000000", "--workspace", str(tmp_path))
    assert done.exit_code == 2
    assert "deploy.backend: `step make` needs simulated (got local)" in done.output


def finished(place: Workspace) -> list[Path]:
    return [path for path in sorted(place.cases.glob("case-*")) if is_finished(path)]
