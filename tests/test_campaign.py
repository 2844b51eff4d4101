from __future__ import annotations

from pathlib import Path

import pytest

from tasks.campaign import CampaignError, bring_back, collect, exclusive, set_aside
from tasks.case import is_finished
from tasks.console import Console
from tasks.params import Params, load_params
from tasks.plan import plan_campaign
from tasks.workspace import Workspace
from tests.synthetic import synthetic_case

PARAMS_FILE = Path(__file__).parents[1] / "params.yaml"


@pytest.fixture
def params() -> Params:
    return load_params(PARAMS_FILE)


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "workspace")


def record_all(params: Params, place: Workspace) -> None:
    for plan in plan_campaign(params):
        synthetic_case(place.cases, plan.case_id)


def test_a_campaign_whose_cases_are_all_finished_needs_no_stack(params: Params, place: Workspace) -> None:
    record_all(params, place)
    collected = collect(params, place, Console())
    assert len(collected.kept) == 9
    assert collected.recorded == ()
    assert load_params(place.root / "params.resolved.yaml") == params


def test_cases_that_are_not_asked_for_are_set_aside_and_kept(params: Params, place: Workspace) -> None:
    record_all(params, place)
    synthetic_case(place.cases, "case-of-yesterday")
    for _ in range(2):
        set_aside(place, plan_campaign(params), Console())
    assert not (place.cases / "case-of-yesterday").exists()
    assert is_finished(place.superseded / "case-of-yesterday.1")
    assert len(list(place.cases.iterdir())) == 9


def test_a_damaged_case_is_set_aside_so_that_it_is_recorded_again(params: Params, place: Workspace) -> None:
    record_all(params, place)
    damaged = plan_campaign(params)[0].case_id
    (place.cases / damaged / "metrics.parquet").write_bytes(b"torn")
    set_aside(place, plan_campaign(params), Console())
    assert not (place.cases / damaged).exists()
    assert (place.superseded / f"{damaged}.1").exists()


def test_a_case_that_is_asked_for_again_is_brought_back(params: Params, place: Workspace) -> None:
    record_all(params, place)
    plans = plan_campaign(params)
    set_aside(place, plans[:1], Console())
    assert len(list(place.cases.iterdir())) == 1
    damaged = place.superseded / f"{plans[1].case_id}.1"
    (damaged / "metrics.parquet").write_bytes(b"torn")
    bring_back(place, plans, Console())
    assert len(list(place.cases.iterdir())) == 8
    assert damaged.exists()


def test_what_a_killed_writer_left_is_removed(params: Params, place: Workspace) -> None:
    (place.cases / ".case-1.partial").mkdir(parents=True)
    set_aside(place, plan_campaign(params), Console())
    assert list(place.cases.iterdir()) == []


def test_two_campaigns_do_not_share_a_workspace(place: Workspace) -> None:
    with exclusive(place), pytest.raises(CampaignError, match="another campaign runs"), exclusive(place):
        pass
    with exclusive(place):
        pass
