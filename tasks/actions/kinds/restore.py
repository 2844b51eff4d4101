"""Restore: a setting of the service's node goes back to its saved or default value."""

from __future__ import annotations

from tasks.actions.catalogue import WORKLOAD, ActionKind, register
from tasks.actions.executor import ActionExecutor
from tasks.inject.errors import FaultError
from tasks.inject.executors.kubernetes.chaos_resource import resource_name
from tasks.inject.executors.kubernetes.repair import AgentPod, RestoreLimits
from tasks.inject.executors.kubernetes.target import KubernetesTarget
from tasks.inject.executors.local.target import LocalTarget
from tasks.inject.executors.local.undo import LiftMemoryLimit, RestoreQuota


class LocalRestore(ActionExecutor[LocalTarget]):
    """Sets CPU quota and memory limit of the cgroup to what the stack was started with."""

    def refusal(self) -> str | None:
        changed = [line for step in self.steps() for line in step.left(self.target)]
        return None if changed else "its CPU quota and memory limit are as they were at its start"

    def steps(self) -> tuple[RestoreQuota, LiftMemoryLimit]:
        return RestoreQuota(cores=self.target.service.cpu_cores), LiftMemoryLimit()


class AgentRestore(ActionExecutor[KubernetesTarget]):
    """Asks the agents of the nodes: the power limit goes back to what the GPU was found with when an agent first ran on
    its node, clocks are unlocked. Faults of ours that limit the GPUs end."""

    roles = frozenset({"replica"})

    def refusal(self) -> str | None:
        return None if self._pods() else "it has no pod on a node"

    def steps(self) -> tuple[RestoreLimits]:
        pods = self._pods()
        if not pods:
            raise FaultError(f"{self.target.name} has no pod on a node")
        return (RestoreLimits(pods=pods, token=resource_name(self.action_id)),)

    def _pods(self) -> tuple[AgentPod, ...]:
        return tuple(
            AgentPod(name=pod["metadata"]["name"], uid=pod["metadata"]["uid"], node=pod["spec"]["nodeName"])
            for pod in self.target.pods()
            if pod["spec"].get("nodeName")
        )


register(
    ActionKind(
        name="restore",
        summary="sets power limit, clocks, CPU quota and memory limit to their saved or default values",
        undo="none: it is the way back",
        needs="a setting differs from its default",
        cures={"accelerator-throttle": 1},
        never=frozenset(
            {
                "bad-rollout",
                "cpu-stress",
                "engine-stall",
                "gpu-contention",
                "gpu-memory",
                "kv-cache-squeeze",
                "network-bandwidth",
                "network-delay",
                "network-loss",
                "network-partition",
                "process-freeze",
                "process-kill",
                WORKLOAD,
            }
        ),
        executors={"local": LocalRestore, "kubernetes": AgentRestore},
        capacity=False,
    ),
    __name__,
)
