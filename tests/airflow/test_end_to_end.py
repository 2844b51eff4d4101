"""Campaigns with real Airflow. The live steps are played (``live_steps``); planning, scoring, report and record are
the real commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.airflow.client import LocalAirflow, RefusedError

ROOT = Path(__file__).parents[2]
FAULTS = [{"kind": "cpu-stress", "targets": ["ray-replicas-0", "ray-replicas-1"], "parameters": {"workers": 2}}]
FORM = {"faults": FAULTS, "fault_free_cases": 1, "methods": ["random", "nsigma"]}
RUN_TIMEOUT_S = 1500

pytestmark = [
    pytest.mark.airflow,
    pytest.mark.timeout(2400),
    pytest.mark.skipif(not (ROOT / ".venv" / "bin" / "rcarena").exists(), reason="pods need the environment .venv"),
]


def test_a_wrong_form_is_refused_with_a_message(airflow: LocalAirflow) -> None:
    for field, value in (("repetitions", 0), ("windows", {"fault": 5}), ("name", "Not A Name")):
        with pytest.raises(RefusedError, match=field) as refused:
            airflow.trigger("campaign", **{field: value})
        assert refused.value.status in (400, 422)
    assert airflow.runs("campaign") == {}


def test_of_two_runs_triggered_together_one_waits_and_each_cleans_up(airflow: LocalAirflow) -> None:
    """The first has a case whose first attempt fails, a load that is lost before it began, which costs no attempt, and
    a record that fails twice. The second cannot deploy. Pods are waited for as users do it: deferred."""
    airflow.behave(fail_step_prepare=1, fail_record=2, hold_step_inject=1)
    airflow.behave("no-stack", fail_deploy_up=9)
    first = airflow.trigger("campaign", name="e2e", **FORM)
    second = airflow.trigger("campaign", name="no-stack", **FORM)
    airflow.until(lambda: airflow.stacks() != [], 300, "nothing is deployed")
    assert airflow.run_state("campaign", second) == "queued"
    replaced = lose_the_load(airflow)
    airflow.behave(hold_step_inject=None)

    state = airflow.finish("campaign", first, RUN_TIMEOUT_S)
    states = airflow.states("campaign", first)
    assert state == "success", (states, airflow.runs("case"))
    assert states["cases"] == ["success"] * 3
    assert states["score"] == ["success"] * 2
    assert states["verdict"] == ["success"]
    assert airflow.tries("campaign", first, "record") == 3
    cases = airflow.runs("case")
    assert list(cases.values()).count("success") == 3
    assert cases[replaced] == "success"
    assert airflow.tries("case", replaced, "load") > 1
    assert "failed" in cases.values()
    assert len({each.split(".")[0] for each in cases}) == 3
    assert any(each.endswith(".2") for each in cases)
    place = airflow.workspaces / "e2e"
    assert len(list((place / "cases").glob("case-*"))) == 3
    assert (place / "report" / "index.html").exists()
    log = airflow.log("campaign", first, "score", map_index=1)
    assert log.count("nsigma ranked 3 cases") == 1
    assert "interrupted" not in log

    assert airflow.finish("campaign", second, RUN_TIMEOUT_S) == "failed"
    states = airflow.states("campaign", second)
    assert (states["deploy"], states["teardown"], states["verdict"]) == (["failed"], ["success"], ["failed"])
    assert airflow.started("campaign", second) >= airflow.ended("campaign", first)
    assert airflow.runs("case") == cases

    assert airflow.leftovers() == []
    assert [subject for subject in airflow.records() if "e2e" in subject] == airflow.records()
    assert len(airflow.records()) == 1


def lose_the_load(airflow: LocalAirflow) -> str:
    """Evict the pod of a load that waits for its injection; return the run of the case once there is another."""
    airflow.until(lambda: airflow.pods(step="load") != [], 300, "no load waits")
    (lost,) = airflow.pods(step="load")
    (run,) = [run for run, state in airflow.runs("case").items() if state == "running"]
    airflow.until(lambda: airflow.states("case", run)["load"] == ["deferred"], 120, "the load is not deferred")
    airflow.switch(f"evict/{lost}")
    airflow.until(lambda: set(airflow.pods(step="load")) - {lost} != set(), 120, "no load takes over")
    return run
