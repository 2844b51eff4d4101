"""Find and undo faults on a cluster by the labels of our objects, without a journal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

from tasks.deploy.kubernetes.runtime import KubernetesRuntime
from tasks.inject.errors import FaultError
from tasks.inject.executors.kubernetes.chaos_resource import CHAOS_API, ChaosKind
from tasks.inject.executors.kubernetes.injected import INJECTION_LABEL, SERVICE_LABEL
from tasks.inject.executors.kubernetes.repair import ReadmitPods, ejected_pods, pod_keys
from tasks.inject.executors.kubernetes.target import KubernetesTarget, translate_errors
from tasks.inject.executors.kubernetes.undo import DeleteChaos, DeleteFaultPods, DeleteNodeFaults, KubernetesStep
from tasks.kube.errors import NotFoundError
from tasks.kube.manifest import stack_selector
from tasks.kube.node_fault import API_VERSION, KIND

Step = KubernetesStep | ReadmitPods
Trace = tuple[KubernetesTarget, Step]
"""A service with a trace of a fault, and the step that removes it."""


def residue(runtime: KubernetesRuntime) -> list[str]:
    """Return every trace and every failed check."""
    traces, blind = _traces(runtime)
    return [*blind, *(line for target, step in traces for line in _check(step, target))]


def sweep(runtime: KubernetesRuntime) -> tuple[list[str], list[str]]:
    """Undo every trace that ``residue`` finds; return what was done and what failed."""
    traces, failures = _traces(runtime)
    done: list[str] = []
    for target, step in traces:
        found = _check(step, target)
        try:
            told = step.undo(target)
            left = step.left(target)
        except (FaultError, OSError) as error:
            failures.append(f"{step.step}: {error}")
            continue
        unconfirmed = [] if told is None else told.unconfirmed
        failures += [*left, *unconfirmed]
        done += [f"{line}: undone" for line in found if not left and not unconfirmed]
        done += [] if told is None else told.notes
    return done, failures


def _check(step: Step, target: KubernetesTarget) -> list[str]:
    try:
        return step.left(target)
    except (FaultError, OSError) as error:
        return [f"{target.name}: cannot look for residue: {error}"]


def _traces(runtime: KubernetesRuntime) -> tuple[list[Trace], list[str]]:
    """Return the traces, and the failed checks."""
    found: list[Trace] = []
    blind: list[str] = []
    for find in FINDERS:
        try:
            found += find(runtime)
        except FaultError as error:
            blind.append(f"cannot look for residue: {error}")
    return found, list(dict.fromkeys(blind))


def _chaos_resources(runtime: KubernetesRuntime) -> list[Trace]:
    """Find our Chaos Mesh resources."""
    return [
        (target, DeleteChaos(kind=kind, namespace=metadata["namespace"], resource=metadata["name"]))
        for kind in get_args(ChaosKind)
        for target, metadata in _injected(runtime, CHAOS_API, kind)
    ]


def _node_faults(runtime: KubernetesRuntime) -> list[Trace]:
    """Find our NodeFaults, one trace per injection."""
    found = {metadata["labels"][INJECTION_LABEL]: target for target, metadata in _injected(runtime, API_VERSION, KIND)}
    return [(target, DeleteNodeFaults(injection=injection)) for injection, target in found.items()]


def _fault_pods(runtime: KubernetesRuntime) -> list[Trace]:
    """Find the pods that injections run beside their targets, one trace per injection."""
    found = {metadata["labels"][INJECTION_LABEL]: target for target, metadata in _injected(runtime, "v1", "Pod")}
    return [(target, DeleteFaultPods(injection=injection)) for injection, target in found.items()]


def _injected(runtime: KubernetesRuntime, api_version: str, kind: str) -> list[tuple[KubernetesTarget, dict[str, Any]]]:
    """Return the metadata of every object of an injection, with its service; none where the kind is not installed.

    Raises:
        FaultError: they cannot be listed.
    """
    anywhere = KubernetesTarget.of(runtime, runtime.services[0].name)
    services = {each.name for each in runtime.services}
    with translate_errors(anywhere):
        try:
            selector = f"{stack_selector(runtime.namespace)},{INJECTION_LABEL}"
            objects = anywhere.api().list(api_version, kind, label_selector=selector)
        except NotFoundError:
            return []
    found = []
    for each in objects:
        metadata = each["metadata"]
        service = metadata["labels"].get(SERVICE_LABEL)
        found.append((KubernetesTarget.of(runtime, service) if service in services else anywhere, metadata))
    return found


def _ejections(runtime: KubernetesRuntime) -> list[Trace]:
    """Find the pods that are ejected from routing."""
    anywhere = KubernetesTarget.of(runtime, runtime.services[0].name)
    ejected = ejected_pods(anywhere)
    if not ejected:
        return []
    replicas = [KubernetesTarget.of(runtime, each.name) for each in runtime.services if each.role == "replica"]
    owners = {key: target for target in replicas for key in pod_keys(target)}
    return [
        (owners.get(key, anywhere), ReadmitPods(keys=(key,), token=token)) for key, token in sorted(ejected.items())
    ]


FINDERS: tuple[Callable[[KubernetesRuntime], list[Trace]], ...] = (
    _chaos_resources,
    _node_faults,
    _fault_pods,
    _ejections,
)
"""Functions that each find one kind of trace, and raise FaultError when they cannot check."""
