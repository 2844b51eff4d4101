"""Node loss: a machine is gone with everything on it until the end; then its services start again."""

from __future__ import annotations

from tasks import metrics
from tasks.inject.catalogue import FaultKind, register
from tasks.inject.executor import FaultParameters


class Parameters(FaultParameters):
    """None: the target says which node, the window how long."""


register(
    FaultKind(
        name="node-loss",
        summary="the first node of the target is gone until the end: all that has a part on it is down and unseen",
        parameters=Parameters,
        roles=frozenset({"replica"}),
        resources=frozenset({"processes", "egress link", "GPU management"}),
        probe="share of the samples of the target's CPU usage that are missing",
        signals="no sample of any service on the node; its requests fail, other nodes take its load; it restarts",
        metrics=(metrics.PROCESSES, metrics.CPU_USAGE, metrics.MEMORY_WORKING_SET, metrics.MEMORY_RSS),
        executors={},
        group="process-kill",
    )
)
