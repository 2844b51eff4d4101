"""A method cannot see the answer: not by looking for it, nor by leaving where it runs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.rca.run import local_pool
from tasks.rca.run.sandbox import LEVELS, Level
from tasks.score.campaign import score_campaign
from tasks.system.scratch import scratch_directory
from tests.rca import prying
from tests.rca.views import score_params
from tests.score.processes import InThisProcess
from tests.synthetic import synthetic_case

ROOT = Path(__file__).parents[3]
AVAILABLE: dict[Level, bool] = {}
NOT_STOPPED_BY_AN_AUDIT_HOOK = {"test_pries_opens_with_a_library"}


def available(level: Level) -> bool:
    if level not in AVAILABLE:
        script = f"from tasks.rca.run.sandbox import *; enter(visible_paths([]), sys.argv[1], ['{level}'])"
        process = subprocess.run([sys.executable, "-c", f"import sys; {script}", "/tmp"], cwd=ROOT, capture_output=True)
        AVAILABLE[level] = process.returncode == 0
    return AVAILABLE[level]


@pytest.fixture(params=LEVELS)
def level(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Level:
    level: Level = request.param
    if not available(level):
        pytest.skip(f"this machine does not allow the level {level}")
    monkeypatch.setattr(local_pool, "LEVELS", (level,))
    return level


@pytest.fixture
def workspace() -> Iterator[Path]:
    """Where it usually is: in the checkout, below what is on ``sys.path``. The moment of the fault is nobody else's."""
    with scratch_directory("test-workspace", ROOT) as folder:
        synthetic_case(folder / "cases", "c0", target="ray-replicas-2", baseline_s=int(folder.name[-3:], 16) % 40 + 30)
        yield folder


@pytest.mark.timeout(600)
def test_no_method_finds_the_answer(level: Level, workspace: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("RCARENA_TEST_WORKSPACE", str(workspace))
    monkeypatch.setenv("RCARENA_TEST_PARAMS", f"{workspace}/../params.yaml")
    names = [name for name in prying.NAMES if level != "audit" or name not in NOT_STOPPED_BY_AN_AUDIT_HOOK]
    params = score_params(methods=["nsigma", *names])
    result = score_campaign(workspace / "cases", params, tmp_path / "out", workers=1)
    assert result.levels == (level,)
    found = result.rankings[result.rankings["method"].isin(names)]
    assert len(found) == len(names)
    assert found["service"].isna().all(), found[["method", "message", "service"]]
    assert (result.rankings.query("method == 'nsigma'")["status"] == "ok").all()
    assert "RCARENA_TEST_TRAP" not in os.environ


def test_the_same_methods_find_it_where_nothing_hides_it(workspace: Path, tmp_path: Path, monkeypatch) -> None:
    """So the test above can fail."""
    monkeypatch.setenv("RCARENA_TEST_WORKSPACE", str(workspace))
    names = ["test_pries_reads_the_environment", "test_pries_walks_up_from_here", "test_pries_opens_with_a_library"]
    result = score_campaign(workspace / "cases", score_params(methods=names), tmp_path / "out", open_pool=InThisProcess)
    assert result.rankings["service"].tolist() == ["ray-replicas-2"] * len(names)
