"""Scale out: one more replica serves."""

from __future__ import annotations

from tasks.actions.catalogue import WORKLOAD, ActionKind, register

register(
    ActionKind(
        name="scale-out",
        summary="adds a replica, which serves once its engine is loaded",
        undo="the added replica is removed",
        needs="a free accelerator; every replica is as slow as its siblings",
        cures={WORKLOAD: 1},
        never=frozenset(
            {
                "accelerator-throttle",
                "bad-rollout",
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
            }
        ),
        executors={},
        capacity=False,
    ),
    __name__,
)
