"""Chaos Mesh faults on an emulated cluster: what is sent, and what happens when the cluster does not do its part."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.inject import catalogue
from tasks.inject.errors import FaultError
from tasks.inject.executors.kubernetes import chaos_resource
from tasks.inject.executors.kubernetes.chaos_mesh import ChaosExecutor
from tasks.inject.executors.kubernetes.chaos_resource import ChaosResource, resource_name
from tasks.inject.executors.kubernetes.target import connection
from tasks.inject.executors.kubernetes.undo import DeleteChaos
from tasks.inject.recover import stack_residue, sweep
from tests.inject.cluster_stack import CHAOS_KINDS, ClusterStack, cluster_stack
from tests.kubernetes.schemas import manifest_problems

TARGET = "ray-replicas-0"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterStack]:
    directory: Path = tmp_path_factory.mktemp("cluster")
    with cluster_stack(directory) as running:
        yield running


@pytest.fixture
def clean(stack: ClusterStack) -> Iterator[ClusterStack]:
    yield stack
    stack.heal()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chaos_resource, "INJECT_TIMEOUT_S", 1.0)
    monkeypatch.setattr(chaos_resource, "RECOVER_TIMEOUT_S", 1.0)
    monkeypatch.setattr(chaos_resource, "FORCE_TIMEOUT_S", 1.0)
    monkeypatch.setattr(chaos_resource, "LOOK_INTERVAL_S", 0.05)


def executor(stack: ClusterStack, kind: str, injection_id: str = "case-0", **parameters: Any) -> ChaosExecutor[Any]:
    resolved = catalogue.resolve_parameters(kind, parameters, "kubernetes")
    fault = catalogue.fault_kind(kind).executor("kubernetes")(
        stack.target(), resolved, Path(f"/nowhere/{injection_id}.json")
    )
    assert isinstance(fault, ChaosExecutor)
    return fault


def step_of(fault: ChaosExecutor[Any]) -> DeleteChaos:
    (step,) = fault.undo_steps()
    return step


EXPECTED: dict[str, tuple[str, dict[str, Any]]] = {
    "cpu-stress": ("StressChaos", {"stressors": {"cpu": {"workers": 16, "load": 100}}}),
    "memory-stress": ("StressChaos", {"stressors": {"memory": {"workers": 1, "size": "3340MB", "oomScoreAdj": 1000}}}),
    "network-delay": (
        "NetworkChaos",
        {
            "action": "delay",
            "direction": "to",
            "device": "eth0",
            "delay": {"latency": "1000ms", "jitter": "100ms", "correlation": "25"},
        },
    ),
    "network-loss": (
        "NetworkChaos",
        {"action": "loss", "direction": "to", "device": "eth0", "loss": {"loss": "30", "correlation": "0"}},
    ),
    "network-bandwidth": (
        "NetworkChaos",
        {
            "action": "bandwidth",
            "direction": "to",
            "device": "eth0",
            "bandwidth": {"rate": "16000bps", "limit": 20_000, "buffer": 10_000},
        },
    ),
    "network-partition": ("NetworkChaos", {"action": "partition", "direction": "both", "device": "eth0"}),
    "pod-kill": ("PodChaos", {"action": "pod-kill", "gracePeriod": 0}),
    "pod-failure": ("PodChaos", {"action": "pod-failure"}),
    "process-kill": ("PodChaos", {"action": "container-kill"}),
}
"""Kind -> the resource, and what of its spec is the kind's own. A kind that is not here has a test of its own."""


def test_every_kind_that_is_described_here_exists():
    assert set(EXPECTED) <= set(CHAOS_KINDS)


@pytest.mark.parametrize("kind", CHAOS_KINDS)
def test_the_document_is_exactly_this(clean: ClusterStack, kind: str):
    fault = executor(clean, kind)
    assert fault.refusal() is None
    document = fault.resource.document("case-0", fault.spec(25.2))
    chaos, action = EXPECTED.get(kind, (fault.chaos, fault.action()))
    by_container = chaos == "StressChaos" or kind == "process-kill"
    labels = {"app": TARGET} | {key: value for key, value in document["metadata"]["labels"].items() if "app." in key}
    labels |= {"rcarena.io/stack": "rcarena"}
    assert document["spec"] == {
        "mode": "all",
        "selector": {"namespaces": ["rcarena"], "labelSelectors": labels},
        "duration": "26s",
        **({"containerNames": ["ray-worker"]} if by_container else {}),
        **action,
    }
    assert (document["kind"], document["metadata"]["name"]) == (chaos, resource_name("case-0"))
    assert manifest_problems(document) == []


@pytest.mark.parametrize("injection_id", ["x", "A.b_c" * 24, "...", "case-1.0", "case-1_0"])
def test_names_are_labels_and_tell_injections_apart(injection_id: str):
    name = resource_name(injection_id)
    assert len(name) <= 63
    assert name == resource_name(injection_id)
    assert name != resource_name(injection_id + "-")
    assert manifest_problems({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}}) == []


def test_memory_that_does_not_fit_is_cut_or_refused(clean: ClusterStack):
    fault = executor(clean, "memory-stress", headroom_mb=3000)
    assert fault.refusal() is None
    assert fault.spec(5)["stressors"]["memory"]["size"] == "596MB"
    refusal = executor(clean, "memory-stress", headroom_mb=3580).refusal()
    assert refusal == "the limit of 4096 MiB leaves 16 MiB beside the working set"


def test_apply_and_undo_know_the_times_of_the_controller(clean: ClusterStack):
    fault = executor(clean, "network-delay")
    before = math.floor(time.time())
    assert fault.apply(60) == "Chaos Mesh: NetworkChaos"
    assert fault.applied_at is not None
    assert before <= fault.applied_at.timestamp() <= time.time()
    assert fault.alarm() is None
    (line,) = stack_residue(clean.runtime)
    assert line == f"{TARGET}: NetworkChaos {fault.resource.name} exists"
    undone = step_of(fault).undo(fault.target)
    assert undone is not None
    assert undone.notes == ()
    assert undone.ended_at is not None
    assert undone.ended_at >= fault.applied_at
    assert step_of(fault).left(fault.target) == stack_residue(clean.runtime) == []
    assert step_of(fault).undo(fault.target) is None


@pytest.mark.usefixtures("impatient")
def test_one_that_is_never_injected_names_the_records(clean: ClusterStack):
    clean.mesh.never_inject = "rpc error: no chaos-daemon on node-0"
    fault = executor(clean, "cpu-stress")
    with pytest.raises(FaultError, match=rf"not injected within 1 s: rcarena/{TARGET}-.*no chaos-daemon on node-0"):
        fault.apply(60)
    step_of(fault).undo(fault.target)
    assert clean.chaos() == []


@pytest.mark.usefixtures("impatient")
def test_a_controller_that_sleeps_is_a_time_out(clean: ClusterStack):
    clean.mesh.asleep = True
    fault = executor(clean, "cpu-stress")
    with pytest.raises(FaultError, match="not injected within 1 s: nothing was selected"):
        fault.apply(60)


def test_a_pod_that_was_not_selected_is_an_error(clean: ClusterStack):
    clean.mesh.skip_pods = (clean.pod()["metadata"]["name"],)
    fault = executor(clean, "cpu-stress")
    extra = clean.pod() | {"status": clean.pod()["status"]}
    extra["metadata"] = {**extra["metadata"], "name": "second", "uid": "second", "ownerReferences": []}
    clean.cluster.put(extra)
    try:
        with pytest.raises(FaultError, match=f"did not select rcarena/{TARGET}-.*/ray-worker$"):
            fault.apply(60)
    finally:
        clean.cluster.remove("v1", "Pod", "second")


def test_without_chaos_mesh_nothing_is_done(tmp_path: Path):
    with cluster_stack(tmp_path) as bare:
        bare.mesh.asleep = True
        bare.cluster.uninstall("chaos-mesh.org")
        with pytest.raises(FaultError, match=f"{TARGET}: Chaos Mesh is not installed"):
            executor(bare, "pod-kill").apply(60)
        assert stack_residue(bare.runtime) == []


def test_a_lost_answer_is_no_second_fault(clean: ClusterStack):
    """The request was carried out and its answer lost: the retry meets AlreadyExists with the same spec."""
    clean.cluster.misbehave(method="POST", path="networkchaos", reset=True, after=True)
    fault = executor(clean, "network-loss")
    fault.apply(60)
    assert len(clean.chaos()) == 1


def test_one_with_another_spec_in_the_way_is_an_error(clean: ClusterStack):
    first, second = executor(clean, "network-loss"), executor(clean, "network-loss", loss_percent=70)
    first.apply(60)
    with pytest.raises(FaultError, match="one with another spec exists"):
        second.apply(60)
    step_of(first).undo(first.target)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(("deaf", "who"), [(False, "Chaos Mesh's controller"), (True, "hand")])
def test_a_stuck_finalizer_is_forced_and_told(clean: ClusterStack, deaf: bool, who: str):
    fault = executor(clean, "network-delay")
    fault.apply(60)
    clean.mesh.stuck, clean.mesh.deaf = "rpc error: chaos-daemon is gone", deaf
    undone = step_of(fault).undo(fault.target)
    assert undone is not None
    (note,) = undone.unconfirmed
    assert note.startswith(f"NetworkChaos {fault.resource.name} was removed by {who} without a confirmed recovery")
    assert clean.pod()["metadata"]["name"] in note
    assert clean.chaos() == []


@pytest.mark.usefixtures("impatient")
def test_a_sweep_without_a_confirmed_recovery_is_a_failure(clean: ClusterStack):
    executor(clean, "network-delay").apply(60)
    clean.mesh.stuck = "rpc error: chaos-daemon is gone"
    done, failures = sweep(clean.runtime)
    assert done == []
    assert clean.pod()["metadata"]["name"] in "".join(failures)
    assert stack_residue(clean.runtime) == []


def test_a_replaced_pod_is_noticed(clean: ClusterStack):
    fault = executor(clean, "network-delay")
    fault.apply(60)
    old = clean.pod()["metadata"]["name"]
    clean.cluster.remove("v1", "Pod", old)
    assert fault.alarm() == f"pod {old} was replaced during the fault"
    step_of(fault).undo(fault.target)
    assert clean.chaos() == []


def test_a_fault_that_somebody_else_took_away_is_noticed(clean: ClusterStack):
    fault = executor(clean, "network-delay")
    fault.apply(60)
    clean.cluster.delete("chaos-mesh.org/v1alpha1", "NetworkChaos", fault.resource.name)
    alarm = fault.alarm() or ""
    assert alarm.endswith("was deleted during the fault")


def test_the_platform_ends_a_fault_that_nobody_ends(clean: ClusterStack):
    fault = executor(clean, "network-delay")
    fault.apply(1.5)
    pod = clean.pod()["metadata"]["name"]
    clean.cluster.wait_for(lambda: clean.mesh.acting_on(clean.cluster, "rcarena", pod) == [])
    assert len(stack_residue(clean.runtime)) == 1
    done, failures = sweep(clean.runtime)
    assert (len(done), failures, stack_residue(clean.runtime)) == (1, [], [])


def test_expired_credentials_are_read_again(clean: ClusterStack):
    fault = executor(clean, "network-delay")
    fault.apply(60)
    clean.cluster.expire_token()
    with pytest.raises(FaultError, match="the credentials are refused: log in"):
        step_of(fault).undo(fault.target)
    assert {line.split(":")[0] for line in stack_residue(clean.runtime)} == {"cannot look for residue"}
    clean.cluster.rotate_token()
    step_of(fault).undo(fault.target)
    assert stack_residue(clean.runtime) == []


def test_an_api_that_fails_for_ten_seconds_does_not_stop_an_undo(clean: ClusterStack):
    fault = executor(clean, "network-delay")
    fault.apply(60)
    clean.cluster.misbehave(status=500, times=10_000)
    timer = threading.Timer(10, clean.cluster.behave)
    timer.start()
    step_of(fault).undo(fault.target)
    assert timer.finished.is_set(), "it did not give up before the API answered"
    assert clean.chaos() == []


def test_probes_have_a_past_and_no_figure_without_prometheus(clean: ClusterStack):
    probe = executor(clean, "cpu-stress").probe()
    samples = probe.tick()
    assert len(samples) > 20
    assert 0.3 < probe.reduce([sample.value for sample in samples]) < 0.8
    assert all(sample.start < sample.end <= time.monotonic() + 0.1 for sample in samples)
    assert len(probe.tick()) < 10
    clean.prometheus.down = True
    try:
        assert probe.tick() == []
    finally:
        clean.prometheus.down = False


def test_another_machine_goes_its_own_way_to_the_same_stack(
    clean: ClusterStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The kubeconfig of the journal is not here; this machine's current context decides, if it is the same stack."""
    fault = executor(clean, "network-delay")
    fault.apply(60)
    missing = clean.runtime.cluster.model_copy(update={"kubeconfig": str(tmp_path / "missing")})
    here = clean.target().model_copy(update={"cluster": missing})
    monkeypatch.setenv("KUBECONFIG", str(clean.runtime.cluster.kubeconfig))
    other = here.model_copy(update={"stack_uid": "another"})
    with pytest.raises(FaultError, match="and context 'emulated' has not that stack"):
        step_of(fault).undo(other)
    step_of(fault).undo(here)
    assert clean.chaos() == []


def test_an_unreachable_cluster_is_residue_and_no_crash(
    clean: ClusterStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "missing"))
    nowhere = clean.runtime.cluster.model_copy(update={"kubeconfig": str(tmp_path / "missing")})
    lost = clean.runtime.model_copy(update={"cluster": nowhere})
    line = stack_residue(lost)[0]
    assert line.startswith("cannot look for residue: nginx-proxy: no cluster: no kubeconfig at ")
    assert ChaosResource(clean.target(), "PodChaos", "rcarena", "none").find() is None
    assert connection(clean.runtime.cluster) is connection(clean.runtime.cluster)
