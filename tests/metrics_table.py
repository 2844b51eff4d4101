"""Write the table of canonical metrics into docs/telemetry.md: ``python -m tests.metrics_table``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from tasks.export.questions.metrics import SPECS
from tasks.export.questions.promql import MetricSpec
from tasks.export.sources.placement import Units
from tasks.metrics import METRICS, Metric
from tasks.stack import ALL_ROLES, Role

PAGE = Path(__file__).parents[1] / "docs/telemetry.md"
HEADER = "| metric | unit | profile | services | local | Kubernetes |\n|---|---|---|---|---|---|\n"
OF_GPUS = {"sum": "sum of GPUs", "mean": "mean of GPUs", "max": "highest GPU", "min": "lowest GPU"}
TABLE = re.compile(re.escape(HEADER) + r"(?:\|.*\n)*")


def table() -> str:
    """Return the table as Markdown, one row per metric in the order of the vocabulary."""
    return HEADER + "".join(_row(metric) for metric in METRICS.values())


def written(page: str) -> str:
    """Return ``page`` with the table as it should be."""
    return TABLE.sub(lambda _: table(), page)


def _row(metric: Metric) -> str:
    spec = SPECS[metric.name]
    sources = _sources(spec, "processes"), _sources(spec, "pods")
    cells = f"`{metric}`", metric.unit, metric.profile, _names(metric.roles), *sources
    return f"| {' | '.join(cells)} |\n"


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


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
