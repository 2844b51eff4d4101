"""The experiment with actions with real Airflow: batches of cases per pod, one of which is evicted in the middle."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.airflow.client import LocalAirflow
from tests.airflow.test_end_to_end import RUN_TIMEOUT_S
from tests.airflow.test_end_to_end import pytestmark as airflow_marks

pytestmark = [*airflow_marks, pytest.mark.slow]

FORM = {
    "preset": "simulated",
    "faults": [{"kind": "accelerator-throttle", "targets": ["ray-replicas-1"], "parameters": {"fraction": 0.1}}],
    "repetitions": 5,
    "fault_free_cases": 1,
    "windows": {"baseline_s": 40, "fault_s": 40, "recovery_s": 2},
    "cases_per_pod": 3,
    "policies": ["none", "oracle"],
}


def test_a_batch_whose_pod_is_evicted_keeps_its_finished_runs(airflow: LocalAirflow) -> None:
    run = airflow.trigger("remediation", name="acted", **FORM)
    place = airflow.workspaces / "acted"
    airflow.until(lambda: finished(place), RUN_TIMEOUT_S, "no run is finished")
    pods = airflow.pods(step="episodes")
    if pods:
        airflow.switch(f"evict/{pods[0]}")
    before = finished(place)

    state = airflow.finish("remediation", run, RUN_TIMEOUT_S)
    states = airflow.states("remediation", run)
    assert state == "success", states
    assert states["episodes"] == ["success"] * 2
    assert states["record"] == ["skipped"]
    after = finished(place)
    assert {name: after[name] for name in before} == before
    tables = json.loads((place / "remediation" / "tables.json").read_text())
    assert {row["policy"] for row in tables["harm"]} == {"none", "oracle"}
    assert 'id="recovery"' in (place / "report" / "index.html").read_text()
    assert airflow.leftovers() == []


def finished(place: Path) -> dict[str, int]:
    """Return when each finished run was written."""
    return {file.name: file.stat().st_mtime_ns for file in (place / "episodes").glob("case-*.json")}
