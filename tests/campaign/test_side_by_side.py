"""A campaign on two stacks at once, each of them a toy (``tests/backends/toy``): killed, interrupted, with one lost."""

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

from tasks.campaign.holders import holder_of
from tasks.case import is_finished, read_cases, validate_case
from tasks.inject.journal import CLOSED
from tasks.workspace import Workspace
from tests.command import ROOT
from tests.plugin_packages import install
from tests.slow import first_always
from tests.waiting import HANG_S, until

pytestmark = pytest.mark.timeout(400)

CONFIG: dict[str, Any] = {
    "campaign": {
        "name": "side-by-side",
        "seed": 5,
        "fault_free_cases": 0,
        "windows": {"warmup_s": 1, "baseline_s": 3, "fault_s": 4, "recovery_s": 1},
    },
    "deploy": {"backend": "toy", "replicas": 2, "stacks": 2},
    "load": {"arrival": "constant", "rate": 4, "output_tokens": {"mean": 4}},
    "inject": {"faults": [{"kind": "network-delay", "targets": ["ray-replicas-0", "ray-replicas-1"]}]},
    "export": {"rate_window_s": 1},
    "score": {"methods": ["random"], "profile": "paper", "bootstrap_samples": 100},
    "report": {},
}


class Campaign:
    """Commands on a campaign, in processes of their own: only there is the toy installed."""

    def __init__(self, directory: Path, environment: dict[str, str], fault_free_cases: int, stacks: int) -> None:
        self.workspace = Workspace(directory / "w")
        self.log = directory / "log"
        self._environment = environment
        self._params = directory / f"params-{stacks}.yaml"
        changes = {
            "campaign": CONFIG["campaign"] | {"fault_free_cases": fault_free_cases},
            "deploy": CONFIG["deploy"] | {"stacks": stacks},
        }
        self._params.write_text(yaml.safe_dump(CONFIG | changes))

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        """Start a command as the leader of a session."""
        place = ["--params", str(self._params)]
        place += [] if words[0] == "plan" else ["--workspace", str(self.workspace.root)]
        command = [sys.executable, "-m", "tasks.cli", *words, *place]
        with self.log.open("wb") as log:
            return subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, env=self._environment, start_new_session=True
            )

    def run(self, *words: str) -> tuple[int, str]:
        """Return the exit status and what was said."""
        return self.start(*words).wait(HANG_S * 2), self.log.read_text()

    def plan(self) -> list[str]:
        """Return the planned cases."""
        status, said = self.run("plan", "--json")
        assert status == 0, said
        return [each["case_id"] for each in json.loads(said)]

    def finished(self) -> dict[str, int]:
        """Return when each finished case was written."""
        folders = [path for path in self.workspace.cases.glob("case-*") if is_finished(path)]
        return {path.name: (path / "manifest.json").stat().st_mtime_ns for path in folders}

    def open_faults(self) -> list[int]:
        """Return the stacks that have a fault."""
        journals = [(index, file) for index in (0, 1) for file in self.workspace.on(index).journal.glob("*.json")]
        return [index for index, file in journals if json.loads(file.read_text())["state"] != CLOSED]

    def assert_nothing_is_left(self) -> None:
        assert self.open_faults() == []
        for place in self.workspace.on_disk():
            assert not place.stack.exists()

    def assert_whole(self) -> set[int | None]:
        """Check that each case is recorded and nothing is left on any stack; return the stacks of the cases."""
        cases = list(read_cases(self.workspace.cases))
        assert sorted(case.record.case_id for case in cases) == sorted(self.plan())
        assert [problem for case in cases for problem in validate_case(case.path)] == []
        self.assert_nothing_is_left()
        for place in self.workspace.on_disk():
            assert not list((place.live / "runs").glob("*/*"))
        return {case.record.stack.index for case in cases}


MakeCampaign = Callable[..., Campaign]


@pytest.fixture
def make_campaign(tmp_path: Path) -> Iterator[MakeCampaign]:
    site = tmp_path / "site"
    site.mkdir()
    install(site, "rcarena-toy", {"rcarena.backends": {"toy": "tests.backends.toy"}})
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(site), str(ROOT)])}
    made: list[Campaign] = []

    def make(fault_free_cases: int = 0, stacks: int = 2) -> Campaign:
        made.append(Campaign(tmp_path, environment, fault_free_cases, stacks))
        return made[-1]

    yield make
    made[0].run("deploy", "down")


@pytest.mark.parametrize("killed", first_always(["every process", "the campaign"]))
def test_killed_in_the_middle_and_run_again_no_case_is_lost_and_none_is_recorded_twice(
    make_campaign: MakeCampaign, killed: str
) -> None:
    campaign = make_campaign(fault_free_cases=2)
    first = campaign.start("collect")
    until(lambda: campaign.finished() and campaign.open_faults(), campaign.log.read_text, 2 * HANG_S)
    if killed == "every process":
        os.killpg(first.pid, signal.SIGKILL)
    else:
        first.kill()
    first.wait()
    before = campaign.finished()
    assert 0 < len(before) < 4

    status, said = campaign.run("collect")
    assert status == 0, said
    after = campaign.finished()
    assert {name: after[name] for name in before} == before
    assert "stack 0: " in said
    assert "stack 1: " in said
    assert campaign.assert_whole() == {0, 1}


def test_ctrl_c_takes_every_stack_down(make_campaign: MakeCampaign) -> None:
    campaign = make_campaign()
    first = campaign.start("collect")
    until(lambda: campaign.open_faults() == [0, 1], campaign.log.read_text)
    os.killpg(first.pid, signal.SIGINT)
    assert first.wait(HANG_S) == 1
    assert "interrupted; run the same command again" in campaign.log.read_text()
    campaign.assert_nothing_is_left()


@pytest.mark.slow
def test_the_others_go_on_when_a_stack_does_not_come_up(make_campaign: MakeCampaign) -> None:
    campaign = make_campaign()
    broken = campaign.workspace.on(1)
    broken.live.mkdir(parents=True)
    broken.stack.write_text("no folder")
    status, said = campaign.run("collect")
    assert status == 0, said
    assert "no case is missing, but a stack was lost: stack 1: " in said
    broken.stack.unlink()
    assert campaign.assert_whole() == {0}


@pytest.mark.slow
def test_what_may_be_left_of_a_fault_on_a_lost_stack_is_named_and_is_no_success(make_campaign: MakeCampaign) -> None:
    campaign = make_campaign()
    broken = campaign.workspace.on(1)
    journal = broken.journal / "case-before-0.json"
    journal.parent.mkdir(parents=True)
    journal.write_text(json.dumps({"target": {"backend": "elsewhere"}}))
    broken.stack.write_text("no folder")
    status, said = campaign.run("collect")
    assert status == 1, said
    assert "every case is there, but faults may be left on a lost stack" in said
    assert "stack 1: journal " in said
    assert journal.exists()
    journal.unlink()
    broken.stack.unlink()
    assert campaign.assert_whole() == {0}


def test_the_case_of_a_stack_whose_process_dies_goes_to_another(make_campaign: MakeCampaign) -> None:
    campaign = make_campaign()
    running = campaign.start("collect")
    until(lambda: campaign.open_faults() == [0, 1], campaign.log.read_text)
    (process,) = [
        int(path.parent.name)
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if "\0collect\0--stack\0" + "1\0" in (words := path.read_text()) and str(campaign.workspace.root) in words
    ]
    os.kill(process, signal.SIGKILL)
    assert running.wait(HANG_S * 2) == 0, campaign.log.read_text()
    assert "a stack was lost: stack 1: exit status -9" in campaign.log.read_text()
    assert campaign.assert_whole() == {0}


def test_attempts_that_are_made_of_pods_claim_a_stack_each(make_campaign: MakeCampaign) -> None:
    """The steps of an attempt find its stack, also after ``kill -9``; what is left of a fault is undone on that one."""
    campaign = make_campaign(fault_free_cases=1)
    planned = json.loads(campaign.run("plan", "--json")[1])
    lost, third, kept = [each["case_id"] for each in sorted(planned, key=lambda each: not each["injections"])]
    assert campaign.run("deploy", "up")[0] == 0

    def step(name: str, case_id: str, attempt: str) -> tuple[int, str]:
        return campaign.run("step", name, case_id, "--attempt", attempt)

    places = []
    for case_id in (lost, kept):
        status, said = step("claim", case_id, "a")
        assert status == 0, said
        places.append(int(said.strip()[-1]))
    assert sorted(places) == [0, 1]
    status, said = step("prepare", third, "a")
    assert (status, "has none of the 2 stacks" in said) == (1, True), said

    for case_id in (lost, kept):
        assert step("prepare", case_id, "a")[0] == 0
    pods = [campaign.start("step", name, lost, "--attempt", "a") for name in ("load", "inject")]
    until(lambda: campaign.open_faults() == [places[0]], campaign.log.read_text)
    for pod in pods:
        os.killpg(pod.pid, signal.SIGKILL)
        pod.wait()
    waiting = campaign.start("step", "claim", third, "--attempt", "a")
    until(lambda: f"waiting for a free stack: attempt a at {min(lost, kept)}" in campaign.log.read_text())
    status, said = step("verify", lost, "a")
    assert (status, "unfinished" in said) == (1, True), said
    assert campaign.open_faults() == []
    assert waiting.wait(HANG_S) == 0

    pods = [campaign.start("step", name, kept, "--attempt", "a") for name in ("load", "inject")]
    assert [pod.wait(HANG_S) for pod in pods] == [0, 0], campaign.log.read_text()
    for name in ("export", "verify"):
        status, said = step(name, kept, "a")
        assert status == 0, said
    status, said = step("claim", kept, "b")
    assert (status, "is finished already" in said) == (99, True), said
    (case,) = read_cases(campaign.workspace.cases)
    assert (case.record.case_id, case.record.stack.index) == (kept, places[1])
    assert campaign.run("deploy", "down")[0] == 0
    assert all(holder_of(campaign.workspace.on(index)) is None for index in (0, 1))


def test_the_number_of_stacks_changes_no_case(make_campaign: MakeCampaign) -> None:
    """A campaign that was recorded on one stack goes on on two."""
    assert make_campaign(fault_free_cases=2, stacks=1).plan() == make_campaign(fault_free_cases=2, stacks=2).plan()
