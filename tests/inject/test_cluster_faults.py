"""Injections with their guardians on an emulated cluster: seen, ended, recovered from anywhere."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.inject import catalogue
from tasks.inject.errors import FaultError, InjectionError
from tasks.inject.executors.kubernetes import chaos_resource
from tasks.inject.journal import journal_path, read_journal, write_journal
from tasks.inject.recover import recover, residue
from tests.command import ROOT, rcarena
from tests.inject.cluster_stack import CHAOS_KINDS, ClusterStack, cluster_stack
from tests.inject.kill_table import VICTIMS, Victim, kill_once
from tests.inject.once import Once, once
from tests.slow import first_always
from tests.waiting import until

TOGETHER: list[dict[str, str]] = [
    {"cpu-stress": "ray-replicas-0", "memory-stress": "ray-head", "network-delay": "ray-replicas-0"},
    {"network-loss": "ray-replicas-0", "network-partition": "ray-head", "process-kill": "nginx-proxy"},
    {"network-bandwidth": "ray-head", "pod-failure": "nginx-proxy", "pod-kill": "ray-replicas-0"},
]
TOGETHER += [{kind: "ray-replicas-0"} for kind in CHAOS_KINDS if not any(kind in together for together in TOGETHER)]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterStack]:
    directory: Path = tmp_path_factory.mktemp("cluster")
    with cluster_stack(directory) as running:
        yield running


@pytest.fixture
def clean(stack: ClusterStack) -> Iterator[ClusterStack]:
    yield stack
    stack.heal()
    assert residue(stack.workspace) == []


def plan(name: str, kind: str, target: str = "ray-replicas-0", lead_s: float = 3, duration_s: float = 14) -> Once:
    parameters = catalogue.resolve_parameters(kind, {}, "kubernetes").model_dump(mode="json")
    return once(name, kind, target, parameters, datetime.now(UTC) + timedelta(seconds=lead_s), duration_s)


def wait_for_state(stack: ClusterStack, name: str, state: str) -> None:
    path = journal_path(stack.workspace.journal, name)
    until(lambda: path.exists() and read_journal(path).state == state, lambda: path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("together", first_always(TOGETHER), ids="+".join)
def test_effects_are_seen_and_undone(clean: ClusterStack, together: dict[str, str]):
    plans = [plan(f"seen-{kind}", kind, service) for kind, service in together.items()]
    running = [each.start(clean) for each in plans]
    records = [injection.wait(90) for injection in running]
    assert {record.verdict for record in records} == {"effective"}, records
    for record in records:
        assert (record.executor or "").startswith("Chaos Mesh: ")
        assert record.observed is not None
        assert record.verified is not None
        assert record.observed.start >= record.planned.start
        assert record.probe is not None
        assert None not in (record.probe.before, record.probe.during, record.probe.after)
    assert clean.chaos() == []


def test_a_restart_in_good_order_makes_new_pods(clean: ClusterStack):
    before = {service: clean.pod(service)["metadata"]["uid"] for service in ("nginx-proxy", "ray-replicas-0")}
    running = [plan(f"restart-{service}", "service-restart", service).start(clean) for service in before]
    for injection in running:
        record = injection.wait(90)
        assert record.verdict == "effective", record.reason
        assert record.executor == "API: pods deleted with grace"
        assert clean.pod(record.target)["metadata"]["uid"] != before[record.target]


def test_a_fault_by_hand_on_a_cluster(clean: ClusterStack, tmp_path: Path):
    """``rcarena inject KIND TARGET`` as a person calls it, whatever the backend."""
    params = tmp_path / "params.yaml"
    document = yaml.safe_load((ROOT / "params.yaml").read_text())
    document["deploy"] = {"backend": "kubernetes", "namespace": "rcarena", "replicas": 1, "model": "toy-cpu"}
    document["deploy"] |= {"accelerator": {"kind": "none"}}
    document["campaign"]["windows"]["warmup_s"] = 30
    document["export"]["rate_window_s"] = 30
    for fault in document["inject"]["faults"]:
        fault["targets"] = ["ray-replicas-0"]
    del document["inject"]["faults"][1:]
    params.write_text(yaml.safe_dump(document))
    done = rcarena(
        *("inject", "network-delay", "ray-replicas-0", "--duration", "14", "--set", "delay_ms=200"),
        *("--params", str(params), "--workspace", str(clean.workspace.root)),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "effective:" in done.stdout
    assert clean.chaos() == []


def test_a_kind_that_the_cluster_lacks_names_those_it_has(clean: ClusterStack):
    frozen = once("frozen", "accelerator-throttle", "ray-head")
    problem = r"the kubernetes backend has no accelerator-throttle; .*allowed: cpu-stress"
    with pytest.raises(InjectionError, match=problem):
        frozen.start(clean)


def test_what_cannot_be_injected_is_recorded_with_its_reason(clean: ClusterStack):
    network_chaos = ("chaos-mesh.org/v1alpha1", "NetworkChaos")
    clean.cluster.admit(*network_chaos, lambda document: [("spec.device", "there is no eth0")])
    record = plan("never", "network-delay", "ray-head", 0, 60).start(clean).wait(90)
    clean.cluster.admit(*network_chaos, lambda document: [])
    assert record.observed is None
    assert record.reason.startswith("not carried out: ray-head: create NetworkChaos ")
    assert "there is no eth0" in record.reason


def test_a_pod_replaced_during_the_fault_ends_it(clean: ClusterStack):
    with plan("lost", "network-delay", lead_s=0, duration_s=60).start(clean) as it:
        wait_for_state(clean, "lost", "active")
        clean.cluster.remove("v1", "Pod", clean.pod()["metadata"]["name"])
        record = it.wait(60)
    assert "was replaced during the fault" in record.reason


def test_a_journal_of_another_machine_is_undone_here(clean: ClusterStack):
    """A pod died with its injection; another one, with other processes and another clock, recovers."""
    with plan("moved", "network-delay", lead_s=0, duration_s=60).start(clean) as it:
        wait_for_state(clean, "moved", "active")
        active = read_journal(it.path)
    far: dict[str, Any] = {"machine": "another/1", "start_monotonic": 1e9, "guardian": active.owner}
    write_journal(it.path, active.model_copy(update=far))
    clean.cluster.put(
        {
            "apiVersion": "chaos-mesh.org/v1alpha1",
            "kind": "NetworkChaos",
            "metadata": {"name": active.undo[0].resource},  # type: ignore[union-attr]
            "spec": {
                "action": "partition",
                "mode": "all",
                "selector": {"namespaces": ["rcarena"], "labelSelectors": {"app": "ray-replicas-0"}},
            },
        }
    )
    assert len(residue(clean.workspace)) == 1
    assert recover(clean.workspace) == ["moved: network-delay on ray-replicas-0: undone"]
    assert clean.chaos() == []
    assert active.owner.alive


def test_a_recovery_that_nobody_confirmed_is_no_recovery(clean: ClusterStack, monkeypatch: pytest.MonkeyPatch):
    """The record still said Injected when the finalizer was forced: what may be left is named, once."""
    for name in ("RECOVER_TIMEOUT_S", "FORCE_TIMEOUT_S"):
        monkeypatch.setattr(chaos_resource, name, 1.0)
    with plan("forced", "network-delay", "ray-replicas-0", 0, 60).start(clean) as it:
        wait_for_state(clean, "forced", "active")
        active = read_journal(it.path)
        (document,) = clean.chaos()
    far: dict[str, Any] = {"machine": "another/1", "start_monotonic": 1e9, "guardian": active.owner}
    write_journal(it.path, active.model_copy(update=far))
    kept = {key: document["metadata"][key] for key in ("name", "namespace", "labels", "annotations")}
    clean.cluster.put({**document, "metadata": kept, "status": {}})
    pod = clean.pod()["metadata"]["name"]
    clean.cluster.wait_for(lambda: clean.mesh.acting_on(clean.cluster, "rcarena", pod) != [])
    clean.mesh.stuck = "rpc error: chaos-daemon is gone"
    with pytest.raises(FaultError, match=rf"is removed, but .* the fault may still be in \S*{pod}"):
        recover(clean.workspace)
    clean.mesh.stuck = ""
    assert (clean.chaos(), residue(clean.workspace), recover(clean.workspace)) == ([], [], [])
    (note,) = read_journal(it.path).unconfirmed
    assert pod in note


@pytest.mark.parametrize("victim", first_always(reversed(VICTIMS)))
@pytest.mark.parametrize("kind", first_always(["network-delay", "cpu-stress"]))
def test_a_kill_at_any_moment_leaves_nothing(clean: ClusterStack, kind: str, victim: Victim):
    """``python -m tests.inject.kill_table`` does this for every executor, ten times."""
    clean.mesh.delay_s = 0.2
    trial = kill_once(clean, kind, victim, random.Random(f"{kind}-{victim}"))
    assert trial.left == (), trial
