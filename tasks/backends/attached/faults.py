"""Faults on an attached stack: none, unless its owner allows them."""

from __future__ import annotations

from typing import Any, NoReturn

from tasks.backends import find
from tasks.inject.errors import InjectionRefusedError
from tasks.inject.executor import FaultSupport

CARRIED_OUT_BY = "kubernetes"
"""The backend whose executors act on pods."""
ONLY_READ = "deploy.allow_faults is not set: the stack is somebody else's, and is only read"


def _target(runtime: Any, service: str) -> NoReturn:
    if service not in {each.name for each in runtime.services}:
        raise KeyError(service)
    raise InjectionRefusedError([f"{service}: {ONLY_READ}"])


def _nothing(runtime: Any) -> list[str]:
    return []


def _swept(runtime: Any) -> tuple[list[str], list[str]]:
    return [], []


_PODS = find(CARRIED_OUT_BY).faults()
SUPPORT = FaultSupport(
    target_model=_PODS.target_model, steps=_PODS.steps, target=_target, residue=_nothing, sweep=_swept
)
