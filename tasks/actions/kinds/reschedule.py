"""Reschedule: the service starts again on a fresh node, with a fresh link and default settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tasks.actions.catalogue import WORKLOAD, ActionKind, register
from tasks.actions.executor import ActionExecutor
from tasks.actions.kinds.restart import running
from tasks.inject.executor import UndoStepBase
from tasks.inject.executors.kubernetes.repair import CORDONED_BY, DeletePods, Uncordon
from tasks.inject.executors.kubernetes.target import KubernetesTarget, translate_errors
from tasks.inject.executors.local.repair import EndService, NewLink
from tasks.inject.executors.local.target import LocalTarget
from tasks.inject.executors.local.undo import LiftMemoryLimit, RestoreQuota

GRACE_S = 5


class LocalReschedule(ActionExecutor[LocalTarget]):
    """What a fresh node would have: no process of before, a new network namespace and link with the old address, and
    the default settings of the cgroup. The supervisor starts the service in it."""

    roles = frozenset({"gateway", "replica"})

    def steps(self) -> tuple[UndoStepBase[Any], ...]:
        return (
            NewLink(token=self.action_id),
            RestoreQuota(cores=self.target.service.cpu_cores),
            LiftMemoryLimit(),
            EndService(processes=running(self.target)),  # last: it is started again at once, in what is there then
        )


class PodReschedule(ActionExecutor[KubernetesTarget]):
    """Cordons the nodes of the service's pods and deletes the pods: their controller makes new ones elsewhere. The
    nodes stay cordoned until the action is undone. It needs credentials that may change nodes."""

    roles = frozenset({"gateway", "replica"})
    lasts = True

    def refusal(self) -> str | None:
        with translate_errors(self.target):
            nodes = self._nodes()
            if not nodes:
                return "it has no pod on a node"
            if not self.target.api().can_i("patch", "nodes", namespace=""):
                return "to cordon a node needs the right to change nodes, which these credentials have not"
            known = {str(node["metadata"]["name"]): node for node in self.target.api().list("v1", "Node")}
            closed = {name for name, node in known.items() if node["spec"].get("unschedulable")}
            barred = {name for name, node in known.items() if any(_bars(node, pod) for pod in self.target.pods())}
        if taken := sorted(closed & set(nodes)):
            return f"node {', '.join(taken)} is cordoned already"
        return None if known.keys() - closed - barred - set(nodes) else "there is no other node for it"

    def steps(self) -> tuple[Uncordon]:
        return (Uncordon(nodes=self._nodes(), token=self.action_id),)

    def begin(self) -> None:
        pods = self.target.pods()
        with translate_errors(self.target):
            for name in self._nodes():
                closed = {
                    "metadata": {"annotations": {CORDONED_BY: self.action_id}},
                    "spec": {"unschedulable": True},
                }
                self.target.api().merge_patch("v1", "Node", name, closed)
        DeletePods(uids=tuple(str(pod["metadata"]["uid"]) for pod in pods), grace_s=GRACE_S).undo(self.target)

    def _nodes(self) -> tuple[str, ...]:
        return tuple(
            sorted({str(pod["spec"]["nodeName"]) for pod in self.target.pods() if pod["spec"].get("nodeName")})
        )


def _bars(node: Mapping[str, Any], pod: Mapping[str, Any]) -> bool:
    """Return whether a taint of the node (a control plane's, a node's that is not ready) keeps such pods away."""

    def tolerated(taint: Mapping[str, str]) -> bool:
        return any(
            each.get("effect", taint["effect"]) == taint["effect"]
            and each.get("key", taint["key"]) == taint["key"]
            and (each.get("operator") == "Exists" or each.get("value", "") == taint.get("value", ""))
            for each in pod["spec"].get("tolerations", ())
        )

    taints = (each for each in node["spec"].get("taints", ()) if each["effect"] != "PreferNoSchedule")
    return not all(tolerated(each) for each in taints)


register(
    ActionKind(
        name="reschedule",
        summary="starts the service again on a fresh node: new namespace, new link, default settings",
        undo="none: requests under way are lost (a node that was cordoned is let in again)",
        needs="there is room on another node; no head (local, Kubernetes)",
        cures={
            "gpu-contention": 3,
            "gpu-memory": 3,
            "network-bandwidth": 2,
            "network-delay": 2,
            "network-loss": 2,
            "network-partition": 2,
            "process-freeze": 2,
            "engine-stall": 2,
            "process-kill": 2,
            "service-restart": 2,
            "accelerator-throttle": 3,
            "cpu-stress": 3,
            "memory-stress": 3,
            "kv-cache-squeeze": 3,
        },
        never=frozenset({"bad-rollout", WORKLOAD}),
        executors={"local": LocalReschedule, "kubernetes": PodReschedule},
        restarts=True,
    ),
    __name__,
)
