"""Finds out which series belong to which service of a stack that somebody else deployed, by the labels of its owner."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from tasks.export.grid import TimeGrid
from tasks.export.queries.promql import LabelScope
from tasks.export.sources.placement import ALWAYS_FROM, ALWAYS_TO, REGEX_MARK, LabelMatch
from tasks.export.sources.prometheus import PrometheusClient

MAX_SAMPLES = 60
"""Maximum number of times at which the window is sampled for who is there."""
EXPORTED = "exported_"
"""Prefix that Prometheus gives to a label of the series where its own label has that name."""
LONGEST_MATCHER = 3000


@dataclass(frozen=True)
class SeriesOwner:
    """Labels of the series of one service or, with ``each``, of several: one service per value of that label.

    Args:
        services: one, or as many as there are values of ``each``.
        labels: as in ``LabelMatch``.
        each: name of a label, such as ``pod``, ``instance`` or ``ReplicaId``.
        known: value of ``each`` -> service, as it was when the stack was attached; others take what is free.
    """

    services: tuple[str, ...]
    labels: Mapping[str, str]
    each: str | None = None
    known: Mapping[str, str] = field(default_factory=dict)


def resolve_owners(
    client: PrometheusClient, grid: TimeGrid, owners: Sequence[SeriesOwner], witnesses: Iterable[str]
) -> tuple[tuple[LabelMatch, ...], list[str]]:
    """Return the labels of every service in the window, and one line per thing that does not fit.

    With ``each``, the values seen in the window are spread over the services: known ones keep theirs, a later one takes
    the first service whose former value has ended.

    Args:
        witnesses: names of series, at least one of which every service has.

    Raises:
        SourceError: Prometheus does not answer.
    """
    samples = _coarse(grid)
    names = "|".join(sorted(witnesses))
    matches: list[LabelMatch] = []
    problems = []
    for owner in owners:
        if owner.each is None:
            matches += [LabelMatch(service, owner.labels) for service in owner.services]
            continue
        query = f"count by ({owner.each}) ({{{matchers(owner.labels, f'__name__=~{quoted(names)}')}}})"
        seen: dict[str, tuple[int, int]] = {}
        for chunk in client.query_range(query, samples):
            for series in chunk:
                value = series.labels.get(owner.each, "")
                if value and len(series.times_ns):
                    first, last = int(series.times_ns[0]), int(series.times_ns[-1])
                    before = seen.get(value, (first, last))
                    seen[value] = (min(before[0], first), max(before[1], last))
        placed, left = assign(owner, seen, samples)
        matches += placed
        if left:
            problems.append(
                f"{len(left)} values of {owner.each} beyond the {len(owner.services)} of {owner.services[0]}: "
                f"left out: {', '.join(left[:5])}"
            )
        if missing := [name for name in owner.services if name not in {match.service for match in placed}]:
            problems.append(f"no {owner.each} in Prometheus for {', '.join(missing)}")
    return tuple(matches), problems


def assign(
    owner: SeriesOwner, seen: Mapping[str, tuple[int, int]], samples: TimeGrid
) -> tuple[list[LabelMatch], list[str]]:
    """Spread values of a label over services.

    Args:
        seen: value -> first and last time (ns) at which it was seen.

    Returns:
        The matches, and the values for which no service is left.
    """
    assert owner.each is not None
    slack = samples.step_ms * 1_000_000
    held: dict[str, list[tuple[int, int, str]]] = {service: [] for service in owner.services}
    left = []
    order = sorted(seen, key=lambda value: (value not in owner.known, seen[value][0], in_order(value)))
    for value in order:
        first, last = seen[value]
        fixed = owner.known.get(value)
        free = [
            service
            for service, others in held.items()
            if all(last < start + slack or first > end - slack for start, end, _ in others)
        ]
        service = fixed if fixed in held else next(iter(sorted(free, key=lambda name: len(held[name]))), None)
        if service is None:
            left.append(value)
        else:
            held[service].append((first, last, value))
    matches = []
    for service, values in held.items():
        values.sort()
        for index, (first, _, value) in enumerate(values):
            following = values[index + 1][0] if index + 1 < len(values) else ALWAYS_TO
            labels = {**owner.labels, owner.each: value}
            matches.append(LabelMatch(service, labels, first if index else ALWAYS_FROM, following))
    return matches, left


def in_order(name: str) -> tuple[tuple[int, int | str], ...]:
    """Return a key by which ``pod-2`` stands before ``pod-10``."""
    return tuple((0, int(part)) if part.isdecimal() else (1, part) for part in re.split(r"(\d+)", name) if part)


def label_scopes(matches: Iterable[LabelMatch], exported: bool) -> tuple[LabelScope, ...]:
    """Return one scope per set of labels that tells services apart; a query is asked once for each.

    Args:
        exported: whether labels of this name with ``exported_`` before it exist: then they are asked for, too.
    """
    values: dict[tuple[str, ...], dict[str, dict[str, None]]] = defaultdict(lambda: defaultdict(dict))
    for match in matches:
        for name, value in match.labels.items():
            values[tuple(sorted(match.labels))][name][value] = None
    scopes = []
    for names, found in values.items():
        texts = [text for name in names if (text := _one_of(name, list(found[name])))]
        scopes.append(LabelScope(names, ",".join(texts)))
        if exported:
            scopes.append(
                LabelScope(
                    tuple(EXPORTED + name if name in POD_NAMES else name for name in names),
                    ",".join(EXPORTED + text if text.startswith(POD_NAMES) else text for text in texts),
                )
            )
    return tuple(dict.fromkeys(scopes))


POD_NAMES = ("pod", "namespace", "container")
"""Labels that an exporter gives to series of other pods, and that Prometheus renames where its own have that name."""


def with_exported(matches: Iterable[LabelMatch]) -> tuple[LabelMatch, ...]:
    """Return the matches, and each again for series whose labels were renamed."""
    found = tuple(matches)
    renamed = tuple(
        replace(match, labels={EXPORTED + name if name in POD_NAMES else name: v for name, v in match.labels.items()})
        for match in found
        if set(match.labels) & set(POD_NAMES)
    )
    return (*found, *renamed)


def matchers(labels: Mapping[str, str], *more: str) -> str:
    """Return PromQL matchers for ``labels``."""
    return ",".join([*more, *(text for name, value in labels.items() if (text := _one_of(name, [value])))])


def names_of(matches: Iterable[LabelMatch]) -> dict[str, str]:
    """Return unambiguous values of labels -> service: by them logs and spans name it."""
    claimed: dict[str, set[str]] = defaultdict(set)
    for match in matches:
        for value in match.labels.values():
            if not value.startswith(REGEX_MARK):
                claimed[value].add(match.service)
                host, colon, port = value.rpartition(":")
                if colon and port.isdecimal():
                    claimed[host].add(match.service)
    return {value: next(iter(services)) for value, services in claimed.items() if len(services) == 1}


def quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _one_of(name: str, values: list[str]) -> str:
    """Return a matcher for any of ``values``; empty when it would be too long."""
    if len(values) == 1 and not values[0].startswith(REGEX_MARK):
        return f"{name}={quoted(values[0])}"
    parts = [value[1:] if value.startswith(REGEX_MARK) else re.escape(value).replace(r"\-", "-") for value in values]
    text = f"{name}=~{quoted('|'.join(parts))}"
    return text if len(text) <= LONGEST_MATCHER else f'{name}!=""'


def _coarse(grid: TimeGrid) -> TimeGrid:
    every = max(1, -(-grid.steps // MAX_SAMPLES))
    return TimeGrid(grid.start_ms, grid.step_ms * every, (grid.steps - 1) // every + 1)
