"""``deploy down`` on a cluster: removes what carries the labels of this stack, and nothing else.

Faults are removed first, while the controllers that undo them still run; then workloads, then the rest. Volumes
(results and weights) and charts, which other stacks may use, stay unless requested. In a pod of the cluster accounts
and roles stay: the pod runs with them.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tasks.deploy.errors import DeployError
from tasks.deploy.kubernetes import lease
from tasks.deploy.kubernetes.charts import chart_releases
from tasks.deploy.kubernetes.helm import Helm
from tasks.deploy.kubernetes.lifecycle import ADDRESS_FILE, address_of, stack_lock
from tasks.deploy.kubernetes.nodes import container_runtime
from tasks.deploy.kubernetes.params import KubernetesDeployParams
from tasks.kube.client import ALL_NAMESPACES, Cluster, Object
from tasks.kube.errors import ClusterError, ForbiddenError, NotFoundError
from tasks.kube.manifest import MANAGED_BY_LABEL, OWNER, SHARED_SELECTOR, stack_labels, stack_selector
from tasks.workspace import RUNTIME_FILE

logger = logging.getLogger(__name__)

Progress = Callable[[str], None]
Kind = tuple[str, str]

CHAOS = "chaos-mesh.org/v1alpha1"
RBAC = "rbac.authorization.k8s.io/v1"
FAULTS: tuple[Kind, ...] = (
    (CHAOS, "StressChaos"),
    (CHAOS, "NetworkChaos"),
    (CHAOS, "PodChaos"),
    ("rcarena.io/v1alpha1", "NodeFault"),
)
WORKLOADS: tuple[Kind, ...] = (
    ("ray.io/v1", "RayService"),
    ("apps/v1", "Deployment"),
    ("apps/v1", "DaemonSet"),
    ("gateway.networking.k8s.io/v1", "Gateway"),
)
SETTINGS: tuple[Kind, ...] = (
    ("v1", "Service"),
    ("v1", "ConfigMap"),
    ("monitoring.coreos.com/v1", "PodMonitor"),
    ("monitoring.coreos.com/v1", "ServiceMonitor"),
    ("telemetry.istio.io/v1", "Telemetry"),
    ("networking.k8s.io/v1", "NetworkPolicy"),
    (lease.API[0], lease.API[1]),
)
VOLUMES: tuple[Kind, ...] = (("v1", "PersistentVolumeClaim"),)
ACCOUNTS: tuple[Kind, ...] = (
    ("v1", "ServiceAccount"),
    (RBAC, "RoleBinding"),
    (RBAC, "Role"),
    (RBAC, "ClusterRoleBinding"),
    (RBAC, "ClusterRole"),
)
CRD: Kind = ("apiextensions.k8s.io/v1", "CustomResourceDefinition")

FOREIGN_KINDS: tuple[Kind, ...] = (
    ("v1", "PersistentVolumeClaim"),
    ("v1", "Secret"),
    ("v1", "Pod"),
    ("v1", "ConfigMap"),
    ("apps/v1", "Deployment"),
    ("apps/v1", "StatefulSet"),
    ("batch/v1", "Job"),
)
MADE_BY_CLUSTER = ("kube-root-ca.crt", "istio-ca-root-cert", "istio-ca-crl")
FAULTS_TIMEOUT_S = 120.0
GONE_TIMEOUT_S = 180.0
POLL_S = 1.0


@dataclass(frozen=True)
class _LiveObject:
    api_version: str
    kind: str
    document: Object

    @property
    def name(self) -> str:
        return str(self.document["metadata"]["name"])

    @property
    def namespace(self) -> str | None:
        return self.document["metadata"].get("namespace")

    @property
    def uid(self) -> str:
        return str(self.document["metadata"]["uid"])

    def __str__(self) -> str:
        finalizers = self.document["metadata"].get("finalizers") or ()
        held = f" (held by {', '.join(finalizers)})" if finalizers else ""
        return f"{self.kind} {self.name}{held}"


def down(
    params: KubernetesDeployParams,
    directory: Path,
    progress: Progress = logger.info,
    *,
    charts: bool = False,
    volumes: bool = False,
) -> bool:
    """Remove the stack; return False when there was none.

    ``charts``: uninstall the Helm releases, too, in reverse order. ``volumes``: delete the results and weights, too.

    Raises:
        DeployError: another campaign owns the stack, or an object is not deleted; the message names its finalizers.
    """
    try:
        with stack_lock(directory), Cluster(address_of(params, directory)) as cluster:
            found = _Teardown(cluster, progress).run(lease.workspace_id(directory), volumes=volumes)
            if charts:
                found = _uninstall_charts(cluster, params, progress) or found
    except ClusterError as error:
        raise DeployError(str(error)) from error
    for name in (RUNTIME_FILE, ADDRESS_FILE):
        (directory / name).unlink(missing_ok=True)
    return found


class _Teardown:
    def __init__(self, cluster: Cluster, progress: Progress) -> None:
        self._cluster = cluster
        self._progress = progress
        self._found = False

    def run(self, owner: str, *, volumes: bool) -> bool:
        cluster = self._cluster
        if self._labelled(("v1", "Namespace")):
            lease.acquire(cluster, owner)
        self._remove("faults", FAULTS, FAULTS_TIMEOUT_S)
        self._remove("workloads", WORKLOADS, GONE_TIMEOUT_S)
        self._remove_pods()
        self._remove("settings", (*SETTINGS, *(VOLUMES if volumes else ())), GONE_TIMEOUT_S)
        if not cluster.address.in_cluster:
            self._remove("accounts", ACCOUNTS, GONE_TIMEOUT_S)
            if not self._other_stacks():
                self._remove("kinds of faults", (CRD,), GONE_TIMEOUT_S)
            self._release_namespace()
        return self._found

    def _remove(self, what: str, kinds: tuple[Kind, ...], timeout_s: float) -> None:
        """Delete the stack's objects of these kinds and wait until they are gone."""
        ours = [each for kind in kinds for each in self._labelled(kind)]
        if not ours:
            return
        self._found = self._found or any(each.kind != "Lease" for each in ours)
        self._progress(f"stack: removing {len(ours)} {what}")
        for each in ours:
            self._cluster.delete(each.api_version, each.kind, each.name, namespace=each.namespace, uid=each.uid)
        self._await_gone(
            lambda: [o for kind in {(each.api_version, each.kind) for each in ours} for o in self._labelled(kind)],
            timeout_s,
        )

    def _remove_pods(self) -> None:
        """Delete pods without an owner (of faults) and wait for the others to go with theirs; our own pod stays."""
        for pod in self._pods():
            if not pod.document["metadata"].get("ownerReferences"):
                self._cluster.delete("v1", "Pod", pod.name, uid=pod.uid)
                self._found = True
        self._await_gone(self._pods, GONE_TIMEOUT_S)

    def _pods(self) -> list[_LiveObject]:
        return [each for each in self._labelled(("v1", "Pod")) if each.name != socket.gethostname()]

    def _labelled(self, kind: Kind) -> list[_LiveObject]:
        """Return objects with the stack's labels in all visible namespaces; none of an unknown kind."""
        api_version, name = kind
        selector = SHARED_SELECTOR if kind == CRD else stack_selector(self._cluster.namespace)
        for namespace in (None,) if self._cluster.address.in_cluster else (ALL_NAMESPACES, None):
            try:
                found = self._cluster.list(api_version, name, namespace=namespace, label_selector=selector)
            except NotFoundError:
                return []
            except ForbiddenError:
                if namespace is None:
                    raise
                continue
            return [_LiveObject(api_version, name, document) for document in found]
        return []

    def _await_gone(self, left: Callable[[], list[_LiveObject]], timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while remaining := left():
            if time.monotonic() >= deadline:
                listed = ", ".join(map(str, remaining[:5])) + (", ..." if len(remaining) > 5 else "")
                raise DeployError(
                    f"still there after {timeout_s:g} s: {listed}. The owner of a finalizer must run to remove it "
                    "(Chaos Mesh's controller, the GPU agent); `rcarena inject --recover` undoes faults; then run "
                    "`rcarena deploy down` again"
                )
            time.sleep(POLL_S)

    def _other_stacks(self) -> list[str]:
        labelled = self._cluster.list("v1", "Namespace", label_selector=f"{MANAGED_BY_LABEL}={OWNER}")
        return [name for each in labelled if (name := str(each["metadata"]["name"])) != self._cluster.namespace]

    def _release_namespace(self) -> None:
        """Delete the namespace if it is ours and empty; remove our labels if it contains anything else."""
        name = self._cluster.namespace
        live = self._cluster.find("v1", "Namespace", name)
        if live is None or not stack_labels(name).items() <= (live["metadata"].get("labels") or {}).items():
            return
        foreign = list(self._foreign_objects())
        if not foreign:
            self._cluster.delete("v1", "Namespace", name, uid=str(live["metadata"]["uid"]))
            self._found = True
            self._await_gone(lambda: self._labelled(("v1", "Namespace")), GONE_TIMEOUT_S)
            return
        self._progress(f"stack: namespace {name} is kept, it holds {', '.join(foreign[:4])}")
        labels = dict.fromkeys(stack_labels(name))
        self._cluster.merge_patch("v1", "Namespace", name, {"metadata": {"labels": labels}})

    def _foreign_objects(self) -> Iterator[str]:
        for api_version, kind in FOREIGN_KINDS:
            for each in self._cluster.list(api_version, kind):
                made = each["metadata"]["name"] in MADE_BY_CLUSTER or each.get("type", "").startswith("helm.sh/")
                if not made:
                    yield f"{kind} {each['metadata']['name']}"


def _uninstall_charts(cluster: Cluster, params: KubernetesDeployParams, progress: Progress) -> bool:
    releases = chart_releases(params, container_runtime(cluster))
    if not releases:
        return False
    helm = Helm(cluster.address, releases)
    found = False
    for release in reversed(releases):
        if helm.uninstall(release, GONE_TIMEOUT_S):
            progress(f"stack: chart {release.chart} is uninstalled")
            found = True
    return found
