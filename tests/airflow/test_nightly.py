"""The gate of ``nightly``: green for the same scores, red and heard of for a planted regression."""

from __future__ import annotations

from tests.airflow.client import LocalAirflow
from tests.airflow.test_end_to_end import FORM, RUN_TIMEOUT_S
from tests.airflow.test_end_to_end import pytestmark as pytestmark


def test_a_night_is_green_until_scores_regress(airflow: LocalAirflow) -> None:
    form = {**FORM, "fault_free_cases": 0, "repetitions": 2, "methods": ["nsigma"]}
    for strength, wanted in ((8.0, "success"), (8.0, "success"), (0.0, "failed")):
        airflow.behave(strength=strength)
        run = airflow.trigger("nightly", name="watched", **form)
        state = airflow.finish("nightly", run, RUN_TIMEOUT_S)
        assert state == wanted, airflow.states("nightly", run)
        assert airflow.states("nightly", run)["campaign"] == ["success"]
    airflow.behave(strength=None)
    log = airflow.log("nightly", run, "compare")
    assert "nightly failed in compare" in log  # the notifier's line
    assert "AC@1" in log
    assert len([subject for subject in airflow.records() if "watched" in subject]) == 3
    assert airflow.leftovers() == []
