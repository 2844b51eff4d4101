"""A stack of three small servers in their own namespaces and cgroups, published like the real one."""

from __future__ import annotations

import itertools
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tasks.deploy.local.cgroups import Cgroup
from tasks.deploy.local.namespaces import new_fabric, service_address
from tasks.deploy.local.runtime import ServiceRuntime, StackRuntime
from tasks.inject.executors.local.target import LocalTarget
from tasks.stack import Role
from tasks.system.process import ProcessId
from tasks.workspace import Workspace
from tests.inject import ministack_processes
from tests.inject.ministack_processes import PORT
from tests.waiting import until

ROLES: dict[str, Role] = {"nginx-proxy": "gateway", "ray-replicas-0": "replica", "ray-replicas-1": "replica"}
BUSY = {"ray-replicas-0": 0.3}
CORES = 0.6
ROOT = Path(__file__).resolve().parents[2]
_numbers = itertools.count()


@dataclass
class MiniStack:
    runtime: StackRuntime
    workspace: Workspace
    fabric: subprocess.Popen[bytes]

    def target(self, name: str = "ray-replicas-0") -> LocalTarget:
        return LocalTarget.of(self.runtime, name)

    def connect(self, name: str = "ray-replicas-0", timeout_s: float = 20) -> socket.socket:
        """A TCP connection from the fabric to the service."""

        def open_connection() -> socket.socket:
            return socket.create_connection((self.runtime.service(name).address, PORT), timeout_s)

        return self.target(name).in_fabric_network(open_connection)

    def kill(self) -> None:
        self.fabric.kill()
        self.fabric.wait()
        assert self.runtime.supervisor.wait_gone(5)


def fetch(connection: socket.socket, size: int) -> bytes:
    connection.sendall(size.to_bytes(8, "big"))
    received = bytearray()
    while len(received) < size:
        part = connection.recv(1 << 20)
        if not part:
            raise ConnectionError(f"closed after {len(received)} of {size} bytes")
        received += part
    return bytes(received)


@contextmanager
def mini_stack(directory: Path) -> Iterator[MiniStack]:
    """Start it, publish it in ``directory``, and leave nothing behind."""
    workspace = Workspace(directory)
    workspace.stack.mkdir(parents=True)
    parent = f"rcarena-test-{os.getpid()}-{next(_numbers)}"
    cgroups = {name: Cgroup.create(parent, name) for name in ROLES}
    for cgroup in cgroups.values():
        cgroup.set_cpu_cores(CORES)
    addresses = {name: service_address(index) for index, name in enumerate(ROLES)}
    members = {name: [str(file) for file in cgroup.member_files()] for name, cgroup in cgroups.items()}
    spec = json.dumps({"addresses": addresses, "members": members, "busy": BUSY})
    fabric = subprocess.Popen(
        [
            "setpriv",
            "--pdeathsig",
            "KILL",
            "--",
            *new_fabric([sys.executable, ministack_processes.__file__, "supervisor", spec]),
        ],
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    try:
        assert fabric.stdout is not None
        assert fabric.stdout.readline() == b"ready\n"
        children = Path(f"/proc/{fabric.pid}/task/{fabric.pid}/children").read_text(encoding="ascii").split()
        runtime = StackRuntime(
            stack_id="mini",
            supervisor=ProcessId.of(int(children[0])),
            services=tuple(
                ServiceRuntime(
                    name=name,
                    role=role,
                    address=addresses[name],
                    cgroups=cgroups[name].to_strings(),
                    cpu_cores=CORES,
                )
                for name, role in ROLES.items()
            ),
            gateway_url="http://unused",
            prometheus_url="http://unused",
            model="none",
            directory=workspace.stack,
        )
        runtime.write()
        stack = MiniStack(runtime, workspace, fabric)
        for name in ROLES:
            _wait_for(stack, name)
        yield stack
    finally:
        fabric.kill()
        fabric.wait()
        for cgroup in cgroups.values():
            cgroup.kill_all()
            cgroup.remove()
        Cgroup.create(parent).remove()


def _wait_for(stack: MiniStack, name: str) -> None:
    def answers() -> bool:
        try:
            stack.connect(name).close()
        except OSError:
            return False
        return True

    until(answers, f"{name} does not answer")
