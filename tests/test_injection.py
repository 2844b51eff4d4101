from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from tasks.injection import (
    FAULT_FREE,
    NO_FAULT,
    Injection,
    InjectionRole,
    InjectionSpec,
    Interval,
    case_label,
    group_labels,
)

AT = datetime(2026, 1, 2, tzinfo=UTC)


def recorded(kind: str, target: str = "ray-head", **more: Any) -> Injection:
    planned = Interval(start=AT, end=AT + timedelta(seconds=20))
    return Injection(kind=kind, target=target, planned=planned, verdict="effective", reason="", **more)


@pytest.mark.parametrize(
    ("asked", "offset_s", "duration_s"),
    [({}, 0, 20), ({"offset_s": 5}, 5, 15), ({"offset_s": 5, "duration_s": 3}, 5, 3)],
)
def test_a_planned_injection_has_every_default_spelled_out(
    asked: dict[str, float], offset_s: float, duration_s: float
) -> None:
    planned = InjectionSpec(kind="a", target="ray-head", **asked).planned(20, {"workers": 2})
    assert planned.model_dump() == {
        "kind": "a",
        "target": "ray-head",
        "role": "root",
        "parameters": {"workers": 2},
        "offset_s": offset_s,
        "duration_s": duration_s,
    }
    assert planned.end_s == offset_s + duration_s
    start = AT + timedelta(seconds=offset_s)
    assert planned.interval(AT) == Interval(start=start, end=start + timedelta(seconds=duration_s))


def test_texts_are_the_same_for_what_is_asked_planned_and_recorded() -> None:
    spec = InjectionSpec(kind="a", target="ray-head")
    for each in (spec, spec.planned(20, {}), recorded("a")):
        assert (str(each), each.phrase) == ("a → ray-head", "a on ray-head")


@pytest.mark.parametrize("role", ["victim", "disturbance"])
def test_a_text_says_the_role_of_what_is_no_root(role: InjectionRole) -> None:
    spec = InjectionSpec(kind="a", target="ray-head", role=role)
    assert spec.planned(20, {}).role == role
    assert str(spec) == str(spec.planned(20, {})) == str(recorded("a", role=role)) == f"a → ray-head ({role})"


def test_an_injection_of_an_earlier_version_is_a_root() -> None:
    old = recorded("a").model_dump(mode="json", exclude={"role"})
    assert Injection.model_validate(old) == recorded("a")


def test_a_record_without_a_group_is_its_own() -> None:
    """Cases that were recorded before there were groups."""
    document = recorded("pod-kill").model_dump(mode="json")
    del document["group"]
    assert Injection.model_validate(document).group == "pod-kill"
    assert Injection.model_validate(document | {"group": "process-kill"}).group == "process-kill"


def test_a_case_is_named_by_its_faults() -> None:
    one, two, three = (InjectionSpec(kind=kind, target="t") for kind in "abc")
    assert case_label([]) == case_label([], most=2) == FAULT_FREE
    assert case_label([one, two, three]) == "a → t + b → t + c → t"
    assert case_label([one, two], most=2) == "a → t + b → t"
    assert case_label([one, two, three], most=2) == "a → t + 2 more"


def test_cases_are_grouped_by_what_counts_and_what_does_not() -> None:
    b, a, other = recorded("b", "y"), recorded("a", "y"), recorded("c", "x")
    assert group_labels([b, a], [other]) == ("a+b+(c)", "y+(x)")
    assert group_labels([], []) == (NO_FAULT, NO_FAULT)
    assert group_labels([a], []).phrase == "a on y"


def test_a_fault_begins_when_it_was_observed_else_verified_else_planned() -> None:
    late, later = (Interval(start=AT + timedelta(seconds=s), end=AT + timedelta(seconds=20)) for s in (1, 2))
    assert recorded("a").begin == AT
    assert recorded("a", verified=later).begin == later.start
    assert recorded("a", verified=later, observed=late).begin == late.start


def test_an_interval_does_not_end_before_it_starts() -> None:
    with pytest.raises(ValidationError, match="is before start"):
        Interval(start=AT, end=AT - timedelta(seconds=1))
