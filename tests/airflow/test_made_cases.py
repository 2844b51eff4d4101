"""A simulated campaign with real Airflow: batches of cases per pod, one of which is evicted in the middle."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.airflow.client import LocalAirflow
from tests.airflow.test_end_to_end import RUN_TIMEOUT_S
from tests.airflow.test_end_to_end import pytestmark as airflow_marks

pytestmark = [*airflow_marks, pytest.mark.slow]

FORM = {
    "preset": "simulated",
    "faults": [{"kind": "process-freeze", "targets": ["ray-replicas-0"]}],
    "repetitions": 30,
    "fault_free_cases": 30,
    "windows": {"baseline_s": 10, "fault_s": 10, "recovery_s": 2},
    "cases_per_pod": 40,
    "methods": ["random"],
    "record": False,
}


def test_a_batch_whose_pod_is_evicted_loses_only_the_case_in_work(airflow: LocalAirflow) -> None:
    run = airflow.trigger("campaign", name="made", **FORM)
    cases = airflow.workspaces / "made" / "cases"
    airflow.until(lambda: len(finished(cases)) >= 2, RUN_TIMEOUT_S, "no case is made")
    pod = airflow.pods(step="make")[0]
    airflow.switch(f"evict/{pod}")
    before = finished(cases)
    assert len(before) < 60

    state = airflow.finish("campaign", run, RUN_TIMEOUT_S)
    states = airflow.states("campaign", run)
    assert state == "success", states
    assert states["make"] == ["success"] * 2
    assert [states[task] for task in ("lease", "deploy", "cases", "teardown")] == [["skipped"]] * 4
    assert states["verdict"] == ["success"]
    after = finished(cases)
    assert len(after) == 60
    assert {case: after[case] for case in before} == before
    assert not list(cases.glob(".*"))
    assert (cases.parent / "report" / "index.html").exists()
    assert airflow.runs("case") == {}
    assert airflow.leftovers() == []


def finished(cases: Path) -> dict[str, int]:
    """Return when each whole case was written."""
    return {file.parent.name: file.stat().st_mtime_ns for file in cases.glob("case-*/manifest.json")}
