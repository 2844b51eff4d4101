"""Finds backends by name. Only this package and the folders of a backend know which backends exist."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from tasks.deploy.errors import StackNotRunningError
from tasks.errors import RCArenaError
from tasks.plugins import Registry
from tasks.stack import StackParams
from tasks.workspace import RUNTIME_FILE

if TYPE_CHECKING:
    from tasks.backends.base import ActionSupport, Backend, Runtime
    from tasks.inject.executor import FaultSupport
    from tasks.params import Params
    from tasks.workspace import Workspace

B = TypeVar("B", bound="type[Backend[Any]]")


DEFAULT = "local"
"""Backend asked for its status when neither a published stack nor parameters name one."""


class UnknownBackendError(RCArenaError):
    """No installed package provides the backend, or the provided one is unusable."""


def backend_problems(backend: type[Backend[Any]]) -> list[str]:
    """Return the required members that this backend lacks, one line each."""
    problems = [f"it has no {name}" for name in sorted(backend.__abstractmethods__)]
    if get_args(backend.parameters.model_fields["backend"].annotation) != (backend.name,):
        problems.append(f"in its parameters `backend` must be the literal '{backend.name}'")
    return problems


BACKENDS: Registry[type[Backend[Any]]] = Registry("backend", "rcarena.backends", [__name__], backend_problems)


def register(backend: B) -> B:
    """Register a backend; use it as a class decorator."""
    BACKENDS.register(backend.name, backend, backend.__module__)
    return backend


def find(name: str) -> type[Backend[Any]]:
    """Return the backend called ``name``. Raises UnknownBackendError."""
    if problem := BACKENDS.problem(name):
        raise UnknownBackendError(problem)
    return BACKENDS.get(name)


def backend_of(params: Params, workspace: Workspace) -> Backend[Any]:
    """Return the stack of ``workspace`` on the backend that ``deploy.backend`` names."""
    return find(params.deploy.backend)(params.deploy.of_stack(workspace.stack_index), workspace)


def stacks_of(params: Params, workspace: Workspace) -> tuple[Workspace, ...]:
    """Return ``workspace`` as each stack of ``params`` uses it."""
    count = params.deploy.stack_count
    return (workspace.on(None),) if count == 1 else tuple(map(workspace.on, range(count)))


def deploy_problems(deploy: StackParams) -> list[str]:
    """Return problems of the section ``deploy`` across fields, one line each, naming the key."""
    problems = find(deploy.backend).problems(deploy)
    if deploy.stack_count > 1 and type(deploy).of_stack is StackParams.of_stack:
        problems.append(f"deploy.stacks: must be 1 with the backend {deploy.backend} (got {deploy.stack_count})")
    return problems


def published(directory: Path) -> Runtime | None:
    """Return the stack that was last published in ``directory``, alive or dead; None when none is readable.

    Raises:
        UnknownBackendError: it is on a backend that is not installed here.
    """
    try:
        name = json.loads((directory / RUNTIME_FILE).read_bytes())["backend"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return find(str(name)).read_runtime(directory)


def running(directory: Path) -> Runtime:
    """Return the live stack that is published in ``directory``. Raises StackNotRunningError, UnknownBackendError."""
    runtime = published(directory)
    if runtime is None or not runtime.alive:
        raise StackNotRunningError(f"no stack runs in {directory.parent}: start one with `rcarena deploy up`")
    return runtime


def faults_on(backend: str) -> FaultSupport:
    """Return the backend's support for faults. Raises UnknownBackendError."""
    return find(backend).faults()


def actions_on(backend: str) -> ActionSupport:
    """Return the backend's support for actions. Raises UnknownBackendError."""
    return find(backend).actions()
