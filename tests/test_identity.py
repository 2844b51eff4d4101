"""Parameters are the same after a round trip through their file, and equal parameters have one identity."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, ValidationError, create_model

from tasks.deploy.kubernetes.params import KubernetesDeployParams
from tasks.deploy.local.params import LocalDeployParams
from tasks.identity import NO_TELEMETRY, canonical, differences, differing, digest, resolved
from tasks.inject.catalogue import list_fault_kinds
from tasks.live_params import RemediateParams
from tasks.params import CampaignParams, ExportParams, GateParams, InjectParams, LoadParams, ReportParams, ScoreParams
from tasks.validation import Frozen, validation_problems
from tasks.yaml_core import dump, load
from tests.parameter_values import PLAIN, documents

SECTIONS: list[type[BaseModel]] = [
    CampaignParams,
    LocalDeployParams,
    KubernetesDeployParams,
    LoadParams,
    InjectParams,
    ExportParams,
    ScoreParams,
    ReportParams,
    GateParams,
    RemediateParams,
]
PARAMETERS = {kind.name: kind.parameters for kind in list_fault_kinds()}
MODELS = [pytest.param(each, id=each.__name__) for each in SECTIONS]
MODELS += [pytest.param(each, id=kind) for kind, each in PARAMETERS.items()]


def turned(value: Any) -> Any:
    """The same with whole numbers as floats, floats that are whole as int, and the keys the other way round."""
    if isinstance(value, dict):
        return {key: turned(value[key]) for key in reversed(value)}
    if isinstance(value, list):
        return [turned(each) for each in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if type(value) is int and int(float(value)) == value:
        return float(value)
    return value


@pytest.mark.parametrize("model", MODELS)
@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_loading_dumping_and_loading_is_the_identity(model: type[BaseModel], data: st.DataObject) -> None:
    document = data.draw(documents(model))
    found = model.model_validate(document)
    text = dump(found.model_dump(mode="json"))
    again = model.model_validate(load(text))
    assert again == found
    assert repr(again.model_dump()) == repr(found.model_dump())  # 0 and 0.0 are told apart
    assert dump(again.model_dump(mode="json")) == text
    for same in (again, model.model_validate(turned(document))):
        assert digest(differing(same)) == digest(differing(found))
        assert digest(resolved(same)) == digest(resolved(found))
        assert differences(resolved(same), resolved(found)) == []


@given(PLAIN)
def test_equal_values_have_one_digest(value: Any) -> None:
    assert digest(turned(value)) == digest(value)
    assert canonical(canonical(value)) == canonical(value)


def test_a_truth_is_no_number_and_a_number_no_word() -> None:
    assert len({digest(each) for each in (True, 1, "1", [1], None, 0, False, "")}) == 8
    assert digest(-0.0) == digest(0)
    assert digest({"a": 1e16}) == digest({"a": 10**16})
    assert digest(10**16 + 1) != digest(1e16)


class Inner(Frozen):
    size: float = 3
    name: Annotated[str, NO_TELEMETRY] = "x"


class Outer(Frozen):
    must: int
    rate: float = 2
    inner: Inner = Inner(size=5)
    several: tuple[Inner, ...] = (Inner(),)
    limit_s: Annotated[float, Field(gt=0), NO_TELEMETRY] = 7
    anything: dict[str, Any] = Field(default={})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {}),
        ({"rate": 2.0, "inner": {"size": 5}, "limit_s": 1, "anything": {}}, {}),
        ({"inner": {"size": 5, "name": "y"}, "several": [{"name": "z"}]}, {}),
        ({"rate": 3}, {"rate": 3.0}),
        ({"inner": {}}, {"inner": {}}),  # its own default, which is not that of the field
        ({"several": []}, {"several": []}),
        ({"several": [{"size": 4}, {}]}, {"several": [{"size": 4.0}, {}]}),
        ({"anything": {"b": 1, "a": True}}, {"anything": {"b": 1, "a": True}}),
    ],
)
def test_the_identity_holds_what_differs_and_shapes_telemetry(given: dict[str, Any], expected: dict[str, Any]) -> None:
    assert differing(Outer(must=1, **given)) == {"must": 1, **expected}


def test_defaults_of_somebody_else_go_first() -> None:
    assert differing(Outer(must=1, rate=9), {"rate": 9}) == {"must": 1}
    assert differing(Outer(must=1), {"rate": 9}) == {"must": 1, "rate": 2.0}
    assert differing(Outer(must=1), {"must": 1.0}) == {}


def test_a_field_that_is_added_with_a_default_changes_no_identity() -> None:
    newer_inner = create_model("NewerInner", __base__=Inner, depth=(int, 1))
    newer = create_model(
        "Newer",
        __base__=Outer,
        inner=(newer_inner, newer_inner(size=5)),
        several=(tuple[newer_inner, ...], (newer_inner(),)),  # type: ignore[valid-type]
        extra=(dict[str, str], {}),
    )
    changes: list[dict[str, Any]] = [{}, {"inner": {"size": 8}}, {"several": [{"size": 1}, {}]}, {"anything": {"a": 1}}]
    for change in changes:
        assert digest(differing(newer(must=1, **change))) == digest(differing(Outer(must=1, **change)))
    assert differing(newer(must=1, extra={"a": "b"})) == {"must": 1, "extra": {"a": "b"}}


def test_differences_are_told_for_what_both_know() -> None:
    old = {"deploy": {"cpu": 0.5, "gone": 1}, "injections": [{"kind": "a", "list": [1, 2]}]}
    new = {"deploy": {"cpu": 0.6, "added": 1}, "injections": [{"kind": "b", "list": [1.0, 2.0]}]}
    assert differences(old, new) == ["deploy.cpu 0.5, not 0.6", "injections[0].kind a, not b"]
    assert differences({}, new) == []
    assert differences({"a": 1}, {"a": True}) == ["a 1, not True"]


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("rate", "3", "rate: must be a number (got '3')"),
        ("rate", "1_000", "must be"),
        ("rate", True, "must be"),
        ("must", "010", "must: must be a whole number (got '010')"),
        ("must", False, "must: must be a whole number (got False)"),
        ("inner", {"name": 3}, "inner.name: must be text (got 3)"),
    ],
)
def test_words_numbers_and_truths_are_not_taken_for_each_other(field: str, value: Any, problem: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate({"must": 1, field: value})
    (found,) = validation_problems(caught.value, Outer)
    assert problem in found
