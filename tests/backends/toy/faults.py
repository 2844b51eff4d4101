"""How the toy backend carries faults and actions out: a file with the milliseconds that a service waits, and one that
makes the gateway pass over it."""

from __future__ import annotations

import time
import urllib.request
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import TypeAdapter

from tasks.actions.executor import ActionExecutor
from tasks.inject.executor import FaultExecutor, FaultSupport, FaultTarget, UndoStepBase
from tasks.inject.probe import Gauge, Probe
from tasks.system.process import ProcessId
from tests.backends.toy.backend import ToyRuntime


class ToyTarget(FaultTarget):
    backend: Literal["toy"] = "toy"
    service: str
    server: ProcessId
    url: str
    directory: Path

    @classmethod
    def of(cls, runtime: ToyRuntime, service: str) -> ToyTarget:
        if service not in {each.name for each in runtime.services}:
            raise KeyError(service)
        return cls(service=service, server=runtime.server, url=runtime.gateway_url, directory=runtime.directory)

    @property
    def name(self) -> str:
        return self.service

    @property
    def delay_file(self) -> Path:
        return self.directory / "delays" / self.service

    @property
    def ejected_file(self) -> Path:
        return self.directory / "ejected" / self.service

    @property
    def stack_alive(self) -> bool:
        return self.server.alive

    @property
    def gone(self) -> bool:
        return not self.directory.exists()

    def identities(self) -> frozenset[str]:
        return frozenset({str(self.server.pid)}) if self.server.alive else frozenset()


class RemoveDelay(UndoStepBase[ToyTarget]):
    step: Literal["remove-delay"] = "remove-delay"

    def undo(self, target: ToyTarget) -> None:
        target.delay_file.unlink(missing_ok=True)

    def left(self, target: ToyTarget) -> list[str]:
        return [f"{target.name}: it waits"] if target.delay_file.exists() else []


class Readmit(UndoStepBase[ToyTarget]):
    step: Literal["readmit"] = "readmit"

    def undo(self, target: ToyTarget) -> None:
        target.ejected_file.unlink(missing_ok=True)

    def left(self, target: ToyTarget) -> list[str]:
        return [f"{target.name}: it is ejected"] if target.ejected_file.exists() else []


class ToyEject(ActionExecutor[ToyTarget]):
    lasts = True

    def steps(self) -> tuple[Readmit]:
        return (Readmit(),)

    def begin(self) -> None:
        self.target.ejected_file.touch()


class ToyDelay(FaultExecutor[ToyTarget, Any]):
    defaults: ClassVar = {"delay_ms": 150}

    def undo_steps(self) -> tuple[RemoveDelay, ...]:
        return (RemoveDelay(),)

    def apply(self, run_for_s: float) -> str:
        self.target.delay_file.write_text(str(self.parameters.delay_ms))
        return "toy: a file"

    def probe(self) -> Probe:
        return Gauge("time of an answer", "ms", self._answer_ms)

    def _answer_ms(self) -> float:
        started = time.monotonic()
        with urllib.request.urlopen(f"{self.target.url}/{self.target.name}", timeout=20) as answer:
            answer.read()
        return (time.monotonic() - started) * 1e3

    def shows_effect(self, before: float, during: float) -> bool:
        return during - before >= 0.5 * float(self.parameters.delay_ms)

    @property
    def criterion(self) -> str:
        return "a rise by half of the delay"


STEPS = (RemoveDelay(), Readmit())


def _targets(runtime: ToyRuntime) -> list[ToyTarget]:
    return [ToyTarget.of(runtime, each.name) for each in runtime.services]


def residue(runtime: ToyRuntime) -> list[str]:
    return [line for target in _targets(runtime) for step in STEPS for line in step.left(target)]


def sweep(runtime: ToyRuntime) -> tuple[list[str], list[str]]:
    done = residue(runtime)
    for target in _targets(runtime):
        for step in STEPS:
            step.undo(target)
    return [f"{line}: undone" for line in done], residue(runtime)


SUPPORT = FaultSupport(
    target_model=ToyTarget,
    steps=TypeAdapter(tuple[RemoveDelay | Readmit, ...]),
    target=ToyTarget.of,
    residue=residue,
    sweep=sweep,
    executors={"network-delay": ToyDelay},
)
