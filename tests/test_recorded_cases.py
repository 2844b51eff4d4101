"""Cases outlive versions: what earlier ones recorded (``recorded_cases``) is read, scored and reported by this one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from tasks.campaign.plan import plan_campaign
from tasks.campaign.settle import set_aside
from tasks.case import SIGNALS, read_case, read_cases, validate_case
from tasks.console import Console
from tasks.params import load_params
from tasks.workspace import Workspace
from tests.command import ROOT, params_with_score, rcarena_here

RECORDED = Path(__file__).parent / "recorded_cases"
ROWS = {
    "case-5df9384ac027": {"metrics": 6042, "requests": 143, "logs": 480, "spans": 760, "topology": 9},
    "case-e86d42d8879f": {"metrics": 6042, "requests": 136, "logs": 479, "spans": 725, "topology": 9},
}
FAULTS = {
    "case-5df9384ac027": [("network-loss", "ray-replicas-0", {"loss_percent": 30.0})],
    "case-e86d42d8879f": [
        ("network-delay", "ray-head", {"delay_ms": 300.0, "jitter_ms": 0.0, "correlation_percent": 0.0}),
        ("cpu-stress", "ray-replicas-0", {"workers": 2, "load_percent": 100}),
    ],
}
INJECTED = {
    "case-5df9384ac027": "2026-11-29T10:49:50.007503+00:00",
    "case-e86d42d8879f": "2026-11-29T10:23:13.004799+00:00",
}


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    shutil.copytree(RECORDED, tmp_path / "cases", ignore=shutil.ignore_patterns("README.md", ".gitattributes"))
    return Workspace(tmp_path)


@pytest.mark.parametrize("case_id", sorted(ROWS))
def test_a_case_of_an_earlier_version_says_what_it_said(case_id: str) -> None:
    assert validate_case(RECORDED / case_id) == []
    case = read_case(RECORDED / case_id)
    assert {signal: len(case.table(signal)) for signal in SIGNALS if signal in ROWS[case_id]} == ROWS[case_id]
    assert [(each.kind, each.target, each.parameters) for each in case.record.injections] == FAULTS[case_id]
    assert case.record.injection_time.isoformat() == INJECTED[case_id]
    assert {each for each, declared in case.record.completeness.items() if declared.recorded} == set(ROWS[case_id])
    assert {case.record.completeness[signal].status for signal in ROWS[case_id]} == {"complete"}
    assert case.record.service_names[:2] == ("nginx-proxy", "ray-head")
    assert case.record.load.requests == ROWS[case_id]["requests"]


def test_cases_of_an_earlier_version_are_scored_and_reported(place: Workspace) -> None:
    params = params_with_score(place.root, methods=["random", "nsigma", "microrank"], bootstrap_samples=200)
    where = ["--params", str(params), "--workspace", str(place.root)]
    cases = [str(path) for path in sorted(place.cases.iterdir())]
    for command in (["validate", *cases], ["score", *where], ["report", *where]):
        done = rcarena_here(*command)
        assert done.exit_code == 0, done.output
    rankings = pd.read_parquet(place.scores / "rankings.parquet")
    assert set(rankings["case_id"]) == set(ROWS)
    assert set(rankings["status"]) == {"ok"}
    truths = rankings.drop_duplicates("case_id").set_index("case_id")["truth"]
    assert truths.to_dict() == {"case-5df9384ac027": "ray-replicas-0", "case-e86d42d8879f": "ray-head+ray-replicas-0"}
    assert json.loads((place.scores / "metrics.json").read_text())["cases"]["scored"] == 2
    page = (place.report / "index.html").read_text()
    assert all(case_id in page for case_id in ROWS)


def test_a_campaign_of_this_version_keeps_the_cases_of_an_earlier_one(place: Workspace) -> None:
    """Under their names, beside its own: nothing is deleted."""
    set_aside(place, plan_campaign(load_params(ROOT / "params.yaml")), Console())
    assert {path.name for path in place.superseded.iterdir()} == {f"{case_id}.1" for case_id in ROWS}
    assert [case.record.case_id for case in read_cases(place.superseded)] == sorted(ROWS)
