from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import tasks.campaign.collect
from tasks.backends.base import LiveStack, Say
from tasks.backends.local.backend import LocalBackend
from tasks.campaign.collect import (
    Collected,
    IncompleteError,
    Outcome,
    collect,
)
from tasks.campaign.errors import CampaignError
from tasks.campaign.plan import CasePlan, plan_campaign
from tasks.campaign.settle import bring_back, campaign_lock, set_aside
from tasks.case import is_finished, read_case
from tasks.console import Console
from tasks.deploy.errors import DeployError, StackNotRunningError
from tasks.params import Params, load_params
from tasks.workspace import Workspace
from tests.copies import copied
from tests.synthetic import synthetic_case

PARAMS_FILE = Path(__file__).parents[2] / "params.yaml"


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
    with campaign_lock(place), pytest.raises(CampaignError, match="another campaign runs"), campaign_lock(place):
        pass
    with campaign_lock(place):
        pass


def test_a_case_that_was_recorded_with_another_default_is_set_aside(params: Params, place: Workspace) -> None:
    """A default that a newer version changes does not change the id: what was recorded decides."""
    plans = plan_campaign(params)
    for plan in plans:
        case = synthetic_case(place.cases, plan.case_id)
        copied(case, case.record.model_copy(update={"parameters": dict(plan.parameters)}))
    old, older = plans[0].case_id, plans[1].case_id
    for case_id, section, changed in ((old, "load", {"rate": 4.0}), (older, "load", {"of_an_older_version": 1})):
        case = read_case(place.cases / case_id)
        recorded = case.record.parameters
        there = recorded | {section: recorded[section] | changed}
        copied(case, case.record.model_copy(update={"parameters": there}))
    set_aside(place, plans, Console())
    bring_back(place, plans, Console())
    assert {path.name for path in place.cases.iterdir()} == {plan.case_id for plan in plans} - {old}
    assert is_finished(place.superseded / f"{old}.1")


class PretendBackend(LocalBackend):
    """Counts; ``ups`` says of each attempt to bring the stack up whether it succeeds (then: always)."""

    def __init__(self, deploy: Any, workspace: Workspace, ups: list[bool]) -> None:
        super().__init__(deploy, workspace)
        self.ups = ups
        self.calls: list[str] = []
        self.running = False

    def up(self, say: Say) -> None:
        self.calls.append("up")
        self.running = self.ups.pop(0) if self.ups else True
        if not self.running:
            raise DeployError("no engine\nwhat to do: a second line")

    def down(self, *_: Any) -> bool:
        self.calls.append("down")
        self.running = False
        return True

    def is_up(self) -> bool:
        return self.running

    def renew_lease(self) -> None: ...

    def hold_lease(self, duration_s: int) -> None: ...

    def drop_lease(self) -> None: ...

    def live(self) -> LiveStack:
        raise StackNotRunningError("pretended")


Attempts = dict[str, list[Outcome]]


@pytest.fixture
def pretended(
    params: Params, place: Workspace, monkeypatch: pytest.MonkeyPatch
) -> tuple[PretendBackend, Attempts, list[str]]:
    """The backend; by case, how its attempts end (then: recorded); the cases in the order of the attempts."""
    backend, attempts, tried = PretendBackend(params.deploy, place, []), {}, []

    def run(plan: CasePlan, resolved: Path, workspace: Workspace, *_: Any) -> Outcome:
        tried.append(plan.case_id)
        planned = attempts.get(plan.case_id, [])
        outcome = planned.pop(0) if planned else "recorded"
        if outcome == "recorded":
            synthetic_case(workspace.cases, plan.case_id)
        return outcome

    monkeypatch.setattr(tasks.campaign.collect, "backend_of", lambda params, workspace: backend)
    monkeypatch.setattr(tasks.campaign.collect, "_run_in_process", run)
    return backend, attempts, tried


Pretended = tuple[PretendBackend, Attempts, list[str]]


def test_what_a_second_try_cannot_cure_is_not_tried_again_and_costs_no_stack(
    params: Params, place: Workspace, pretended: Pretended, capsys: pytest.CaptureFixture[str]
) -> None:
    backend, attempts, tried = pretended
    ids = [plan.case_id for plan in plan_campaign(params)]
    attempts |= {case_id: ["hopeless", "recorded"] for case_id in ids[:5]}
    with pytest.raises(IncompleteError) as caught:
        collect(params, place, Console())
    assert tried == ids
    assert backend.calls == ["up", "down"]
    assert caught.value.collected == Collected((), tuple(ids[5:]), tuple(ids[:5]), ())
    lines = str(caught.value).splitlines()
    assert lines[0] == "not every case is there: 4 recorded, 5 failed"
    assert lines[1].startswith("failed: ")
    assert lines[1].endswith(" and 2 more")
    assert max(map(len, lines)) < 300


def test_neither_one_case_nor_ten_stop_a_campaign(params: Params, place: Workspace, pretended: Pretended) -> None:
    backend, attempts, tried = pretended
    ids = [plan.case_id for plan in plan_campaign(params)]
    attempts |= {case_id: ["failed", "failed"] for case_id in ids[1:8]}
    with pytest.raises(IncompleteError) as caught:
        collect(params, place, Console())
    assert tried == [ids[0], *(case_id for case_id in ids[1:8] for _ in range(2)), ids[8]]
    assert backend.calls == ["up", *["down", "up"] * 7, "down"]
    assert caught.value.collected == Collected((), (ids[0], ids[8]), tuple(ids[1:8]), ())
    assert "not tried" not in str(caught.value)

    again = collect(params, place, Console())
    assert again == Collected((ids[0], ids[8]), tuple(ids[1:8]), (), ())


def test_a_case_that_fails_once_is_recorded_on_a_fresh_stack(
    params: Params, place: Workspace, pretended: Pretended
) -> None:
    backend, attempts, _tried = pretended
    ids = [plan.case_id for plan in plan_campaign(params)]
    attempts[ids[2]] = ["failed"]
    assert collect(params, place, Console()).recorded == tuple(ids)
    assert backend.calls == ["up", "down", "up", "down"]


def test_only_a_stack_that_cannot_be_brought_back_stops_a_campaign(
    params: Params, place: Workspace, pretended: Pretended
) -> None:
    backend, attempts, tried = pretended
    ids = [plan.case_id for plan in plan_campaign(params)]
    attempts[ids[2]] = ["failed"]
    backend.ups = [True, False, False]
    with pytest.raises(IncompleteError) as caught:
        collect(params, place, Console())
    assert tried == ids[:3]
    assert backend.calls == ["up", "down", "up", "down", "up", "down"]
    assert caught.value.collected == Collected((), tuple(ids[:2]), (ids[2],), tuple(ids[3:]))
    lines = str(caught.value).splitlines()
    assert lines[0] == "not every case is there: 2 recorded, 1 failed, 6 not tried"
    assert "the stack could not be brought back: no engine and 1 more" in lines
    assert max(map(len, lines)) < 300


def test_a_stack_that_comes_back_at_the_second_try_stops_nothing(
    params: Params, place: Workspace, pretended: Pretended
) -> None:
    backend, attempts, _tried = pretended
    ids = [plan.case_id for plan in plan_campaign(params)]
    attempts[ids[0]] = ["failed"]
    backend.ups = [True, False, True]
    assert collect(params, place, Console()).recorded == tuple(ids)


def test_a_stack_that_dies_between_cases_and_stays_down_leaves_the_next_untried(
    params: Params, place: Workspace, pretended: Pretended, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, _, tried = pretended
    ids = [plan.case_id for plan in plan_campaign(params)]
    backend.ups = [True, False, False]
    monkeypatch.setattr(backend, "is_up", lambda: len(tried) < 4)
    with pytest.raises(IncompleteError) as caught:
        collect(params, place, Console())
    assert caught.value.collected == Collected((), tuple(ids[:4]), (), tuple(ids[4:]))


def test_a_stack_that_never_comes_up_is_its_own_error(
    params: Params, place: Workspace, pretended: Pretended, capsys: pytest.CaptureFixture[str]
) -> None:
    backend, _attempts, tried = pretended
    backend.ups = [False]
    with pytest.raises(DeployError, match="no engine"):
        collect(params, place, Console())
    assert "no case was tried" in capsys.readouterr().out
    assert tried == []


def test_many_faults_in_many_cases_are_told_in_short_lines(
    place: Workspace, params: Params, pretended: Pretended
) -> None:
    _backend, attempts, _tried = pretended
    several = [{"kind": "cpu-stress", "target": f"ray-replicas-{i % 3}", "offset_s": i} for i in range(20)]
    spec = {"faults": [], "concurrent": [{"injections": several}]}
    document = params.model_dump(mode="json") | {"inject": spec}
    document["campaign"]["repetitions"] = 40
    many = Params.model_validate(document)
    attempts |= {plan.case_id: ["hopeless"] for plan in plan_campaign(many)}
    with pytest.raises(IncompleteError) as caught:
        collect(many, place, Console())
    assert max(map(len, str(caught.value).splitlines())) < 300


@pytest.mark.parametrize(
    ("case_id", "outcome"),
    [(None, "failed"), ("case-000000000000", "hopeless")],
    ids=["no stack runs", "an unknown case"],
)
def test_the_child_says_whether_another_try_may_help(
    params: Params, place: Workspace, case_id: str | None, outcome: Outcome
) -> None:
    """A real child: it finds no stack, or is asked for a case that the parameters do not have."""
    place.cases.mkdir(parents=True)
    resolved = place.root / "resolved.yaml"
    resolved.write_text(params.dump())
    plan = plan_campaign(params)[0]
    asked = CasePlan(case_id or plan.case_id, 1, 0, plan.load)
    assert tasks.campaign.collect._run_in_process(asked, resolved, place, Console()) == outcome
