"""The gate of ``nightly``: red, and somebody hears of it, when scores regress."""

from __future__ import annotations

import json
import subprocess

from rcarena_dags.form import campaign_form, document
from tests.airflow.client import SETTINGS, LocalAirflow
from tests.airflow.test_end_to_end import FAULTS, RUN_TIMEOUT_S
from tests.airflow.test_end_to_end import pytestmark as pytestmark

FORM = {"name": "watched", "faults": FAULTS, "repetitions": 3, "fault_free_cases": 0, "methods": ["nsigma"]}


def record_baseline(airflow: LocalAirflow) -> None:
    """What an earlier night left: the same campaign with other seeds, without the detour through Airflow."""
    folder = airflow.workspaces / "baseline"
    (folder / "stack").mkdir(parents=True)
    (folder / "stack" / "up").touch()
    defaults = {key: param.value for key, param in campaign_form().items()}
    params = folder / "params.yaml"
    params.write_text(json.dumps(document({**defaults, **FORM, "seed": 4})))

    def rcarena(*words: str) -> str:
        place = ["--params", str(params), "--workspace", str(folder)]
        command = [f"{SETTINGS['RCARENA_POD_PATH']}/rcarena", *words, *place]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    for planned in json.loads(rcarena("plan", "--json")):
        (folder / "runs" / planned["case_id"] / "local").mkdir(parents=True)
        rcarena("step", "export", planned["case_id"])
    for stage in ("score", "report"):
        rcarena(stage)
    rcarena("record", "--repository", str(airflow.workspaces / "results"), "--branch", "results")
    (folder / "stack" / "up").unlink()


def test_a_night_is_red_when_scores_regress(airflow: LocalAirflow) -> None:
    record_baseline(airflow)
    airflow.behave(mislead=1)
    run = airflow.trigger("nightly", **FORM)
    state = airflow.finish("nightly", run, RUN_TIMEOUT_S)
    airflow.behave(mislead=None)
    states = airflow.states("nightly", run)
    log = airflow.log("nightly", run, "compare")
    assert (state, states["campaign"]) == ("failed", ["success"]), (states, log)
    assert "nightly failed in compare" in log  # the notifier's line
    assert "score: nsigma Avg@5" in log
    assert sum("watched" in subject for subject in airflow.records()) == 2
    assert airflow.leftovers() == []
