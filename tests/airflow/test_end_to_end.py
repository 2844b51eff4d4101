"""Real Airflow (scheduler, LocalExecutor, triggerer, API), unmodified KubernetesPodOperator, the emulated pod API.

The live steps are played (``live_steps``); planning, scoring, report and record are the real commands.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.airflow.client import LocalAirflow, RefusedError, free_port

ROOT = Path(__file__).parents[2]
FAULTS = [{"kind": "cpu-stress", "targets": ["ray-replicas-0", "ray-replicas-1"], "parameters": {"workers": 2}}]
FORM = {"faults": FAULTS, "fault_free_cases": 1, "methods": ["random", "nsigma"]}
RUN_TIMEOUT_S = 1500

pytestmark = [
    pytest.mark.airflow,
    pytest.mark.timeout(2400),
    pytest.mark.skipif(not (ROOT / ".venv" / "bin" / "rcarena").exists(), reason="pods need the environment .venv"),
]


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalAirflow]:
    started = LocalAirflow(tmp_path_factory.mktemp("airflow"), free_port())
    try:
        started.start()
        started.unpause("campaign", "case")
        yield started
    finally:
        started.stop()


def test_a_wrong_form_is_refused_with_a_message(airflow: LocalAirflow) -> None:
    for field, value in (("repetitions", 0), ("windows", {"fault": 5}), ("name", "Not A Name")):
        with pytest.raises(RefusedError, match=field) as refused:
            airflow.trigger("campaign", **{field: value})
        assert refused.value.status in (400, 422)
    assert airflow.runs("campaign") == {}


def test_a_campaign_ends_with_a_report_and_a_commit(airflow: LocalAirflow) -> None:
    airflow.behave(fail_step_prepare=1)  # a case whose first attempt fails
    run = airflow.trigger("campaign", name="e2e", **FORM)
    state = airflow.finish("campaign", run, RUN_TIMEOUT_S)
    states = airflow.states("campaign", run)
    assert state == "success", (states, airflow.runs("case"))
    assert states["cases"] == ["success"] * 3
    assert states["score"] == ["success"] * 2
    assert states["verdict"] == ["success"]

    cases = airflow.runs("case")
    assert sorted(cases.values()) == ["failed", "success", "success", "success"]
    assert len({each.split(".")[0] for each in cases}) == 3
    assert any(each.endswith(".2") for each in cases)

    place = airflow.workspaces / "e2e"
    assert len(list((place / "cases").glob("case-*"))) == 3
    assert (place / "report" / "index.html").exists()
    assert not (place / "stack" / "up").exists()
    assert list((place / "faults").glob("*")) == []
    assert airflow.pods() == []
    log = ["git", "-C", airflow.workspaces / "results", "log", "--format=%s", "results"]
    commits = subprocess.run(log, capture_output=True, text=True, check=True).stdout.splitlines()
    assert sum("e2e" in line for line in commits) == 1
    assert "nsigma ranked 3 cases" in airflow.log("campaign", run, "score", map_index=1)
