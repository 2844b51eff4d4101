from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.campaign.plan import CasePlan, plan_campaign
from tasks.commands.check import check_params
from tasks.commands.options import planned_case
from tasks.deploy.kubernetes.params import KubernetesDeployParams
from tasks.deploy.local.params import LocalDeployParams
from tasks.errors import ParamsError
from tasks.inject.catalogue import list_fault_kinds
from tasks.injection import PlannedInjection
from tasks.params import Params, load_params
from tests.test_identity import turned

DEFAULT = Path(__file__).parents[2] / "params.yaml"


LOAD = load_params(DEFAULT).load


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


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("campaign", "repetitions", 1.0),
        ("campaign", "windows", {"warmup_s": 5.0, "baseline_s": 22.0, "fault_s": 22, "recovery_s": 8}),
        ("deploy", "replicas", 3.0),
        ("deploy", "start_timeout_s", 421),
        ("load", "rate", 3.0),
        ("load", "max_send_lag_ms", 50),
        ("load", "output_tokens", {"mean": 16.0, "max": 128}),
        ("export", "step_s", 1.0),
        ("score", "timeout_s", 7),
        ("inject", "concurrent", ()),
    ],
)
def test_neither_the_type_of_a_number_nor_what_shapes_no_telemetry_changes_a_case(
    section: str, key: str, value: Any
) -> None:
    assert ids(params(**{section: {key: value}})) == ids(params())


def cluster(**changes: Any) -> Params:
    document = yaml.safe_load(DEFAULT.read_text())
    document["deploy"] = {"backend": "kubernetes", "replicas": 3, "scrape_interval_s": 2, **changes}
    return Params.model_validate(document)


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"start_timeout_s": 60}, True),
        ({"images": {"pull_policy": "Always", "tasks": "mine/tasks:2", "gpu_agent": "mine/agent:2"}}, True),
        ({"model_token": None}, True),
        ({"storage": {"size_gb": 5, "class_name": "fast"}}, True),
        ({"endpoints": {"gateway": "http://10.0.0.1:80"}}, True),
        ({"namespace": "elsewhere"}, True),
        ({"telemetry": {"otlp_endpoint": "http://collector:4317"}}, True),
        ({"parallelism": {"tensor": 1.0}, "engine_arguments": {}}, True),
        ({"images": {"serve": "mine/ray:1"}}, False),
        ({"engine_arguments": {"max_num_seqs": 8}}, False),
        ({"telemetry": {"istio": False}}, False),
        ({"resources": {"head": {"cpu_cores": 3, "memory_gb": 16}}}, False),
        ({"parallelism": {"tensor": 2}}, False),
    ],
)
def test_of_a_cluster_only_what_shapes_telemetry_counts(change: dict[str, Any], same: bool) -> None:
    before, after = ids(cluster()), ids(cluster(**change))
    assert before == after if same else not before & after


def test_what_engines_are_told_has_no_type_of_numbers_and_no_order() -> None:
    one = cluster(engine_arguments={"a": 1, "b": [2.0, {"c": 0}]})
    assert ids(one) == ids(cluster(engine_arguments={"b": [2, {"c": -0.0}], "a": 1.0}))
    assert not ids(one) & ids(cluster(engine_arguments={"a": True, "b": [2.0, {"c": 0}]}))


def every_kind(backend: str) -> Params:
    """Every kind alone, in pairs at once and one after the other, and every key of ``inject``."""
    document = yaml.safe_load(DEFAULT.read_text())
    stack: LocalDeployParams | KubernetesDeployParams = LocalDeployParams(backend="local", replicas=3)
    if backend == "kubernetes":
        stack = KubernetesDeployParams(backend="kubernetes", replicas=3, scrape_interval_s=2)
    roles = stack.roles()
    fitting = {
        each.name: [service for service, role in roles.items() if role in each.roles_on(backend)]
        for each in list_fault_kinds()
        if backend in each.backends and each.root_allowed
    }
    first, *rest = fitting
    pairs = [
        [
            {"kind": first, "target": fitting[first][-1]},
            {"kind": kind, "target": fitting[kind][-2:][0], "offset_s": offset, **duration},
        ]
        for kind in rest
        for offset, duration in ((0, {}), (7, {}), (2.5, {"duration_s": 10}), (1e-7, {"duration_s": 3.0}))
    ]
    document["deploy"] = stack.model_dump(mode="json")
    document["inject"] = {
        "faults": [{"kind": kind, "targets": targets} for kind, targets in fitting.items()],
        "concurrent": [{"injections": pair} for pair in pairs],
        "scenarios": [
            {"name": "surge", "repetitions": 2, "load": {"rate": 9, "prompt_tokens": {"mean": 30.0}}},
            {"name": "cascade", "injections": [pairs[0][0], {**pairs[1][1], "role": "victim"}]},
        ],
    }
    return Params.model_validate(document)


@pytest.mark.parametrize("backend", ["local", "kubernetes"])
def test_every_planned_case_is_found_again_in_the_resolved_parameters(tmp_path: Path, backend: str) -> None:
    """As the child of `collect` and the pods look for it: in a file with every default spelled out."""
    asked = every_kind(backend)
    plans = plan_campaign(asked)
    assert len({plan.case_id for plan in plans}) == len(plans)
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(asked.dump())
    again = load_params(resolved)
    check_params(again, "resolved.yaml")
    assert again == asked
    assert again.dump() == asked.dump()
    found = {plan.case_id: plan for plan in plan_campaign(again)}
    for plan in plans:
        assert repr(found[plan.case_id]) == repr(plan)
        assert found[plan.case_id].parameters == plan.parameters
    assert planned_case(again, plans[0].case_id) == plans[0]
    other = Params.model_validate(turned(yaml.safe_load(resolved.read_text())))
    assert ids(other) == {plan.case_id for plan in plans}


def test_a_label_names_the_faults_and_the_short_one_not_all_of_many() -> None:
    one, two, three = (PlannedInjection(kind=kind, target="ray-head", duration_s=1) for kind in ("a", "b", "c"))
    assert CasePlan("case-0", 1, 0, LOAD).label == CasePlan("case-0", 1, 0, LOAD).short_label == "fault-free"
    pair = CasePlan("case-0", 2, 0, LOAD, (one, two))
    assert pair.label == pair.short_label == "a → ray-head + b → ray-head #2"
    several = CasePlan("case-0", 3, 0, LOAD, (one, two, three))
    assert several.label == "a → ray-head + b → ray-head + c → ray-head #3"
    assert several.short_label == "a → ray-head + 2 more #3"
    surge = CasePlan("case-0", 2, 0, LOAD, scenario="surge")
    assert (surge.label, surge.is_negative) == ("surge: fault-free #2", True)


def test_a_role_changes_a_case_only_if_it_is_not_the_default() -> None:
    def planned(**role: str) -> set[str]:
        late = {**PAIR[1], "offset_s": 1, **role}
        return ids(params(inject={"faults": [], "concurrent": [{"injections": [PAIR[0], late]}]}))

    assert planned() == planned(role="root")
    assert len(planned() | planned(role="victim") | planned(role="disturbance")) == 4


PAIR = [{"kind": "cpu-stress", "target": "ray-head"}, {"kind": "network-delay", "target": "ray-replicas-1"}]


def with_scenarios(*scenarios: dict[str, Any]) -> Params:
    return params(campaign={"fault_free_cases": 0}, inject={"faults": [], "scenarios": list(scenarios)})


def test_a_scenario_is_a_case_with_a_load_and_injections_of_its_own() -> None:
    roles = [{**PAIR[0], "role": "disturbance"}, {**PAIR[1], "offset_s": 3}]
    scenario = {"name": "noisy", "load": {"rate": 5, "output_tokens": {"mean": 24}}, "injections": roles}
    (plan,) = plan_campaign(with_scenarios(scenario))
    assert plan.label == "noisy: cpu-stress → ray-head (disturbance) + network-delay → ray-replicas-1"
    assert (plan.load.rate, plan.load.output_tokens.mean, plan.load.output_tokens.max) == (5, 24, 128)
    assert plan.load.prompt_tokens == LOAD.prompt_tokens
    assert plan.parameters["load"]["rate"] == 5
    assert not plan.is_negative


@pytest.mark.parametrize("injections", [[], [{**each, "role": "disturbance"} for each in PAIR]])
def test_a_scenario_without_a_root_is_a_negative(injections: list[dict[str, Any]]) -> None:
    (plan,) = plan_campaign(with_scenarios({"name": "quiet", "injections": injections}))
    assert plan.is_negative


def test_a_case_depends_on_its_own_load_and_not_on_the_name_of_its_scenario() -> None:
    def planned(**changes: Any) -> set[str]:
        return ids(with_scenarios({"name": "one", "injections": PAIR, **changes}))

    assert planned() == planned(name="two") == planned(load={"rate": 3.0}) == planned(load={"max_send_lag_ms": 7})
    assert planned() == ids(
        params(campaign={"fault_free_cases": 0}, inject={"faults": [], "concurrent": [{"injections": PAIR}]})
    )
    assert not planned() & planned(load={"rate": 4})


def test_scenarios_alike_are_repetitions_and_each_load_counts_its_own() -> None:
    plans = plan_campaign(
        with_scenarios(
            {"name": "a", "repetitions": 2, "injections": PAIR},
            {"name": "b", "injections": PAIR},
            {"name": "c", "injections": PAIR, "load": {"rate": 4}},
        )
    )
    numbered = sorted((plan.scenario or "", plan.repetition) for plan in plans)
    assert numbered == [("a", 1), ("a", 2), ("b", 3), ("c", 1)]
    assert len({plan.case_id for plan in plans}) == len({plan.seed for plan in plans}) == 4


def test_scenarios_leave_the_other_cases_as_they_are() -> None:
    document = yaml.safe_load(DEFAULT.read_text())
    document["inject"]["scenarios"] = [{"name": "surge", "load": {"rate": 9}}]
    assert ids(params()) < ids(Params.model_validate(document))


def test_a_ladder_is_a_case_per_target_and_step() -> None:
    fault = {"kind": "network-delay", "targets": ["ray-head", "ray-replicas-0"], "parameters": {"jitter_ms": 0}}
    laddered = {**fault, "ladder": {"delay_ms": [10, 100, 300]}}
    plans = plan_campaign(params(campaign={"fault_free_cases": 0, "repetitions": 2}, inject={"faults": [laddered]}))
    assert len({plan.case_id for plan in plans}) == len(plans) == 12
    steps = {(i.target, i.parameters["delay_ms"], i.parameters["jitter_ms"]) for p in plans for i in p.injections}
    assert steps == {(target, delay, 0) for target in fault["targets"] for delay in (10, 100, 300)}
    one = params(
        campaign={"fault_free_cases": 0},
        inject={"faults": [{**fault, "parameters": {"delay_ms": 100, "jitter_ms": 0}}]},
    )
    assert ids(one) < {plan.case_id for plan in plans}


def test_parameters_of_a_ladder_change_in_step() -> None:
    fault = {"kind": "network-delay", "targets": ["ray-head"], "ladder": {"delay_ms": [10, 300], "jitter_ms": [1, 50]}}
    plans = plan_campaign(params(campaign={"fault_free_cases": 0}, inject={"faults": [fault]}))
    asked = sorted((i.parameters["delay_ms"], i.parameters["jitter_ms"]) for p in plans for i in p.injections)
    assert asked == [(10, 1), (300, 50)]


def test_two_faults_at_once_need_no_float() -> None:
    """`offset_s: 0` in the file, 0.0 in the resolved copy: one case."""
    pair = [{"kind": "cpu-stress", "target": "ray-replicas-0"}, {"kind": "network-delay", "target": "ray-replicas-1"}]
    spelled = [{**pair[0], "offset_s": 0}, {**pair[1], "offset_s": 0.0, "duration_s": 22, "parameters": {}}]

    def planned(injections: list[dict[str, Any]]) -> CasePlan:
        (case,) = plan_campaign(
            params(campaign={"fault_free_cases": 0}, inject={"faults": [], "concurrent": [{"injections": injections}]})
        )
        return case

    assert repr(planned(pair)) == repr(planned(spelled))
    assert planned(pair).case_id != planned([pair[0], {**pair[1], "offset_s": 1}]).case_id


def test_a_parameter_that_is_added_to_a_fault_changes_no_case(monkeypatch: pytest.MonkeyPatch) -> None:
    from pydantic import create_model

    from tasks.inject import catalogue

    before = ids(params())
    cpu_stress = catalogue.fault_kind("cpu-stress")
    newer = create_model("Newer", __base__=cpu_stress.parameters, governor=(str, "performance"))
    monkeypatch.setitem(
        catalogue.FAULT_KINDS.registered, "cpu-stress", dataclasses.replace(cpu_stress, parameters=newer)
    )
    assert any("governor" in each.parameters for plan in plan_campaign(params()) for each in plan.injections)
    assert ids(params()) == before


def test_a_section_that_gets_a_parameter_keeps_its_cases() -> None:
    from pydantic import create_model

    from tasks.params import LoadParams

    newer_load = create_model("NewerLoad", __base__=LoadParams, think_time_s=(float, 0))
    newer = create_model("NewerParams", __base__=Params, load=(newer_load, ...))
    document = yaml.safe_load(DEFAULT.read_text())
    assert ids(newer.model_validate(document)) == ids(params())
    document["load"]["think_time_s"] = 1
    assert not ids(newer.model_validate(document)) & ids(params())


def test_an_unknown_case_is_told_in_a_short_line() -> None:
    many = params(campaign={"repetitions": 50})
    wanted = plan_campaign(many)[0].case_id
    with pytest.raises(ParamsError) as caught:
        planned_case(many, wanted[:-1] + ("0" if wanted[-1] != "0" else "1"))
    (problem,) = caught.value.problems
    assert f"did you mean '{wanted}'? " in problem
    assert "lists the 401 there are" in problem
    assert len(problem) < 150


def test_planning_needs_nothing_but_pydantic_and_yaml() -> None:
    heavy = "{'pandas', 'numpy', 'pyarrow', 'scipy', 'torch', 'ray', 'kubernetes', 'aiohttp'}"
    code = (
        "import sys; from pathlib import Path; from tasks.params import load_params; "
        "from tasks.campaign.plan import plan_campaign; "
        f"plan_campaign(load_params(Path({str(DEFAULT)!r}))); print(sorted({heavy} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=DEFAULT.parent)
    assert done.stdout.strip() == "[]"


OLD_IDS = {
    "memory-stress → ray-replicas-1": "case-05b6cd9a375e",
    "network-delay → ray-head": "case-9864dd11b7e7",
    "accelerator-throttle → ray-replicas-1": "case-90363ec4bc81",
    "memory-stress → ray-head": "case-1a31fd435848",
    "accelerator-throttle → ray-replicas-2": "case-1c5793d2589c",
    "cpu-stress → nginx-proxy": "case-73730c5d163f",
    "network-delay → ray-replicas-0": "case-cbd30e13be99",
    "fault-free": "case-4b4a753d27d7",
    "cpu-stress → ray-replicas-0": "case-ca7a4f0326ec",
}
OLD_IDS_OF_MORE = {
    "local": ["case-4b4a753d27d7", "case-77dd7fae6817", "case-cd01b28219e8"],
    "kubernetes": ["case-3118325b6453", "case-909ae3d5607d", "case-ce8a02113082"],
}
"""As commit 82ada8b had them, of the parameters below."""


def test_the_cases_of_an_earlier_version_keep_their_ids() -> None:
    assert {plan.label: plan.case_id for plan in plan_campaign(params())} == OLD_IDS
    both = [
        {"kind": "cpu-stress", "target": "ray-replicas-0", "parameters": {"workers": 3}},
        {"kind": "network-delay", "target": "ray-head", "offset_s": 10, "duration_s": 5},
    ]
    alone = {"kind": "network-loss", "targets": ["ray-head"], "parameters": {"loss_percent": 30}}
    inject = {"faults": [alone], "concurrent": [{"injections": both}]}
    assert sorted(ids(params(inject=inject))) == OLD_IDS_OF_MORE["local"]
    document = cluster().model_dump(mode="json") | {"inject": inject}
    assert sorted(ids(Params.model_validate(document))) == OLD_IDS_OF_MORE["kubernetes"]
