"""Eject: requests go round a replica until it is readmitted."""

from __future__ import annotations

from tasks.actions.catalogue import UNKNOWN, WORKLOAD, ActionKind, register
from tasks.actions.executor import ActionExecutor
from tasks.inject.errors import FaultError
from tasks.inject.executors.kubernetes.repair import ReadmitPods, eject_pods, ejected_pods, pod_keys
from tasks.inject.executors.kubernetes.target import KubernetesTarget
from tasks.inject.executors.local.repair import Readmit, ejected_file
from tasks.inject.executors.local.target import LocalTarget


class LocalEject(ActionExecutor[LocalTarget]):
    """A file tells Ray Serve's router on the head to pass over the replica. Requests that it has stay there."""

    lasts = True

    def refusal(self) -> str | None:
        file = ejected_file(self.target)
        if file is None:
            return "this stack was started by a version that cannot eject"
        return "it is ejected already" if file.exists() else None

    def steps(self) -> tuple[Readmit]:
        return (Readmit(),)

    def begin(self) -> None:
        file = ejected_file(self.target)
        if file is None:
            raise FaultError(f"{self.target.name}: the stack's directory is unknown")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


class PodEject(ActionExecutor[KubernetesTarget]):
    """An entry in a ConfigMap, mounted where Ray Serve's router runs, tells it to pass over the pod's engine, and a
    label takes the pod's proxy out of the Service. A kubelet takes up to about a minute until the router sees the
    entry, and connections that are open stay. A pod that replaces the ejected one gets requests."""

    lasts = True

    def refusal(self) -> str | None:
        ejected, keys = ejected_pods(self.target), pod_keys(self.target)
        if ejected is None:
            return "this stack was started by a version that cannot eject"
        if len(keys) > 1:
            return "it is several pods, an application of its own, and the gateway gives each its fixed share"
        if not keys:
            return "it has no pod with an address"
        return "it is ejected already" if keys[0] in ejected else None

    def steps(self) -> tuple[ReadmitPods]:
        return (ReadmitPods(keys=pod_keys(self.target), token=self.action_id),)

    def begin(self) -> None:
        eject_pods(self.target, pod_keys(self.target), self.action_id)


register(
    ActionKind(
        name="eject",
        summary="takes a replica out of routing; it lives on, and keeps the requests that it has",
        undo="readmit: requests reach it again",
        needs="another replica serves, and the rest can carry the load",
        cures={
            "cpu-stress": 1,
            "memory-stress": 1,
            "network-bandwidth": 1,
            "network-delay": 1,
            "network-loss": 1,
            "network-partition": 1,
            "kv-cache-squeeze": 1,
            "accelerator-throttle": 2,
            "bad-rollout": 2,
            "gpu-contention": 2,
            "gpu-memory": 2,
            "process-freeze": 3,
            "engine-stall": 3,
            UNKNOWN: 1,  # it has a way back, and helps whatever is wrong with one replica
        },
        never=frozenset({WORKLOAD}),
        executors={"local": LocalEject, "kubernetes": PodEject},
        roles=frozenset({"replica"}),
    ),
    __name__,
)
