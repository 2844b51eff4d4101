"""The published description of a running stack, whatever its backend: read by load, inject and export."""

from __future__ import annotations

from pathlib import Path

from tasks.deploy.errors import StackNotRunningError
from tasks.deploy.kubernetes.runtime import KubernetesRuntime
from tasks.deploy.kubernetes.runtime import read_runtime as read_kubernetes_runtime
from tasks.deploy.local.runtime import StackRuntime
from tasks.deploy.local.runtime import read_runtime as read_local_runtime

__all__ = ["StackNotRunningError", "read_runtime", "running_stack"]


def read_runtime(directory: Path) -> StackRuntime | KubernetesRuntime | None:
    """The last published state, of a live or dead stack; None when there is none (or it is unreadable)."""
    return read_local_runtime(directory) or read_kubernetes_runtime(directory)


def running_stack(directory: Path) -> StackRuntime | KubernetesRuntime:
    """Raises StackNotRunningError when no live stack is published in ``directory``."""
    runtime = read_runtime(directory)
    if runtime is None or not runtime.alive:
        raise StackNotRunningError(f"no stack runs in {directory.parent}: start one with `rcarena deploy up`")
    return runtime
