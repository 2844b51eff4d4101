"""The targets and undo steps of every backend, as a journal holds them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from tasks.inject.executors.kubernetes.target import KubernetesTarget
from tasks.inject.executors.kubernetes.undo import KubernetesStep
from tasks.inject.executors.local.target import LocalTarget
from tasks.inject.executors.local.undo import LocalStep

Target = Annotated[LocalTarget | KubernetesTarget, Field(discriminator="backend")]
UndoStep = Annotated[LocalStep | KubernetesStep, Field(discriminator="step")]
