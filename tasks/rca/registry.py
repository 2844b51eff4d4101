"""The methods by name, and the entries of ``score.methods``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tasks.metrics import PROFILES, Profile
from tasks.rca.method import FAMILIES, METHODS, Method
from tasks.text import suggest


def list_methods() -> list[Method]:
    """Return every method that can be used, by family and name."""
    return sorted(METHODS.all().values(), key=lambda known: (FAMILIES.index(known.family), known.name))


def get_method(name: str) -> Method:
    """Return the method called ``name``.

    Raises:
        KeyError: there is none; the message names the allowed ones.
        PluginError: another package offers it, and it cannot be used.
    """
    return METHODS.get(name)


@dataclass(frozen=True)
class Entry:
    """An entry of ``score.methods``. ``label`` is the entry as written; it names the entry's rows in every table."""

    label: str
    method: Method
    profile: Profile

    @property
    def labelled(self) -> Method:
        """The method renamed to the label, for tables."""
        return replace(self.method, name=self.label)

    def parameters(self, given: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """Return every parameter with its value. A value for ``name@profile`` overrides one for ``name``."""
        name = self.method.name
        return resolve_parameters(self.method, {**given.get(name, {}), **given.get(f"{name}@{self.profile}", {})})


def entry_of(label: str, profile: Profile) -> Entry:
    """Parse the entry ``name`` or ``name@profile``; an entry without a profile has ``profile``.

    Raises:
        KeyError: no such method.
        ValueError: no such profile.
    """
    name, at, own = label.partition("@")
    if at and own not in PROFILES:
        raise ValueError(f"unknown profile '{own}'; {suggest(own, PROFILES)}")
    return Entry(label, get_method(name), next((known for known in PROFILES if known == own), profile))


def validate_methods(entries: Sequence[str], profile: Profile = "paper") -> list[str]:
    """Return the problems of ``score.methods``, one line each.

    Every entry must be ``name`` or ``name@profile``, both known, and no two the same method under the same profile. An
    entry without a profile has ``profile``.
    """
    problems = []
    seen: dict[tuple[str, str], str] = {}
    for i, entry in enumerate(entries):
        name, at, own = entry.partition("@")
        effective = (name, own if at else profile)
        if unusable := METHODS.problem(name):
            problems.append(f"score.methods[{i}]: {unusable}")
        elif effective[1] not in PROFILES:
            problems.append(f"score.methods[{i}]: '{entry}': unknown profile '{own}'; {suggest(own, PROFILES)}")
        elif seen.setdefault(effective, entry) == entry and entry in entries[:i]:
            problems.append(f"score.methods[{i}]: '{entry}' is listed twice")
        elif seen[effective] != entry:
            same = f"'{entry}' is '{seen[effective]}' again: score.profile is {profile}"
            problems.append(f"score.methods[{i}]: {same}")
        elif not get_method(name).installed:
            packages = ", ".join(get_method(name).missing_packages)
            problems.append(f"score.methods[{i}]: '{name}' needs packages that are not installed: {packages}")
    return problems


def validate_method_parameters(given: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the problems of ``score.method_parameters`` (by method or method@profile, then by parameter), one line
    each."""
    problems = []
    for entry, values in given.items():
        key = f"score.method_parameters.{entry}"
        name, at, own = entry.partition("@")
        if at and own not in PROFILES:
            problems.append(f"{key}: unknown profile '{own}'; {suggest(own, PROFILES)}")
            continue
        if unusable := METHODS.problem(name):
            problems.append(f"{key}: {unusable}")
            continue
        known = get_method(name).parameters
        for parameter, value in values.items():
            if not known:
                problems.append(f"{key}.{parameter}: '{name}' has no parameters")
            elif parameter not in known:
                problems.append(f"{key}.{parameter}: unknown parameter '{parameter}'; {suggest(parameter, known)}")
            else:
                problems += [f"{key}.{parameter}: {problem}" for problem in known[parameter].problems(value)]
    return problems


def resolve_parameters(method: Method, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return every parameter of ``method`` with its value: the given one, which must be valid, else the default."""
    return {
        name: parameter.adapter.validate_python(given[name]) if name in given else parameter.default
        for name, parameter in method.parameters.items()
    }
