"""Faults on an emulated cluster that somebody else owns: only with leave, and on one pod."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.backends import backend_of
from tasks.backends.attached.faults import SUPPORT
from tasks.backends.attached.params import AttachedDeployParams
from tasks.backends.attached.runtime import AttachedRuntime
from tasks.inject.errors import InjectionError, InjectionRefusedError
from tasks.inject.executors.kubernetes.chaos_resource import CHAOS_API
from tasks.inject.executors.kubernetes.injected import INJECTION_LABEL, SERVICE_LABEL
from tasks.inject.recover import residue
from tasks.kube.manifest import stack_labels
from tasks.params import validated
from tests.backends.attached.params import attached
from tests.command import rcarena_here
from tests.inject.cluster_stack import ClusterStack, cluster_stack
from tests.inject.once import once
from tests.kubernetes.workloads import is_ready

LABEL = "acme.example/chaos=yes"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterStack]:
    """Two pods that share every label, and a gateway; the kubeconfig of the environment leads there."""
    directory: Path = tmp_path_factory.mktemp("cluster")
    with cluster_stack(directory) as running, pytest.MonkeyPatch.context() as patch:
        cluster = running.cluster

        def two(deployment: dict[str, Any]) -> None:
            deployment["spec"]["replicas"] = 2

        cluster.change("apps/v1", "Deployment", "ray-replicas-0", two)
        cluster.wait_for(lambda: sum(map(is_ready, cluster.objects("v1", "Pod"))) == 4)
        patch.setenv("KUBECONFIG", str(cluster.kubeconfig(directory / "owner")))
        yield running


@pytest.fixture
def label(stack: ClusterStack) -> Iterator[None]:
    """The owner's label on the namespace."""
    name, _, value = LABEL.partition("=")

    def put(namespace: dict[str, Any]) -> None:
        namespace["metadata"]["labels"][name] = value

    def take(namespace: dict[str, Any]) -> None:
        namespace["metadata"]["labels"].pop(name)

    stack.cluster.change("v1", "Namespace", stack.runtime.namespace, put, "")
    yield
    stack.cluster.change("v1", "Namespace", stack.runtime.namespace, take, "")


def document(stack: ClusterStack, **deploy: Any) -> dict[str, Any]:
    namespace = stack.runtime.namespace
    labels = ",".join(f"{name}={value}" for name, value in stack_labels(namespace).items())
    pod = {"namespace": namespace, "pod": "~ray-replicas-0-.*"}
    services = [
        {
            "name": "engine",
            "role": "replica",
            "replicas": 2,
            "each": "pod",
            "labels": [pod],
            "selector": f"app=ray-replicas-0,{labels}",
            "container": "ray-worker",
        },
        {"name": "edge", "role": "gateway", "labels": [{"pod": "nginx"}]},
    ]
    own = {"kubernetes": {"namespace": namespace}, **deploy}
    return attached(stack.prometheus.url, services, **own)


def allowed(stack: ClusterStack, *services: str) -> dict[str, Any]:
    return document(stack, allow_faults=True, faults={"services": list(services), "namespace_label": LABEL})


def attach(stack: ClusterStack, parameters: dict[str, Any]) -> Any:
    """Return the stack as it is attached by ``parameters``."""
    deploy = AttachedDeployParams.model_validate(parameters["deploy"])
    runtime: Any = AttachedRuntime(deploy=deploy, directory=stack.workspace.stack)
    runtime.write()
    return replace(stack, runtime=runtime)


@pytest.mark.slow
@pytest.mark.usefixtures("label")
def test_one_pod_of_two_is_delayed_and_restored(stack: ClusterStack) -> None:
    ours = attach(stack, allowed(stack, "engine-1"))
    with once("delay", "network-delay", "engine-1", {"delay_ms": 500}, duration_s=14).start(ours) as injection:
        stack.cluster.wait_for(lambda: bool(stack.chaos()))
        (chaos,) = stack.chaos()
        record = injection.wait(90)
    names = sorted(
        str(pod["metadata"]["name"])
        for pod in stack.cluster.objects("v1", "Pod", stack.runtime.namespace, "app=ray-replicas-0")
    )
    assert chaos["spec"]["selector"]["pods"] == {stack.runtime.namespace: [names[1]]}
    assert "labelSelectors" not in chaos["spec"]["selector"]
    assert (record.verdict, record.target, record.executor) == ("effective", "engine-1", "Chaos Mesh: NetworkChaos")
    assert stack.chaos() == []
    assert residue(stack.workspace) == []


def _refused(stack: ClusterStack, parameters: dict[str, Any], service: str = "engine-1") -> str:
    ours = attach(stack, parameters)
    with pytest.raises(InjectionError) as caught, contextlib.ExitStack() as started:
        started.enter_context(once("refused", "network-delay", service, {"delay_ms": 500}, duration_s=6).start(ours))
    assert stack.chaos() == []
    return str(caught.value)


def test_without_leave_nothing_is_done(stack: ClusterStack) -> None:
    assert "deploy.allow_faults is not set" in _refused(stack, document(stack))
    assert "is not among deploy.faults.services: engine-0" in _refused(stack, allowed(stack, "engine-0"))
    assert f"does not have the label {LABEL}: its owner sets it" in _refused(stack, allowed(stack, "engine-1"))


@pytest.mark.usefixtures("label")
def test_what_cannot_be_told_apart_or_measured_is_refused(stack: ClusterStack, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "needs selector and container" in _refused(stack, allowed(stack, "edge"), "edge")
    monkeypatch.setenv("TOKEN", "x")
    asked = allowed(stack, "engine-1")
    asked["deploy"]["prometheus"]["auth"] = {"bearer": {"env": "TOKEN"}}
    assert "a Prometheus that asks for no credentials" in _refused(stack, asked)


@pytest.mark.usefixtures("label")
def test_a_replica_that_was_not_seen_is_not_guessed(stack: ClusterStack) -> None:
    """Only the second pod had series when the stack was attached: it is engine-0, and nobody knows engine-1."""
    ours = attach(stack, allowed(stack, "engine-0", "engine-1"))
    pods = stack.cluster.objects("v1", "Pod", stack.runtime.namespace, "app=ray-replicas-0")
    second = sorted(str(pod["metadata"]["name"]) for pod in pods)[1]
    runtime: Any = ours.runtime.model_copy(update={"known": {"engine": {second: "engine-0"}}})
    with pytest.raises(InjectionRefusedError, match="engine-1: its pod was not known when the stack was attached"):
        SUPPORT.target(runtime, "engine-1")
    assert SUPPORT.target(runtime, "engine-0").pod == second


@pytest.mark.usefixtures("label")
def test_one_replica_at_a_time(stack: ClusterStack) -> None:
    """A fault acts on engine-0 already."""
    ours = attach(stack, allowed(stack, "engine-0", "engine-1"))
    stack.mesh.asleep = True
    labels = {**stack_labels(stack.runtime.namespace), INJECTION_LABEL: "first", SERVICE_LABEL: "engine-0"}
    metadata = {"name": "first", "namespace": stack.runtime.namespace, "labels": labels}
    stack.cluster.put({"apiVersion": CHAOS_API, "kind": "NetworkChaos", "metadata": metadata, "spec": {}})
    try:
        with pytest.raises(InjectionError, match="a fault acts on engine-0 already: one replica at a time"):
            once("second", "network-delay", "engine-1", {"delay_ms": 500}, duration_s=6).start(ours)
    finally:
        stack.heal()


def test_parameters_that_ask_for_more_are_refused(stack: ClusterStack, tmp_path: Path) -> None:
    def told(parameters: dict[str, Any], inject: dict[str, Any]) -> list[str]:
        file = tmp_path / "params.yaml"
        file.write_text(yaml.safe_dump({**parameters, "inject": inject}))
        done = rcarena_here("params", "check", "--params", str(file))
        return [line.partition("params.yaml: ")[2] for line in done.stderr.splitlines()]

    delay = {"kind": "network-delay", "parameters": {"delay_ms": 500}}
    one = {"faults": [{**delay, "targets": ["engine-0"]}]}
    assert told(document(stack), one) == [
        "inject: deploy.allow_faults is not set: the stack is somebody else's, and is only read"
    ]
    assert told(allowed(stack, "engine-0"), one) == []
    assert told(allowed(stack, "engine-1"), one) == [
        "inject.faults[0].targets[0]: 'engine-0' is not among deploy.faults.services: engine-1"
    ]
    both = {"faults": [], "concurrent": [{"injections": [{**delay, "target": f"engine-{i}"} for i in (0, 1)]}]}
    (line,) = told(allowed(stack, "engine-0", "engine-1"), both)
    assert line.endswith("deploy.faults.max_replicas is 1: one target per case")
    (line,) = told(allowed(stack, "engine-0"), {"faults": [{"kind": "pod-kill", "targets": ["engine-0"]}]})
    assert "the attached backend has no pod-kill" in line


def test_a_stack_without_leave_has_no_residue(stack: ClusterStack) -> None:
    params = validated(document(stack), "params.yaml")
    backend = backend_of(params, stack.workspace)
    assert backend.faults().residue(backend.live().runtime) == []
    assert backend.faults().sweep(backend.live().runtime) == ([], [])
