"""The stack of a workspace as ``tasks.inject`` sees it, whatever its backend: its services, and traces of faults."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from tasks.deploy.local.runtime import StackRuntime
from tasks.deploy.runtime import read_runtime
from tasks.inject.executors.local.target import LocalTarget
from tasks.inject.steps import Target
from tasks.stack import BackendName, Role


class Service(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def role(self) -> Role: ...


class Runtime(Protocol):
    """What both backends publish of a running stack."""

    @property
    def services(self) -> Sequence[Service]: ...

    @property
    def alive(self) -> bool: ...


def published_runtime(directory: Path) -> Runtime | None:
    """The stack that was last published in ``directory``, alive or dead."""
    return read_runtime(directory)


def backend_name(runtime: Runtime) -> BackendName:
    return "local" if isinstance(runtime, StackRuntime) else "kubernetes"


def target_of(runtime: Runtime, service: str) -> Target:
    """Raises KeyError for an unknown service."""
    if isinstance(runtime, StackRuntime):
        return LocalTarget.of(runtime, service)
    raise NotImplementedError


def stack_residue(runtime: Runtime) -> list[str]:
    """Traces of faults in a running stack. Raises nothing: what cannot be looked at is named as a trace."""
    found: list[str] = _sweeper(runtime).residue(runtime)
    return found


def sweep(runtime: Runtime) -> tuple[list[str], list[str]]:
    """Undo every trace of a fault that no journal knows. Returns what was done and what could not be."""
    swept: tuple[list[str], list[str]] = _sweeper(runtime).sweep(runtime)
    return swept


def _sweeper(runtime: Runtime) -> Any:
    if isinstance(runtime, StackRuntime):
        from tasks.inject.executors.local import sweep as local

        return local
    from tasks.inject.executors.kubernetes import sweep as kubernetes

    return kubernetes
