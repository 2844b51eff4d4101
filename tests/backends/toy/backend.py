"""The toy backend as commands, campaign and injection see it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import BaseModel, Field, ValidationError

from tasks.backends import RUNTIME_FILE, register
from tasks.backends.base import ActionSupport, Answer, Backend, LiveStack, MissingSeries, Say
from tasks.deploy.errors import DeployError, StackNotRunningError
from tasks.stack import GATEWAY, Role, StackParams
from tasks.system.durable import write_durably
from tasks.system.process import ProcessId
from tasks.workspace import Workspace

if TYPE_CHECKING:
    from tasks.case import Stack
    from tasks.export.base import TelemetrySources
    from tasks.inject.executor import FaultSupport

START_TIMEOUT_S = 60.0
SLOW_S = 2.0
LEASE_FILE = "lease"


class ToyDeployParams(StackParams):
    backend: Literal["toy"]
    replicas: Annotated[int, Field(ge=1, le=4)]
    answer_ms: Annotated[float, Field(gt=0, le=1000)] = 10

    def of_stack(self, index: int | None) -> Self:
        """Return the same parameters: stacks differ by their folders."""
        return self


class ToyService(BaseModel):
    name: str
    role: Role


class ToyRuntime(BaseModel):
    backend: Literal["toy"] = "toy"
    server: ProcessId
    services: tuple[ToyService, ...]
    gateway_url: str
    directory: Path
    model: str = "toy"
    versions: dict[str, str] = {"toy": "1"}

    @property
    def alive(self) -> bool:
        return self.server.alive


class ToyStack(LiveStack):
    def __init__(self, runtime: ToyRuntime) -> None:
        self.runtime: ToyRuntime = runtime

    def enter(self) -> None:
        """Everybody reaches it."""

    def unsteady(self) -> str | None:
        if not self.runtime.alive:
            raise StackNotRunningError("the toy is gone")
        return self.slow_or_failing(len(self.runtime.services), SLOW_S)

    def describe(self) -> Stack:
        from tasks.case import Service, Stack

        services = tuple(Service(name=each.name, role=each.role, node="toy") for each in self.runtime.services)
        return Stack(backend="toy", model=self.runtime.model, versions=self.runtime.versions, services=services)

    def sources(self) -> TelemetrySources:
        from tasks.export.base import TelemetrySources

        logs = {each.name: self.runtime.directory / "logs" / each.name for each in self.runtime.services}
        calls = tuple((GATEWAY, each.name) for each in self.runtime.services if each.role == "replica")
        return TelemetrySources(log_dirs=logs, calls=calls, settle_s=0)


@register
class ToyBackend(Backend[ToyDeployParams]):
    name = "toy"
    parameters = ToyDeployParams

    @classmethod
    def problems(cls, deploy: ToyDeployParams) -> list[str]:
        busy_ms = deploy.replicas * deploy.answer_ms
        return [] if busy_ms <= 1000 else [f"deploy.answer_ms: {deploy.replicas} replicas would be busy {busy_ms:g} ms"]

    @classmethod
    def read_runtime(cls, directory: Path) -> ToyRuntime | None:
        try:
            return ToyRuntime.model_validate_json((directory / RUNTIME_FILE).read_bytes())
        except (OSError, ValidationError):
            return None

    @classmethod
    def faults(cls) -> FaultSupport:
        from tests.backends.toy.faults import SUPPORT

        return SUPPORT

    @classmethod
    def actions(cls) -> ActionSupport:
        from tests.backends.toy.faults import ToyEject

        return ActionSupport(executors={"eject": ToyEject})

    @classmethod
    def admits(cls) -> bool:
        return True

    def up(self, say: Say) -> None:
        if self.is_up():
            say("toy: already up")
            return
        directory = self.workspace.stack
        self.down()
        for service in self.deploy.roles():
            (directory / "logs" / service).mkdir(parents=True)
        (directory / "delays").mkdir()
        (directory / "ejected").mkdir()
        command = [sys.executable, "-m", "tests.backends.toy.server", str(directory), str(self.deploy.answer_ms)]
        with (directory / "server.log").open("wb") as log:
            server = subprocess.Popen(
                [*command, *self.deploy.service_names()], stdout=log, stderr=log, start_new_session=True
            )
        port, deadline = directory / "port", time.monotonic() + START_TIMEOUT_S
        while not port.exists():
            if server.poll() is not None or time.monotonic() > deadline:
                server.kill()
                raise DeployError("the toy does not come up")
            time.sleep(0.05)
        runtime = ToyRuntime(
            server=ProcessId.of(server.pid),
            services=tuple(ToyService(name=name, role=role) for name, role in self.deploy.roles().items()),
            gateway_url=f"http://127.0.0.1:{port.read_text()}",
            directory=directory,
        )
        write_durably(directory / RUNTIME_FILE, runtime.model_dump_json().encode())
        self.renew_lease()

    def down(self, say: Say | None = None, also: Collection[str] = ()) -> bool:
        runtime = self.read_runtime(self.workspace.stack)
        if runtime is not None:
            runtime.server.kill()
            runtime.server.wait_gone(10)
        shutil.rmtree(self.workspace.stack, ignore_errors=True)
        return runtime is not None

    def renew_lease(self) -> None:
        (self.workspace.stack / LEASE_FILE).write_text("")

    def hold_lease(self, duration_s: int) -> None:
        (self.workspace.stack / LEASE_FILE).write_text(str(duration_s))

    def drop_lease(self) -> None:
        (self.workspace.stack / LEASE_FILE).unlink(missing_ok=True)

    def live_stack(self, runtime: ToyRuntime) -> ToyStack:
        return ToyStack(runtime)

    @classmethod
    def status(cls, workspace: Workspace, deploy: ToyDeployParams | None) -> Answer:
        runtime = cls.read_runtime(workspace.stack)
        if runtime is None or not runtime.alive:
            return Answer("down: no toy runs", {"state": "down"}, "")
        return Answer(f"ready: {len(runtime.services)} services", {"state": "ready"})

    def preflight(self, missing_series: MissingSeries | None) -> Answer:
        return Answer("a toy runs everywhere", [])

    def plan(self) -> Answer:
        missing = [] if self.is_up() else list(self.deploy.service_names())
        return Answer("\n".join(f"+ {name}" for name in missing) or "nothing to do", missing)

    def render(self, directory: Path) -> Sequence[Path]:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "toy.json").write_text(self.deploy.model_dump_json())
        return [directory / "toy.json"]
