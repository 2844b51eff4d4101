"""The target of a fault on a cluster: the pods of one service."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from tasks.deploy.kubernetes.runtime import KubernetesRuntime
from tasks.inject.errors import FaultError
from tasks.inject.executor import FaultTarget
from tasks.kube.address import ClusterAddress, find_cluster
from tasks.kube.errors import ClusterError, NoClusterError
from tasks.prometheus import PrometheusError, Series, raw_samples

if TYPE_CHECKING:
    from tasks.kube.client import Cluster

log = logging.getLogger(__name__)

REQUEST_DEADLINE_S = 15.0
"""Deadline of one request with its retries: longer than a restart of an API server, shorter than an undo."""
LOOK_DEADLINE_S = 3.0
"""Deadline of an optional check during a fault."""


class KubernetesTarget(FaultTarget):
    """One service of a stack on a cluster.

    ``selector`` finds its pods in the cluster address's namespace, whose UID is ``stack_uid``; ``container`` is the one
    that a fault acts on.
    """

    undo_s: ClassVar[float] = 60.0

    backend: Literal["kubernetes"] = "kubernetes"
    cluster: ClusterAddress
    stack_uid: str
    service: str
    selector: str
    container: str
    prometheus_url: str

    @classmethod
    def of(cls, runtime: KubernetesRuntime, service: str) -> KubernetesTarget:
        """Return the target for a service of the stack. Raises KeyError for an unknown one."""
        found = runtime.service(service)
        return cls(
            cluster=runtime.cluster,
            stack_uid=runtime.stack_uid,
            service=found.name,
            selector=found.selector,
            container=found.container,
            prometheus_url=runtime.prometheus_url,
        )

    @property
    def name(self) -> str:
        return self.service

    @property
    def namespace(self) -> str:
        return self.cluster.namespace

    @property
    def stack_alive(self) -> bool:
        """True while the stack's namespace exists, and when the API does not answer."""
        try:
            found = self.api(LOOK_DEADLINE_S).find("v1", "Namespace", self.namespace)
        except ClusterError:
            return True
        return found is not None and found["metadata"]["uid"] == self.stack_uid

    @property
    def gone(self) -> bool:
        """Always False: each step detects by itself that its namespace was deleted."""
        return False

    def api(self, deadline_s: float = REQUEST_DEADLINE_S) -> Cluster:
        """Return the connection that this process shares; ``deadline_s`` bounds each request with its retries.

        When the journal's address does not work here (the kubeconfig of another machine, the account of a pod), the
        address that this process finds by itself is used, if it leads to the same stack.

        Raises:
            ClusterError: neither works.
        """
        try:
            return connection(self.cluster, deadline_s)
        except NoClusterError as error:
            return connection(_address_here(self.cluster, self.stack_uid, str(error)), deadline_s)

    def pods(self, deadline_s: float = REQUEST_DEADLINE_S) -> list[dict[str, Any]]:
        """Return the service's pods that are not being deleted, by name.

        Raises:
            FaultError: the API does not answer.
        """
        with translate_errors(self):
            found = self.api(deadline_s).list("v1", "Pod", label_selector=self.selector)
        alive = [pod for pod in found if not pod["metadata"].get("deletionTimestamp")]
        return sorted(alive, key=lambda pod: str(pod["metadata"]["name"]))

    def prometheus_samples(self, selector: str, seconds: float) -> list[Series]:
        """Return the samples of the last ``seconds`` that the stack's Prometheus has.

        Raises:
            FaultError: it does not answer.
        """
        try:
            return raw_samples(self.prometheus_url, selector, seconds)
        except PrometheusError as error:
            raise FaultError(str(error)) from error

    def identities(self, deadline_s: float = REQUEST_DEADLINE_S) -> frozenset[str]:
        """Return the ids of the service's running containers."""
        return frozenset(
            str(status["containerID"])
            for pod in self.pods(deadline_s)
            for status in (pod.get("status") or {}).get("containerStatuses") or ()
            if status["name"] == self.container and "running" in (status.get("state") or {})
        )


@cache
def _address_here(address: ClusterAddress, stack_uid: str, problem: str) -> ClusterAddress:
    own = find_cluster(None, address.namespace)
    namespace = connection(own, LOOK_DEADLINE_S).find("v1", "Namespace", address.namespace)
    if namespace is None or namespace["metadata"]["uid"] != stack_uid:
        raise NoClusterError(f"{problem}; and {own.label} has not that stack")
    log.warning("%s: using %s", problem, own.label)
    return own


@cache
def connection(address: ClusterAddress, deadline_s: float = REQUEST_DEADLINE_S) -> Cluster:
    """Return the shared connection to a cluster. Raises ClusterError without usable credentials."""
    from tasks.kube.client import Cluster

    return Cluster(address, deadline_s=deadline_s)


@contextlib.contextmanager
def translate_errors(target: KubernetesTarget) -> Iterator[None]:
    """Turn a ClusterError into a FaultError that names the target."""
    try:
        yield
    except ClusterError as error:
        raise FaultError(f"{target.name}: {error}") from error
