"""What other distributions offer by entry points, and what happens to what cannot be used."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tasks.plugins import OURS, Origin, PluginError, Registry
from tests.plugin_packages import install

GROUP = "rcarena.test_numbers"
Number = Registry[int]


@pytest.fixture
def numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Number]:
    """A registry of numbers with one of ours; modules register with ``numbers_home.add``."""
    (tmp_path / "our_numbers").mkdir()
    (tmp_path / "our_numbers" / "__init__.py").touch()
    (tmp_path / "our_numbers" / "one.py").write_text("from numbers_home import add\nadd('one', 1, __name__)\n")
    (tmp_path / "numbers_home.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    import numbers_home  # type: ignore[import-not-found]

    registry: Number = Registry(
        "number", GROUP, ["our_numbers"], lambda number: [] if number < 10 else ["it is too great"]
    )
    numbers_home.add = registry.register
    yield registry
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.fixture
def offer(tmp_path: Path) -> Callable[..., None]:
    """Install a distribution with one module that runs ``source`` and entry points (name -> that module)."""

    def add(distribution: str, source: str, *names: str) -> None:
        module = distribution.replace("-", "_")
        (tmp_path / f"{module}.py").write_text(f"from numbers_home import add\n{source}\n")
        install(tmp_path, distribution, {GROUP: dict.fromkeys(names, module)})

    return add


def test_ours_and_those_of_others_are_found(numbers: Number, offer: Callable[..., None]) -> None:
    offer("acme-numbers", "add('two', 2, __name__)\nadd('three', 3, __name__)", "two", "three")
    assert numbers.names() == ["one", "three", "two"]
    assert numbers.all() == {"one": 1, "two": 2, "three": 3}
    assert numbers.broken() == []
    assert numbers.origin("one") == OURS
    assert str(numbers.origin("two")) == "acme-numbers 1.0"
    numbers.register("four", 4, "some_script")
    assert (numbers.get("four"), numbers.origin("four")) == (4, Origin())


def test_nothing_of_others_is_imported_before_it_is_asked_for(numbers: Number, offer: Callable[..., None]) -> None:
    offer("acme-numbers", "add('two', 2, __name__)", "two")
    assert numbers.get("one") == 1
    assert "two" in numbers
    with pytest.raises(KeyError, match=r"unknown number 'tow'; did you mean 'two'\? allowed: one, two"):
        numbers.get("tow")
    assert "acme_numbers" not in sys.modules
    assert numbers.get("two") == 2


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        (
            "import no_such_module",
            "importing acme_numbers failed: ModuleNotFoundError: No module named 'no_such_module'",
        ),
        ("raise SystemExit('bye')", "importing acme_numbers failed: SystemExit: bye"),
        ("", "acme_numbers registers no number of that name"),
        ("add('two', 2, __name__)\nadd('other', 3, __name__)", "acme_numbers registers 'other' as well, which has no"),
        ("add('one', 7, __name__)", "number 'one' is registered twice: in our_numbers.one and acme_numbers"),
        ("add('two', 12, __name__)", "it is too great"),
    ],
)
def test_what_cannot_be_used_is_named_and_disturbs_nobody(
    numbers: Number, offer: Callable[..., None], source: str, problem: str
) -> None:
    offer("acme-numbers", source, "two")
    offer("fine-numbers", "add('three', 3, __name__)", "three")
    assert numbers.all() == {"one": 1, "three": 3}
    (broken,) = numbers.broken()
    assert str(broken).startswith("'two' of acme-numbers 1.0 cannot be used: ")
    assert problem in str(broken)
    with pytest.raises(PluginError, match=r"'two' of acme-numbers 1\.0 cannot be used"):
        numbers.get("two")
    assert numbers.problem("two") == str(broken)
    assert numbers.problem("three") == ""


def test_one_of_ours_cannot_be_replaced(numbers: Number, offer: Callable[..., None]) -> None:
    offer("acme-numbers", "add('one', 7, __name__)", "one")
    assert numbers.get("one") == 1
    (broken,) = numbers.broken()
    assert str(broken) == "'one' of acme-numbers 1.0 cannot be used: rcarena has a number of that name"
    assert numbers.all() == {"one": 1}


def test_a_name_that_two_offer_belongs_to_neither(numbers: Number, offer: Callable[..., None]) -> None:
    offer("acme-numbers", "add('two', 2, __name__)", "two")
    offer("best-numbers", "add('two', 2.5, __name__)", "two")
    assert numbers.all() == {"one": 1}
    with pytest.raises(PluginError, match="the same name") as raised:
        numbers.get("two")
    assert "acme-numbers 1.0" in str(raised.value)
    assert "best-numbers 1.0" in str(raised.value)
