"""Init process of the stack's namespaces: starts every process, restarts those that die, and ends all on exit.

``python -m tasks.deploy.local.supervisor DIRECTORY`` with the deploy parameters as JSON on the first line of standard
input; end of input before that line means that the launcher died, and the supervisor ends.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import IO

from pydantic import BaseModel, ConfigDict

from tasks.deploy.health import complete, is_up
from tasks.deploy.local.cgroups import Cgroup
from tasks.deploy.local.layout import MODEL_NAME, RAY_METRICS_PORT, RAY_TEMP, TELEMETRY_PORTS, Layout, Process
from tasks.deploy.local.namespaces import FABRIC_ADDRESS, build_network
from tasks.deploy.local.params import LocalDeployParams
from tasks.errors import RCArenaError
from tasks.stack import GATEWAY

logger = logging.getLogger(__name__)

STATUS_FILE = "status.json"
LEASE_FILE = "lease"
RESTART_DELAY_S = 1.0
WARM_UP_COMPLETIONS_PER_REPLICA = 6


class StackStatus(BaseModel):
    """Start-up phase of the stack; the last one is ``ready`` or ``failed``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    phase: str
    detail: str = ""

    def write(self, directory: Path) -> None:
        staging = directory / f".{STATUS_FILE}"
        staging.write_text(self.model_dump_json(), encoding="utf-8")
        staging.replace(directory / STATUS_FILE)


class StackError(RCArenaError):
    """The stack cannot start or stay up; the message names the reason and the log."""


class Supervisor:
    def __init__(self, layout: Layout, cgroups: dict[str, Cgroup], lease_s: float) -> None:
        self.layout = layout
        self.cgroups = cgroups
        self.lease_s = lease_s
        self.running: dict[int, Process] = {}
        self.restart_at: dict[str, tuple[float, Process]] = {}
        self.finished: dict[str, int] = {}

    def start_stack(self) -> None:
        """Bring everything up in order; raises StackError when a step fails or takes too long."""
        deadline = time.monotonic() + self.layout.params.start_timeout_s
        self._phase("network", "namespaces, links and cgroups")
        build_network(self.layout.addresses)
        RAY_TEMP.mkdir()
        self._write_configuration()
        for process in self.layout.telemetry_processes():
            self.start(process)
        model = self.layout.model_process()
        if self._run_once(model, deadline) != 0:
            raise StackError(f"the toy model could not be built; see {model.log}")
        self.start(self.layout.gateway_process())
        for process in (self.layout.head_process(), *self.layout.replica_processes()):
            self._start_ray_node(process, deadline)
        self._phase("engines", f"{self.layout.params.replicas} vLLM engines")
        self._run_application(deadline)
        self._phase("health", "a completion through the gateway")
        self._wait_healthy(deadline)
        for service, cgroup in self.cgroups.items():
            cgroup.set_cpu_cores(self.layout.cpu_cores(service))
        self._phase("ready", f"serving at {self.layout.gateway_url}")

    def supervise(self) -> None:
        """Keep the stack alive until an essential process ends or the lease runs out (both raise StackError)."""
        while True:
            self.tend()
            time.sleep(0.2)

    def lease_expired(self) -> bool:
        """Return whether the lease has expired. A stack without one lasts as long as its workspace."""
        try:
            renewed = (self.layout.directory / LEASE_FILE).stat().st_mtime
        except FileNotFoundError:
            return not self.layout.directory.exists()
        return time.time() - renewed > self.lease_s

    def start(self, process: Process) -> None:
        process.directory.mkdir(parents=True, exist_ok=True)
        argv = list(process.argv)
        joins: list[Path] = []
        if process.service is not None:
            argv = ["ip", "netns", "exec", process.service, *argv]
            joins = self.cgroups[process.service].member_files()
        with process.log.open("ab") as log:
            child = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**_base_environment(process.directory), **process.environment},
                cwd=process.directory,
                start_new_session=True,
                preexec_fn=_joiner(joins),
            )
        self.running[child.pid] = process
        logger.info("started %s%s", process.name, f" of {process.service}" if process.service else "")

    def tend(self) -> None:
        """Reap ended processes, orphans included, and restart those that should run. Raises StackError."""
        if self.lease_expired():
            raise StackError(f"nobody renewed the lease for {self.lease_s:g} s: the stack was taken down")
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            process = self.running.pop(pid, None)
            if process is not None:
                self._ended(process, os.waitstatus_to_exitcode(status))
        for key, (due, process) in list(self.restart_at.items()):
            if time.monotonic() >= due:
                del self.restart_at[key]
                self.start(process)

    def stop(self) -> None:
        """Kill the services and remove their cgroups; the kernel ends the rest together with this process."""
        for cgroup in self.cgroups.values():
            cgroup.kill_all()
        with contextlib.suppress(OSError):  # what stays is named by `deploy status` and removed by `up` and `down`
            next(iter(self.cgroups.values())).parent.remove()

    def _ended(self, process: Process, code: int) -> None:
        logger.warning("%s of %s ended with code %d", process.name, process.service or "the fabric", code)
        if process.name in ("application", "model"):
            self.finished[process.name] = code
        elif process.essential:
            raise StackError(f"{process.name} of {process.service} ended with code {code}; see {process.log}")
        else:
            key = f"{process.service}/{process.name}"
            self.restart_at[key] = (time.monotonic() + RESTART_DELAY_S, process)

    def _run_once(self, process: Process, deadline: float) -> int:
        self.finished.pop(process.name, None)
        self.start(process)
        self._wait(lambda: process.name in self.finished, deadline, f"{process.name} to end; see {process.log}")
        return self.finished[process.name]

    def _start_ray_node(self, process: Process, deadline: float) -> None:
        """Start one node after the other: several at once on few cores run into Ray's own start-up time limits."""
        self._phase("ray", f"Ray node of {process.service}")
        self.start(process)
        address = self.layout.addresses[str(process.service)]
        self._wait(lambda: is_up(address, RAY_METRICS_PORT), deadline, f"a Ray node to come up; see {process.log}")

    def _run_application(self, deadline: float) -> None:
        """Run the driver until it succeeds or the deadline passes: it may fail on a slow cluster."""
        process = self.layout.application_process()
        while self._run_once(process, deadline) != 0:
            if time.monotonic() > deadline - 5:
                raise StackError(f"the Ray Serve application did not start; see {process.log}")
            time.sleep(2)

    def _wait_healthy(self, deadline: float) -> None:
        for name, port in TELEMETRY_PORTS.items():
            log = self.layout.services_file.with_name(f"{name}.log")
            self._wait(partial(is_up, FABRIC_ADDRESS, port), deadline, f"{name}; see {log}")
        url = self.layout.gateway_url
        self._wait(lambda: complete(url, MODEL_NAME) is None, deadline, f"a completion from {url}")
        for _ in range(WARM_UP_COMPLETIONS_PER_REPLICA * self.layout.params.replicas):
            complete(url, MODEL_NAME)

    def _wait(self, done: Callable[[], bool], deadline: float, what: str) -> None:
        while not done():
            self.tend()
            if time.monotonic() > deadline:
                raise StackError(f"waited {self.layout.params.start_timeout_s:g} s for {what}")
            time.sleep(0.2)

    def _write_configuration(self) -> None:
        layout = self.layout
        telemetry = layout.services_file.parent
        telemetry.mkdir(parents=True, exist_ok=True)
        gateway = layout.directory / GATEWAY
        for directory in (gateway, *(layout.ray_directory(s) for s in layout.roles if s != GATEWAY)):
            directory.mkdir(parents=True, exist_ok=True)
        (gateway / "nginx.conf").write_text(layout.nginx_configuration(), encoding="utf-8")
        (telemetry / "prometheus.yml").write_text(layout.prometheus_configuration(), encoding="utf-8")
        services = [{"name": name, "cgroups": cgroup.to_strings()} for name, cgroup in self.cgroups.items()]
        layout.services_file.write_text(json.dumps({"services": services}), encoding="utf-8")

    def _phase(self, phase: str, detail: str) -> None:
        logger.info("%s: %s", phase, detail)
        StackStatus(phase=phase, detail=detail).write(self.layout.directory)


def _joiner(files: list[Path]) -> Callable[[], None]:
    def join() -> None:
        for file in files:
            file.write_text("0", encoding="utf-8")

    return join


def _base_environment(home: Path) -> dict[str, str]:
    """Return the caller's environment without Python-specific variables and proxies (which the stack's network cannot
    reach), with ``home`` as HOME and TMPDIR: nothing is written outside the workspace."""
    dropped = {"PYTHONHOME", "PYTHONSTARTUP", "VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE"}
    kept = {
        key: value
        for key, value in os.environ.items()
        if key not in dropped and not key.startswith(("RAY_", "XDG_")) and not key.lower().endswith("_proxy")
    }
    return {**kept, "HOME": str(home), "TMPDIR": str(home)}


def _exit_on_signal(number: int, frame: FrameType | None) -> None:
    raise SystemExit(0)


def main(stdin: IO[str] = sys.stdin) -> None:
    line = stdin.readline()
    if not line:
        return
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    signal.signal(signal.SIGTERM, _exit_on_signal)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    directory = Path(sys.argv[1])
    order = json.loads(line)
    layout = Layout(LocalDeployParams.model_validate(order["params"]), directory)
    cgroups = {name: Cgroup.from_strings(paths) for name, paths in order["cgroups"].items()}
    supervisor = Supervisor(layout, cgroups, order["lease_s"])
    try:
        supervisor.start_stack()
        supervisor.supervise()
    except (StackError, OSError, subprocess.CalledProcessError) as error:
        detail = getattr(error, "stderr", None) or str(error)
        logger.error("%s", detail)
        StackStatus(phase="failed", detail=detail.strip()).write(directory)
        supervisor.stop()
        raise SystemExit(1) from None
    except SystemExit:
        supervisor.stop()
        raise


def clear_directory(directory: Path) -> None:
    """Remove what an earlier stack left in ``directory``."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True, exist_ok=True)


if __name__ == "__main__":
    main()
