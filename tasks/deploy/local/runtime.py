"""The published state of a running local stack: load, inject and export read it."""

from __future__ import annotations

from typing import Literal

from tasks.deploy.local.cgroups import Cgroup
from tasks.deploy.local.namespaces import INTERFACE, enter_fabric, enter_service
from tasks.deploy.runtime import ServiceState, StackState
from tasks.system.process import ProcessId


class ServiceRuntime(ServiceState):
    """One service: ``cgroups`` maps controller to directory, ``cpu_cores`` is its normal quota (None: unlimited)."""

    address: str
    interface: str = INTERFACE
    cgroups: dict[str, str]
    cpu_cores: float | None = None

    @property
    def cgroup(self) -> Cgroup:
        return Cgroup.from_strings(self.cgroups)


class StackRuntime(StackState[ServiceRuntime]):
    """State of a stack. ``supervisor``, the init process of its namespaces, lives as long as the stack."""

    backend: Literal["local"] = "local"
    stack_id: str
    supervisor: ProcessId

    @property
    def alive(self) -> bool:
        return self.supervisor.alive

    def enter_service(self, name: str) -> list[str]:
        """Return the prefix that runs a command in the network (and PID) namespace of a service."""
        return enter_service(self.supervisor.pid, self.service(name).name)

    def enter_fabric(self) -> list[str]:
        return enter_fabric(self.supervisor.pid)
