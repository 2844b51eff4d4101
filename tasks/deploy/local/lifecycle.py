"""``deploy up | status | down`` for the local backend. Each is idempotent and cleans up after a crash."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from tasks.deploy.errors import DeployError
from tasks.deploy.health import complete
from tasks.deploy.local import preflight
from tasks.deploy.local.cgroups import CGROUP_ROOT, STACKS_PREFIX, Cgroup, CgroupError, detect_hierarchy
from tasks.deploy.local.layout import MODEL_NAME, Layout
from tasks.deploy.local.namespaces import join_network, new_fabric
from tasks.deploy.local.params import LocalDeployParams
from tasks.deploy.local.runtime import ServiceRuntime, StackRuntime
from tasks.deploy.local.supervisor import LEASE_FILE, STATUS_FILE, StackStatus, clear_directory
from tasks.identity import digest, resolved
from tasks.system.file_lock import FileLock
from tasks.system.process import ProcessId
from tasks.workspace import RUNTIME_FILE

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
Progress = Callable[[str], None]
PARAMS_FILE = "deploy.json"
SUPERVISOR_LOG = "supervisor.log"
LEASE_S = 120.0
STOP_TIMEOUT_S = 15.0


@dataclass(frozen=True)
class ServiceStatus:
    name: str
    role: str
    address: str
    processes: int
    cpu_cores: float | None
    memory_mb: float


@dataclass(frozen=True)
class Status:
    """``state``: ``down``, ``starting``, ``ready``, ``unhealthy`` or ``leftovers`` (dead, not cleaned up)."""

    state: str
    detail: str
    services: tuple[ServiceStatus, ...] = ()


def stack_id(directory: Path) -> str:
    """Return the stable id of a workspace's stack, so that two workspaces never share a cgroup."""
    return hashlib.sha256(str(directory.resolve()).encode()).hexdigest()[:10]


def up(params: LocalDeployParams, directory: Path, progress: Progress = logger.info) -> StackRuntime:
    """Bring the stack up, or return a healthy one that runs with the same parameters.

    The stack is leased: call ``renew_lease``, or ``drop_lease`` to keep it up. It ends if this process is killed here.

    Raises:
        DeployError: something is missing on this machine, or the stack did not become healthy; nothing is left running.
    """
    with _stack_lock(directory):
        running = StackRuntime.read(directory)
        if running is not None and running.alive:
            problem = _why_not_reusable(running, params, directory)
            if problem is None:
                renew_lease(directory)
                progress("stack: already up")
                return running
            progress(f"stack: taken down ({problem})")
        _down(directory)
        problems = preflight.problems(params.replicas)
        if problems:
            raise DeployError("this machine cannot run the local stack:\n" + "\n".join(f"- {p}" for p in problems))
        clear_directory(directory)
        try:
            runtime = _launch(params, directory)
            _await_ready(runtime, directory, progress)
        except CgroupError as error:
            _down(directory)
            raise DeployError(str(error)) from error
        except BaseException:
            _down(directory)
            raise
        return runtime


def down(directory: Path) -> bool:
    """End the stack's processes and remove its cgroups, keeping logs; return False when there was nothing to do."""
    if not directory.exists():
        return _down(directory)
    with _stack_lock(directory):
        return _down(directory)


def status(directory: Path) -> Status:
    """Return the state of the stack; request a completion when it claims to be ready."""
    runtime = StackRuntime.read(directory)
    if runtime is None or not runtime.alive:
        left = leftovers(directory)
        return Status("leftovers", f"dead, left behind: {', '.join(left)}") if left else Status("down", "no stack runs")
    services = tuple(_service_status(service) for service in runtime.services)
    state = read_status(directory)
    if state.phase != "ready":
        return Status("starting", f"{state.phase}: {state.detail}", services)
    problem = in_network(runtime, lambda: complete(runtime.gateway_url, runtime.model))
    if problem:
        return Status("unhealthy", f"no completion through the gateway: {problem}", services)
    return Status("ready", f"a completion came back through {runtime.gateway_url}", services)


def leftovers(directory: Path) -> list[str]:
    """List what a dead stack of this workspace left outside the workspace."""
    return [str(path) for path in _stack_cgroup(directory).paths.values() if path.exists()]


def in_network(runtime: StackRuntime, function: Callable[[], Result]) -> Result:
    """Run ``function`` in a new thread inside the stack's network and return its result.

    Raises:
        OSError: the stack has just ended, or joining it is not permitted.
    """

    def inside() -> Result:
        join_network(runtime.supervisor.pid)
        return function()

    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(inside).result()


def renew_lease(directory: Path) -> None:
    """Renew the lease: the campaign that brought the stack up is alive."""
    (directory / LEASE_FILE).touch()


def drop_lease(directory: Path) -> None:
    """Remove the lease: the stack stays up until ``deploy down``."""
    (directory / LEASE_FILE).unlink(missing_ok=True)


def read_status(directory: Path) -> StackStatus:
    try:
        return StackStatus.model_validate_json((directory / STATUS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValidationError):
        return StackStatus(phase="starting")


def _why_not_reusable(runtime: StackRuntime, params: LocalDeployParams, directory: Path) -> str | None:
    try:
        used = LocalDeployParams.model_validate_json((directory / PARAMS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValidationError):
        return "its parameters are unknown"
    if digest(resolved(used)) != digest(resolved(params)):
        return "it runs with other parameters"
    if read_status(directory).phase != "ready":
        return "its start was interrupted"
    try:
        problem = in_network(runtime, lambda: complete(runtime.gateway_url, runtime.model))
    except OSError as error:
        problem = str(error)
    return f"no completion came back: {problem}" if problem else None


def _launch(params: LocalDeployParams, directory: Path) -> StackRuntime:
    """Start the supervisor. It starts nothing before its identity is on disk, so that a crash here cannot orphan it."""
    layout = Layout(params, directory.resolve())
    identity = stack_id(directory)
    (directory / PARAMS_FILE).write_text(params.model_dump_json(), encoding="utf-8")
    renew_lease(directory)
    cgroups = {service: Cgroup.create(f"{STACKS_PREFIX}{identity}", service) for service in layout.roles}
    with (directory / SUPERVISOR_LOG).open("ab") as log:
        process = subprocess.Popen(
            new_fabric([sys.executable, "-m", "tasks.deploy.local.supervisor", str(layout.directory)]),
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    runtime = StackRuntime(
        stack_id=identity,
        supervisor=_init_process(process),
        services=tuple(
            ServiceRuntime(
                name=name,
                role=role,
                address=layout.addresses[name],
                cgroups=cgroups[name].to_strings(),
                cpu_cores=layout.cpu_cores(name),
            )
            for name, role in layout.roles.items()
        ),
        gateway_url=layout.gateway_url,
        prometheus_url=layout.prometheus_url,
        model=MODEL_NAME,
        directory=layout.directory,
        versions=preflight.versions(),
    )
    runtime.write()
    order = {
        "params": params.model_dump(mode="json"),
        "cgroups": {name: cgroup.to_strings() for name, cgroup in cgroups.items()},
        "lease_s": LEASE_S,
    }
    if process.stdin is None:
        raise DeployError("the supervisor has no input")
    with contextlib.suppress(BrokenPipeError), process.stdin as orders:
        orders.write(json.dumps(order).encode() + b"\n")
    return runtime


def _init_process(unshare: subprocess.Popen[bytes]) -> ProcessId:
    """Return the only child of ``unshare``, the init process of the new PID namespace."""
    children = Path(f"/proc/{unshare.pid}/task/{unshare.pid}/children")
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and unshare.poll() is None:
        pids = children.read_text(encoding="utf-8").split()
        if pids:
            return ProcessId.of(int(pids[0]))
        time.sleep(0.02)
    unshare.kill()
    raise DeployError(
        "the kernel refused new namespaces; see the stack's supervisor.log (in a container: --privileged)"
    )


def _await_ready(runtime: StackRuntime, directory: Path, progress: Progress) -> None:
    shown = None
    while True:
        renew_lease(directory)
        alive = runtime.alive
        state = read_status(directory)
        if state != shown:
            progress(f"stack: {state.phase}: {state.detail}" if state.detail else f"stack: {state.phase}")
            shown = state
        if state.phase == "ready":
            return
        if state.phase == "failed" or not alive:
            log = directory / SUPERVISOR_LOG
            why = state.detail if state.phase == "failed" else f"its supervisor ended at the step '{state.phase}'"
            raise DeployError(f"the stack did not start: {why} (log: {log})")
        time.sleep(0.2)


def _down(directory: Path) -> bool:
    runtime = StackRuntime.read(directory)
    found = bool(leftovers(directory))
    if runtime is not None and runtime.alive:
        found = True
        runtime.supervisor.kill(15)
        if not runtime.supervisor.wait_gone(STOP_TIMEOUT_S):
            runtime.supervisor.kill()
            runtime.supervisor.wait_gone(STOP_TIMEOUT_S)
    cgroup = _stack_cgroup(directory)
    if not cgroup.kill_all():
        raise DeployError(f"processes {sorted(cgroup.pids())} of the stack cannot be ended")
    cgroup.remove()
    for name in (RUNTIME_FILE, STATUS_FILE, LEASE_FILE):
        (directory / name).unlink(missing_ok=True)
    return found


def _stack_cgroup(directory: Path) -> Cgroup:
    try:
        hierarchy = detect_hierarchy()
    except CgroupError:
        hierarchy = {}
    name = f"{STACKS_PREFIX}{stack_id(directory)}"
    return Cgroup(
        {controller: mount / name for controller, mount in hierarchy.items() if mount.is_relative_to(CGROUP_ROOT)}
    )


def _service_status(service: ServiceRuntime) -> ServiceStatus:
    cgroup = service.cgroup
    return ServiceStatus(
        name=service.name,
        role=service.role,
        address=service.address,
        processes=len(cgroup.pids()),
        cpu_cores=cgroup.cpu_cores(),
        memory_mb=cgroup.memory_usage() / 1e6,
    )


def _stack_lock(directory: Path) -> FileLock:
    """Return the lock that allows one ``up`` or ``down`` at a time per workspace."""
    busy = DeployError(f"another process is bringing the stack of {directory.parent} up or down")
    return FileLock(directory.parent / ".stack.lock", busy)
