"""A stack of three small servers in their own namespaces and cgroups, published like the real one."""

from __future__ import annotations

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
from tasks.deploy.local.layout import (
    CGROUP_EXPORTER_PORT,
    NGINX_STATUS_PORT,
    PROMETHEUS_PORT,
    RAY_METRICS_PORT,
    SPANS_FILE,
    WITHHELD,
)
from tasks.deploy.local.namespaces import FABRIC_ADDRESS, new_fabric, service_address
from tasks.deploy.local.runtime import ServiceRuntime, StackRuntime
from tasks.engine import ENGINE_TITLE
from tasks.inject.executors.local.target import LocalTarget
from tasks.stack import Role
from tasks.system.process import ProcessId
from tasks.workspace import Workspace
from tests.cgroups import own_name
from tests.inject import ministack_processes
from tests.inject.ministack_processes import PORT
from tests.waiting import until

ROLES: dict[str, Role] = {"nginx-proxy": "gateway", "ray-replicas-0": "replica", "ray-replicas-1": "replica"}
BUSY = {"ray-replicas-0": 0.3}
ENGINES = {"ray-replicas-0": f"{ENGINE_TITLE}EngineCore"}
CORES = 0.6
BURSTS = Path("telemetry/bursts")
ROOT = Path(__file__).resolve().parents[2]


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
    parent = own_name()
    cgroups = {name: Cgroup.create(parent, name) for name in ROLES}
    for cgroup in cgroups.values():
        cgroup.set_cpu_cores(CORES)
    addresses = {name: service_address(index) for index, name in enumerate(ROLES)}
    members = {name: [str(file) for file in cgroup.member_files()] for name, cgroup in cgroups.items()}
    ports = {name: NGINX_STATUS_PORT if role == "gateway" else RAY_METRICS_PORT for name, role in ROLES.items()}
    spec = json.dumps(
        {
            "addresses": addresses,
            "members": members,
            "busy": BUSY,
            "engines": ENGINES,
            "metrics_ports": ports,
            "bursts": str(workspace.stack / BURSTS),
            "telemetry": _telemetry(workspace.stack, cgroups, addresses, ports),
        }
    )
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
            prometheus_url=f"http://{FABRIC_ADDRESS}:{PROMETHEUS_PORT}",
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


def _telemetry(
    stack: Path, cgroups: dict[str, Cgroup], addresses: dict[str, str], ports: dict[str, int]
) -> list[list[str]]:
    """Commands of the real exporter, the real Prometheus, which fetches everything twice a second, and the engines'
    spans."""
    directory = stack / "telemetry"
    (stack / BURSTS).mkdir(parents=True)
    services = [{"name": name, "cgroups": cgroup.to_strings()} for name, cgroup in cgroups.items()]
    (directory / "services.json").write_text(json.dumps({"services": services}))
    targets: dict[str, dict[str, str]] = {
        f"{addresses[name]}:{port}": {"service": name} for name, port in ports.items()
    }
    targets[f"{FABRIC_ADDRESS}:{CGROUP_EXPORTER_PORT}"] = {}
    jobs = {
        "job_name": "all",
        "honor_labels": True,
        "static_configs": [{"targets": [target], "labels": labels} for target, labels in targets.items()],
    }
    configuration = {"global": {"scrape_interval": "500ms", "scrape_timeout": "500ms"}, "scrape_configs": [jobs]}
    (directory / "prometheus.yml").write_text(json.dumps(configuration))
    exporter = [sys.executable, "-m", "tasks.deploy.local.cgroup_exporter"]
    exporter += [f"--listen={FABRIC_ADDRESS}:{CGROUP_EXPORTER_PORT}", f"--services={directory / 'services.json'}"]
    exporter += [f"--withheld={stack / WITHHELD}"]
    prometheus = ["prometheus", f"--config.file={directory / 'prometheus.yml'}", "--log.level=error"]
    prometheus += [f"--storage.tsdb.path={directory / 'prometheus'}"]
    prometheus += [f"--web.listen-address={FABRIC_ADDRESS}:{PROMETHEUS_PORT}"]
    spans = [sys.executable, "-m", "tests.inject.ministack_spans", str(stack / BURSTS), str(stack / SPANS_FILE)]
    return [exporter, prometheus, spans]


def _wait_for(stack: MiniStack, name: str) -> None:
    def answers() -> bool:
        try:
            stack.connect(name).close()
        except OSError:
            return False
        return True

    until(answers, f"{name} does not answer")
