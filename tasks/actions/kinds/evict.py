"""Evict: another process on the service's GPU is ended."""

from __future__ import annotations

from tasks.actions.catalogue import WORKLOAD, ActionKind, register
from tasks.actions.executor import ActionExecutor
from tasks.inject.errors import FaultError
from tasks.inject.executors.kubernetes.repair import EvictPods, on_its_gpus
from tasks.inject.executors.kubernetes.target import KubernetesTarget

GRACE_S = 5


class PodEvict(ActionExecutor[KubernetesTarget]):
    """Deletes the pods that the nodes' agents see on the service's GPU, where they are of the stack's own namespace and
    no service. A pod of another namespace is its owner's to end."""

    def refusal(self) -> str | None:
        evictable, others = on_its_gpus(self.target)
        if evictable:
            return None
        if others:
            return f"what else is on its GPU ({others} pods) is a service, or of another namespace: its owner's to end"
        return "no agent sees anything else on its GPU"

    def steps(self) -> tuple[EvictPods]:
        evictable, _ = on_its_gpus(self.target)
        if not evictable:
            raise FaultError(f"{self.target.name}: nothing on its GPU may be evicted")
        return (EvictPods(intruders=tuple(evictable), grace_s=GRACE_S),)


register(
    ActionKind(
        name="evict",
        summary="ends what else computes on the service's GPU or holds its memory",
        undo="none: its owner starts it again, elsewhere",
        needs="the other process is known, and nobody's service",
        cures={"gpu-contention": 1, "gpu-memory": 1},
        never=frozenset(
            {
                "accelerator-throttle",
                "bad-rollout",
                "engine-stall",
                "network-bandwidth",
                "network-delay",
                "network-loss",
                "network-partition",
                "process-freeze",
                "process-kill",
                WORKLOAD,
            }
        ),
        executors={"kubernetes": PodEvict},
        roles=frozenset({"replica"}),
        capacity=False,
    ),
    __name__,
)
