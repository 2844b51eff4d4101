"""Packet loss: a share of what the service sends never arrives."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

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
    loss_percent: Annotated[float, Field(ge=1, le=100, description="share of the frames sent that are dropped")] = 30


class LocalNetworkLoss(LocalExecutor[Parameters]):
    def undo_steps(self) -> tuple[LocalStep, ...]:
        return (RestoreEgress(), EndProcesses(journal=self.journal))

    def apply(self, run_for_s: float) -> str:
        impairment = network.LinkImpairment(loss_percent=self.parameters.loss_percent)
        return f"link: {network.impair(self.target, impairment, run_for_s)}"

    def probe(self) -> Probe:
        return probes.Loss(self.target)

    def shows_effect(self, before: float, during: float) -> bool:
        return during - before >= 0.4 * self.parameters.loss_percent

    @property
    def criterion(self) -> str:
        return f"a rise of {0.4 * self.parameters.loss_percent:g} %"


class ChaosNetworkLoss(NetworkExecutor[Parameters]):
    """Drops packets. TCP sends them again, which takes 0.2 s and more per segment."""

    kind = "loss"
    criterion = "a rise of 50 ms and by half"

    def impairment(self) -> dict[str, Any]:
        return {"loss": f"{self.parameters.loss_percent:g}", "correlation": "0"}

    def shows_effect(self, before: float, during: float) -> bool:
        return during - before >= 50 and during >= 1.5 * before


register(
    FaultKind(
        name="network-loss",
        summary="a share of the frames that the service sends is lost",
        parameters=Parameters,
        roles=ALL_ROLES,
        resources=frozenset({"egress link"}),
        probe="local: share of ICMP echoes without an answer; "
        "cluster: time that Prometheus takes to fetch the pod's metrics",
        signals="gap between the spans of caller and target, TCP retransmissions; below some 20 % little is to be seen",
        metrics=(metrics.NETWORK_DROPPED, metrics.LATENCY_P50, metrics.LATENCY_P90),
        executors={"local": LocalNetworkLoss, "kubernetes": ChaosNetworkLoss},
    )
)
