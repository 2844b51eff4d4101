"""Airflow must find its home before it is imported. Tests marked ``airflow`` run in .venv-airflow (`make test`)."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
DAGS = ROOT / "dags"

os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="rcarena-airflow-"))
os.environ["AIRFLOW__CORE__DAGS_FOLDER"] = str(DAGS)
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
for place in (str(DAGS), str(ROOT)):
    if place not in sys.path:
        sys.path.insert(0, place)
