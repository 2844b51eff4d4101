"""Bandwidth limit: the service sends at a low rate."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from tasks import metrics
from tasks.inject.catalogue import FaultKind, register
from tasks.inject.executor import FaultParameters
from tasks.inject.executors.kubernetes.chaos_mesh import NetworkExecutor
from tasks.inject.executors.local import network, probes
from tasks.inject.executors.local.executor import LocalExecutor
from tasks.inject.executors.local.undo import LocalStep, RestoreEgress
from tasks.inject.probe import Probe
from tasks.stack import ALL_ROLES


class Parameters(FaultParameters):
    rate_kbit: Annotated[float, Field(ge=32, le=100_000, description="rate of the link in kbit/s")] = 128


class LocalNetworkBandwidth(LocalExecutor[Parameters]):
    def undo_steps(self) -> tuple[LocalStep, ...]:
        return (RestoreEgress(),)

    def apply(self, run_for_s: float) -> str:
        return f"link: {network.limit_rate(self.target, self.parameters.rate_kbit)}"

    def probe(self) -> Probe:
        return probes.Throughput(self.target)

    def shows_effect(self, before: float, during: float) -> bool:
        return during <= 0.5 * before and during <= 2.5 * self.parameters.rate_kbit

    @property
    def criterion(self) -> str:
        return f"half the rate before and at most {2.5 * self.parameters.rate_kbit:g} kbit/s"

    def is_normal(self, before: float, during: float, after: float) -> bool:
        return after >= 4 * max(during, self.parameters.rate_kbit)


class ChaosNetworkBandwidth(NetworkExecutor[Parameters]):
    kind = "bandwidth"
    criterion = "twice the time before and a rise of 20 ms"

    def impairment(self) -> dict[str, Any]:
        """Return the rate and the queue of one second; Chaos Mesh's "bps" are bytes per second."""
        bytes_per_s = round(self.parameters.rate_kbit * 125)
        return {
            "rate": f"{bytes_per_s}bps",
            "limit": max(20_000, bytes_per_s),
            "buffer": max(10_000, bytes_per_s // 50),
        }

    def shows_effect(self, before: float, during: float) -> bool:
        return during >= 2 * before and during - before >= 20


register(
    FaultKind(
        name="network-bandwidth",
        summary="what the service sends is limited to a rate",
        parameters=Parameters,
        roles=ALL_ROLES,
        resources=frozenset({"egress link"}),
        probe="local: rate of a short burst of ICMP echoes; "
        "cluster: time that Prometheus takes to fetch the pod's metrics",
        signals="gap between the spans of caller and target, bytes sent; engine time stays normal",
        metrics=(metrics.NETWORK_TRANSMIT, metrics.NETWORK_RECEIVE, metrics.LATENCY_P50, metrics.LATENCY_P90),
        executors={"local": LocalNetworkBandwidth, "kubernetes": ChaosNetworkBandwidth},
    )
)
