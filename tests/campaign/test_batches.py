"""Which cases share a pod."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from tasks.campaign.batches import batches
from tasks.campaign.plan import plan_campaign
from tasks.errors import ParamsError
from tasks.params import Params, load_params, validated
from tests.command import ROOT


def with_size(preset: str, size: int | None) -> Params:
    document: dict[str, Any] = yaml.safe_load((ROOT / preset).read_text())
    document["campaign"]["cases_per_pod"] = size
    return validated(document, preset)


def test_every_case_is_in_one_batch_in_the_order_of_the_plan() -> None:
    params = with_size("presets/simulated.yaml", 4)
    cases = [plan.case_id for plan in plan_campaign(params)]
    found = batches(params, cases)
    assert [case for batch in found for case in batch] == cases
    assert {len(batch) for batch in found[:-1]} == {4}


@pytest.mark.parametrize("preset", ["presets/simulated.yaml", "presets/fleet-100.yaml", "presets/fleet-1000.yaml"])
def test_a_pod_gets_about_two_minutes_of_work_and_at_least_a_case(preset: str) -> None:
    params = with_size(preset, None)
    from tasks.backends import find

    case_s = find(params.deploy.backend).case_s(params.deploy, params.campaign.windows.total_s)
    size = len(batches(params, [str(number) for number in range(1000)])[0])
    assert size == 1 or 60 < size * case_s <= 120


def test_cases_that_need_a_stack_are_in_no_batch_and_cannot_share_a_pod() -> None:
    assert batches(load_params(ROOT / "params.yaml"), ["case-0"]) == []
    assert with_size("params.yaml", 1).campaign.cases_per_pod == 1
    with pytest.raises(ParamsError, match=r"campaign\.cases_per_pod: must be 1 with the backend local, .* \(got 2\)"):
        with_size("params.yaml", 2)


def test_the_size_of_batches_changes_no_case() -> None:
    ids = [[plan.case_id for plan in plan_campaign(with_size("presets/simulated.yaml", size))] for size in (None, 7)]
    assert ids[0] == ids[1]
