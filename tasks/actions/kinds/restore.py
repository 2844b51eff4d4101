"""Restore: a setting of the service's node goes back to its saved or default value."""

from __future__ import annotations

from tasks.actions.catalogue import WORKLOAD, ActionKind, register
from tasks.actions.executor import ActionExecutor
from tasks.inject.executors.local.target import LocalTarget
from tasks.inject.executors.local.undo import LiftMemoryLimit, RestoreQuota


class LocalRestore(ActionExecutor[LocalTarget]):
    """Sets CPU quota and memory limit of the cgroup to what the stack was started with."""

    def refusal(self) -> str | None:
        changed = [line for step in self.steps() for line in step.left(self.target)]
        return None if changed else "its CPU quota and memory limit are as they were at its start"

    def steps(self) -> tuple[RestoreQuota, LiftMemoryLimit]:
        return RestoreQuota(cores=self.target.service.cpu_cores), LiftMemoryLimit()


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
        executors={"local": LocalRestore},
        capacity=False,
    ),
    __name__,
)
