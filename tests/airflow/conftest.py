"""Two environments: tests marked ``airflow`` run in .venv-airflow, the others here run with all the rest in .venv.

Airflow must find its home before it is imported.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DAGS = ROOT / "dags"

NEED_AIRFLOW = ["test_dags.py", "test_end_to_end.py", "test_orchestration_faults.py", "test_nightly.py"]
NEED_AIRFLOW += ["test_several_stacks.py", "test_made_cases.py", "test_remediation.py"]
NEED_TASKS = ["test_pod_api.py", "test_presets.py"]
collect_ignore = NEED_TASKS if importlib.util.find_spec("airflow") else NEED_AIRFLOW

OWN_HOME = tempfile.TemporaryDirectory(prefix="rcarena-airflow-")  # removed when the tests end
os.environ["AIRFLOW_HOME"] = OWN_HOME.name
os.environ["AIRFLOW__CORE__DAGS_FOLDER"] = str(DAGS)
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
for place in (str(DAGS), str(ROOT)):
    if place not in sys.path:
        sys.path.insert(0, place)


from tests.airflow.client import LocalAirflow, free_port  # noqa: E402 (after the path is set)


@pytest.fixture(scope="session")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalAirflow]:
    """Real Airflow (scheduler, LocalExecutor, triggerer, API), unmodified KubernetesPodOperator, emulated pod API."""
    started = LocalAirflow(tmp_path_factory.mktemp("airflow"), free_port())
    try:
        started.start()
        started.unpause("campaign", "case", "nightly", "remediation")
        yield started
    finally:
        started.stop()
