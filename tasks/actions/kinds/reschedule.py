"""Reschedule: the service starts again on a fresh node, with a fresh link and default settings."""

from __future__ import annotations

from typing import Any

from tasks.actions.catalogue import WORKLOAD, ActionKind, register
from tasks.actions.executor import ActionExecutor
from tasks.actions.kinds.restart import running
from tasks.inject.executor import UndoStepBase
from tasks.inject.executors.local.repair import EndService, NewLink
from tasks.inject.executors.local.target import LocalTarget
from tasks.inject.executors.local.undo import LiftMemoryLimit, RestoreQuota


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


register(
    ActionKind(
        name="reschedule",
        summary="starts the service again on a fresh node: new namespace, new link, default settings",
        undo="none: requests under way are lost",
        needs="there is room on another node",
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
            "accelerator-throttle": 3,
            "cpu-stress": 3,
            "memory-stress": 3,
            "kv-cache-squeeze": 3,
        },
        never=frozenset({WORKLOAD}),
        executors={"local": LocalReschedule},
        restarts=True,
    ),
    __name__,
)
