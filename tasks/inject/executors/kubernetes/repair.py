"""The steps of actions on a cluster."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from tasks.deploy.kubernetes.names import EJECTED_MAP, SERVE_LABEL, ejected_key
from tasks.inject.executor import UndoStepBase
from tasks.inject.executors.kubernetes.executor import name_of
from tasks.inject.executors.kubernetes.gpu_probes import gpus_of
from tasks.inject.executors.kubernetes.injected import INJECTION_LABEL
from tasks.inject.executors.kubernetes.node_fault_resource import NodeFaults
from tasks.inject.executors.kubernetes.target import KubernetesTarget, translate_errors
from tasks.kube.manifest import stack_selector
from tasks.kube.node_fault import API_VERSION, KIND, LIMITS, NodeFaultSpec
from tasks.validation import Frozen

log = logging.getLogger(__name__)


class DeletePods(UndoStepBase[KubernetesTarget]):
    """Delete pods of the service by their uid; those that replace them live on."""

    step: Literal["delete-pods"] = "delete-pods"
    uids: tuple[str, ...]
    grace_s: int

    def undo(self, target: KubernetesTarget) -> None:
        with translate_errors(target):
            for pod in target.pods():
                if (uid := str(pod["metadata"]["uid"])) in self.uids:
                    target.api().delete(
                        "v1", "Pod", name_of(pod), namespace=target.namespace, uid=uid, grace_s=self.grace_s
                    )

    def left(self, target: KubernetesTarget) -> list[str]:
        """Return the pods that nobody has told to end; one that ends in good order is as good as gone."""
        return [
            f"{target.name}: pod {name_of(pod)} is still there"
            for pod in target.pods()
            if str(pod["metadata"]["uid"]) in self.uids
        ]


ORDER_S = 60.0
"""An agent that sees an order later than this does not carry it out."""
APP_LABEL = "app"
"""Label of the pods of services."""
EJECTED = "ejected"
"""Value of the label of a pod that the Service is to leave out."""
CORDONED_BY = "rcarena/cordoned-by"
"""Annotation of a node: the action that cordoned it, by which an undo knows that nobody else did."""


class Uncordon(UndoStepBase[KubernetesTarget]):
    """Let pods be scheduled on the nodes again that the action ``token`` cordoned."""

    step: Literal["uncordon"] = "uncordon"
    nodes: tuple[str, ...]
    token: str

    def undo(self, target: KubernetesTarget) -> None:
        with translate_errors(target):
            for name in self._cordoned(target):
                free: dict[str, object] = {
                    "metadata": {"annotations": {CORDONED_BY: None}},
                    "spec": {"unschedulable": None},
                }
                target.api().merge_patch("v1", "Node", name, free)

    def left(self, target: KubernetesTarget) -> list[str]:
        with translate_errors(target):
            return [f"{target.name}: node {name} is cordoned" for name in self._cordoned(target)]

    def _cordoned(self, target: KubernetesTarget) -> list[str]:
        found = [target.api().find("v1", "Node", name) for name in self.nodes]
        return [
            str(node["metadata"]["name"])
            for node in found
            if node is not None and (node["metadata"].get("annotations") or {}).get(CORDONED_BY) == self.token
        ]


class AgentPod(Frozen):
    """A pod, and the node whose agent acts on its GPUs."""

    name: str
    uid: str
    node: str


class RestoreLimits(UndoStepBase[KubernetesTarget]):
    """End the faults that limit GPUs of the service, and let the agents of its nodes bring the limits back to what the
    GPUs were first found with. ``token``: names the orders to the agents."""

    step: Literal["restore-limits"] = "restore-limits"
    pods: tuple[AgentPod, ...]
    token: str

    def undo(self, target: KubernetesTarget) -> None:
        for injection in self._limiting(target):
            NodeFaults(target, injection).remove()
        orders = NodeFaults(target, self.token)
        try:
            orders.create(self.token, tuple(self._order(pod) for pod in self.pods))
            _, message = orders.await_active(len(self.pods))
        finally:
            orders.remove()
        log.info("%s: %s", target.name, message)

    def left(self, target: KubernetesTarget) -> list[str]:
        return [f"{target.name}: the NodeFaults of {each} limit its GPUs" for each in self._limiting(target)]

    def _limiting(self, target: KubernetesTarget) -> list[str]:
        """Return the injections with a limit on a pod of the service."""
        selector = f"{stack_selector(target.namespace)},{INJECTION_LABEL}"
        with translate_errors(target):
            found = target.api().list(API_VERSION, KIND, namespace=target.namespace, label_selector=selector)
        uids = {pod.uid for pod in self.pods}
        limits = [each for each in found if each["spec"]["action"] in LIMITS and each["spec"]["podUid"] in uids]
        return sorted({str(each["metadata"]["labels"][INJECTION_LABEL]) for each in limits})

    def _order(self, pod: AgentPod) -> NodeFaultSpec:
        return NodeFaultSpec(
            action="restore-limits",
            node_name=pod.node,
            pod_uid=pod.uid,
            pod_name=pod.name,
            duration_seconds=ORDER_S,
        )


class ReadmitPods(UndoStepBase[KubernetesTarget]):
    """Let the pods that the action ``token`` ejected have requests again: of Ray Serve's router, which ``keys`` name
    them to, and of the Service."""

    step: Literal["readmit-pods"] = "readmit-pods"
    keys: tuple[str, ...]
    token: str

    def undo(self, target: KubernetesTarget) -> None:
        if not (own := self._ejected(target)):
            return
        label_pods(target, own, "true")  # the entry goes last: it says whose the ejection is
        readmit: dict[str, object] = {"data": dict.fromkeys(own)}
        with translate_errors(target):
            target.api().merge_patch("v1", "ConfigMap", EJECTED_MAP, readmit, namespace=target.namespace)

    def left(self, target: KubernetesTarget) -> list[str]:
        return [f"{target.name}: its pod at {key} is ejected from routing" for key in self._ejected(target)]

    def _ejected(self, target: KubernetesTarget) -> list[str]:
        found = ejected_pods(target) or {}
        return [key for key in self.keys if found.get(key) == self.token]


def eject_pods(target: KubernetesTarget, keys: Sequence[str], token: str) -> None:
    """Take pods of the service out of Serve's routing and out of the Service. Raises FaultError."""
    entries: dict[str, object] = {"data": dict.fromkeys(keys, token)}
    with translate_errors(target):
        target.api().merge_patch("v1", "ConfigMap", EJECTED_MAP, entries, namespace=target.namespace)
    label_pods(target, keys, EJECTED)


def label_pods(target: KubernetesTarget, keys: Sequence[str], value: str) -> None:
    """Set the label by which the Service finds the pods. Raises FaultError."""
    patch: dict[str, object] = {"metadata": {"labels": {SERVE_LABEL: value}}}
    for pod in target.pods():
        if _key(pod) in keys:
            with translate_errors(target):
                target.api().merge_patch("v1", "Pod", name_of(pod), patch, namespace=target.namespace)


def pod_keys(target: KubernetesTarget) -> tuple[str, ...]:
    """Return the keys by which the router knows the service's pods. Raises FaultError."""
    return tuple(key for pod in target.pods() if (key := _key(pod)))


def _key(pod: Mapping[str, Any]) -> str:
    return ejected_key(str((pod.get("status") or {}).get("podIP") or ""))


def ejected_pods(target: KubernetesTarget) -> dict[str, str] | None:
    """Return which pods of the stack the router passes over, with the action that ejected each; None: the stack has no
    such router. Raises FaultError."""
    with translate_errors(target):
        found = target.api().find("v1", "ConfigMap", EJECTED_MAP, namespace=target.namespace)
    return None if found is None else dict(found.get("data") or {})


class Intruder(Frozen):
    """A pod of the stack's namespace that is on a GPU of the service and is no service."""

    name: str
    uid: str


class EvictPods(UndoStepBase[KubernetesTarget]):
    """Delete pods that are on the service's GPU. Whoever owns them starts them again, or not."""

    step: Literal["evict-pods"] = "evict-pods"
    intruders: tuple[Intruder, ...]
    grace_s: int

    def undo(self, target: KubernetesTarget) -> None:
        for each in self._there(target):
            with translate_errors(target):
                target.api().delete(
                    "v1", "Pod", each.name, namespace=target.namespace, uid=each.uid, grace_s=self.grace_s
                )

    def left(self, target: KubernetesTarget) -> list[str]:
        return [f"{target.name}: pod {each.name} is still on its GPU" for each in self._there(target)]

    def _there(self, target: KubernetesTarget) -> list[Intruder]:
        with translate_errors(target):
            pods = {
                each: target.api().find("v1", "Pod", each.name, namespace=target.namespace) for each in self.intruders
            }
        return [each for each, pod in pods.items() if pod is not None and _is_alive(pod, each.uid)]


def _is_alive(pod: Mapping[str, Any], uid: str) -> bool:
    """Whether it is the pod of this uid, and nobody has told it to end."""
    metadata = pod["metadata"]
    return str(metadata["uid"]) == uid and not metadata.get("deletionTimestamp")


def on_its_gpus(target: KubernetesTarget) -> tuple[list[Intruder], int]:
    """Return what else computes on the service's GPUs, as the nodes' agents say: pods of the stack's namespace that are
    no service, and how many other pods. Raises FaultError: none of its GPUs is known."""
    own = {str(pod["metadata"]["uid"]) for pod in target.pods()}
    others = {pod.uid for gpus in gpus_of(target).values() for gpu in gpus for pod in gpu.pods} - own
    with translate_errors(target):
        pods = {str(pod["metadata"]["uid"]): pod for pod in target.api().list("v1", "Pod", namespace=target.namespace)}
    evictable = [
        Intruder(name=name_of(pods[uid]), uid=uid)
        for uid in sorted(others)
        if uid in pods and APP_LABEL not in (pods[uid]["metadata"].get("labels") or {})
    ]
    return evictable, len(others) - len(evictable)


RepairStep = DeletePods | Uncordon | RestoreLimits | ReadmitPods | EvictPods
