"""Airflow plans campaigns in an environment with pydantic and PyYAML, and none of the libraries of the stages."""

from __future__ import annotations

import subprocess
import sys

from tests.command import ROOT

ABSENT = ("numpy", "pandas", "pyarrow", "scipy", "orjson", "ray", "torch")
CODE = f"""
import sys
from pathlib import Path
sys.modules |= dict.fromkeys({ABSENT!r})
from tasks.backends import BACKENDS
from tasks.campaign.batches import batches
from tasks.campaign.plan import plan_campaign
from tasks.params import load_params
for file in sys.argv[1:]:
    params = load_params(Path(file))
    cases = [plan.case_id for plan in plan_campaign(params)]
    assert cases, file
    batches(params, cases)
assert not list(BACKENDS.broken()), BACKENDS.broken()
assert len(BACKENDS.all()) > 2
"""


def test_every_campaign_is_planned_without_the_libraries_of_the_stages() -> None:
    files = [ROOT / "params.yaml", *sorted((ROOT / "presets").glob("*.yaml"))]
    command = [sys.executable, "-c", CODE, *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
