"""Where stacks run. Nothing outside this package and the folders of a backend knows which backends there are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from tasks.plugins import Registry

if TYPE_CHECKING:
    from tasks.backends.base import Backend
    from tasks.params import Params
    from tasks.workspace import Workspace

B = TypeVar("B", bound="type[Backend[Any]]")


class UnknownBackendError(ValueError):
    """No installed package has that backend, or the one that has it cannot be used."""


BACKENDS: Registry[type[Backend[Any]]] = Registry("backend", "rcarena.backends", [__name__])


def register(backend: B) -> B:
    """Add a backend; decorates the class in the module that defines it."""
    BACKENDS.register(backend.name, backend, backend.__module__)
    return backend


def find(name: str) -> type[Backend[Any]]:
    """Return the backend called ``name``. Raises UnknownBackendError."""
    if problem := BACKENDS.problem(name):
        raise UnknownBackendError(problem)
    return BACKENDS.get(name)


def backend_of(params: Params, workspace: Workspace) -> Backend[Any]:
    """Return the stack of ``workspace`` on the backend that ``deploy.backend`` names."""
    return find(params.deploy.backend)(params.deploy, workspace)
