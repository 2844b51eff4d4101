"""Finds the methods: every module of the family packages is imported and registers what it defines."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from tasks.rca import metric, multi_source, trace
from tasks.rca.method import REGISTRY, Method, Parameter
from tasks.validation import suggest

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
            packages = ", ".join(REGISTRY[name].missing_packages)
            problems.append(f"score.methods[{i}]: '{name}' needs packages that are not installed: {packages}")
    return problems


def validate_method_parameters(given: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Problems of ``score.method_parameters`` (by method, then by parameter), one line each."""
    _discover()
    problems = []
    for name, values in given.items():
        key = f"score.method_parameters.{name}"
        if name not in REGISTRY:
            problems.append(f"{key}: unknown method '{name}'; {suggest(name, REGISTRY)}")
            continue
        known = REGISTRY[name].parameters
        for parameter, value in values.items():
            if not known:
                problems.append(f"{key}.{parameter}: '{name}' has no parameters")
            elif parameter not in known:
                problems.append(f"{key}.{parameter}: unknown parameter '{parameter}'; {suggest(parameter, known)}")
            else:
                problems += [f"{key}.{parameter}: {problem}" for problem in _value_problems(known[parameter], value)]
    return problems


def resolve_parameters(method: Method, given: Mapping[str, Any]) -> dict[str, Any]:
    """Every parameter of ``method`` with its value: the given one (which must be valid), else the default."""
    return {
        name: _adapter(parameter).validate_python(given[name]) if name in given else parameter.default
        for name, parameter in method.parameters.items()
    }


def _value_problems(parameter: Parameter, value: Any) -> list[str]:
    try:
        _adapter(parameter).validate_python(value)
    except ValidationError as error:
        return [f"{detail['msg']} (got {value!r})" for detail in error.errors()]
    return []


def _adapter(parameter: Parameter) -> TypeAdapter[Any]:
    return TypeAdapter(parameter.annotation, config=ConfigDict(strict=True, allow_inf_nan=False))
