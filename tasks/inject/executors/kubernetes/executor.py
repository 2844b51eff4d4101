"""A fault kind on a cluster: what the kinds have in common there."""

from __future__ import annotations

from typing import TypeVar

from tasks.inject.executor import FaultExecutor, FaultParameters
from tasks.inject.executors.kubernetes.target import KubernetesTarget

P = TypeVar("P", bound=FaultParameters)


class KubernetesFault(FaultExecutor[KubernetesTarget, P]):
    """One injection of a kind on the Kubernetes backend."""

    settle_s = 90.0
    alarm_interval_s = 3.0
