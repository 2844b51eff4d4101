"""The campaigns of presets/: each is valid, and is what docs/params.md says of it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tasks.backends import find
from tasks.campaign.plan import CasePlan, plan_campaign
from tasks.commands.check import check_params
from tasks.params import Params, load_params
from tasks.rca.method import METHODS

ROOT = Path(__file__).parents[1]
PRESETS = sorted((ROOT / "presets").glob("*.yaml"))


def preset(name: str) -> Params:
    return load_params(ROOT / "presets" / f"{name}.yaml")


def plans_of(name: str) -> list[CasePlan]:
    return list(plan_campaign(preset(name)))


def roles(plan: CasePlan) -> Counter[str]:
    return Counter(injection.role for injection in plan.injections)


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_a_preset_is_valid_and_no_case_is_there_twice(path: Path) -> None:
    params = load_params(path)
    check_params(params, path.name)
    ids = [plan.case_id for plan in plan_campaign(params)]
    assert ids
    assert len(set(ids)) == len(ids)


def test_the_page_that_helps_to_choose_names_every_preset() -> None:
    page = (ROOT / "docs/params.md").read_text(encoding="utf-8")
    assert [path.stem for path in PRESETS if f"`presets/{path.name}`" not in page] == []


def test_quick_is_what_happens_without_a_choice() -> None:
    assert preset("quick") == load_params(ROOT / "params.yaml")


def test_paper_is_three_targets_by_four_kinds_by_ten_repetitions() -> None:
    with_faults = [plan.injections[0] for plan in plans_of("paper") if plan.injections]
    assert len(with_faults) == 3 * 4 * 10
    assert set(Counter((each.kind, each.target) for each in with_faults).values()) == {10}
    ours = {name for name in METHODS.all() if METHODS.origin(name).is_ours}
    assert set(preset("paper").score.methods) == {name for name in ours if not METHODS.get(name).beyond}


def test_hard_has_all_that_tells_a_method_from_luck() -> None:
    plans = plans_of("hard")
    counted = [roles(plan) for plan in plans]
    assert 60 <= len(plans) <= 70
    assert sum(each["root"] in (2, 3) for each in counted) >= 10
    assert any(each["root"] == 3 for each in counted)
    assert sum(each["victim"] > 0 for each in counted) >= 6
    assert sum(each["root"] > 0 and each["disturbance"] > 0 for each in counted) >= 8
    assert sum(plan.is_negative for plan in plans) >= 12
    base = preset("hard").load
    changed = [plan for plan in plans if plan.load != base]
    assert sum(plan.is_negative for plan in changed) >= 5
    assert sum(not plan.is_negative for plan in changed) >= 8
    assert {shape.kind for plan in changed for shape in plan.load.shapes} == {"surge", "drop", "ramp", "burst"}
    assert any(plan.load.long_prompts for plan in changed)


def test_hard_blames_every_role_and_every_local_kind() -> None:
    from tasks.inject.catalogue import list_fault_kinds

    roots = [each for plan in plans_of("hard") for each in plan.injections if each.role == "root"]
    services = preset("hard").deploy.roles()
    assert {services[each.target] for each in roots} == {"gateway", "head", "replica"}
    possible = {kind.name for kind in list_fault_kinds() if kind.runs_on("local") and kind.root_allowed}
    assert {each.kind for each in roots} == possible - {"service-restart"}  # benign: a disturbance there


def test_a_case_of_hard_takes_seventy_seconds_at_most() -> None:
    params = preset("hard")
    assert params.campaign.windows.total_s + find(params.deploy.backend).case_overhead_s <= 70


def test_hard_asks_every_method() -> None:
    assert set(preset("hard").score.methods) == {name for name in METHODS.all() if METHODS.origin(name).is_ours}


def test_soak_is_a_night() -> None:
    params = preset("soak")
    hours = len(plans_of("soak")) * params.campaign.windows.total_s / 3600
    assert 8 <= hours <= 16
