"""Base of the executors on a cluster."""

from __future__ import annotations

import contextlib
from typing import Any, TypeVar

from tasks.inject.errors import FaultError
from tasks.inject.executor import FaultExecutor, FaultParameters
from tasks.inject.executors.kubernetes.target import LOOK_DEADLINE_S, KubernetesTarget

P = TypeVar("P", bound=FaultParameters)


class KubernetesExecutor(FaultExecutor[KubernetesTarget, P]):
    """Carries out one injection on a cluster.

    ``take_pods`` remembers the pods to act on; ``alarm`` reports when one of them is replaced, since the new one has no
    fault.
    """

    settle_s = 90.0
    alarm_interval_s = 3.0
    pods: tuple[dict[str, Any], ...] = ()

    def take_pods(self) -> tuple[dict[str, Any], ...]:
        """Return the service's pods, for ``apply`` to act on.

        Raises:
            FaultError: there is none, or one does not run.
        """
        self.pods = tuple(self.target.pods())
        if not self.pods:
            raise FaultError(f"{self.target.name}: it has no pod ({self.target.selector})")
        waiting = [name_of(pod) for pod in self.pods if (pod.get("status") or {}).get("phase") != "Running"]
        if waiting:
            raise FaultError(f"{self.target.name}: pod {', '.join(waiting)} does not run")
        return self.pods

    def alarm(self) -> str | None:
        """Return why the fault must end early; None if it ends processes itself or the API does not answer."""
        for look in (self.replaced, self.lost) if self.spares_processes else ():
            with contextlib.suppress(FaultError):
                if why := look():
                    return why
        return None

    def lost(self) -> str | None:
        """Return why the fault no longer acts; None if it does. Raises FaultError when the API does not answer."""
        return None

    def replaced(self) -> str | None:
        """Return which pod was replaced; None if none was. Raises FaultError when the API does not answer."""
        now = {pod["metadata"]["uid"] for pod in self.target.pods(LOOK_DEADLINE_S)}
        lost = [name_of(pod) for pod in self.pods if pod["metadata"]["uid"] not in now]
        return f"pod {lost[0]} was replaced during the fault" if lost else None


def name_of(pod: dict[str, Any]) -> str:
    return str(pod["metadata"]["name"])


def limit_of(pod: dict[str, Any], container: str, resource: str) -> float | None:
    """Return the limit of a container in cores or bytes; None when it has none."""
    from kubernetes.utils.quantity import parse_quantity

    for each in pod["spec"]["containers"]:
        if each["name"] == container:
            limit = ((each.get("resources") or {}).get("limits") or {}).get(resource)
            return None if limit is None else float(parse_quantity(limit))
    return None
