"""The published state of a running stack on a cluster: load, inject and export read it."""

from __future__ import annotations

import logging
from typing import Literal

from tasks.deploy.runtime import ServiceState, StackState, State
from tasks.kube.address import ClusterAddress
from tasks.kube.errors import ClusterError
from tasks.kube.manifest import stack_labels, stack_selector

logger = logging.getLogger(__name__)

ALIVE_DEADLINE_S = 10.0


class PodRuntime(State):
    """One pod at the time when the stack became ready. ``gpus``: UUIDs reported by the GPU agent (empty: none, or no
    agent)."""

    name: str
    uid: str
    node: str
    ip: str
    gpus: tuple[str, ...] = ()


class ServiceRuntime(ServiceState):
    """One service. Pods may be replaced while the stack runs: ``selector`` finds the current ones.

    ``container`` is the pod's main container.
    """

    selector: str
    container: str
    pods: tuple[PodRuntime, ...]

    @property
    def node(self) -> str:
        """Node names of its pods, joined by commas."""
        return ",".join(dict.fromkeys(pod.node for pod in self.pods))

    @property
    def address(self) -> str:
        """IP of the first pod."""
        return self.pods[0].ip


class Forward(State):
    """Forward of a Service's port to ``local_port`` of this machine (``kubectl port-forward``)."""

    namespace: str
    service: str
    port: int
    local_port: int


class KubernetesRuntime(StackState[ServiceRuntime]):
    """State of a stack. ``stack_uid`` is the UID of its namespace, which exists as long as the stack.

    The URLs hold for this machine while ``access.open_forwards`` keeps the ``forwards`` open (None: the signal is not
    collected).
    """

    backend: Literal["kubernetes"] = "kubernetes"
    cluster: ClusterAddress
    stack_uid: str
    loki_url: str | None = None
    spans_url: str | None = None
    deepflow_url: str | None = None
    forwards: tuple[Forward, ...] = ()

    @property
    def namespace(self) -> str:
        return self.cluster.namespace

    @property
    def alive(self) -> bool:
        """True while the namespace exists with our labels and the same UID, or the API does not answer: a clean-up must
        not mistake a lost connection for a lost stack."""
        from tasks.kube.client import Cluster

        try:
            with Cluster(self.cluster, deadline_s=ALIVE_DEADLINE_S) as cluster:
                found = cluster.find("v1", "Namespace", self.namespace)
        except ClusterError as error:
            logger.warning("cannot ask whether the stack is alive, taken as alive: %s", error)
            return True
        if found is None or found["metadata"]["uid"] != self.stack_uid:
            return False
        ours = stack_labels(self.namespace).items() <= (found["metadata"].get("labels") or {}).items()
        return ours and not found["metadata"].get("deletionTimestamp")


def service_selector(namespace: str, service: str) -> str:
    """Return the label selector of a service's pods."""
    return f"app={service},{stack_selector(namespace)}"
