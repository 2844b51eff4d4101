from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tasks.deploy.local.params import LocalDeployParams
from tasks.inject import catalogue
from tasks.inject.catalogue import validate_inject_params, validate_overlaps
from tasks.injection import PlannedInjection
from tasks.params import Params, load_params

ROLES = LocalDeployParams(backend="local", replicas=3).roles()
ROOT = Path(__file__).resolve().parents[2]
KINDS = catalogue.fault_kind_names("local")
REPLICA = "ray-replicas-1"


def validate_injection(*arguments: Any) -> list[str]:
    return catalogue.validate_injection(*arguments, backend="local")


def params_with(**inject: Any) -> Params:
    document = load_params(ROOT / "params.yaml").model_dump(mode="json")
    return Params.model_validate(document | {"inject": {"faults": [], **inject}})


def fitting_target(kind: str) -> str:
    roles = catalogue.fault_kind(kind).roles_on("local")
    return REPLICA if ROLES[REPLICA] in roles else next(name for name, role in ROLES.items() if role in roles)


def test_a_probe_is_described_for_every_backend():
    for kind in catalogue.list_fault_kinds():
        if {"local", "kubernetes"} <= kind.executors.keys():
            assert kind.probe.startswith("local: "), kind.name
            assert "; cluster: " in kind.probe, kind.name


def test_every_file_registers_one_kind():
    files = {file.stem.replace("_", "-") for file in (ROOT / "tasks/inject/faults").glob("[a-z]*.py")}
    assert set(catalogue.fault_kind_names()) == files


@pytest.mark.parametrize("kind", KINDS)
def test_defaults_are_valid(kind: str):
    assert validate_injection(kind, fitting_target(kind), {}, ROLES, "inject.faults[0].target") == []


@pytest.mark.parametrize("kind", catalogue.fault_kind_names())
def test_each_kind_says_what_it_is(kind: str):
    assert catalogue.kind_problems(catalogue.fault_kind(kind)) == []


def test_kinds_that_telemetry_cannot_tell_apart_share_a_group():
    groups = {kind.name: kind.group for kind in catalogue.list_fault_kinds() if kind.group != kind.name}
    throttles = dict.fromkeys(("gpu-clock-lock", "gpu-power-limit"), "accelerator-throttle")
    assert groups == throttles | dict.fromkeys(("engine-kill", "node-loss", "pod-failure", "pod-kill"), "process-kill")
    assert set(groups.values()) <= set(catalogue.fault_kind_names())


def test_unknown_kind_suggests_the_closest():
    (problem,) = validate_injection("cpu-strss", REPLICA, {}, ROLES, "inject.faults[0].target")
    assert problem.startswith(
        "inject.faults[0].kind: unknown fault 'cpu-strss'; did you mean 'cpu-stress'? allowed: accelerator-throttle,"
    )


def test_unknown_service_is_named_with_its_key():
    (problem,) = validate_injection("cpu-stress", "ray-replicas-9", {}, ROLES, "inject.faults[0].targets[1]")
    assert problem.startswith("inject.faults[0].targets[1]: unknown service 'ray-replicas-9'; ")
    assert "allowed: nginx-proxy, ray-head, ray-replicas-0" in problem


def test_role_without_an_accelerator_is_refused():
    (problem,) = validate_injection("accelerator-throttle", "nginx-proxy", {}, ROLES, "x.target")
    assert problem == (
        "x.target: accelerator-throttle cannot act on 'nginx-proxy' (role gateway); "
        "allowed: ray-replicas-0, ray-replicas-1, ray-replicas-2"
    )


@pytest.mark.parametrize(
    ("kind", "parameters", "problem"),
    [
        ("cpu-stress", {"worker": 1}, "x.parameters.worker: unknown key; did you mean 'workers'? "),
        ("cpu-stress", {"workers": 0}, "x.parameters.workers: Input should be greater than or equal to 1 (got 0)"),
        ("cpu-stress", {"workers": "many"}, "x.parameters.workers: "),
        ("network-delay", {"delay_ms": -5}, "x.parameters.delay_ms: "),
        ("network-delay", {"delay_ms": 5, "jitter_ms": 9}, "x.parameters: jitter_ms (9) must not exceed delay_ms (5)"),
        ("accelerator-throttle", {"fraction": 1.5}, "x.parameters.fraction: "),
        ("process-freeze", {"hard": True}, "x.parameters: process-freeze takes no parameters (got 'hard')"),
    ],
)
def test_a_bad_parameter_gets_one_line(kind: str, parameters: dict[str, Any], problem: str):
    (found,) = validate_injection(kind, REPLICA, parameters, ROLES, "x.target")
    assert found.startswith(problem)
    assert "\n" not in found


values = st.one_of(st.integers(), st.floats(), st.text(max_size=8), st.booleans(), st.none(), st.lists(st.integers()))


@given(
    kind=st.one_of(st.sampled_from(KINDS), st.text(max_size=12)),
    target=st.one_of(st.sampled_from(sorted(ROLES)), st.text(max_size=12)),
    parameters=st.dictionaries(
        st.one_of(st.sampled_from(["workers", "size_mb", "delay_ms", "jitter_ms", "fraction"]), st.text(max_size=8)),
        values,
        max_size=3,
    ),
)
def test_validation_agrees_with_the_model_and_never_raises(kind: str, target: str, parameters: dict[str, Any]):
    problems = validate_injection(kind, target, parameters, ROLES, "x.target")
    assert all(problem.startswith("x.") for problem in problems)
    if problems:
        return
    resolved = catalogue.resolve_parameters(kind, parameters, "local")
    assert ROLES[target] in catalogue.fault_kind(kind).roles
    assert catalogue.resolve_parameters(kind, resolved.model_dump(mode="json"), "local") == resolved


@given(fraction=st.floats(allow_nan=True))
def test_a_throttle_always_leaves_some_and_takes_some(fraction: float):
    try:
        accepted = catalogue.resolve_parameters("accelerator-throttle", {"fraction": fraction}, "local")
    except ValidationError:
        return
    assert 0 < accepted.model_dump()["fraction"] < 1


def test_the_default_campaign_is_valid():
    assert validate_inject_params(load_params(ROOT / "params.yaml")) == []


def test_every_problem_of_a_campaign_is_listed_once():
    params = params_with(
        faults=[
            {"kind": "cpu-stres", "targets": ["ray-head", "ray-replicas-0"]},
            {"kind": "cpu-stress", "targets": ["ray-head", "nobody"], "parameters": {"workers": 0}},
        ]
    )
    problems = validate_inject_params(params)
    keys = [problem.split(": ")[0] for problem in problems]
    assert keys == ["inject.faults[0].kind", "inject.faults[1].parameters.workers", "inject.faults[1].targets[1]"]


def two(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    return validate_inject_params(params_with(concurrent=[{"injections": [first, second]}]))


def test_two_throttles_on_one_target_at_a_time_are_a_problem():
    throttle = {"kind": "accelerator-throttle", "target": REPLICA}
    (problem,) = two(throttle, throttle)
    assert problem.startswith("inject.concurrent[0].injections[1]: accelerator-throttle and accelerator-throttle")
    assert "CPU quota" in problem


def test_faults_apart_in_time_place_or_kind_are_no_problem():
    throttle = {"kind": "accelerator-throttle", "target": REPLICA}
    assert two(throttle, throttle | {"target": "ray-replicas-0"}) == []
    assert two(throttle | {"duration_s": 5}, throttle | {"offset_s": 5}) == []
    assert two(throttle, {"kind": "network-delay", "target": REPLICA}) == []
    assert len(two({"kind": "network-loss", "target": REPLICA}, {"kind": "network-delay", "target": REPLICA})) == 1


@given(start=st.floats(0, 50), length=st.floats(0.1, 50), gap=st.floats(0, 10))
def test_overlap_is_symmetric_and_touching_is_apart(start: float, length: float, gap: float):
    one, later, within = (
        PlannedInjection(kind="accelerator-throttle", target=REPLICA, offset_s=offset, duration_s=duration)
        for offset, duration in ((start, length), (start + length + gap, length), (start + length / 2, length / 2))
    )
    assert validate_overlaps({"a": one, "b": later}) == validate_overlaps({"b": later, "a": one}) == []
    assert len(validate_overlaps({"a": one, "c": within})) == len(validate_overlaps({"c": within, "a": one})) == 1


@pytest.mark.parametrize("kind", ["gpu-clock-lock", "gpu-power-limit", "gpu-contention", "gpu-memory", "node-loss"])
def test_a_kind_that_the_simulated_stack_cannot_have_is_a_problem_of_the_parameters(kind: str):
    document = load_params(ROOT / "presets" / "simulated.yaml").model_dump(mode="json")
    fault = {"kind": kind, "targets": ["ray-replicas-1"], "parameters": {"watts": 100} if "power" in kind else {}}
    inject = document["inject"] | {"faults": [fault], "concurrent": [], "scenarios": []}
    (problem,) = validate_inject_params(Params.model_validate(document | {"inject": inject}))
    assert problem.startswith(f"inject.faults[0].kind: {kind} needs a ")
    assert problem.endswith("with: h100-7b")
    gpus = document["deploy"] | {"calibration": "h100-7b"}
    assert validate_inject_params(Params.model_validate(document | {"inject": inject, "deploy": gpus})) == []


def test_a_lost_node_is_simulated_only():
    found = catalogue.validate_injection("node-loss", REPLICA, {}, ROLES, "x.target", backend="kubernetes")
    assert found[0].startswith("x.kind: the kubernetes backend has no node-loss; ")
