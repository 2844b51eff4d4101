"""The steps of actions on a cluster."""

from __future__ import annotations

from typing import Literal

from tasks.inject.executor import UndoStepBase
from tasks.inject.executors.kubernetes.executor import name_of
from tasks.inject.executors.kubernetes.target import KubernetesTarget, translate_errors


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


RepairStep = DeletePods | Uncordon
