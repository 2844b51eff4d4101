"""The whole campaign on the real local stack: killed in the middle of injections, continued, scored and reported.

``RCARENA_KILLS`` sets how often the campaign is killed (default 1).
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.case import read_cases, validate_case
from tasks.deploy.local import lifecycle, preflight
from tasks.deploy.local.layout import serve_python
from tasks.deploy.local.runtime import StackRuntime
from tasks.inject.recover import recover, residue
from tasks.workspace import Workspace

pytestmark = [pytest.mark.local_stack, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parents[1]
KILLS = int(os.environ.get("RCARENA_KILLS", "1"))
FAULT_S = 10
ENGINE_FILES = ("vllm", "ray", "torch", "triton", "flashinfer")
THROTTLE = {"kind": "accelerator-throttle", "parameters": {"fraction": 0.15}}
DELAY = {"kind": "network-delay", "parameters": {"delay_ms": 300, "jitter_ms": 50}}
INJECT = {
    "faults": [{**THROTTLE, "targets": ["ray-replicas-1"]}],
    "concurrent": [
        {"injections": [{**DELAY, "target": "ray-replicas-0"}, {**THROTTLE, "target": "ray-replicas-1", "offset_s": 2}]}
    ],
}
CASES = 2


@pytest.fixture(scope="module")
def params_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    document: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text())
    document["campaign"].update(
        name="test", fault_free_cases=0, windows={"warmup_s": 5, "baseline_s": 10, "fault_s": FAULT_S, "recovery_s": 6}
    )
    document["deploy"]["replicas"] = 2
    document["inject"] = INJECT
    file = tmp_path_factory.mktemp("params") / "params.yaml"
    file.write_text(yaml.safe_dump(document))
    return file


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    if not serve_python().exists():
        pytest.skip(f"no serving environment at {serve_python()}: run `make setup`")
    missing = preflight.problems()
    assert not missing, missing
    place = Workspace(tmp_path_factory.mktemp("campaign"))
    before = traces_outside()
    yield place
    assert traces_outside() - before == set()
    recover(place)
    lifecycle.down(place.stack)
    shutil.rmtree(place.root, ignore_errors=True)


def traces_outside() -> set[Path]:
    """Files outside the workspace of the kind that engines and Ray leave."""
    temporary = {p for p in Path(tempfile.gettempdir()).iterdir() if p.is_socket() or p.name.startswith(ENGINE_FILES)}
    caches = {p for p in Path("~/.cache").expanduser().glob("*") if p.name.startswith(ENGINE_FILES)}
    return temporary | caches | set(Path("/dev/shm").iterdir())


def rcarena(*arguments: str, params: Path, place: Workspace) -> list[str]:
    command = [sys.executable, "-m", "tasks.cli", *arguments]
    return [*command, "--params", str(params), "--workspace", str(place.root)]


def wait_for_open_injection(place: Workspace, campaign: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        assert campaign.poll() is None, "the campaign ended before it injected anything"
        for journal in place.journal.glob("*.json"):
            with contextlib.suppress(ValueError, OSError):
                if json.loads(journal.read_text())["state"] == "active":
                    return
        time.sleep(0.1)
    raise AssertionError("no injection became active")


def test_kill_9_leaves_no_fault_and_the_campaign_continues(params_file: Path, workspace: Workspace) -> None:
    rng = random.Random(7)
    for _ in range(KILLS):
        command = rcarena("collect", params=params_file, place=workspace)
        with (workspace.root / "killed.log").open("ab") as log:
            campaign = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, cwd=ROOT)
        wait_for_open_injection(workspace, campaign)
        time.sleep(rng.uniform(0, FAULT_S))
        os.killpg(campaign.pid, signal.SIGKILL)
        campaign.wait()
        time.sleep(FAULT_S + 10)
        assert residue(workspace) == []
        if len(read_cases(workspace.cases)) == CASES:
            shutil.rmtree(workspace.cases)
    finished = {case.path: (case.path / "manifest.json").stat().st_mtime_ns for case in read_cases(workspace.cases)}

    done = subprocess.run(
        rcarena("campaign", params=params_file, place=workspace), cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr

    cases = read_cases(workspace.cases)
    assert len(cases) == CASES
    for case in cases:
        assert validate_case(case.path) == []
        for injection in case.record.injections:
            assert injection.verdict == "effective", injection.reason
        assert {name: c.status for name, c in case.record.completeness.items() if c.status == "missing"} == {}
        assert len(case.requests) > 30
    assert {case.record.fault_label for case in cases} == {
        "accelerator-throttle",
        "accelerator-throttle+network-delay",
    }
    for path, written in finished.items():
        assert (path / "manifest.json").stat().st_mtime_ns == written
    assert "report:" in done.stdout
    assert (workspace.report / "index.html").stat().st_size > 100_000


def test_the_stack_is_gone_after_the_campaign(workspace: Workspace) -> None:
    runtime = StackRuntime.read(workspace.stack)
    assert runtime is None
    assert lifecycle.leftovers(workspace.stack) == []
    running = subprocess.run(["pgrep", "-af", str(workspace.root)], capture_output=True, text=True)
    assert running.stdout == ""


def test_scores_are_the_same_bytes_every_time(params_file: Path, workspace: Workspace) -> None:
    def score() -> dict[str, bytes]:
        subprocess.run(rcarena("score", params=params_file, place=workspace), cwd=ROOT, check=True, capture_output=True)
        return {f.name: f.read_bytes() for f in workspace.scores.iterdir() if f.name != "timings.json"}

    assert score() == score()


def test_a_finished_campaign_starts_nothing(params_file: Path, workspace: Workspace) -> None:
    command = rcarena("collect", params=params_file, place=workspace)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert "2 of 2 cases are finished already" in done.stdout
