"""The published state of an attached stack."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from tasks.backends.attached.params import AttachedDeployParams
from tasks.deploy.runtime import Published, ServiceState


class AttachedRuntime(Published):
    """A stack as it was attached. It holds no secret: only where secrets are.

    ``known``: name of an entry of ``deploy.services`` -> value of its label ``each`` -> service, so that a replica
    keeps its name while others come and go.
    """

    backend: Literal["attached"] = "attached"
    deploy: AttachedDeployParams
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
