"""The local backend's support for faults; the steps of its actions are in journals as well."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, TypeAdapter

from tasks.inject.executor import FaultSupport
from tasks.inject.executors.local.repair import RepairStep
from tasks.inject.executors.local.sweep import residue, sweep
from tasks.inject.executors.local.target import LocalTarget
from tasks.inject.executors.local.undo import LocalStep

STEPS = TypeAdapter(tuple[Annotated[LocalStep | RepairStep, Field(discriminator="step")], ...])
SUPPORT = FaultSupport(
    target_model=LocalTarget,
    steps=STEPS,
    target=LocalTarget.of,
    residue=residue,
    sweep=sweep,
)
