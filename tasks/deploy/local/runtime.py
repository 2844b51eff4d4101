"""The published state of a running local stack: load, inject and export read it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from tasks.deploy.local.cgroups import Cgroup
from tasks.deploy.local.namespaces import INTERFACE, enter_fabric, enter_service
from tasks.stack import Role
from tasks.system.durable import write_durably
from tasks.system.process import ProcessId

RUNTIME_FILE = "runtime.json"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ServiceRuntime(_Frozen):
    """One service: ``cgroups`` maps controller to directory, ``cpu_cores`` is its normal quota (None: unlimited)."""

    name: str
    role: Role
    address: str
    interface: str = INTERFACE
    cgroups: dict[str, str]
    cpu_cores: float | None = None

    @property
    def cgroup(self) -> Cgroup:
        return Cgroup.from_strings(self.cgroups)


class StackRuntime(_Frozen):
    """``supervisor`` is the init process of the stack's namespaces: while it lives the stack exists."""

    backend: Literal["local"] = "local"
    stack_id: str
    supervisor: ProcessId
    services: tuple[ServiceRuntime, ...]
    gateway_url: str
    prometheus_url: str
    model: str
    directory: Path
    versions: dict[str, str] = {}

    @property
    def alive(self) -> bool:
        return self.supervisor.alive

    def service(self, name: str) -> ServiceRuntime:
        """Raises KeyError for an unknown name."""
        for service in self.services:
            if service.name == name:
                return service
        raise KeyError(name)

    def enter_service(self, name: str) -> list[str]:
        """Return the prefix that runs a command in the network (and PID) namespace of a service."""
        return enter_service(self.supervisor.pid, self.service(name).name)

    def enter_fabric(self) -> list[str]:
        return enter_fabric(self.supervisor.pid)

    def write(self) -> None:
        """Write ``directory/runtime.json`` atomically."""
        write_durably(self.directory / RUNTIME_FILE, self.model_dump_json(indent=1).encode())


def read_runtime(directory: Path) -> StackRuntime | None:
    """Return the last published state of a live or dead stack; None when it is missing or unreadable."""
    try:
        return StackRuntime.model_validate_json((directory / RUNTIME_FILE).read_text(encoding="utf-8"))
    except (OSError, ValidationError):
        return None
