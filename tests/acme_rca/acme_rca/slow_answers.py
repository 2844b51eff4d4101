"""A fault that needs no stack: it only says that it acts."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from tasks.inject.catalogue import FaultKind, register
from tasks.inject.executor import FaultParameters
from tasks.inject.executors.local import probes
from tasks.inject.executors.local.executor import LocalExecutor
from tasks.inject.executors.local.undo import LocalStep, ResumeProcesses
from tasks.inject.probe import Probe
from tasks.metrics import LATENCY_P50


class Parameters(FaultParameters):
    delay_ms: Annotated[int, Field(ge=1, le=1000, description="how much later each answer comes")] = 100


class SlowAnswers(LocalExecutor[Parameters]):
    """Nothing is done to the target."""

    def undo_steps(self) -> tuple[LocalStep, ...]:
        return (ResumeProcesses(),)

    def apply(self, run_for_s: float) -> str:
        return "nothing"

    def probe(self) -> Probe:
        return probes.stopped_share("stopped processes", self.target.processes)

    def shows_effect(self, before: float, during: float) -> bool:
        return during > before

    @property
    def criterion(self) -> str:
        return "more than before"


register(
    FaultKind(
        name="slow-answers",
        summary="each answer comes later",
        parameters=Parameters,
        roles=frozenset({"replica"}),
        resources=frozenset(),
        probe="share of the processes that are stopped",
        signals="latency of the target",
        metrics=(LATENCY_P50,),
        executors={"local": SlowAnswers},
    )
)
