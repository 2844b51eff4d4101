"""The steps of actions on a cluster."""

from __future__ import annotations

import logging
from typing import Literal

from tasks.inject.executor import UndoStepBase
from tasks.inject.executors.kubernetes.executor import name_of
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


RepairStep = DeletePods | Uncordon | RestoreLimits
