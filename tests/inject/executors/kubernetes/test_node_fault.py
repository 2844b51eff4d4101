"""Faults by the node's agent: what is asked of it, what it answers, and that its node is as before in the end."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import jsonschema
import pytest

from tasks.inject import catalogue
from tasks.inject.errors import FaultError
from tasks.inject.executors.kubernetes import gpu_probes, node_fault_resource
from tasks.inject.executors.kubernetes.node_fault import NodeFaultExecutor
from tasks.inject.recover import stack_residue, sweep
from tasks.kube.node_fault import API_VERSION, FINALIZER, KIND
from tests.command import ROOT
from tests.inject.gpu_stack import GPU, NODE, GpuStack, gpu_stack

SCHEMA = json.loads((ROOT / "tests/kubernetes/schemas/nodefault.json").read_text())
NAME = "fault-case-3-0-"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GpuStack]:
    figures: dict[str, float] = {}
    with gpu_stack(tmp_path_factory.mktemp("gpu"), lambda: figures) as running:
        figures.update(
            {
                "DCGM_FI_DEV_POWER_USAGE": 310.0,
                "DCGM_FI_DEV_SM_CLOCK": 1755.0,
                "ray_vllm_generation_tokens_total": 800.0,
            }
        )
        yield running


@pytest.fixture
def clean(stack: GpuStack) -> Iterator[GpuStack]:
    yield stack
    stack.cluster.behave()
    stack.agent.machine.set(fail=False, refuse_power=False)
    for each in faults(stack):
        stack.cluster.delete(API_VERSION, KIND, each["metadata"]["name"])
    stack.cluster.wait_for(lambda: not faults(stack) and stack.agent.machine.limit() == 350)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_fault_resource, "ACTIVE_TIMEOUT_S", 0.7)
    monkeypatch.setattr(node_fault_resource, "GONE_TIMEOUT_S", 0.7)
    monkeypatch.setattr(node_fault_resource, "LOOK_INTERVAL_S", 0.02)


def faults(stack: GpuStack) -> list[dict[str, Any]]:
    return stack.cluster.objects(API_VERSION, KIND)


def undo(fault: NodeFaultExecutor[Any]) -> Any:
    (step,) = fault.undo_steps()
    return step.undo(fault.target)


def left(fault: NodeFaultExecutor[Any]) -> list[str]:
    (step,) = fault.undo_steps()
    return step.left(fault.target)


def test_a_power_limit_is_set_read_back_and_restored(clean: GpuStack):
    fault = clean.fault("gpu-power-limit")
    executor = fault.apply(30.4)
    assert executor == ("node agent: 350 W -> 200 W; 150 W was clamped to 200 W: the GPU allows 200 to 400 W")
    assert clean.agent.machine.limit() == 200
    assert abs(fault.applied_at - datetime.now(UTC)) < timedelta(seconds=10)
    (document,) = faults(clean)
    assert document["metadata"]["name"].startswith(NAME)
    assert document["spec"] == {
        "action": "power-limit",
        "nodeName": NODE,
        "podUid": clean.runtime.service("ray-replicas-1").pods[0].uid,
        "podName": "ray-replicas-1-abc",
        "value": 150,
        "durationSeconds": 31,
    }
    jsonschema.validate({key: document[key] for key in ("apiVersion", "kind", "metadata", "spec", "status")}, SCHEMA)
    assert fault.alarm() is None
    assert len(left(fault)) == 1
    undone = undo(fault)
    assert clean.agent.machine.limit() == 350
    assert left(fault) == []
    assert undone.notes == ()
    assert fault.applied_at < undone.ended_at <= datetime.now(UTC)
    assert undo(fault) is None


@pytest.mark.parametrize(
    ("parameters", "limit"), [({"watts": 250}, 250), ({"fraction": 0.8}, 280), ({"watts": 390, "fraction": None}, 350)]
)
def test_watts_or_a_fraction_of_the_default(clean: GpuStack, parameters: dict[str, float], limit: float):
    fault = clean.fault("gpu-power-limit", **parameters)
    if limit == 350:
        with pytest.raises(FaultError, match="390 W would not lower its power limit, which is 350 W"):
            fault.apply(30)
    else:
        fault.apply(30)
    assert clean.agent.machine.limit() == limit


@pytest.mark.parametrize(
    ("kind", "parameters", "problem"),
    [
        ("gpu-power-limit", {"watts": 100, "fraction": 0.5}, "give either watts or fraction"),
        ("gpu-power-limit", {"watts": None}, "give either watts or fraction"),
        ("gpu-power-limit", {"watts": -1}, "watts: Input should be greater than 0"),
        ("gpu-clock-lock", {"mhz": 900, "fraction": 0.5}, "give either mhz or fraction"),
        ("gpu-clock-lock", {"Mhz": 900}, "unknown key; did you mean 'mhz'?"),
    ],
)
def test_bad_parameters_are_one_line(kind: str, parameters: dict[str, Any], problem: str):
    (found,) = catalogue.validate_injection(
        kind, "ray-replicas-1", parameters, {"ray-replicas-1": "replica"}, "x.target", backend="kubernetes"
    )
    assert found.startswith("x.parameters")
    assert problem in found


def test_clocks(clean: GpuStack):
    fault = clean.fault("gpu-clock-lock", mhz=900)
    assert fault.apply(30) == "node agent: SM clock at most 900 of 1980 MHz"
    assert clean.agent.machine.state["gpus"][GPU]["locked"] == [210, 900]
    undo(fault)
    assert clean.agent.machine.state["gpus"][GPU]["locked"] is None


def test_applying_twice_is_applying_once(clean: GpuStack):
    fault = clean.fault("gpu-power-limit")
    fault.apply(30)
    clean.fault("gpu-power-limit").apply(30)
    assert len(faults(clean)) == 1


def test_another_fault_under_the_same_name_is_refused(clean: GpuStack):
    clean.fault("gpu-power-limit").apply(30)
    with pytest.raises(FaultError, match="exists with another spec; run `rcarena inject --recover`"):
        clean.fault("gpu-power-limit", watts=250).apply(30)


def test_a_lost_answer_does_no_harm(clean: GpuStack):
    clean.cluster.misbehave(method="POST", path="nodefaults", reset=True, after=True)
    clean.fault("gpu-power-limit").apply(30)
    assert clean.agent.machine.limit() == 200


def test_a_refusal_of_the_gpu_is_the_reason(clean: GpuStack):
    clean.agent.machine.set(refuse_power=True)
    fault = clean.fault("gpu-power-limit")
    with pytest.raises(FaultError, match=r"not supported in current scope .* use a clock lock"):
        fault.apply(30)
    undo(fault)
    assert faults(clean) == []


@pytest.mark.usefixtures("impatient")
def test_an_agent_that_does_not_answer_is_named(clean: GpuStack):
    fault = clean.fault("gpu-power-limit")
    clean.cluster.misbehave(method="PATCH", path="nodefaults", status=403, times=10_000)
    with pytest.raises(FaultError, match=r"the agent of node gpu-0 has not answered within 0\.7 s"):
        fault.apply(30)


@pytest.mark.usefixtures("impatient")
def test_a_node_that_cannot_be_restored_keeps_the_fault_open(clean: GpuStack):
    fault = clean.fault("gpu-power-limit")
    fault.apply(30)
    clean.agent.machine.set(fail=True)
    with pytest.raises(FaultError, match=r"the agent of node gpu-0 does not let go of .*: not restored yet"):
        undo(fault)
    assert len(left(fault)) == 1
    clean.agent.machine.set(fail=False)
    clean.cluster.wait_for(lambda: not faults(clean))
    assert left(fault) == []
    assert clean.agent.machine.limit() == 350


def test_a_node_that_left_the_cluster_is_let_go_and_said(clean: GpuStack):
    target = clean.target()
    document = node_fault_resource.NodeFaults(target, "fault-gone").document(
        "gone", 0, clean_spec(clean, node="gpu-9").document()
    )
    document["metadata"]["finalizers"] = [FINALIZER]
    clean.cluster.put(document)
    undone = node_fault_resource.NodeFaults(target, "fault-gone").remove()
    assert undone is not None
    assert undone.notes == ("node gpu-9 has left the cluster: its agent restores it when it starts there again",)


def clean_spec(stack: GpuStack, node: str) -> Any:
    from tasks.kube.node_fault import NodeFaultSpec

    return NodeFaultSpec(
        action="power-limit", node_name=node, pod_uid="x", pod_name="y", value=150, duration_seconds=30
    )


def test_an_end_on_the_node_is_an_alarm(clean: GpuStack):
    fault = clean.fault("gpu-power-limit")
    fault.apply(1)
    clean.cluster.wait_for(lambda: clean.agent.machine.limit() == 350)
    clean.cluster.wait_for(lambda: fault.alarm() is not None)
    assert "the node's agent has ended the fault: 350 W -> 200 W" in fault.alarm()


def test_the_sweep_finds_and_undoes_what_no_journal_knows(clean: GpuStack):
    clean.fault("gpu-power-limit").apply(30)
    (line,) = stack_residue(clean.runtime)
    assert line.startswith("ray-replicas-1: NodeFault fault-case-3-0-")
    done, failures = sweep(clean.runtime)
    assert (len(done), failures) == (1, [])
    assert stack_residue(clean.runtime) == []
    assert clean.agent.machine.limit() == 350


def test_what_somebody_else_changed_is_in_the_record(clean: GpuStack):
    fault = clean.fault("gpu-power-limit", watts=250)
    fault.apply(30)
    clean.agent.machine.change_gpu(limit=300.0)
    undone = undo(fault)
    clean.agent.machine.change_gpu(limit=350.0)
    (note,) = undone.notes
    assert "the power limit is 300 W, neither what the fault set (250 W) nor what was before (350 W)" in note


@pytest.mark.parametrize(
    ("kind", "selector", "figure"),
    [
        ("gpu-power-limit", f'DCGM_FI_DEV_POWER_USAGE{{UUID=~"{GPU}"}}[150s]', 310),
        ("gpu-clock-lock", f'DCGM_FI_DEV_SM_CLOCK{{UUID=~"{GPU}"}}[150s]', 1755),
        (
            "engine-kill",
            '{__name__=~"ray_vllm_generation_tokens_total|vllm:generation_tokens_total",namespace="rcarena",'
            'pod=~"ray-replicas-1-abc"}[150s]',
            800,
        ),
    ],
)
def test_probes_read_the_series_of_the_target(clean: GpuStack, kind: str, selector: str, figure: float):
    fault = clean.fault(kind)
    probe = fault.probe()
    values = [sample.value for sample in probe.tick()]
    assert clean.prometheus.queries[-1] == selector
    assert statistics.fmean(values) == pytest.approx(figure)
    assert fault.shows_effect(figure, 0.05 * figure)
    assert not fault.shows_effect(figure, 0.95 * figure)


def test_a_pod_without_a_known_gpu_is_a_clear_error(clean: GpuStack):
    with pytest.raises(FaultError, match="no GPU of nginx-proxy-abc is known: the agents of gpu-0 see none of them"):
        gpu_probes.power_draw(clean.target("nginx-proxy"))
