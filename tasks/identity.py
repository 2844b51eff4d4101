"""Identity of values and of parameters: equal numbers are one whatever their type, and cases differ by what shapes
telemetry.

A parameter shapes telemetry unless its field is marked with ``NO_TELEMETRY``. The identity of parameters holds only
what differs from the defaults: a parameter that is added later, with a default, changes no identity.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from pydantic import BaseModel
from pydantic.fields import FieldInfo


class _NoTelemetry:
    """Marks a parameter that telemetry does not depend on: time limits of deployment, addresses, credentials."""


NO_TELEMETRY: Final = _NoTelemetry()


def canonical(value: Any) -> Any:
    """Return ``value`` as JSON data with one form for equal numbers: 30.0 is 30, -0.0 is 0. ``true`` is no number."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        return {str(key): canonical(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [canonical(each) for each in value]
    return value


def digest(value: Any) -> str:
    """Return the SHA-256 of ``value``, whatever the order of keys and type of numbers. Raises TypeError: no JSON."""
    return hashlib.sha256(json.dumps(canonical(value), sort_keys=True).encode()).hexdigest()


def resolved(model: BaseModel) -> dict[str, Any]:
    """Return every parameter that shapes telemetry, with its value."""
    return {name: _resolved(getattr(model, name)) for name, _ in _shaping(type(model))}


def differing(model: BaseModel, defaults: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the parameters that shape telemetry and differ from their default, or have none.

    ``defaults`` override the defaults of the model.
    """
    fields = dict(_shaping(type(model)))
    known = {
        name: each.get_default(call_default_factory=True) for name, each in fields.items() if not each.is_required()
    }
    known |= defaults or {}
    values = {name: getattr(model, name) for name in fields}
    return {
        name: _differing(value)
        for name, value in values.items()
        if name not in known or digest(_resolved(value)) != digest(_resolved(known[name]))
    }


def differences(recorded: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """List the dotted keys that both mappings have with different values, each with both values."""
    one, other = dict(leaves(canonical(recorded), "")), dict(leaves(canonical(asked), ""))
    return [
        f"{key} {one[key]}, not {other[key]}" for key in one if key in other and digest(one[key]) != digest(other[key])
    ]


def _shaping(model: type[BaseModel]) -> Iterator[tuple[str, FieldInfo]]:
    for name, field in model.model_fields.items():
        if NO_TELEMETRY not in field.metadata:
            yield name, field


def _resolved(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return resolved(value)
    if isinstance(value, list | tuple):
        return [_resolved(each) for each in value]
    return value


def _differing(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return differing(value)
    if isinstance(value, list | tuple):
        return [_differing(each) for each in value]
    return value


def leaves(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for name, each in value.items():
            yield from leaves(each, f"{key}.{name}" if key else name)
    elif isinstance(value, list) and any(isinstance(each, Mapping | list) for each in value):
        for index, each in enumerate(value):
            yield from leaves(each, f"{key}[{index}]")
    else:
        yield key, value
