"""The steps of actions on this machine: end a service's processes, give it a new link, let requests reach it again."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path
from typing import Literal

from tasks.deploy.local.layout import EJECTED
from tasks.deploy.local.namespaces import BRIDGE, fabric_link
from tasks.inject.errors import FaultError
from tasks.inject.executor import UndoStepBase
from tasks.inject.executors.local.target import LocalTarget
from tasks.system.process import ProcessId, end_all

DIE_S = 10.0

_IS_NEW = 'ip link show dev "$link" 2>/dev/null | grep -qxF "    alias $token"'
_NEW_LINK = f"""set -e
{_IS_NEW} && exit 0
ip link del "$link" 2>/dev/null || true
ip netns del "$service" 2>/dev/null || true
ip netns add "$service"
ip link add "$link" type veth peer name "$interface" netns "$service"
ip link set "$link" master "$bridge" up
ip -n "$service" link set lo up
ip -n "$service" address add "$address/24" dev "$interface"
ip -n "$service" link set "$interface" up
ip link set "$link" alias "$token"
"""
"""The alias is set last: a link without it is begun again."""


class EndService(UndoStepBase[LocalTarget]):
    """End processes of the service, so that the stack's supervisor starts it anew; those started since live on.

    ``drain_s``: how long SIGQUIT may take (NGINX ends the requests under way) before SIGKILL, which also ends a stopped
    process.
    """

    step: Literal["end-service"] = "end-service"
    processes: tuple[ProcessId, ...]
    drain_s: float = 0

    def undo(self, target: LocalTarget) -> None:
        drain = ((signal.SIGQUIT, self.drain_s),) if self.drain_s else ()
        if end_all(self.processes, *drain, (signal.SIGKILL, DIE_S)) is None:
            raise FaultError(f"{target.name}: {len(self._alive())} processes do not die")

    def left(self, target: LocalTarget) -> list[str]:
        return [f"{target.name}: process {each.pid} still runs" for each in self._alive()]

    def _alive(self) -> list[ProcessId]:
        return [each for each in self.processes if each.alive]


class NewLink(UndoStepBase[LocalTarget]):
    """Give the service a new network namespace and link, with its old name and address. ``token``: alias of the new
    link, by which a repetition knows it."""

    step: Literal["new-link"] = "new-link"
    token: str

    def undo(self, target: LocalTarget) -> None:
        if not target.stack_alive:
            return
        answer = self._run(target, _NEW_LINK)
        if answer.returncode:
            said = (answer.stderr.strip().splitlines() or [f"status {answer.returncode}"])[-1]
            raise FaultError(f"{target.name}: no new link: {said}")

    def left(self, target: LocalTarget) -> list[str]:
        if not target.stack_alive or not self._run(target, _IS_NEW).returncode:
            return []
        return [f"{target.name}: {fabric_link(target.service.address)} is not new"]

    def _run(self, target: LocalTarget, script: str) -> subprocess.CompletedProcess[str]:
        service = target.service
        words = {
            "link": fabric_link(service.address),
            "token": self.token,
            "service": service.name,
            "interface": service.interface,
            "bridge": BRIDGE,
            "address": service.address,
        }
        return target.run_in_fabric("env", *(f"{name}={value}" for name, value in words.items()), "sh", "-c", script)


class Readmit(UndoStepBase[LocalTarget]):
    """Let the router send requests to the service again."""

    step: Literal["readmit"] = "readmit"

    def undo(self, target: LocalTarget) -> None:
        if (file := ejected_file(target)) is not None:
            file.unlink(missing_ok=True)

    def left(self, target: LocalTarget) -> list[str]:
        file = ejected_file(target)
        return [f"{target.name}: it is ejected from routing by {file}"] if file is not None and file.exists() else []


RepairStep = EndService | NewLink | Readmit


def ejected_file(target: LocalTarget) -> Path | None:
    """Return the file that makes the router pass over the service; None in journals of earlier versions."""
    return target.directory / EJECTED / target.service.address if target.directory is not None else None
