"""What an emulated cluster shows of actions: a restart is a new pod, and the rest is refused with its reason."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.actions.act import act, undo_action
from tasks.actions.errors import ActionError, ActionRefusedError
from tasks.deploy.kubernetes.names import EJECTED_MAP, SERVE_LABEL
from tasks.inject.executors.kubernetes.injected import INJECTION_LABEL
from tasks.inject.journal import journal_path
from tasks.inject.recover import recover, recover_fully, residue
from tasks.kube.client import Cluster
from tasks.kube.gpu_map import read_gpu_maps
from tasks.kube.node_fault import API_VERSION, KIND
from tasks.workspace import Workspace
from tests.inject.cluster_stack import ClusterStack, cluster_stack
from tests.inject.gpu_stack import GPU, OTHER_GPU, GpuStack, gpu_stack
from tests.inject.gpu_stack import REPLICA as GPU_REPLICA
from tests.waiting import until

REPLICA = "ray-replicas-0"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterStack]:
    with cluster_stack(tmp_path_factory.mktemp("actions")) as running:
        yield running


def test_a_restart_is_a_new_pod_once(stack: ClusterStack):
    before = stack.pod()["metadata"]["uid"]
    act(stack.runtime, stack.workspace, "restart", REPLICA, "case-1")

    def is_new() -> bool:
        pods = stack.target().pods()
        return bool(pods) and pods[0]["metadata"]["uid"] != before

    until(is_new, "no new pod")
    after = stack.target().pods()[0]["metadata"]["uid"]
    assert act(stack.runtime, stack.workspace, "restart", REPLICA, "case-1").state == "recovered"
    assert stack.target().pods()[0]["metadata"]["uid"] == after
    assert residue(stack.workspace) == []


def test_a_head_is_not_restarted(stack: ClusterStack):
    with pytest.raises(ActionRefusedError, match=r"restart cannot act on 'ray-head' \(role head\)"):
        act(stack.runtime, stack.workspace, "restart", "ray-head", "case-1")


def test_a_reschedule_needs_the_right_to_change_nodes(stack: ClusterStack):
    with pytest.raises(ActionRefusedError, match="to cordon a node needs the right to change nodes"):
        act(stack.runtime, stack.workspace, "reschedule", REPLICA, "no right")


def test_a_rescheduled_service_comes_up_on_another_node_until_that_is_undone(stack: ClusterStack, tmp_path: Path):
    by_hand = stack.runtime.model_copy(update={"cluster": stack.cluster.address(tmp_path)})  # an administrator
    first = stack.target().pods()[0]["spec"]["nodeName"]
    with pytest.raises(ActionRefusedError, match="there is no other node for it"):
        act(by_hand, stack.workspace, "reschedule", REPLICA, "alone")
    taints = [{"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}]
    stack.cluster.put(stack.cluster.add_node("control") | {"spec": {"taints": taints}})
    with pytest.raises(ActionRefusedError, match="there is no other node for it"):
        act(by_hand, stack.workspace, "reschedule", REPLICA, "barred")
    stack.cluster.delete("v1", "Node", "control")
    stack.cluster.add_node("node-1")
    assert act(by_hand, stack.workspace, "reschedule", REPLICA, "case-1").state == "active"
    until(lambda: [pod["spec"].get("nodeName") for pod in stack.target().pods()] == ["node-1"], "it does not move")
    with pytest.raises(ActionRefusedError, match="there is no other node for it"):
        act(by_hand, stack.workspace, "reschedule", REPLICA, "again")
    assert undo_action(stack.workspace, "reschedule", REPLICA)
    node = stack.cluster.get("v1", "Node", first)
    assert node is not None
    assert (node["spec"], node["metadata"]["annotations"]) == ({}, {})
    assert residue(stack.workspace) == []


def test_a_reschedule_that_fails_half_way_lets_pods_in_again(stack: ClusterStack, tmp_path: Path):
    by_hand = stack.runtime.model_copy(update={"cluster": stack.cluster.address(tmp_path)})
    before = stack.pod()
    stack.cluster.add_node("node-2")
    stack.cluster.misbehave(path="/pods/", method="DELETE", status=400, times=100)
    with pytest.raises(ActionError, match="emulated trouble"):
        act(by_hand, stack.workspace, "reschedule", REPLICA, "half")
    stack.cluster.behave()
    assert not any(node["spec"] for node in stack.cluster.objects("v1", "Node"))
    assert stack.pod()["metadata"]["uid"] == before["metadata"]["uid"]


@pytest.mark.parametrize(
    ("action", "why"),
    [("scale-out", "`deploy.replicas`"), ("roll-back", "no earlier version")],
)
def test_what_a_cluster_cannot_do_is_refused_with_the_reason(stack: ClusterStack, action: str, why: str):
    with pytest.raises(ActionRefusedError, match=f"the kubernetes backend has no {action}: .*{why}"):
        act(stack.runtime, stack.workspace, action, REPLICA, "case-1")


def ejected(stack: ClusterStack) -> tuple[dict[str, str], str]:
    """The entries for the router, and the label of the replica for the Service."""
    known = stack.cluster.get("v1", "ConfigMap", EJECTED_MAP, stack.runtime.namespace)
    assert known is not None
    return known.get("data") or {}, stack.pod()["metadata"]["labels"][SERVE_LABEL]


@pytest.fixture
def routed(stack: ClusterStack) -> ClusterStack:
    """A stack whose router can pass over a replica."""
    stack.cluster.put({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": EJECTED_MAP}})
    name = stack.target().pods()[0]["metadata"]["name"]
    labels = {"metadata": {"labels": {SERVE_LABEL: "true"}}}
    Cluster(stack.runtime.cluster).merge_patch("v1", "Pod", name, labels, namespace=stack.runtime.namespace)
    return stack


def test_a_stack_of_before_cannot_eject(stack: ClusterStack):
    with pytest.raises(ActionRefusedError, match="started by a version that cannot eject"):
        act(stack.runtime, stack.workspace, "eject", REPLICA, "old")


def test_eject_takes_a_pod_out_of_router_and_service_until_it_is_undone(routed: ClusterStack):
    address = routed.target().pods()[0]["status"]["podIP"]
    done = act(routed.runtime, routed.workspace, "eject", REPLICA, "case-1")
    assert done.state == "active"
    assert ejected(routed) == ({address: f"case-1.{REPLICA}.eject"}, "ejected")
    with pytest.raises(ActionRefusedError, match="it is ejected already"):
        act(routed.runtime, routed.workspace, "eject", REPLICA, "case-2")
    assert any("ejected from routing" in line for line in residue(routed.workspace))
    assert undo_action(routed.workspace, "eject", REPLICA)
    assert ejected(routed) == ({}, "true")
    assert residue(routed.workspace) == []


def test_an_ejection_without_its_journal_is_found_and_undone(routed: ClusterStack):
    done = act(routed.runtime, routed.workspace, "eject", REPLICA, "lost")
    journal_path(routed.workspace.journal, done.injection_id).unlink()
    recover_fully(routed.workspace, lambda line: None)
    assert ejected(routed) == ({}, "true")


def test_an_eject_that_fails_half_way_is_taken_back(routed: ClusterStack):
    routed.cluster.misbehave(path="/pods/", method="PATCH", status=400, times=1)
    with pytest.raises(ActionError, match="emulated trouble"):
        act(routed.runtime, routed.workspace, "eject", REPLICA, "half")
    routed.cluster.behave()
    assert ejected(routed) == ({}, "true")
    assert residue(routed.workspace) == []


@pytest.fixture(scope="module")
def gpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GpuStack]:
    with gpu_stack(tmp_path_factory.mktemp("gpu-actions"), dict) as running:
        yield running


def test_restore_takes_back_limits_of_whatever_origin(gpus: GpuStack):
    """A person lowered the power limit and locked the clocks; nobody's journal knows of it."""
    machine, workspace = gpus.agent.machine, Workspace(gpus.directory / "workspace")
    machine.change_gpu(limit=210.0, locked=[210, 900])
    done = act(gpus.runtime, workspace, "restore", GPU_REPLICA, "case-1")
    assert (done.state, done.finishes) == ("recovered", True)
    assert machine.limit() == 350
    assert machine.state["gpus"][GPU]["locked"] is None
    assert machine.limit(OTHER_GPU) == 300
    assert gpus.cluster.objects(API_VERSION, KIND) == []
    machine.change_gpu(limit=210.0)
    act(gpus.runtime, workspace, "restore", GPU_REPLICA, "case-1")
    assert machine.limit() == 210, "once per case"
    act(gpus.runtime, workspace, "restore", GPU_REPLICA, "case-2")
    assert machine.limit() == 350


def test_restore_ends_a_fault_of_ours(gpus: GpuStack):
    machine, workspace = gpus.agent.machine, Workspace(gpus.directory / "workspace")
    gpus.fault("gpu-power-limit").apply(600)
    assert machine.limit() == 200
    act(gpus.runtime, workspace, "restore", GPU_REPLICA, "case-3")
    assert machine.limit() == 350
    assert gpus.cluster.objects(API_VERSION, KIND) == []


def test_a_restore_that_fails_is_finished_by_recover(gpus: GpuStack):
    machine, workspace = gpus.agent.machine, Workspace(gpus.directory / "workspace")
    machine.change_gpu(limit=210.0)
    machine.set(refuse_power=True)
    with pytest.raises(ActionError, match="not supported"):
        act(gpus.runtime, workspace, "restore", GPU_REPLICA, "case-4")
    assert machine.limit() == 210
    machine.set(refuse_power=False)
    assert recover(workspace)
    assert machine.limit() == 350
    assert gpus.cluster.objects(API_VERSION, KIND) == []


def test_evict_ends_what_is_no_service_and_nobody_elses(gpus: GpuStack):
    machine, workspace = gpus.agent.machine, Workspace(gpus.directory / "workspace")
    with pytest.raises(ActionRefusedError, match="no agent sees anything else on its GPU"):
        act(gpus.runtime, workspace, "evict", GPU_REPLICA, "case-5")
    stranger = "cccccccc-bbbb-cccc-dddd-eeeeeeeeeeee"
    machine.add_process(31, stranger, gpu=GPU)
    gateway = gpus.target("nginx-proxy").pods()[0]["metadata"]["uid"]
    machine.add_process(32, gateway, gpu=GPU)

    def published(*uids: str) -> bool:
        with gpus.client as client:
            return set(uids) <= {pod.uid for node in read_gpu_maps(client) for gpu in node.gpus for pod in gpu.pods}

    until(lambda: published(stranger, gateway), "the agent does not say so")
    with pytest.raises(ActionRefusedError, match=r"what else is on its GPU \(2 pods\) is a service, or of another"):
        act(gpus.runtime, workspace, "evict", GPU_REPLICA, "case-5")
    gpus.fault("gpu-memory", "case-6.0").apply(600)
    (intruder,) = gpus.cluster.objects("v1", "Pod", gpus.runtime.namespace, INJECTION_LABEL)
    machine.add_process(33, intruder["metadata"]["uid"], gpu=GPU)
    until(lambda: published(intruder["metadata"]["uid"]), "the agent does not say so")
    act(gpus.runtime, workspace, "evict", GPU_REPLICA, "case-5")
    until(lambda: not gpus.cluster.objects("v1", "Pod", gpus.runtime.namespace, INJECTION_LABEL), "it stays")
    assert {pod["metadata"]["name"] for pod in gpus.cluster.objects("v1", "Pod")} == {
        "nginx-proxy-abc",
        f"{GPU_REPLICA}-abc",
    }
