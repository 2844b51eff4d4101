"""A fault kind on this machine: what the kinds have in common here."""

from __future__ import annotations

from typing import TypeVar

from tasks.inject.executor import FaultExecutor, FaultParameters
from tasks.inject.executors.local.target import TRACKER_PREFIX, LocalTarget

P = TypeVar("P", bound=FaultParameters)


class LocalFault(FaultExecutor[LocalTarget, P]):
    """One injection of a kind on the local backend."""

    @property
    def tracker(self) -> str:
        """Name of the sub-group for this injection's processes."""
        return f"{TRACKER_PREFIX}{self.injection_id}"
