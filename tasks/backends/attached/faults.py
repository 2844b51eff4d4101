"""Faults on an attached stack: none, unless its owner allows them, and then on one pod at a time.

They are carried out on pods as on our own stacks on Kubernetes, by Chaos Mesh, journaled and undone by the same steps.
What an owner must have done: ``allow_faults`` in the parameters, the service among ``faults.services``, and the label
``faults.namespace_label`` on the namespace, which is read again just before a fault acts.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

from tasks.backends.attached.runtime import AttachedRuntime
from tasks.deploy.kubernetes.runtime import KubernetesRuntime, ServiceRuntime
from tasks.export.sources.labelled import in_order
from tasks.inject.errors import FaultError, InjectionRefusedError
from tasks.inject.executor import FaultExecutor, FaultSupport
from tasks.inject.executors.kubernetes import sweep as pods
from tasks.inject.executors.kubernetes.chaos_mesh import ChaosExecutor
from tasks.inject.executors.kubernetes.chaos_resource import CHAOS_API, ChaosKind
from tasks.inject.executors.kubernetes.injected import INJECTION_LABEL, SERVICE_LABEL
from tasks.inject.executors.kubernetes.support import STEPS
from tasks.inject.executors.kubernetes.target import (
    REQUEST_DEADLINE_S,
    KubernetesTarget,
    connection,
    translate_errors,
)
from tasks.inject.faults.cpu_stress import ChaosCpuStress
from tasks.inject.faults.network_bandwidth import ChaosNetworkBandwidth
from tasks.inject.faults.network_delay import ChaosNetworkDelay
from tasks.inject.faults.network_loss import ChaosNetworkLoss
from tasks.inject.faults.network_partition import ChaosNetworkPartition
from tasks.kube.address import find_cluster
from tasks.kube.errors import ClusterError, NotFoundError

ONLY_READ = "deploy.allow_faults is not set: the stack is somebody else's, and is only read"


class AttachedTarget(KubernetesTarget):
    """One pod of somebody else's stack, in a namespace whose owner set ``namespace_label`` (``name=value``)."""

    backend: Literal["attached"] = "attached"  # type: ignore[assignment]  # the journal's discriminator
    pod: str
    namespace_label: str

    def pods(self, deadline_s: float = REQUEST_DEADLINE_S) -> list[dict[str, Any]]:
        return [pod for pod in super().pods(deadline_s) if pod["metadata"]["name"] == self.pod]

    def forbidden(self) -> str | None:
        """Return why no fault may act now, else None. Raises FaultError when the API does not answer."""
        name, _, value = self.namespace_label.partition("=")
        with translate_errors(self):
            namespace = self.api().get("v1", "Namespace", self.namespace)
            acting = _acting(self)
        if (namespace["metadata"].get("labels") or {}).get(name) != value:
            return f"namespace {self.namespace} does not have the label {self.namespace_label}: its owner sets it"
        others = [service for service in acting if service != self.service]
        return f"a fault acts on {others[0]} already: one replica at a time" if others else None


def _acting(target: KubernetesTarget) -> list[str]:
    """Return the services that faults of ours act on, in the target's namespace."""
    found = []
    for kind in get_args(ChaosKind):
        try:
            objects = target.api().list(CHAOS_API, kind, label_selector=INJECTION_LABEL)
        except NotFoundError:
            continue
        found += [str(each["metadata"]["labels"].get(SERVICE_LABEL)) for each in objects]
    return found


class _OnOnePod(ChaosExecutor[Any]):
    """Lets Chaos Mesh act on the one pod of an ``AttachedTarget``."""

    target: AttachedTarget

    def refusal(self) -> str | None:
        return self.target.forbidden() or super().refusal()

    def spec(self, run_for_s: float) -> dict[str, Any]:
        namespace = self.target.namespace
        return {
            **super().spec(run_for_s),
            "selector": {"namespaces": [namespace], "pods": {namespace: [self.target.pod]}},
        }


class _CpuStress(_OnOnePod, ChaosCpuStress):
    """CPU stress in one pod."""


class _NetworkDelay(_OnOnePod, ChaosNetworkDelay):
    """Delay of what one pod sends."""


class _NetworkLoss(_OnOnePod, ChaosNetworkLoss):
    """Loss of what one pod sends."""


class _NetworkBandwidth(_OnOnePod, ChaosNetworkBandwidth):
    """A limit of what one pod sends."""


class _NetworkPartition(_OnOnePod, ChaosNetworkPartition):
    """One pod cut off."""


EXECUTORS: dict[str, type[FaultExecutor[Any, Any]]] = {
    "cpu-stress": _CpuStress,
    "network-delay": _NetworkDelay,
    "network-loss": _NetworkLoss,
    "network-bandwidth": _NetworkBandwidth,
    "network-partition": _NetworkPartition,
}
"""Kinds that end no process and act within one pod; others are not offered on a stack of somebody else."""


def _target(runtime: AttachedRuntime, service: str) -> AttachedTarget:
    """Return the target. Raises KeyError (unknown service) and InjectionRefusedError (the owner does not allow it)."""
    deploy = runtime.deploy
    entry = deploy.service_of(service)
    limits, kubernetes = deploy.faults, deploy.kubernetes
    if not deploy.allow_faults or limits is None or kubernetes is None:
        raise InjectionRefusedError([f"{service}: {ONLY_READ}"])
    if service not in limits.services:
        raise InjectionRefusedError([f"{service}: is not among deploy.faults.services: {', '.join(limits.services)}"])
    if entry.selector is None or entry.container is None:
        raise InjectionRefusedError([f"{service}: deploy.services: needs selector and container to be broken"])
    if deploy.prometheus.auth.access.headers():
        raise InjectionRefusedError([f"{service}: faults are probed by a Prometheus that asks for no credentials"])
    try:
        address = find_cluster(kubernetes.context, kubernetes.namespace)
        namespace = connection(address).get("v1", "Namespace", kubernetes.namespace)
        found = connection(address).list("v1", "Pod", label_selector=entry.selector)
    except ClusterError as error:
        raise FaultError(f"{service}: {error}") from error
    alive = (pod for pod in found if not pod["metadata"].get("deletionTimestamp"))
    running = (pod for pod in alive if (pod.get("status") or {}).get("phase") == "Running")
    names = sorted((str(pod["metadata"]["name"]) for pod in running), key=in_order)
    known = {name: value for value, name in runtime.known.get(entry.name, {}).items()}
    if known and service not in known:
        raise InjectionRefusedError([f"{service}: its pod was not known when the stack was attached: attach it again"])
    index = entry.names.index(service)
    name = known.get(service) or (names[index] if index < len(names) else None)
    if name not in names:
        raise InjectionRefusedError([f"{service}: its pod is not there ({entry.selector})"])
    target = AttachedTarget(
        cluster=address,
        stack_uid=str(namespace["metadata"]["uid"]),
        service=service,
        selector=entry.selector,
        container=entry.container,
        prometheus_url=deploy.prometheus.url,
        pod=name,
        namespace_label=limits.namespace_label,
    )
    if problem := target.forbidden():
        raise InjectionRefusedError([f"{service}: {problem}"])
    return target


def _residue(runtime: AttachedRuntime) -> list[str]:
    as_pods = _as_pods(runtime)
    return [] if as_pods is None else pods.residue(as_pods)


def _sweep(runtime: AttachedRuntime) -> tuple[list[str], list[str]]:
    as_pods = _as_pods(runtime)
    return ([], []) if as_pods is None else pods.sweep(as_pods)


def _as_pods(runtime: AttachedRuntime) -> KubernetesRuntime | None:
    """Return the stack as the executors on pods know one; None: no fault can be there."""
    deploy = runtime.deploy
    if not deploy.allow_faults or deploy.kubernetes is None:
        return None
    return KubernetesRuntime(
        cluster=find_cluster(deploy.kubernetes.context, deploy.kubernetes.namespace),
        stack_uid="",
        services=tuple(
            ServiceRuntime(
                name=name, role=role, selector=entry.selector or "", container=entry.container or "", pods=()
            )
            for name, role in deploy.roles().items()
            for entry in (deploy.service_of(name),)
        ),
        model=runtime.model,
        directory=runtime.directory,
        gateway_url=runtime.gateway_url,
        prometheus_url=runtime.prometheus_url,
    )


SUPPORT = FaultSupport(
    target_model=AttachedTarget,
    steps=STEPS,
    target=_target,
    residue=_residue,
    sweep=_sweep,
    executors=EXECUTORS,
)
