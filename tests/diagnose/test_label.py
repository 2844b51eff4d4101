"""Labels of incidents, and what scores and campaigns make of them."""

from __future__ import annotations

import json
import shutil
from datetime import timedelta
from pathlib import Path

import pytest

from tasks.campaign.settle import set_aside
from tasks.case import Case, CaseRecord, read_case, validate_case
from tasks.console import Console
from tasks.diagnose.label import label
from tasks.diagnose.recording import CaseRecording, Window
from tasks.errors import ParamsError
from tasks.params import Params
from tasks.score.campaign import score_campaign
from tasks.score.errors import ScoreError
from tasks.score.truth import truth_of
from tasks.workspace import Workspace
from tests.command import rcarena_here
from tests.score.processes import InThisProcess
from tests.synthetic import T0, synthetic_case

CHANGE = T0 + timedelta(seconds=25)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


@pytest.fixture
def incident(workspace: Workspace) -> Case:
    case = synthetic_case(workspace.root / "elsewhere")
    return CaseRecording(case).record("incident-1", Window(T0, CHANGE, T0 + timedelta(seconds=50)), workspace.incidents)


def test_a_labelled_incident_is_a_case_of_the_campaign(incident: Case, workspace: Workspace) -> None:
    done = label(incident, [("ray-replicas-1", "cpu-stress")], workspace.cases, note="a neighbour")
    assert done.path == workspace.cases / "incident-1"
    assert not incident.path.exists()
    assert validate_case(done.path) == []
    (injection,) = done.record.injections
    assert (injection.target, injection.kind, injection.verdict) == ("ray-replicas-1", "cpu-stress", "labelled")
    assert "cpu_usage" in injection.metrics
    assert injection.begin == CHANGE
    truth = truth_of(done.record, include_ineffective=False)
    assert (truth.services, truth.excluded, truth.incident) == (("ray-replicas-1",), "", True)
    assert done.metrics.equals(read_case(done.path).metrics)


def test_the_last_label_counts_and_earlier_ones_are_kept(incident: Case, workspace: Workspace) -> None:
    later = CHANGE + timedelta(seconds=5)
    first = label(incident, [("ray-head", "network-delay")], workspace.cases)
    second = label(first, [("ray-replicas-1", "unknown")], workspace.cases, at=later)
    assert second.record.targets == ("ray-replicas-1",)
    assert second.record.phases[1].start == later
    third = label(second, [], workspace.cases)
    assert third.record.phases[1].start == CHANGE
    assert third.record.roots == ()
    assert [[root.target for root in each.roots] for each in third.record.labels] == [
        ["ray-head"],
        ["ray-replicas-1"],
        [],
    ]
    assert truth_of(third.record, include_ineffective=False).negative
    assert not third.record.undisturbed


def test_a_label_without_the_change_is_read(incident: Case, workspace: Workspace) -> None:
    """An earlier version kept no change: the last time counts."""
    later = CHANGE + timedelta(seconds=5)
    first = label(incident, [("ray-head", "network-delay")], workspace.cases, at=later)
    file = first.path / "case.json"
    document = json.loads(file.read_text())
    del document["labels"][0]["change"]
    old = Case(first.path, CaseRecord.model_validate_json(json.dumps(document)))
    assert label(old, [], workspace.cases).record.phases[1].start == later


def test_another_incident_of_that_name_is_not_published_over(incident: Case, workspace: Workspace) -> None:
    copy = shutil.copytree(incident.path, workspace.root / "copy" / "incident-1")
    first = label(incident, [("ray-head", "network-delay")], workspace.cases)
    with pytest.raises(ParamsError, match="incident-1 is there already; correct that one with `rcarena label"):
        label(read_case(copy), [], workspace.cases)
    assert read_case(first.path).record == first.record
    assert validate_case(copy) == []


def test_scores_take_no_incident_without_a_label(incident: Case, workspace: Workspace, params: Params) -> None:
    shutil.copytree(incident.path, workspace.cases / "incident-1")
    score = params.score.model_copy(update={"methods": ("nsigma",), "bootstrap_samples": 100})
    with pytest.raises(ScoreError, match="no finished case to score"):
        score_campaign(workspace.cases, score, workspace.scores)
    label(read_case(workspace.cases / "incident-1"), [("ray-replicas-1", "cpu-stress")], workspace.cases)
    result = score_campaign(workspace.cases, score, workspace.scores, open_pool=InThisProcess)
    assert [truth.case for truth in result.truths] == ["incident-1"]
    assert "labelled by people, confirmed by no probe: incident-1" in result.notes


def test_a_campaign_leaves_labelled_incidents_where_they_are(incident: Case, workspace: Workspace) -> None:
    label(incident, [("ray-replicas-1", "cpu-stress")], workspace.cases)
    synthetic_case(workspace.cases, "case-unasked")
    set_aside(workspace, (), Console())
    assert [path.name for path in workspace.cases.iterdir()] == ["incident-1"]


@pytest.mark.parametrize(
    ("roots", "seconds", "problem"),
    [
        ([("ray-replicas-9", "cpu-stress")], None, "--root: unknown service 'ray-replicas-9'"),
        ([("ray-head", "cpu-stres")], None, "--kind: unknown kind 'cpu-stres'; did you mean 'cpu-stress'?"),
        ([("ray-head", "cpu-stress")], 500, r"--at: .* is not between 2026-01-02 03:04:05 UTC and"),
    ],
)
def test_a_wrong_label_changes_nothing(
    roots: list[tuple[str, str]], seconds: int | None, problem: str, incident: Case, workspace: Workspace
) -> None:
    at = None if seconds is None else T0 + timedelta(seconds=seconds)
    with pytest.raises(ParamsError, match=problem):
        label(incident, roots, workspace.cases, at=at)
    assert validate_case(incident.path) == []
    assert not workspace.cases.exists()


def test_an_experiment_cannot_be_labelled(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="case-0001: is an experiment"):
        label(synthetic_case(tmp_path), [], tmp_path)


def test_the_command(incident: Case, workspace: Workspace) -> None:
    place = ["--workspace", str(workspace.root)]
    assert "--root or --none: give one of them" in rcarena_here("label", "incident-1", *place).output
    assert "--kind: is needed once for each --root" in rcarena_here("label", "incident-1", "--root", "a", *place).output
    said = rcarena_here("label", "incident-1", "--root", "ray-head", "--kind", "cpu-stress", *place)
    assert said.output.startswith("incident-1: cpu-stress on ray-head; ")
    again = rcarena_here("label", "incident-1", "--none", *place)
    assert again.output.startswith("incident-1: no root (1 earlier label kept); ")
