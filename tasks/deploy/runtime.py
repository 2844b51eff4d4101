"""The published state of a running stack, on any backend: load, inject and export read it."""

from __future__ import annotations

from pathlib import Path
from typing import Generic, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from tasks.stack import Role
from tasks.system.durable import write_durably
from tasks.workspace import RUNTIME_FILE


class State(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Published(State):
    """A state of a stack that is kept in its directory."""

    directory: Path

    def write(self) -> None:
        """Write ``directory/runtime.json`` atomically."""
        self.directory.mkdir(parents=True, exist_ok=True)
        write_durably(self.directory / RUNTIME_FILE, self.model_dump_json(indent=1).encode())

    @classmethod
    def read(cls, directory: Path) -> Self | None:
        """Return the last published state of a live or dead stack; None when it is missing or unreadable."""
        try:
            return cls.model_validate_json((directory / RUNTIME_FILE).read_text(encoding="utf-8"))
        except (OSError, ValidationError):
            return None


class ServiceState(State):
    name: str
    role: Role


S = TypeVar("S", bound=ServiceState)


class StackState(Published, Generic[S]):
    services: tuple[S, ...]
    gateway_url: str
    prometheus_url: str
    model: str
    versions: dict[str, str] = {}

    def service(self, name: str) -> S:
        """Return a service by name. Raises KeyError for an unknown one."""
        for service in self.services:
            if service.name == name:
                return service
        raise KeyError(name)
