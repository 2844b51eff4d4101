"""Restart: the service's processes end, and the platform starts it again where it was."""

from __future__ import annotations

import math

from tasks.actions.catalogue import WORKLOAD, ActionKind, register
from tasks.actions.executor import ActionExecutor
from tasks.inject.errors import FaultError
from tasks.inject.executors.kubernetes.repair import DeletePods
from tasks.inject.executors.kubernetes.target import KubernetesTarget
from tasks.inject.executors.local.repair import EndService
from tasks.inject.executors.local.target import LocalTarget
from tasks.system.process import ProcessId

GATEWAY_DRAIN_S = 5.0


def running(target: LocalTarget) -> tuple[ProcessId, ...]:
    """Return every process in the service's cgroup: a stressor beside it, too, ends with it."""
    found = []
    for pid in target.all_processes():
        try:
            found.append(ProcessId.of(pid))
        except ProcessLookupError:
            continue
    return tuple(found)


class LocalRestart(ActionExecutor[LocalTarget]):
    """SIGKILL to the processes; the stack's supervisor starts the service a second later. (The stack ends with Ray's
    head; NGINX ends the requests under way.)"""

    roles = frozenset({"gateway", "replica"})

    def refusal(self) -> str | None:
        return None if self.target.processes() else "it has no process to restart; the supervisor is starting it"

    def steps(self) -> tuple[EndService]:
        drain_s = GATEWAY_DRAIN_S if self.target.service.role == "gateway" else 0.0
        return (EndService(processes=running(self.target), drain_s=drain_s),)


class PodRestart(ActionExecutor[KubernetesTarget]):
    """Deletes the service's pods; their controller makes new ones. (Whether replicas survive a new head is unknown.)"""

    roles = frozenset({"gateway", "replica"})
    grace_s = 5.0

    def refusal(self) -> str | None:
        return None if self.target.pods() else "it has no pod to delete"

    def steps(self) -> tuple[DeletePods]:
        uids = tuple(str(pod["metadata"]["uid"]) for pod in self.target.pods())
        if not uids:
            raise FaultError(f"{self.target.name} has no pod")
        return (DeletePods(uids=uids, grace_s=math.ceil(self.grace_s)),)


register(
    ActionKind(
        name="restart",
        summary="ends the service's processes (pods); the platform starts it again where it was",
        undo="none: requests under way are lost",
        needs="it runs; no head (local, Kubernetes): its replicas may not survive that",
        cures={
            "process-freeze": 1,
            "engine-stall": 1,
            "cpu-stress": 2,
            "memory-stress": 2,
            "kv-cache-squeeze": 2,
        },
        never=frozenset(
            {
                "accelerator-throttle",
                "bad-rollout",
                "gpu-contention",
                "gpu-memory",
                "network-bandwidth",
                "network-delay",
                "network-loss",
                "network-partition",
                "process-kill",
                WORKLOAD,
            }
        ),
        executors={"local": LocalRestart, "kubernetes": PodRestart},
        restarts=True,
    ),
    __name__,
)
