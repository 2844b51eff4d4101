"""Roll back: the service runs its previous version again."""

from __future__ import annotations

from tasks.actions.catalogue import WORKLOAD, ActionKind, register

register(
    ActionKind(
        name="roll-back",
        summary="brings back the version before the last rollout",
        undo="the rollout is made again",
        needs="a rollout ended shortly before the symptoms began",
        cures={"bad-rollout": 1},
        never=frozenset(
            {
                "accelerator-throttle",
                "cpu-stress",
                "engine-stall",
                "gpu-contention",
                "gpu-memory",
                "kv-cache-squeeze",
                "memory-stress",
                "network-bandwidth",
                "network-delay",
                "network-loss",
                "network-partition",
                "process-freeze",
                "process-kill",
                WORKLOAD,
            }
        ),
        executors={},
        restarts=True,
    ),
    __name__,
)
