"""The Kubernetes backend's support for faults."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, TypeAdapter

from tasks.inject.executor import FaultSupport
from tasks.inject.executors.kubernetes.repair import RepairStep
from tasks.inject.executors.kubernetes.sweep import residue, sweep
from tasks.inject.executors.kubernetes.target import KubernetesTarget
from tasks.inject.executors.kubernetes.undo import KubernetesStep

STEPS = TypeAdapter(tuple[Annotated[KubernetesStep | RepairStep, Field(discriminator="step")], ...])
SUPPORT = FaultSupport(
    target_model=KubernetesTarget,
    steps=STEPS,
    target=KubernetesTarget.of,
    residue=residue,
    sweep=sweep,
)
