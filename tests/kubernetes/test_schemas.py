"""The strict checks find what they are for: a typo at any depth, a wrong type, a field that is gone."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tasks.deploy.kubernetes.render import render_stack
from tasks.kube.manifest import Manifest
from tests.deploy.kubernetes.stacks import stack
from tests.kubernetes.schemas import manifest_problems

Path = tuple[str | int, ...]

FREE = re.compile(
    r"(^|\.)(labels|annotations|matchLabels|nodeSelector|selector|data|limits|requests|rayStartParams|tagOverrides"
    r"|additionalProperties|properties|openAPIV3Schema|subresources\.status)$"
)
"""Objects whose keys are the user's, not the API's. A Service's ``selector`` is one; those of monitors are not."""

ANY_TYPE = re.compile(r"(^|\.)(port|targetPort|maxUnavailable|subresources\.status)$")
"""Numbers or names, and what has no type at all."""

STRESS: dict[str, Any] = {
    "apiVersion": "chaos-mesh.org/v1alpha1",
    "kind": "StressChaos",
    "metadata": {"name": "stress", "namespace": "rcarena"},
    "spec": {
        "mode": "all",
        "selector": {"namespaces": ["rcarena"], "labelSelectors": {"app": "ray-replicas-0"}},
        "containerNames": ["ray-worker"],
        "stressors": {
            "cpu": {"workers": 16, "load": 100},
            "memory": {"workers": 1, "size": "8GB", "oomScoreAdj": -500},
        },
        "duration": "300s",
    },
}
NETWORK: dict[str, Any] = {
    "apiVersion": "chaos-mesh.org/v1alpha1",
    "kind": "NetworkChaos",
    "metadata": {"name": "delay", "namespace": "rcarena"},
    "spec": {
        "action": "delay",
        "mode": "all",
        "selector": {"namespaces": ["rcarena"], "pods": {"rcarena": ["nginx-proxy-0"]}},
        "delay": {"latency": "1000ms", "jitter": "100ms", "correlation": "25"},
        "direction": "both",
        "target": {"mode": "all", "selector": {"namespaces": ["rcarena"]}},
        "duration": "5m",
    },
}
POD: dict[str, Any] = {
    "apiVersion": "chaos-mesh.org/v1alpha1",
    "kind": "PodChaos",
    "metadata": {"name": "kill", "namespace": "rcarena"},
    "spec": {
        "action": "pod-kill",
        "mode": "one",
        "gracePeriod": 0,
        "selector": {
            "namespaces": ["rcarena"],
            "expressionSelectors": [{"key": "app", "operator": "In", "values": ["ray-head"]}],
        },
    },
}


def keys_of(value: Any, path: Path = ()) -> Iterator[Path]:
    """Paths of all keys below ``value``."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield (*path, key)
            yield from keys_of(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from keys_of(item, (*path, index))


def at(document: Any, path: Path) -> Any:
    for part in path:
        document = document[part]
    return document


@contextmanager
def changed(document: dict[str, Any], path: Path, **change: Any) -> Iterator[dict[str, Any]]:
    """``document``, for a while with the key at ``path`` renamed (``key``) or its value replaced (``value``)."""
    parent = at(document, path[:-1])
    before = dict(parent)
    old = parent.pop(path[-1])
    parent[change.get("key", path[-1])] = change.get("value", old)
    try:
        yield document
    finally:
        parent.clear()
        parent.update(before)


def finds(document: dict[str, Any], path: Path, **change: Any) -> bool:
    with changed(document, path, **change) as mutant:
        return bool(manifest_problems(mutant))


def shape(path: Path) -> str:
    return ".".join("[]" if isinstance(part, int) else part for part in path).replace(".[]", "[]")


def is_free(document: dict[str, Any], path: Path) -> bool:
    """Whether the key at ``path`` is one that the API leaves to the user."""
    parents = [shape(path[:end]) for end in range(1, len(path))]
    selector_of_monitor = document["kind"].endswith("Monitor") and parents and parents[-1].endswith("selector")
    return any(FREE.search(parent) for parent in parents) and not selector_of_monitor


def rendered() -> list[Manifest]:
    every = [*render_stack(stack(replicas=1)), *render_stack(stack("multi-node", replicas=1))]
    return [manifest for manifest in every if not manifest.name.startswith("dashboard-")]


def one_of_each_shape() -> Iterator[tuple[dict[str, Any], Path]]:
    """Every key of every kind once: a mistake in the second container is found like one in the first."""
    seen: set[tuple[str, str]] = set()
    for document in [*(manifest.document for manifest in rendered()), STRESS, NETWORK, POD]:
        for path in keys_of(document):
            if (document["kind"], shape(path)) not in seen and not is_free(document, path):
                seen.add((document["kind"], shape(path)))
                yield document, path


def test_a_typo_in_any_field_is_found() -> None:
    mutants = list(one_of_each_shape())
    assert len(mutants) > 350
    missed = [
        f"{document['kind']}: {shape(path)}"
        for document, path in mutants
        if not finds(document, path, key=f"{path[-1]}x")
    ]
    assert missed == []


def test_a_value_of_the_wrong_type_is_found() -> None:
    missed = [
        f"{document['kind']}: {shape(path)}"
        for document, path in one_of_each_shape()
        if not ANY_TYPE.search(shape(path))
        and not finds(document, path, value="text" if isinstance(at(document, path), dict | list | int) else [1])
    ]
    assert missed == []


@pytest.mark.parametrize("document", [STRESS, NETWORK, POD], ids=lambda document: str(document["kind"]))
def test_chaos_resources_as_we_write_them_are_valid(document: dict[str, Any]) -> None:
    assert manifest_problems(document) == []


@pytest.mark.parametrize(
    ("document", "path", "value", "problem"),
    [
        (STRESS, ("spec", "stressors", "memory", "time"), "5m", "spec.stressors.memory.time: unknown field"),
        (STRESS, ("spec", "stressors"), {}, "spec.stressors: "),
        (STRESS, ("spec", "duration"), "5 minutes", "spec.duration: "),
        (STRESS, ("spec", "stressors", "cpu", "load"), 120, "spec.stressors.cpu.load: "),
        (NETWORK, ("spec", "action"), "loss", "spec: 'loss' is a required property"),
        (NETWORK, ("spec", "mode"), "every", "spec.mode: "),
        (NETWORK, ("spec", "target", "selector", "labels"), {}, "spec.target.selector.labels: unknown field"),
        (POD, ("spec", "action"), "container-kill", "spec: 'containerNames' is a required property"),
    ],
)
def test_what_chaos_mesh_would_refuse_or_ignore_is_found(
    document: dict[str, Any], path: Path, value: Any, problem: str
) -> None:
    copied = copy.deepcopy(document)
    at(copied, path[:-1])[path[-1]] = value
    problems = manifest_problems(copied)
    assert any(line.startswith(problem) for line in problems), problems


def test_a_field_that_kuberay_no_longer_reads_is_an_error() -> None:
    (service,) = [manifest.document for manifest in rendered() if manifest.kind == "RayService"][:1]
    old = copy.deepcopy(service)
    old["spec"]["serviceUnhealthySecondThreshold"] = 900
    assert manifest_problems(old) == [
        "spec.serviceUnhealthySecondThreshold: unknown field; allowed: excludeHeadPodFromServeSvc, rayClusterConfig, "
        "rayClusterDeletionDelaySeconds, serveConfigV2, serveService, suspend, upgradeStrategy"
    ]


def test_problems_name_the_path_and_the_nearest_field() -> None:
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "Upper", "labels": {"app": "-x"}},
        "spec": {"containers": [{"image": "nginx", "imagePullPolcy": "Always", "ports": [{"containerPort": "80"}]}]},
    }
    problems = manifest_problems(pod)
    assert problems[0].startswith(
        "spec.containers[0].imagePullPolcy: unknown field; did you mean 'imagePullPolicy'? allowed: args,"
    )
    assert set(problems[1:]) == {
        "spec.containers[0].ports[0].containerPort: must be of type int (got '80')",
        "spec.containers[0].name: missing",
        "metadata.name: not a valid name (got 'Upper')",
        "metadata.labels[app]: not a valid label value (got '-x')",
    }


def test_a_python_name_is_not_a_field_name() -> None:
    document = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "x"},
        "spec": {"host_network": True, "containers": []},
    }
    assert [problem.split(";")[0] for problem in manifest_problems(document)] == ["spec.host_network: unknown field"]


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        ({}, "apiVersion: missing"),
        ({"apiVersion": "v1", "kind": "Podd", "metadata": {}}, "kind: 'Podd' of v1 has neither"),
        ({"apiVersion": "example.com/v1", "kind": "Pod"}, "kind: 'Pod' of example.com/v1 has neither"),
        ({"apiVersion": "v1", "kind": "ConfigMap"}, "metadata: missing"),
    ],
)
def test_a_document_without_a_known_kind_is_refused(document: dict[str, Any], problem: str) -> None:
    assert manifest_problems(document)[0].startswith(problem)
