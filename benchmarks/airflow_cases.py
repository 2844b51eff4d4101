"""What Airflow costs per case: ``.venv-airflow/bin/python benchmarks/airflow_cases.py [CASES:PER_POD …]``.

Starts a real Airflow with the emulated pod API and runs a simulated campaign per argument, for example 200:100 (two
pods of 100 cases) and 24:1 (24 pods). Prints, per campaign: pods, seconds of the run, seconds from the first pod of
cases to the last, CPU seconds of Airflow itself (without pods) and per case, bytes that go through XCom, rows and bytes
that the database grows by. ``--by-hand`` measures a campaign of live cases as well, whose steps are played: a run of
``case`` with six pods for each.
"""

from __future__ import annotations

import argparse
import sqlite3
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import psutil  # noqa: E402

from tests.airflow.client import LocalAirflow, free_port  # noqa: E402

WINDOWS = {"baseline_s": 22, "fault_s": 22, "recovery_s": 8}
TIMEOUT_S = 3600


def form(cases: int, per_pod: int | None) -> dict[str, Any]:
    """Return the form of a campaign; ``per_pod`` None: on a stack that is played."""
    faulty = cases // 2
    common = {
        "faults": [{"kind": "process-freeze", "targets": ["ray-replicas-0"]}],
        "repetitions": faulty,
        "fault_free_cases": cases - faulty,
        "windows": WINDOWS,
        "methods": ["random"],
        "record": False,
    }
    return common if per_pod is None else {**common, "preset": "simulated", "cases_per_pod": per_pod}


def airflow_cpu_s(airflow: LocalAirflow) -> float:
    """Return the CPU time of Airflow's processes and of tasks that have ended; pods belong to the pod API."""
    total = 0.0
    for process in psutil.process_iter(["cmdline", "environ", "cpu_times"]):
        words, environment = process.info["cmdline"] or [], process.info["environ"] or {}
        if environment.get("AIRFLOW_HOME") == str(airflow.home) and not any("pod_api" in word for word in words):
            total += sum(process.info["cpu_times"][:4])
    return total


def database(airflow: LocalAirflow) -> dict[str, int]:
    """Return rows of task instances and XCom, bytes of XCom, and the bytes of the database."""
    file = next(airflow.home.glob("*.db"))
    with sqlite3.connect(f"file:{file}?mode=ro", uri=True) as connection:
        one = connection.execute("select count(*), coalesce(sum(length(value)), 0) from xcom").fetchone()
        (tasks,) = connection.execute("select count(*) from task_instance").fetchone()
    return {"xcom": one[0], "xcom_bytes": one[1], "tasks": tasks, "bytes": file.stat().st_size}


def measure(airflow: LocalAirflow, name: str, cases: int, per_pod: int | None) -> None:
    before, cpu, began = database(airflow), airflow_cpu_s(airflow), time.monotonic()
    run = airflow.trigger("campaign", name=name, **form(cases, per_pod))
    state = airflow.finish("campaign", run, TIMEOUT_S)
    wall = time.monotonic() - began
    after, cpu = database(airflow), airflow_cpu_s(airflow) - cpu
    grown = {key: after[key] - before[key] for key in after}
    path = f"dags/campaign/dagRuns/{run}/taskInstances?limit=1000"
    task = "make" if per_pod else "cases"
    mapped = [each for each in airflow.get(path)["task_instances"] if each["task_id"] == task]
    starts = [moment(each["start_date"]) for each in mapped]
    ends = [moment(each["end_date"]) for each in mapped]
    print(
        f"{name}: {state}, {cases} cases in {len(mapped)} {'pods' if per_pod else 'runs of `case`'}; run {wall:.0f} s, "
        f"cases {max(ends) - min(starts):.0f} s ({(max(ends) - min(starts)) / cases:.2f} s per case); Airflow's CPU "
        f"{cpu:.0f} s ({cpu / cases:.2f} s per case); XCom {grown['xcom']} rows, {grown['xcom_bytes']} bytes; "
        f"{grown['tasks']} task instances; database {grown['bytes'] / 1024:.0f} KiB",
        flush=True,
    )


def moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("campaigns", nargs="*", default=["200:100", "24:1"], help="CASES:PER_POD")
    parser.add_argument("--by-hand", type=int, default=0, metavar="CASES", help="cases on a stack that is played")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        airflow = LocalAirflow(Path(folder) / "airflow", free_port())
        airflow.home.mkdir()
        try:
            airflow.start()
            airflow.unpause("campaign", "case")
            for number, each in enumerate(given.campaigns):
                cases, per_pod = map(int, each.split(":"))
                measure(airflow, f"made-{number}", cases, per_pod)
            if given.by_hand:
                measure(airflow, "played", given.by_hand, None)
        finally:
            airflow.stop()


if __name__ == "__main__":
    main()
