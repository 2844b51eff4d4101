"""Base of the executors on this machine."""

from __future__ import annotations

from typing import TypeVar

from tasks.inject.executor import FaultExecutor, FaultParameters
from tasks.inject.executors.local.target import TRACKER_PREFIX, LocalTarget

P = TypeVar("P", bound=FaultParameters)


class LocalExecutor(FaultExecutor[LocalTarget, P]):
    """Carries out one injection on this machine."""

    @property
    def tracker(self) -> str:
        """The name of the cgroup below the service's that tracks this injection's processes."""
        return f"{TRACKER_PREFIX}{self.injection_id}"
