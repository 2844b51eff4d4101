"""Finds the methods: every module of the family packages is imported and registers what it defines."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Sequence

from tasks.params import suggest
from tasks.rca import metric, multi_source, trace
from tasks.rca.method import REGISTRY, Method

_FAMILIES = ("metric", "trace", "multi-source")


@functools.cache
def _discover() -> None:
    for package in (metric, trace, multi_source):
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{package.__name__}.{module.name}")


def list_methods() -> list[Method]:
    """Every method, by family and name."""
    _discover()
    return sorted(REGISTRY.values(), key=lambda known: (_FAMILIES.index(known.family), known.name))


def get_method(name: str) -> Method:
    """The method called ``name``.

    Raises:
        KeyError: there is none; the message names the allowed ones.
    """
    _discover()
    if name not in REGISTRY:
        raise KeyError(f"unknown method '{name}'; {suggest(name, REGISTRY)}")
    return REGISTRY[name]


def validate_methods(names: Sequence[str]) -> list[str]:
    """Problems of ``score.methods``, one line each; empty when every name is known and given once."""
    _discover()
    problems = []
    for i, name in enumerate(names):
        if name not in REGISTRY:
            problems.append(f"score.methods[{i}]: unknown method '{name}'; {suggest(name, REGISTRY)}")
        elif name in names[:i]:
            problems.append(f"score.methods[{i}]: '{name}' is listed twice")
        elif not REGISTRY[name].installed:
            packages = ", ".join(REGISTRY[name].packages)
            problems.append(f"score.methods[{i}]: '{name}' needs packages that are not installed: {packages}")
    return problems
