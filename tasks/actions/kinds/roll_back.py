"""Roll back: the service runs its previous version again."""

from __future__ import annotations

from tasks.actions.catalogue import WORKLOAD, ActionKind, register

register(
    ActionKind(
        name="roll-back",
        summary="brings back the version before the last rollout",
        undo="the rollout is made again",
        needs="a rollout ended shortly before the symptoms began",
        cures={"service-restart": 1},
        never=frozenset(
            {
                "accelerator-throttle",
                "cpu-stress",
                "gpu-contention",
                "gpu-memory",
                "network-bandwidth",
                "network-delay",
                "network-loss",
                "network-partition",
                WORKLOAD,
            }
        ),
        executors={},
        restarts=True,
    ),
    __name__,
)
