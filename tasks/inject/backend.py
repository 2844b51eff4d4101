"""The stack of a workspace as ``tasks.inject`` sees it, whatever its backend: its services, and traces of faults."""

from __future__ import annotations

from pathlib import Path

from tasks.deploy.kubernetes.runtime import KubernetesRuntime
from tasks.deploy.local.runtime import StackRuntime
from tasks.deploy.runtime import read_runtime
from tasks.inject.executors.kubernetes import sweep as kubernetes_sweep
from tasks.inject.executors.kubernetes.target import KubernetesTarget
from tasks.inject.executors.local import sweep as local_sweep
from tasks.inject.executors.local.target import LocalTarget
from tasks.inject.steps import Target

Runtime = StackRuntime | KubernetesRuntime


def published_runtime(directory: Path) -> Runtime | None:
    """The stack that was last published in ``directory``, alive or dead."""
    return read_runtime(directory)


def backend_name(runtime: Runtime) -> str:
    return "local" if isinstance(runtime, StackRuntime) else "kubernetes"


def target_of(runtime: Runtime, service: str) -> Target:
    """Raises KeyError for an unknown service."""
    if isinstance(runtime, StackRuntime):
        return LocalTarget.of(runtime, service)
    return KubernetesTarget.of(runtime, service)


def stack_residue(runtime: Runtime) -> list[str]:
    """Traces of faults in a running stack. Raises nothing: what cannot be looked at is named as a trace."""
    if isinstance(runtime, StackRuntime):
        return local_sweep.residue(runtime)
    return kubernetes_sweep.residue(runtime)


def sweep(runtime: Runtime) -> tuple[list[str], list[str]]:
    """Undo every trace of a fault that no journal knows. Returns what was done and what could not be."""
    if isinstance(runtime, StackRuntime):
        return local_sweep.sweep(runtime)
    return kubernetes_sweep.sweep(runtime)
