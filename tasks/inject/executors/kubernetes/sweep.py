"""Traces of faults on a cluster, found by our labels and not by a journal."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

from tasks.deploy.kubernetes.errors import NotFoundError
from tasks.deploy.kubernetes.manifest import stack_selector
from tasks.deploy.kubernetes.runtime import KubernetesRuntime
from tasks.inject.executor import FaultError
from tasks.inject.executors.kubernetes.chaos_resource import CHAOS_API, INJECTION_LABEL, SERVICE_LABEL, ChaosKind
from tasks.inject.executors.kubernetes.target import KubernetesTarget, in_words
from tasks.inject.executors.kubernetes.undo import DeleteChaos, KubernetesStep

Trace = tuple[KubernetesTarget, KubernetesStep]
"""The step that removes a trace, and the service that it is on."""


def residue(runtime: KubernetesRuntime) -> list[str]:
    """Every trace; what cannot be looked at is named as one."""
    traces, blind = _traces(runtime)
    return [*blind, *(line for target, step in traces for line in _look(step, target))]


def sweep(runtime: KubernetesRuntime) -> tuple[list[str], list[str]]:
    """Undo all that ``residue`` would find. Returns what was done and what could not be."""
    traces, failures = _traces(runtime)
    done: list[str] = []
    for target, step in traces:
        found = _look(step, target)
        try:
            told = step.undo(target)
            left = step.left(target)
        except (FaultError, OSError) as error:
            failures.append(f"{step.step}: {error}")
            continue
        failures += left
        done += [f"{line}: undone" for line in found if not left]
        done += [] if told is None else told.notes
    return done, failures


def _look(step: KubernetesStep, target: KubernetesTarget) -> list[str]:
    try:
        return step.left(target)
    except (FaultError, OSError) as error:
        return [f"{target.name}: cannot look for residue: {error}"]


def _traces(runtime: KubernetesRuntime) -> tuple[list[Trace], list[str]]:
    """What was found, and what could not be looked at."""
    found: list[Trace] = []
    blind: list[str] = []
    for find in FINDERS:
        try:
            found += find(runtime)
        except FaultError as error:
            blind.append(f"cannot look for residue: {error}")
    return found, blind


def _chaos_resources(runtime: KubernetesRuntime) -> list[Trace]:
    """Every Chaos Mesh resource of ours; none where Chaos Mesh is not installed."""
    anywhere = KubernetesTarget.of(runtime, runtime.services[0].name)
    selector = f"{stack_selector(runtime.namespace)},{INJECTION_LABEL}"
    found: list[Trace] = []
    for kind in get_args(ChaosKind):
        with in_words(anywhere):
            try:
                resources = anywhere.api().list(CHAOS_API, kind, label_selector=selector)
            except NotFoundError:
                continue
        for resource in resources:
            metadata = resource["metadata"]
            service = metadata["labels"].get(SERVICE_LABEL)
            known = service in {each.name for each in runtime.services}
            target = KubernetesTarget.of(runtime, service) if known else anywhere
            step = DeleteChaos(kind=kind, namespace=metadata["namespace"], resource=metadata["name"])
            found.append((target, step))
    return found


FINDERS: tuple[Callable[[KubernetesRuntime], list[Trace]], ...] = (_chaos_resources,)
"""Each looks for one sort of trace; raises FaultError when it cannot."""
