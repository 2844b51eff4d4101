"""Two environments: tests marked ``airflow`` run in .venv-airflow, the others here run with all the rest in .venv.

Airflow must find its home before it is imported.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
DAGS = ROOT / "dags"

NEED_AIRFLOW = ["test_dags.py", "test_end_to_end.py"]
NEED_TASKS = ["test_costs.py", "test_pod_api.py", "test_presets.py"]
collect_ignore = NEED_TASKS if importlib.util.find_spec("airflow") else NEED_AIRFLOW

os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="rcarena-airflow-"))
os.environ["AIRFLOW__CORE__DAGS_FOLDER"] = str(DAGS)
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
for place in (str(DAGS), str(ROOT)):
    if place not in sys.path:
        sys.path.insert(0, place)
