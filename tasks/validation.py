"""Bases of the models of parameters and of records. Problems of values become one line each, naming the key."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from math import isfinite
from types import UnionType
from typing import Annotated, Any, ClassVar, Self, Union, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)
from pydantic_core import InitErrorDetails

from tasks.text import suggest

Seconds = Annotated[float, Field(gt=0, le=86_400)]


class Frozen(BaseModel):
    """Base of every parameter model: immutable, and an unknown key is an error.

    Words, numbers and true/false are not taken for each other (``"3"``, ``yes`` for true); 3 and 3.0 are. A default is
    checked as if it were given, so that it has the type of its field.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)

    hides_values: ClassVar[bool] = False
    """True where somebody may write a secret by mistake: problems then show no value."""

    @model_validator(mode="wrap")
    @classmethod
    def _of_the_right_kind(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        given = data if isinstance(data, dict) else {}
        wrong = {name: problem for name, value in given.items() if (problem := _kind_problem(cls, name, value))}
        if not wrong:
            return handler(data)
        errors = [_located(name, problem, given[name]) for name, problem in wrong.items()]
        try:
            handler(data)
        except ValidationError as error:
            others = [each for each in error.errors() if each["loc"] and each["loc"][0] not in wrong]
            errors += [
                InitErrorDetails(type=each["type"], loc=each["loc"], input=each["input"], ctx=each.get("ctx", {}))
                for each in others
            ]
        raise ValidationError.from_exception_data(cls.__name__, errors)


class Record(BaseModel):
    """Base of the models inside ``case.json``. What a newer version has added is left out."""

    model_config = ConfigDict(frozen=True, extra="ignore")


_KINDS: dict[type, str] = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


@cache
def _scalars(model: type[BaseModel], field: str) -> frozenset[type]:
    """Return the types of single values that a field takes; empty for other fields, such as choices."""
    return frozenset(_KINDS) & frozenset(_alternatives(model.model_fields[field].annotation))


def _kind_problem(model: type[BaseModel], field: str, value: Any) -> str | None:
    scalars = _scalars(model, field) if field in model.model_fields else frozenset()
    if not scalars or type(value) not in _KINDS or type(value) in scalars:
        return None
    if type(value) in (int, float) and scalars & {int, float}:
        return None
    return f"must be {' or '.join(text for kind, text in _KINDS.items() if kind in scalars)}"


def _located(field: str, problem: str, value: Any) -> InitErrorDetails:
    return InitErrorDetails(type="value_error", loc=(field,), input=value, ctx={"error": ValueError(problem)})


def _alternatives(annotation: Any) -> Iterable[Any]:
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _alternatives(get_args(annotation)[0])
    elif origin in (Union, UnionType):
        for each in get_args(annotation):
            yield from _alternatives(each)
    else:
        yield annotation


def _plain(value: Any) -> Any:
    """Return ``value`` as a file of parameters would give it back. Raises ValueError when a file cannot hold it."""
    if isinstance(value, dict):
        if any(not isinstance(key, str) for key in value):
            raise ValueError("a key must be text")
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if value is not None and not isinstance(value, str | bool | int | float):
        raise ValueError(f"a {type(value).__name__} cannot be a parameter")
    if isinstance(value, float) and not isfinite(value):
        raise ValueError("a number must be finite")
    return value


Plain = Annotated[Any, AfterValidator(_plain)]
"""A value whose type only a registry knows: text, a finite number, true, false, null, or lists and mappings of them."""


def validation_problems(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """Return one line per problem of a pydantic error, each naming the key."""
    return [_problem(dict(detail), model) for detail in error.errors()]


def _problem(detail: dict[str, Any], model: type[BaseModel]) -> str:
    location = detail["loc"]
    key = _dotted(location)
    if detail["type"] == "extra_forbidden":
        allowed = _model_at(model, location[:-1]).model_fields
        return f"{key}: unknown key; {suggest(str(location[-1]), allowed)}"
    if detail["type"] == "missing":
        return f"{key}: missing; it must be given"
    message = str(detail["msg"]).removeprefix("Value error, ")
    if detail["type"] == "model_type":  # pydantic's text names a class
        message = "must be a mapping"
    if not key:
        return message
    hidden = isinstance(detail["input"], dict | list | BaseModel) or _hides_values(_model_at(model, location))
    shown = "" if hidden else f" (got {_harmless(detail['input'])!r})"
    return f"{key}: {message}{shown}"


def _hides_values(model: type[BaseModel]) -> bool:
    return issubclass(model, Frozen) and model.hides_values


def _harmless(value: Any) -> Any:
    """``value`` without what a URL in it says before its ``@``: that may be a password."""
    return re.sub(r"[^\s/]+@", "***@", value) if isinstance(value, str) and "://" in value else value


def _dotted(location: tuple[int | str, ...]) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else (f".{part}" if text else part)
    return text


def _model_at(model: type[BaseModel], location: tuple[int | str, ...]) -> type[BaseModel]:
    """Return the model at ``location`` below ``model``."""
    current = model
    for part in location:
        if isinstance(part, str) and part in current.model_fields:
            current = next(iter(_models_in(current.model_fields[part].annotation)), current)
    return current


def _models_in(annotation: Any) -> Iterable[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from _models_in(argument)
