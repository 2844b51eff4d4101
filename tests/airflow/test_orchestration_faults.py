"""What breaks around a campaign: whatever it is, no pod, no fault and no half-recorded campaign is left."""

from __future__ import annotations

import pytest

from tests.airflow.client import LocalAirflow
from tests.airflow.test_end_to_end import FAULTS, RUN_TIMEOUT_S
from tests.airflow.test_end_to_end import pytestmark as pytestmark

WAITING = ("running", "deferred")
FORM = {"faults": FAULTS, "fault_free_cases": 0, "methods": ["random"]}


@pytest.fixture(autouse=True)
def clean(airflow: LocalAirflow):
    yield
    airflow.behave(hold_during_inject=None, hold_record=None)


def next_case(airflow: LocalAirflow, seen: set[str]) -> str:
    """Wait until another run of ``case`` has its fault on; its id."""

    def found() -> list[str]:
        running = {run for run, state in airflow.runs("case").items() if state == "running"} - seen
        return [run for run in running if airflow.faults() and airflow.states("case", run)["inject"][0] in WAITING]

    airflow.until(lambda: found() != [], 300, "no fault is injected")
    (run,) = found()
    seen.add(run)
    return run


@pytest.mark.slow
def test_a_campaign_survives_what_breaks_around_its_cases(airflow: LocalAirflow) -> None:
    seen = set(airflow.runs("case"))
    airflow.behave(hold_during_inject=1)
    run = airflow.trigger("campaign", name="rough", **FORM)

    killed = next_case(airflow, seen)
    airflow.until(lambda: airflow.states("case", killed)["inject"] == ["deferred"], 120, "inject is not deferred")
    airflow.kill_task("case", killed, "inject")
    assert airflow.finish("case", killed, 300) == "failed"

    evicted = next_case(airflow, seen)
    (pod,) = airflow.pods(step="inject")
    airflow.switch(f"evict/{pod}")
    assert airflow.finish("case", evicted, 300) == "failed"
    assert "Evicted" in airflow.log("case", evicted, "inject")

    restarted = next_case(airflow, seen)
    airflow.restart_scheduler()
    airflow.behave(hold_during_inject=None)
    airflow.finish("case", restarted, 600)

    airflow.behave(hold_during_inject=1)
    troubled = next_case(airflow, seen)
    airflow.switch("trouble?seconds=30")
    airflow.behave(hold_during_inject=None)
    airflow.until(lambda: airflow.run_state("case", troubled) != "running", 300, "the case does not end")

    state = airflow.finish("campaign", run, RUN_TIMEOUT_S)
    assert state == "success", (airflow.states("campaign", run), airflow.runs("case"))
    assert airflow.leftovers() == []
    assert len(list((airflow.workspaces / "rough" / "cases").glob("case-*/manifest.json"))) == 2
    assert sum("rough" in subject for subject in airflow.records()) == 1


@pytest.mark.slow
def test_a_case_that_cannot_succeed_is_tried_once(airflow: LocalAirflow) -> None:
    seen = set(airflow.runs("case"))
    airflow.behave("refused", refuse_step_prepare=1)
    run = airflow.trigger("campaign", name="refused", may_miss=1, **FORM)
    assert airflow.finish("campaign", run, RUN_TIMEOUT_S) == "success", airflow.states("campaign", run)
    assert sorted(airflow.states("campaign", run)["cases"]) == ["failed", "success"]
    assert sorted(state for each, state in airflow.runs("case").items() if each not in seen) == ["failed", "success"]
    log = airflow.log("campaign", run, "cases", map_index=airflow.states("campaign", run)["cases"].index("failed"))
    assert "prepare: exit status 2: another try would end the same way" in log
    assert airflow.leftovers() == []


def test_a_run_that_is_marked_failed_leaves_nothing(airflow: LocalAirflow) -> None:
    seen = set(airflow.runs("case"))
    airflow.behave(hold_during_inject=1)
    run = airflow.trigger("campaign", name="stopped", **FORM)
    case = next_case(airflow, seen)
    airflow.mark_failed("campaign", run)
    airflow.until(lambda: airflow.stacks() == [], 300, "the stack is still up")
    airflow.until(lambda: airflow.run_state("case", case) == "failed", 300, "the case is still running")
    airflow.until(lambda: airflow.states("campaign", run)["verdict"] == ["failed"], 120, "no verdict")
    assert airflow.finish("campaign", run, 60) == "failed"
    assert airflow.leftovers() == []
    assert not any("stopped" in subject for subject in airflow.records())
