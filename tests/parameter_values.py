"""Random valid values of any model of parameters, made from its fields and their limits."""

from __future__ import annotations

from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from hypothesis import assume
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

TEXT = st.sampled_from(
    ["yes", "010", "1e3", "1:30", "null", "~", "2026-11-29", ".5", "é ü", "a: b", "- x", "#", "", " x ", "a\nb", "<<"]
) | st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**18), 10**18)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
ODD_NUMBERS = [0.0, -0.0, 1e16, 1e-7, 0.1, 1e22, 30.0, 2.5]


@st.composite
def documents(draw: st.DrawFn, model: type[BaseModel]) -> dict[str, Any]:
    """What a file might say for ``model``, some of the fields that have a default left out."""
    document = {}
    for name, field in model.model_fields.items():
        if field.is_required() or draw(st.booleans()):
            document[name] = draw(_values(field.annotation, list(field.metadata)))
    try:
        model.model_validate(document)
    except ValidationError:
        assume(False)
    return document


def _values(annotation: Any, limits: list[Any]) -> st.SearchStrategy[Any]:
    while get_origin(annotation) is Annotated:
        annotation, *more = get_args(annotation)
        limits = [*limits, *(limit for each in more for limit in getattr(each, "metadata", [each]))]
    if get_origin(annotation) in (Union, UnionType):
        return st.one_of([_values(each, limits) for each in get_args(annotation)])
    if annotation in (int, float):
        return _numbers(annotation, limits)
    if get_origin(annotation) is Literal:
        return st.sampled_from(get_args(annotation))
    if get_origin(annotation) is tuple:
        least = max([each.min_length for each in limits if isinstance(each, annotated_types.MinLen)], default=0)
        return st.lists(_values(get_args(annotation)[0], []), min_size=least, max_size=3)
    if get_origin(annotation) is dict:
        return st.dictionaries(TEXT, _values(get_args(annotation)[1], []), max_size=3)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return documents(annotation)
    pattern = next((found for each in limits if (found := getattr(each, "pattern", None))), None)
    if annotation is str and pattern is not None:
        return st.from_regex(pattern, fullmatch=True).filter(lambda text: "\n" not in text)
    return {str: TEXT, bool: st.booleans(), NoneType: st.none(), Any: PLAIN}[annotation]


def _numbers(kind: type, limits: list[Any]) -> st.SearchStrategy[Any]:
    low = max([_limit(each, "ge", "gt") for each in limits if _limit(each, "ge", "gt") is not None], default=-(10**6))
    high = min([_limit(each, "le", "lt") for each in limits if _limit(each, "le", "lt") is not None], default=10**6)
    step = next((each.multiple_of for each in limits if isinstance(each, annotated_types.MultipleOf)), 1)
    whole = st.integers(int(low), int(high)).map(lambda number: number // step * step)
    if kind is int:
        return whole | whole.map(float)
    return whole | st.floats(low, high) | st.sampled_from(ODD_NUMBERS)


def _limit(limit: Any, *names: str) -> float | None:
    return next((getattr(limit, name) for name in names if hasattr(limit, name)), None)
