"""The steps that restore a service on a cluster."""

from __future__ import annotations

import time
from typing import Literal

from tasks.inject.executor import FaultError, Undone, UndoStepBase
from tasks.inject.executors.kubernetes.target import KubernetesTarget, in_words

CHAOS_API = "chaos-mesh.org/v1alpha1"
ChaosKind = Literal["StressChaos", "NetworkChaos", "PodChaos"]


class DeleteChaos(UndoStepBase[KubernetesTarget]):
    """Delete a Chaos Mesh resource; its controller undoes the fault before it lets the resource go."""

    step: Literal["delete-chaos"] = "delete-chaos"
    kind: ChaosKind
    namespace: str
    resource: str

    def undo(self, target: KubernetesTarget) -> Undone | None:
        deadline = time.monotonic() + 30
        with in_words(target):
            target.api().delete(CHAOS_API, self.kind, self.resource, namespace=self.namespace)
            while target.api().find(CHAOS_API, self.kind, self.resource, namespace=self.namespace):
                if time.monotonic() > deadline:
                    raise FaultError(f"{target.name}: {self.kind} {self.resource} stays in spite of its deletion")
                time.sleep(0.3)
        return None

    def left(self, target: KubernetesTarget) -> list[str]:
        with in_words(target):
            found = target.api().find(CHAOS_API, self.kind, self.resource, namespace=self.namespace)
        return [f"{target.name}: {self.kind} {self.resource} exists"] if found else []


KubernetesStep = DeleteChaos
"""The union of the undo steps of this backend, told apart by ``step``."""
