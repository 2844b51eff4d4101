"""Partition: the service neither sends nor receives."""

from __future__ import annotations

from tasks import metrics
from tasks.inject.catalogue import FaultKind, register
from tasks.inject.executor import FaultParameters
from tasks.inject.executors.kubernetes import probes as cluster_probes
from tasks.inject.executors.kubernetes.chaos_mesh import NetworkExecutor
from tasks.inject.executors.local import network, probes
from tasks.inject.executors.local.executor import LocalExecutor
from tasks.inject.executors.local.undo import LocalStep, RestoreEgress
from tasks.inject.probe import Probe
from tasks.stack import ALL_ROLES


class Parameters(FaultParameters):
    """It has no parameters."""


class LocalNetworkPartition(LocalExecutor[Parameters]):
    criterion = "at least 95 % lost"

    def undo_steps(self) -> tuple[LocalStep, ...]:
        return (RestoreEgress(),)

    def apply(self, run_for_s: float) -> str:
        return f"link: {network.cut(self.target)}"

    def probe(self) -> Probe:
        return probes.Loss(self.target)

    def shows_effect(self, before: float, during: float) -> bool:
        return during >= 95 and before <= 50


class ChaosNetworkPartition(NetworkExecutor[Parameters]):
    kind = "partition"
    criterion = "at least 75 % failed"

    def probe(self) -> Probe:
        return cluster_probes.failed_scrapes(self.target)

    def shows_effect(self, before: float, during: float) -> bool:
        return during >= 75 and before <= 25


register(
    FaultKind(
        name="network-partition",
        summary="the service is cut off: nothing in, nothing out",
        parameters=Parameters,
        roles=ALL_ROLES,
        resources=frozenset({"egress link"}),
        probe="local: share of ICMP echoes without an answer; cluster: fetches of the pod's metrics that fail",
        signals="requests to the target fail or hang, its samples are missing; a long one ends cluster membership",
        metrics=(
            metrics.NETWORK_RECEIVE,
            metrics.NETWORK_TRANSMIT,
            metrics.LATENCY_P50,
            metrics.LATENCY_P90,
            metrics.ERROR_RATE,
        ),
        executors={"local": LocalNetworkPartition, "kubernetes": ChaosNetworkPartition},
    )
)
