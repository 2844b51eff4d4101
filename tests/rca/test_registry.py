from __future__ import annotations

import re

import numpy as np
import pytest

from tasks.rca.method import METHODS, Paper, Ranking, method, method_problems
from tasks.rca.registry import (
    get_method,
    list_methods,
    resolve_parameters,
    validate_method_parameters,
    validate_methods,
)
from tasks.rca.view import CaseView


def test_the_first_methods_are_there() -> None:
    names = {known.name for known in list_methods()}
    assert {"random", "nsigma", "baro", "e_diagnosis"} <= names


def test_every_method_says_what_it_is() -> None:
    for known in list_methods():
        if METHODS.origin(known.name).is_ours:
            assert known.installed
            assert method_problems(known) == [], known.name


def test_problems_name_the_key_and_the_closest_name() -> None:
    problems = validate_methods(["nsigma", "random", "barro", "nsigma"])
    assert len(problems) == 2
    assert problems[0].startswith("score.methods[2]: unknown method 'barro'; did you mean 'baro'? allowed: baro, ")
    assert problems[1] == "score.methods[3]: 'nsigma' is listed twice"
    assert validate_methods(["nsigma", "baro"]) == []


def test_every_parameter_has_a_type_and_a_default_of_that_type() -> None:
    for known in list_methods():
        if METHODS.origin(known.name).is_ours:
            defaults = {name: parameter.default for name, parameter in known.parameters.items()}
            assert validate_method_parameters({known.name: defaults}) == []
            assert resolve_parameters(known, {}) == defaults


def test_problems_of_parameters_name_the_key_and_what_is_allowed() -> None:
    given = {
        "barro": {},
        "baro": {"direction": "down", "directon": "up"},
        "random": {"depth": 1},
        "e_diagnosis": {"alpha": "0.1", "permutations": True},
        "nsigma": {"direction": "up"},
    }
    problems = validate_method_parameters(given)
    assert problems[0].startswith("score.method_parameters.barro: unknown method 'barro'; did you mean 'baro'? ")
    assert problems[1:] == [
        "score.method_parameters.baro.direction: Input should be 'both' or 'up' (got 'down')",
        "score.method_parameters.baro.directon: unknown parameter 'directon'; did you mean 'direction'? "
        "allowed: direction",
        "score.method_parameters.random.depth: 'random' has no parameters",
        "score.method_parameters.e_diagnosis.alpha: Input should be a valid number (got '0.1')",
        "score.method_parameters.e_diagnosis.permutations: Input should be a valid integer (got True)",
    ]


def test_what_is_not_given_has_its_default_and_numbers_become_what_was_asked_for() -> None:
    resolved = resolve_parameters(get_method("e_diagnosis"), {"alpha": 1})
    assert resolved["permutations"] == get_method("e_diagnosis").parameters["permutations"].default
    assert isinstance(resolved["alpha"], float)


def test_a_missing_optional_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    define = method(
        name="test_needs", family="metric", needs=set(), paper=Paper("", "", 2026), packages=("no_such_pkg",)
    )
    define(lambda view, rng: None)  # type: ignore[arg-type, return-value]
    try:
        assert validate_methods(["test_needs"]) == [
            "score.methods[0]: 'test_needs' needs packages that are not installed: no_such_pkg"
        ]
    finally:
        METHODS.registered.pop("test_needs")


def test_unknown_name() -> None:
    with pytest.raises(KeyError, match="did you mean 'baro'"):
        get_method("barro")


def test_one_name_has_one_method() -> None:
    with pytest.raises(ValueError, match=r"'baro' is registered twice: in tasks.rca.metric.baro and"):
        method(name="baro", family="metric", needs=set(), paper=Paper("", "", 2026))(lambda view, rng: None)  # type: ignore[arg-type, return-value]


def test_needs_name_signals_and_metrics_of_the_metric_map() -> None:
    known = {"metrics", "ttft", "error_rate", "metrics:kv_cache_usage", "metrics:latency_p90"}
    try:
        method(name="test_needs", family="metric", needs=known, paper=Paper("", "", 2026))(_rank_nothing)
        assert get_method("test_needs").needs == known
    finally:
        METHODS.registered.pop("test_needs", None)


@pytest.mark.parametrize(
    ("need", "problem"),
    [
        ("metrics:kv_cache_usag", "unknown metric 'kv_cache_usag' in needs; did you mean 'kv_cache_usage'?"),
        ("metrics:", "unknown metric '' in needs"),
        ("span", "unknown signal 'span' in needs; did you mean 'spans'?"),
        ("kv_cache_usage", "unknown signal 'kv_cache_usage' in needs"),
        ("context", "unknown signal 'context' in needs"),
    ],
)
def test_an_unknown_need_is_an_error_at_registration(need: str, problem: str) -> None:
    with pytest.raises(ValueError, match=f"method 'test_needs': {re.escape(problem)}"):
        method(name="test_needs", family="metric", needs={"metrics", need}, paper=Paper("", "", 2026))
    assert "test_needs" not in METHODS.registered


def _rank_nothing(view: CaseView, rng: np.random.Generator) -> Ranking:
    return Ranking(())
