from __future__ import annotations

import pytest

from tasks.rca.method import REGISTRY, Paper, method
from tasks.rca.registry import get_method, list_methods, validate_methods


def test_the_first_methods_are_there() -> None:
    names = {known.name for known in list_methods()}
    assert {"random", "nsigma", "baro", "e_diagnosis"} <= names


def test_every_method_says_what_it_is() -> None:
    for known in list_methods():
        if known.module.startswith("tasks."):
            assert known.summary.endswith((".", "."))
            assert known.paper.year > 1950
            assert known.installed
            for word in ("Ranks", "Inputs", "Parameters", "Complexity", "Randomness", "Source", "Deviation"):
                assert word in (known.run.__doc__ or ""), f"{known.name}: docstring lacks '{word}'"


def test_problems_name_the_key_and_the_closest_name() -> None:
    problems = validate_methods(["nsigma", "random", "barro", "nsigma"])
    assert len(problems) == 2
    assert problems[0].startswith("score.methods[2]: unknown method 'barro'; did you mean 'baro'? allowed: baro, ")
    assert problems[1] == "score.methods[3]: 'nsigma' is listed twice"
    assert validate_methods(["nsigma", "baro"]) == []


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
        REGISTRY.pop("test_needs")


def test_unknown_name() -> None:
    with pytest.raises(KeyError, match="did you mean 'baro'"):
        get_method("barro")


def test_one_name_has_one_method() -> None:
    with pytest.raises(ValueError, match=r"'baro' is registered twice: in tasks.rca.metric.baro and"):
        method(name="baro", family="metric", needs=set(), paper=Paper("", "", 2026))(lambda view, rng: None)  # type: ignore[arg-type, return-value]
