"""Network delay: what the service sends arrives late."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field, model_validator

from tasks import metrics
from tasks.inject.catalogue import FaultKind, register
from tasks.inject.executor import FaultParameters
from tasks.inject.executors.kubernetes.chaos_mesh import NetworkExecutor
from tasks.inject.executors.local import network, probes
from tasks.inject.executors.local.executor import LocalExecutor
from tasks.inject.executors.local.undo import EndProcesses, LocalStep, RestoreEgress
from tasks.inject.probe import Probe
from tasks.stack import ALL_ROLES


class Parameters(FaultParameters):
    delay_ms: Annotated[float, Field(gt=0, le=10_000, description="mean extra delay of each frame sent")] = 300
    jitter_ms: Annotated[float, Field(ge=0, le=10_000, description="uniform within ± this; at most delay_ms")] = 0
    correlation_percent: Annotated[float, Field(ge=0, le=99, description="pull towards the delay before")] = 0

    @model_validator(mode="after")
    def _jitter_fits(self) -> Parameters:
        if self.jitter_ms > self.delay_ms:
            raise ValueError(f"jitter_ms ({self.jitter_ms:g}) must not exceed delay_ms ({self.delay_ms:g})")
        return self


class LocalNetworkDelay(LocalExecutor[Parameters]):
    def undo_steps(self) -> tuple[LocalStep, ...]:
        return (RestoreEgress(), EndProcesses(journal=self.journal))

    def apply(self, run_for_s: float) -> str:
        impairment = network.LinkImpairment(
            delay_ms=self.parameters.delay_ms,
            jitter_ms=self.parameters.jitter_ms,
            correlation_percent=self.parameters.correlation_percent,
        )
        return f"link: {network.impair(self.target, impairment, run_for_s)}"

    def probe(self) -> Probe:
        return probes.RoundTrip(self.target)

    def shows_effect(self, before: float, during: float) -> bool:
        return during - before >= 0.5 * self.parameters.delay_ms

    @property
    def criterion(self) -> str:
        return f"a rise of {0.5 * self.parameters.delay_ms:g} ms"


class ChaosNetworkDelay(NetworkExecutor[Parameters]):
    defaults: ClassVar = {"delay_ms": 1000, "jitter_ms": 100, "correlation_percent": 25}

    kind = "delay"

    def impairment(self) -> dict[str, Any]:
        return {
            "latency": f"{max(1, round(self.parameters.delay_ms))}ms",
            "jitter": f"{round(self.parameters.jitter_ms)}ms",
            "correlation": f"{self.parameters.correlation_percent:g}",
        }

    def shows_effect(self, before: float, during: float) -> bool:
        return during - before >= 0.5 * self.parameters.delay_ms

    @property
    def criterion(self) -> str:
        return f"a rise of {0.5 * self.parameters.delay_ms:g} ms"


register(
    FaultKind(
        name="network-delay",
        summary="every frame that the service sends is late",
        parameters=Parameters,
        roles=ALL_ROLES,
        resources=frozenset({"egress link"}),
        probe="local: median round trip of ICMP echoes; cluster: time that Prometheus takes to fetch the pod's metrics",
        signals="gap between the spans of caller and target; engine time stays normal",
        metrics=(metrics.LATENCY_P50, metrics.LATENCY_P90),
        executors={"local": LocalNetworkDelay, "kubernetes": ChaosNetworkDelay},
    )
)
