"""The published state of an attached stack."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, ValidationError

from tasks.backends.attached.params import AttachedDeployParams
from tasks.deploy.runtime import ServiceState, State
from tasks.system.durable import write_durably
from tasks.workspace import RUNTIME_FILE


class AttachedRuntime(State):
    """A stack as it was attached. It holds no secret: only where secrets are.

    ``known``: name of an entry of ``deploy.services`` -> value of its label ``each`` -> service, so that a replica
    keeps its name while others come and go.
    """

    backend: Literal["attached"] = "attached"
    deploy: AttachedDeployParams
    directory: Path
    known: dict[str, dict[str, str]] = Field(default={})
    attached_at: datetime | None = None

    @property
    def alive(self) -> bool:
        """True: nobody here ends it."""
        return True

    @property
    def services(self) -> tuple[ServiceState, ...]:
        return tuple(ServiceState(name=name, role=role) for name, role in self.deploy.roles().items())

    @property
    def gateway_url(self) -> str:
        """Empty when the stack is only read."""
        return self.deploy.gateway_url or ""

    @property
    def prometheus_url(self) -> str:
        return self.deploy.prometheus.url

    @property
    def model(self) -> str:
        return self.deploy.model or ""

    @property
    def versions(self) -> dict[str, str]:
        return self.deploy.versions

    def write(self) -> None:
        """Write ``directory/runtime.json`` atomically."""
        self.directory.mkdir(parents=True, exist_ok=True)
        write_durably(self.directory / RUNTIME_FILE, self.model_dump_json(indent=1).encode())

    @classmethod
    def read(cls, directory: Path) -> Self | None:
        """Return the stack that was attached last; None when there is none."""
        try:
            return cls.model_validate_json((directory / RUNTIME_FILE).read_text(encoding="utf-8"))
        except (OSError, ValidationError):
            return None
