"""Evict: another process on the service's GPU is ended."""

from __future__ import annotations

from tasks.actions.catalogue import WORKLOAD, ActionKind, register

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
        executors={},
        roles=frozenset({"replica"}),
        capacity=False,
    ),
    __name__,
)
