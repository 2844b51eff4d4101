"""Pods that an injection runs beside its target: they compete for its resources, and end by themselves."""

from __future__ import annotations

import time
from typing import Any

from tasks.inject.errors import FaultError
from tasks.inject.executors.kubernetes.injected import InjectedObjects, create_injected
from tasks.inject.executors.kubernetes.target import translate_errors
from tasks.kube.errors import ClusterError
from tasks.kube.status import condition

CONTAINER = "load"
READY_FILE = "/tmp/ready"
READY_TIMEOUT_S = 120.0
"""Importing torch and opening a GPU takes half a minute; the image is on the node already."""
GONE_TIMEOUT_S = 40.0
LOOK_INTERVAL_S = 0.5
GRACE_S = 2


class FaultPod(InjectedObjects):
    api_version, kind = "v1", "Pod"

    def create(self, injection_id: str, specs: tuple[dict[str, Any], ...]) -> None:
        """Create one per pod spec; those that exist already are kept."""
        for number, spec in enumerate(specs):
            create_injected(self.target, self.document(injection_id, number, spec), "the cluster has no pods")

    def document(self, injection_id: str, number: int, spec: dict[str, Any]) -> dict[str, Any]:
        document = super().document(injection_id, number, spec)
        document["metadata"]["labels"]["istio.io/dataplane-mode"] = "none"
        return document

    def await_ready(self, count: int) -> None:
        """Wait until each of them is ready."""
        deadline = time.monotonic() + READY_TIMEOUT_S
        while True:
            pods = self.all()
            if len(pods) < count:
                raise FaultError(f"{self.target.name}: a pod of the fault was deleted before it was ready")
            for pod in pods:
                self._raise_if_ended(pod)
            waiting = next((pod for pod in pods if not condition(pod, "Ready")), None)
            if waiting is None:
                return
            if time.monotonic() > deadline:
                raise FaultError(
                    f"{self.target.name}: pod {waiting['metadata']['name']} is not ready within {READY_TIMEOUT_S:g} s: "
                    f"{_why(waiting)}"
                )
            time.sleep(LOOK_INTERVAL_S)

    def lost(self, deadline_s: float) -> str | None:
        """Return why one of them no longer works; None if all do."""
        pods = self.all(deadline_s)
        if not pods or any(pod["metadata"].get("deletionTimestamp") for pod in pods):
            return "the pod of the fault was deleted"
        ended = [pod for pod in pods if (pod.get("status") or {}).get("phase") in ("Failed", "Succeeded")]
        return f"the pod of the fault has ended: {_why(ended[0])}{self._log_tail(ended[0])}" if ended else None

    def remove(self) -> None:
        """Delete them, if they exist, and wait until the kubelets confirm it."""
        deadline = time.monotonic() + GONE_TIMEOUT_S
        while pods := self.all():
            if time.monotonic() > deadline:
                names = ", ".join(str(pod["metadata"]["name"]) for pod in pods)
                raise FaultError(f"{self.target.name}: pod {names} stays in spite of its deletion")
            with translate_errors(self.target):
                for pod in pods:
                    if not pod["metadata"].get("deletionTimestamp"):
                        name = str(pod["metadata"]["name"])
                        self.target.api().delete("v1", "Pod", name, namespace=self.target.namespace, grace_s=GRACE_S)
            time.sleep(LOOK_INTERVAL_S)

    def _raise_if_ended(self, pod: dict[str, Any]) -> None:
        if (pod.get("status") or {}).get("phase") in ("Failed", "Succeeded"):
            raise FaultError(
                f"{self.target.name}: pod {pod['metadata']['name']} ended: {_why(pod)}{self._log_tail(pod)}"
            )

    def _log_tail(self, pod: dict[str, Any]) -> str:
        try:
            log = self.target.api().logs(pod["metadata"]["name"], namespace=self.target.namespace, tail_lines=5)
        except ClusterError:
            return ""
        lines = [line.strip() for line in log.splitlines() if line.strip()]
        return f": {lines[-1][:300]}" if lines else ""


def ready_probe() -> dict[str, Any]:
    """Return the readiness probe: the program in the pod creates ``READY_FILE`` once it works."""
    return {"exec": {"command": ["test", "-f", READY_FILE]}, "periodSeconds": 1, "failureThreshold": 600}


def _why(pod: dict[str, Any]) -> str:
    """Return phase and reasons of the pod and its containers."""
    status = pod.get("status") or {}
    words = [status.get("phase"), status.get("reason"), status.get("message")]
    for each in status.get("containerStatuses") or ():
        for state in (each.get("state") or {}).values():
            words += [state.get("reason"), state.get("message")]
    words += [each.get("message") for each in status.get("conditions") or () if each["status"] == "False"]
    return ", ".join(dict.fromkeys(str(word) for word in words if word)) or "unknown"
