"""Restart in good order: the service's pods are deleted with grace, and their controller makes new ones."""

from __future__ import annotations

import math
from typing import TypeVar

from tasks.inject.executor import RestartParameters
from tasks.inject.executors.kubernetes import probes
from tasks.inject.executors.kubernetes.executor import KubernetesExecutor, name_of
from tasks.inject.executors.kubernetes.target import translate_errors
from tasks.inject.executors.kubernetes.undo import KubernetesStep
from tasks.inject.probe import Probe


class DrainParameters(RestartParameters):
    """Base of the parameters of a restart. ``drain_s``: how long requests under way may take to end."""

    drain_s: float


P = TypeVar("P", bound=DrainParameters)


class PodRestart(KubernetesExecutor[P]):
    """Deletes the pods as a rollout does: SIGTERM, ``drain_s`` of grace, then a new pod. Nothing needs to be undone."""

    spares_processes = False
    criterion = "fewer than a tenth left"

    def undo_steps(self) -> tuple[KubernetesStep, ...]:
        return ()

    def apply(self, run_for_s: float) -> str:
        with translate_errors(self.target):
            for pod in self.take_pods():
                self.target.api().delete(
                    "v1",
                    "Pod",
                    name_of(pod),
                    namespace=self.target.namespace,
                    uid=str(pod["metadata"]["uid"]),
                    grace_s=math.ceil(self.parameters.drain_s),
                )
        return "API: pods deleted with grace"

    def probe(self) -> Probe:
        self._wanted = len(self.target.pods())
        return probes.first_containers(self.target)

    def shows_effect(self, before: float, during: float) -> bool:
        return during < 0.1 * before

    def is_normal(self, before: float, during: float, after: float) -> bool:
        return probes.ready_pods(self.target) >= max(1, self._wanted)
