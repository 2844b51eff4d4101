"""The agent against an emulated API: what it reports, when it lets go, and that nothing outlives it."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tasks.kube.client import Cluster
from tasks.kube.gpu_map import PodOnGpu, read_gpu_maps
from tasks.kube.node_fault import API_VERSION, FINALIZER, KIND
from tasks.node_agent import health
from tests.kubernetes.cluster import EmulatedCluster
from tests.kubernetes.node_agent import EmulatedNodeAgent
from tests.node_agent.agents import start_agent
from tests.node_agent.machine import GPU, NODE, OTHER_GPU, OTHER_POD, POD, Machine, fault_document
from tests.slow import first_always
from tests.waiting import HANG_S, until

KILLS = 10


@pytest.fixture
def cluster() -> Iterator[EmulatedCluster]:
    with EmulatedCluster(with_namespace=True) as cluster:
        yield cluster


@pytest.fixture
def agent(cluster: EmulatedCluster, tmp_path: Path) -> Iterator[EmulatedNodeAgent]:
    agent = EmulatedNodeAgent(cluster, tmp_path)
    agent.machine.add_process(10, gpu=GPU)
    with agent:
        yield agent


def put(cluster: EmulatedCluster, name: str = "fault-1", **spec: Any) -> None:
    document = fault_document(name, **spec)
    del document["metadata"]["uid"]
    cluster.put(document)


def found(cluster: EmulatedCluster, name: str = "fault-1") -> dict[str, Any] | None:
    return cluster.get(API_VERSION, KIND, name)


def phase(cluster: EmulatedCluster, name: str = "fault-1") -> str | None:
    document = found(cluster, name)
    return (document or {}).get("status", {}).get("phase")


def status(cluster: EmulatedCluster) -> dict[str, Any]:
    document = found(cluster)
    assert document is not None
    return dict(document["status"])


def test_a_life(cluster: EmulatedCluster, agent: EmulatedNodeAgent):
    put(cluster)
    until(lambda: phase(cluster) == "Active")
    document = found(cluster)
    assert document is not None
    assert document["metadata"]["finalizers"] == [FINALIZER]
    assert agent.machine.limit() == 200
    told = document["status"]
    assert told["saved"]["gpus"] == [
        {"uuid": GPU, "oldWatts": 350, "minWatts": 200, "defaultWatts": 350, "maxWatts": 400, "setWatts": 200}
    ]
    assert datetime.fromisoformat(told["appliedAt"]) <= datetime.now(UTC)
    assert "clamped to 200 W" in told["message"]
    cluster.delete(API_VERSION, KIND, "fault-1")
    until(lambda: found(cluster) is None)
    assert agent.machine.limit() == 350
    until(lambda: not list(agent.machine.journal.glob("*.json")))


def test_faults_of_other_nodes_are_left_alone(cluster: EmulatedCluster, agent: EmulatedNodeAgent):
    put(cluster, "elsewhere", nodeName="gpu-1")
    put(cluster)
    until(lambda: phase(cluster) == "Active")
    other = found(cluster, "elsewhere")
    assert other is not None
    assert "finalizers" not in other["metadata"]
    assert "status" not in other


def test_the_duration_ends_it_and_the_object_stays_to_be_read(cluster: EmulatedCluster, agent: EmulatedNodeAgent):
    put(cluster, durationSeconds=0.5)
    until(lambda: phase(cluster) == "Restored")
    assert agent.machine.limit() == 350
    told = status(cluster)
    assert told["message"].endswith("the power limit is 350 W again (0.5 s are over)")
    assert told["restoredAt"] > told["appliedAt"]


def test_two_faults_on_one_gpu(cluster: EmulatedCluster, agent: EmulatedNodeAgent):
    put(cluster)
    until(lambda: phase(cluster) == "Active")
    put(cluster, "fault-2", action="clock-lock", value=900)
    until(lambda: phase(cluster, "fault-2") == "Failed")
    second = found(cluster, "fault-2")
    assert second is not None
    assert second["status"]["message"].endswith("is under the fault fault-1 (power-limit) already")
    cluster.delete(API_VERSION, KIND, "fault-2")
    until(lambda: found(cluster, "fault-2") is None)
    assert agent.machine.limit() == 200


def test_the_finalizer_stays_until_the_node_is_restored(cluster: EmulatedCluster, agent: EmulatedNodeAgent):
    put(cluster)
    until(lambda: phase(cluster) == "Active")
    agent.machine.set(fail=True)
    cluster.delete(API_VERSION, KIND, "fault-1")
    until(lambda: phase(cluster) == "Failed")
    assert "not restored yet (its owner ended it)" in status(cluster)["message"]
    time.sleep(0.3)
    assert found(cluster) is not None
    agent.machine.set(fail=False)
    until(lambda: found(cluster) is None)
    assert agent.machine.limit() == 350


def test_without_the_finalizer_nothing_is_done(cluster: EmulatedCluster, agent: EmulatedNodeAgent):
    cluster.misbehave(method="PATCH", path="nodefaults", status=409, times=3)
    put(cluster)
    until(lambda: phase(cluster) == "Active")
    methods = [method for method, path in cluster.requests if path.startswith("/apis/rcarena.io") and method == "PATCH"]
    assert len(methods) >= 5
    assert agent.machine.limit() == 200


def test_an_api_in_trouble_delays_the_report_and_not_the_restore(cluster: EmulatedCluster, agent: EmulatedNodeAgent):
    put(cluster, durationSeconds=0.6)
    until(lambda: phase(cluster) == "Active")
    cluster.misbehave(status=500, times=10_000)
    until(lambda: agent.machine.limit() == 350)
    assert phase(cluster) == "Active"
    cluster.behave()
    until(lambda: phase(cluster) == "Restored")


def test_an_old_fault_is_not_carried_out(cluster: EmulatedCluster, agent: EmulatedNodeAgent):
    document = fault_document(durationSeconds=30)
    document["metadata"]["creationTimestamp"] = (datetime.now(UTC) - timedelta(seconds=40)).isoformat()
    cluster.put(document)
    until(lambda: phase(cluster) == "Failed")
    assert "its owner waits no more" in status(cluster)["message"]
    assert agent.machine.limit() == 350


def test_an_object_that_breaks_the_schema_is_told_so(cluster: EmulatedCluster, agent: EmulatedNodeAgent):
    put(cluster, action="clock-lock")
    until(lambda: phase(cluster) == "Failed")
    assert status(cluster)["message"].endswith("clock-lock needs either value or fraction")
    cluster.delete(API_VERSION, KIND, "fault-1")
    assert found(cluster) is None


def test_an_object_that_vanishes_is_restored_all_the_same(cluster: EmulatedCluster, agent: EmulatedNodeAgent):
    put(cluster)
    until(lambda: phase(cluster) == "Active")
    cluster.remove(API_VERSION, KIND, "fault-1")
    until(lambda: agent.machine.limit() == 350)


def test_a_lost_journal_is_made_up_for_by_the_status(cluster: EmulatedCluster, tmp_path: Path):
    machine_before = EmulatedNodeAgent(cluster, tmp_path / "before").machine
    machine_before.add_process(10, gpu=GPU)
    entry = machine_before.keeper().apply(_as_fault(fault_document()))
    document = fault_document()
    document["metadata"]["finalizers"] = [FINALIZER]
    document["status"] = {"phase": "Active", "saved": entry.saved.document()}
    cluster.put(document)
    with EmulatedNodeAgent(cluster, tmp_path / "after") as agent:
        agent.machine.change_gpu(limit=200.0)
        until(lambda: phase(cluster) == "Restored")
        assert agent.machine.limit() == 350


def _as_fault(document: dict[str, Any]) -> Any:
    from tasks.kube.node_fault import NodeFault

    return NodeFault.of(document)


def test_the_gpu_map_is_published(cluster: EmulatedCluster, tmp_path: Path):
    cluster.put(
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "ray-replicas-1-abc"}, "spec": {"nodeName": NODE}}
    )
    pod = cluster.get("v1", "Pod", "ray-replicas-1-abc")
    assert pod is not None
    agent = EmulatedNodeAgent(cluster, tmp_path)
    agent.machine.add_process(10, pod["metadata"]["uid"], gpu=GPU)
    agent.machine.add_process(11, OTHER_POD, gpu=GPU)
    with agent, Cluster(cluster.address(tmp_path)) as client:
        until(lambda: bool(read_gpu_maps(client)))
        (node,) = read_gpu_maps(client)
    first, second = node.gpus
    assert (node.node, first.uuid, second.uuid) == (NODE, GPU, OTHER_GPU)
    assert (first.power_limit_w, first.min_power_limit_w, first.max_power_limit_w) == (350, 200, 400)
    assert set(first.pods) == {PodOnGpu(uid=pod["metadata"]["uid"], name="ray-replicas-1-abc"), PodOnGpu(uid=OTHER_POD)}


def test_health_follows_the_watchdog_and_not_the_api(cluster: EmulatedCluster, agent: EmulatedNodeAgent):
    cluster.misbehave(status=500, times=10_000)
    file = agent.machine.root / "health"
    until(file.exists)
    file.unlink()
    until(file.exists)
    assert health.problem(file, 5) is None
    assert health.problem(agent.machine.root / "none", 5) is not None


def test_sigterm_restores_and_says_so(cluster: EmulatedCluster, tmp_path: Path):
    machine = Machine(tmp_path / "machine")
    machine.add_process(10, gpu=GPU)
    process = start_agent(machine, cluster.address(tmp_path))
    put(cluster)
    until(lambda: phase(cluster) == "Active")
    process.terminate()
    process.join(HANG_S)
    assert process.exitcode == 0
    assert machine.limit() == 350
    assert phase(cluster) == "Restored"
    assert status(cluster)["message"].endswith("(the agent ends)")


def test_a_second_agent_waits_for_the_first(cluster: EmulatedCluster, tmp_path: Path):
    machine = Machine(tmp_path / "machine")
    machine.add_process(10, gpu=GPU)
    first = start_agent(machine, cluster.address(tmp_path))
    put(cluster)
    until(lambda: phase(cluster) == "Active")
    second = start_agent(machine, cluster.address(tmp_path))
    time.sleep(0.5)
    assert machine.limit() == 200
    first.kill()
    until(lambda: machine.limit() == 350)
    second.terminate()
    second.join(HANG_S)
    assert second.exitcode == 0


def test_a_restore_does_not_need_the_api(tmp_path: Path):
    machine = Machine(tmp_path / "machine")
    machine.add_process(10, gpu=GPU)
    with EmulatedCluster(with_namespace=True) as cluster:
        process = start_agent(machine, cluster.address(tmp_path))
        put(cluster, durationSeconds=1.5)
        until(lambda: phase(cluster) == "Active")
    until(lambda: machine.limit() == 350)
    process.kill()


def moments(seed: int) -> list[str | float]:
    """When to kill: at what can be seen on the node, or after some seconds."""
    seen = ["set", "created", "planned", "active"]
    dice = random.Random(seed)
    return [*seen, *(dice.uniform(0, 1.0) for _ in range(KILLS - len(seen)))]


def is_reached(machine: Machine, moment: str | float, began: float) -> bool:
    states = [json.loads(path.read_text())["state"] for path in machine.journal.glob("[!.]*.json")]
    match moment:
        case "created":
            return True
        case "planned":
            return "planned" in states and machine.limit() == 350
        case "set":
            return "planned" in states and machine.limit() == 200
        case "active":
            return "active" in states
        case _:
            return time.monotonic() - began >= float(moment)


@pytest.mark.parametrize("moment", first_always(moments(seed=4)), ids=lambda moment: f"{moment:.4}")
def test_kill_9_leaves_nothing_once_the_next_agent_is_there(
    cluster: EmulatedCluster, tmp_path: Path, moment: str | float
):
    machine = Machine(tmp_path / "machine")
    machine.add_process(10, gpu=GPU)
    machine.set(before_set_s=0.3, after_set_s=0.3)
    address = cluster.address(tmp_path)
    process = start_agent(machine, address)
    until((machine.root / "health").exists)
    put(cluster, podUid=POD)
    began = time.monotonic()
    until(lambda: is_reached(machine, moment, began))
    process.kill()
    process.join()
    machine.set(before_set_s=0, after_set_s=0)
    cluster.delete(API_VERSION, KIND, "fault-1")
    heir = start_agent(machine, address)
    until(lambda: found(cluster) is None and machine.limit() == 350)
    until(lambda: not list(machine.journal.glob("*.json")))
    heir.kill()
