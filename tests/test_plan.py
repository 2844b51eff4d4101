from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from tasks.params import Params
from tasks.plan import plan_campaign

DEFAULT = Path(__file__).parents[1] / "params.yaml"


def params(**changes: dict[str, Any]) -> Params:
    document = yaml.safe_load(DEFAULT.read_text())
    for section, values in changes.items():
        document[section].update(values)
    return Params.model_validate(document)


def ids(parameters: Params) -> set[str]:
    return {plan.case_id for plan in plan_campaign(parameters)}


def test_the_default_campaign_is_four_kinds_on_two_targets_and_one_fault_free_case() -> None:
    plans = plan_campaign(params())
    labels = [plan.label for plan in plans]
    assert len(plans) == 9
    assert labels.count("fault-free") == 1
    assert len({plan.injections[0].kind for plan in plans if plan.injections}) == 4


def test_the_plan_is_a_pure_function_of_the_parameters() -> None:
    assert plan_campaign(params()) == plan_campaign(params())


def test_an_identifier_tells_nothing_about_the_fault() -> None:
    for plan in plan_campaign(params()):
        assert plan.case_id.startswith("case-")
        assert not any(part in plan.case_id for injection in plan.injections for part in injection.kind.split("-"))


def test_scoring_and_reporting_do_not_change_the_cases() -> None:
    assert ids(params()) == ids(params(score={"seed": 7}, report={"title": "other"}))


def test_what_shapes_the_telemetry_changes_every_case() -> None:
    assert not ids(params()) & ids(params(load={"rate": 4}))
    assert not ids(params()) & ids(params(campaign={"seed": 7}))


def test_changing_one_fault_keeps_the_other_cases() -> None:
    document = yaml.safe_load(DEFAULT.read_text())
    document["inject"]["faults"][0]["parameters"] = {"workers": 3}
    kept = ids(params()) & ids(Params.model_validate(document))
    assert len(kept) == 7


def test_a_default_spelled_out_is_the_same_case() -> None:
    document = yaml.safe_load(DEFAULT.read_text())
    document["inject"]["faults"][0]["parameters"]["load_percent"] = 100
    assert ids(Params.model_validate(document)) == ids(params())


def test_repetitions_are_distinct_cases_and_keep_the_first_ones() -> None:
    once, twice = plan_campaign(params()), plan_campaign(params(campaign={"repetitions": 2}))
    assert {plan.case_id for plan in once} < {plan.case_id for plan in twice}
    assert len({plan.case_id for plan in twice}) == len(twice) == 17
    assert len({plan.seed for plan in twice}) == 17


def test_a_concurrent_case_has_all_its_injections() -> None:
    both = [
        {"kind": "cpu-stress", "target": "ray-replicas-0"},
        {"kind": "network-delay", "target": "ray-head", "offset_s": 10, "duration_s": 5},
    ]
    plans = plan_campaign(params(inject={"faults": [], "concurrent": [{"injections": both}]}))
    concurrent = next(plan for plan in plans if plan.injections)
    assert [(i.offset_s, i.duration_s) for i in concurrent.injections] == [(0, 22), (10, 5)]


def test_planning_needs_nothing_but_pydantic_and_yaml() -> None:
    heavy = "{'pandas', 'numpy', 'pyarrow', 'scipy', 'torch', 'ray', 'kubernetes', 'aiohttp'}"
    code = (
        "import sys; from pathlib import Path; from tasks.params import load_params; "
        "from tasks.plan import plan_campaign; "
        f"plan_campaign(load_params(Path({str(DEFAULT)!r}))); print(sorted({heavy} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=DEFAULT.parent)
    assert done.stdout.strip() == "[]"
