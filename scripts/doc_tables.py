"""Makes the tables of docs/ that follow from the code (metrics, methods, fault kinds, actions) for scripts/generate."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from tasks.actions.catalogue import ACTIONS, list_actions, table
from tasks.export.queries.labelled import CANDIDATES
from tasks.export.queries.metrics import SPECS
from tasks.export.queries.promql import MetricSpec
from tasks.export.sources.placement import Units
from tasks.inject.catalogue import FAULT_KINDS, FaultKind, list_fault_kinds
from tasks.metrics import METRICS
from tasks.rca.method import METHODS, Method
from tasks.rca.registry import list_methods
from tasks.stack import ALL_ROLES, Role

OF_GPUS = {"sum": "sum of GPUs", "mean": "mean of GPUs", "max": "highest GPU", "min": "lowest GPU"}
BOUNDS = (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))


def with_table(page: str, rows: Callable[[], Iterable[tuple[str, ...]]], *header: str) -> str:
    """Return ``page`` with ``rows`` in its table with this header. Raises LookupError if it has none."""
    top = f"{_line(header)}|{'---|' * len(header)}\n"
    found = re.search(re.escape(top) + r"(?:\|.*\n)*", page)
    if found is None:
        raise LookupError(f"no table | {' | '.join(header)} |")
    return page[: found.start()] + top + "".join(map(_line, rows())) + page[found.end() :]


def with_metrics(page: str) -> str:
    return with_table(page, metrics, "metric", "unit", "profile", "services", "local", "Kubernetes")


def with_methods(page: str) -> str:
    return with_table(page, methods, "name", "family", "what it ranks by", "needs", "random", "beyond", "source")


def with_faults(page: str) -> str:
    return with_table(page, faults, "kind", "what it does", "backends", "roles", "parameter", "default", "limits")


def with_actions(page: str) -> str:
    page = with_table(
        page, actions, "action", "what it changes", "way back", "needs", "roles", "local", "Kubernetes", "simulated"
    )
    return with_table(page, treatments, "kind", "first", "second", "third", "never cured by")


def with_series(page: str) -> str:
    return with_table(page, series, "metric", "series, the first that a service has")


PAGES: dict[str, Callable[[str], str]] = {
    "docs/telemetry.md": with_metrics,
    "docs/methods.md": with_methods,
    "docs/faults.md": with_faults,
    "docs/remediate.md": with_actions,
    "docs/attach.md": with_series,
}


def metrics() -> Iterator[tuple[str, ...]]:
    """Yield a row per metric, in the order of the vocabulary."""
    for metric in METRICS.values():
        spec = SPECS[metric.name]
        sources = _sources(spec, "processes"), _sources(spec, "pods")
        yield f"`{metric}`", metric.unit, metric.profile, _names(metric.roles), *sources


def series() -> Iterator[tuple[str, ...]]:
    """Yield a row per metric with the names that fill it on a stack of others, by exporter."""
    for metric in METRICS.values():
        found: dict[str, dict[str, None]] = {}
        for candidate in CANDIDATES:
            if candidate.metric is metric:
                found.setdefault(candidate.family, {})[candidate.told] = None
        if found:
            yield f"`{metric}`", "; ".join(f"{family}: {', '.join(names)}" for family, names in found.items())


def methods() -> Iterator[tuple[str, ...]]:
    for each in list_methods():
        if METHODS.origin(each.name).is_ours:
            yield _method(each)


def _method(each: Method) -> tuple[str, ...]:
    needs = ", ".join(sorted(each.needs)) or "–"
    source = f"{each.paper.title}, {each.paper.venue} {each.paper.year}"
    return (
        f"`{each.name}`",
        each.family,
        each.summary.rstrip("."),
        needs,
        "yes" if each.seeded else "no",
        "yes" if each.beyond else "no",
        source,
    )


def faults() -> Iterator[tuple[str, ...]]:
    """Yield a row per parameter of each kind; the first of a kind says what it is."""
    for kind in list_fault_kinds():
        if FAULT_KINDS.origin(kind.name).is_ours:
            what = f"`{kind.name}`", kind.summary, ", ".join(kind.executors), _names(kind.roles)
            parameters = list(_parameters(kind)) or [("–", "", "")]
            for i, parameter in enumerate(parameters):
                yield (*(what if i == 0 else ("",) * len(what)), *parameter)


def actions() -> Iterator[tuple[str, ...]]:
    """Yield a row per action."""
    for each in list_actions():
        if ACTIONS.origin(each.name).is_ours:
            can = [each.executor(backend) is not None for backend in ("local", "kubernetes")]
            able = ("yes" if yes else "–" for yes in (*can, "simulated" in each.made_by))
            yield f"`{each.name}`", each.summary, each.undo, each.needs, _names(each.roles), *able


def treatments() -> Iterator[tuple[str, ...]]:
    """Yield a row per kind: what cures it, by preference, and what never does."""
    for kind, (cures, never) in table().items():
        places = (f"`{cures[place]}`" if place in cures else "wait" if place == 1 else "" for place in (1, 2, 3))
        yield f"`{kind}`", *places, ", ".join(f"`{each}`" for each in never)


def _parameters(kind: FaultKind) -> Iterator[tuple[str, str, str]]:
    for name, schema in kind.parameters.model_json_schema().get("properties", {}).items():
        ordinary = schema.get("default")
        others = {backend: kind.defaults(backend).get(name, ordinary) for backend in kind.executors}
        differing = [f"{backend}: {_value(own)}" for backend, own in others.items() if own != ordinary]
        default = " ".join([_value(ordinary), *([f"({', '.join(differing)})"] if differing else [])])
        yield f"`{name}`: {schema['description']}", default, _limits(schema)


def _limits(schema: dict[str, Any]) -> str:
    types = schema.get("anyOf", [schema])
    limits = [f"{sign} {_value(each[bound])}" for each in types for bound, sign in BOUNDS if bound in each]
    return ", ".join([*limits, *(["or null"] if {"type": "null"} in types else [])])


def _value(value: object) -> str:
    return "null" if value is None else f"{value:.15g}" if isinstance(value, float) else str(value)


def _sources(spec: MetricSpec, units: Units) -> str:
    """Return where the metric comes from, the first choice first, with what is said of a source in brackets."""
    roles: dict[str, frozenset[Role]] = {"spans": spec.span_roles} if spec.span_roles else {}
    notes: dict[str, str] = {}
    for variant in (*spec.variants_of(units, gpus=True), *spec.variants_of(units, gpus=False)):
        roles[variant.source] = roles.get(variant.source, frozenset()) | variant.roles
        if variant.join == "gpu":
            notes[variant.source] = OF_GPUS[variant.combine]
        elif variant.accelerator == "none":
            notes[variant.source] = "without GPUs"
    cells = []
    for source, asked in roles.items():
        said = [notes[source]] if source in notes else []
        said += [_names(asked)] if asked != spec.metric.roles else []
        cells.append((source if source == "spans" else f"`{source}`") + (f" ({', '.join(said)})" if said else ""))
    return ", ".join(cells)


def _names(roles: Iterable[Role]) -> str:
    return "all" if set(roles) == ALL_ROLES else ", ".join(sorted(roles))


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |\n"
