"""A Grafana dashboard of one stack: a panel per canonical metric that its Prometheus fills, with the queries of the
export.

Source: Grafana, "JSON model" (classic), "Provision Grafana", and "Annotations HTTP API".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.export.base import TelemetrySources
from tasks.export.queries.metrics import SPECS
from tasks.export.queries.promql import LabelScope, Variant
from tasks.export.sources.labelled import EXPORTED, in_order, label_scopes
from tasks.export.sources.placement import REGEX_MARK, LabelMatch
from tasks.metrics import METRICS, GoldenSignal, Metric
from tasks.params import ExportParams

SCHEMA_VERSION = 39
SIGNALS: tuple[GoldenSignal, ...] = ("latency", "errors", "traffic", "saturation")
UNITS = {
    "s": "s",
    "bytes": "bytes",
    "bytes/s": "Bps",
    "ratio": "percentunit",
    "requests/s": "reqps",
    "packets/s": "pps",
    "events/s": "cps",
    "tokens/s": "count:tokens/s",
    "cores": "suffix:cores",
    "MHz": "suffix:MHz",
    "celsius": "celsius",
    "W": "watt",
}
"""Units of metrics as Grafana names them; others are plain numbers."""
WIDTH, HEIGHT, PER_LINE = 8, 7, 3
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
TAG = "rcarena"
LONGEST_UID = 40
ANNOTATIONS = (("Injections", "injection", "red"), ("Diagnoses", "diagnosis", "purple"))
"""Name, tag and colour of what is marked in every panel."""
AUTOMATIC = "__auto"
LEGENDS = {"service": "{{service}}", "pod": "{{pod}}", "gpu": "{{pod}} {{UUID}}", "callee": AUTOMATIC}
_LABEL = re.compile(r"{{(\w+)}}")
SHARED_CROSSHAIR = 1
HUES, SHADES = ("green", "yellow", "blue", "orange"), ("", "super-light-", "dark-")
COLOURS = tuple(f"{shade}{hue}" for shade in SHADES for hue in HUES)
"""Grafana's names of the colours of services, or pods. Red and purple are left to what is marked."""

Ask = Callable[[str], Collection[Mapping[str, str]]]
"""The labels of each series that Prometheus answers to an expression."""


def dashboard(
    campaign: str, sources: TelemetrySources, export: ExportParams, series: Collection[str], ask: Ask
) -> dict[str, Any]:
    """Return the dashboard as JSON data in Grafana's classic model; that of a campaign's name replaces an earlier one.

    Args:
        series: names of the series that Prometheus has.
        ask: what is answered; a metric without an answer gets no panel. As in an export, a service is shown by the
            first variant that answers for it.
    """
    charts = [_chart(metric, sources, export, series, ask) for metric in METRICS.values()]
    colours = _colours({name for chart in charts for name in chart.names})
    panels: list[dict[str, Any]] = []
    top = 0
    for signal in SIGNALS:
        found = [chart for chart in charts if chart.metric.golden == signal and chart.targets]
        if not found:
            continue
        row = {"h": 1, "w": WIDTH * PER_LINE, "x": 0, "y": top}
        panels.append(
            {"id": len(panels) + 1, "type": "row", "title": signal, "collapsed": False, "gridPos": row, "panels": []}
        )
        top += 1
        for place, chart in enumerate(found):
            grid = {
                "h": HEIGHT,
                "w": WIDTH,
                "x": WIDTH * (place % PER_LINE),
                "y": top + HEIGHT * (place // PER_LINE),
            }
            panels.append(_panel(len(panels) + 1, chart, colours, grid))
        top += HEIGHT * -(-len(found) // PER_LINE)
    return {
        "uid": _uid(campaign),
        "title": f"RCArena: {campaign}",
        "tags": [TAG],
        "schemaVersion": SCHEMA_VERSION,
        "editable": True,
        "timezone": "utc",
        "graphTooltip": SHARED_CROSSHAIR,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [_datasource_variable(campaign)]},
        "annotations": {"list": [_annotation(*each, campaign) for each in ANNOTATIONS]},
        "panels": panels,
    }


def provisioning(folder: str, campaign: str, url: str, scrape_interval_s: float) -> dict[str, Any]:
    """Return the two files by which Grafana finds dashboard and Prometheus: path below ``provisioning/`` -> content.

    Args:
        folder: where Grafana sees the dashboard.
        url: of Prometheus, as Grafana reaches it.
    """
    return {
        "dashboards/rcarena.yaml": {
            "apiVersion": 1,
            "providers": [
                {
                    "name": TAG,
                    "type": "file",
                    "folder": "RCArena",
                    "allowUiUpdates": False,
                    "options": {"path": folder},
                }
            ],
        },
        "datasources/rcarena.yaml": {
            "apiVersion": 1,
            "datasources": [
                {
                    "name": _source_name(campaign),
                    "uid": _uid(campaign),
                    "type": "prometheus",
                    "access": "proxy",
                    "url": url,
                    "jsonData": {"timeInterval": f"{max(1.0, scrape_interval_s):g}s"},
                }
            ],
        },
    }


@dataclass(frozen=True)
class _Chart:
    """A metric's queries, and the names in the legend at first."""

    metric: Metric
    targets: tuple[dict[str, Any], ...]
    names: frozenset[str]


def _chart(
    metric: Metric, sources: TelemetrySources, export: ExportParams, series: Collection[str], ask: Ask
) -> _Chart:
    answered: set[tuple[str, ...]] = set()
    names: set[str] = set()
    queries: dict[tuple[LabelScope, str], list[str]] = {}
    for variant in SPECS[metric.name].variants_of(sources.units, sources.gpus):
        if not all(name in series for name in variant.series):
            continue
        for scope in _scopes(variant, sources):
            expression = expression_of(variant, export.rate_window_s, sources.namespace, scope)
            answers = ask(expression)
            units = {_unit(labels, scope) for labels in answers}
            if units <= answered:
                continue
            answered |= units
            legend = LEGENDS.get(variant.join) or " ".join(
                f"{{{{{name}}}}}" for name in scope.by if name.removeprefix(EXPORTED) != "namespace"
            )
            queries.setdefault((scope, legend), []).append(expression)
            names |= {_legend(legend, labels) for labels in answers}
    targets = tuple(
        {
            "refId": _letters(number),
            "datasource": DATASOURCE,
            "expr": found[0] if len(found) == 1 else " or ".join(f"({each})" for each in found),
            "legendFormat": legend,
        }
        for number, ((_, legend), found) in enumerate(queries.items())
    )
    return _Chart(metric, targets, frozenset(names) - {AUTOMATIC})


def _legend(form: str, labels: Mapping[str, str]) -> str:
    return _LABEL.sub(lambda found: labels.get(found[1], ""), form)


def _colours(names: Iterable[str]) -> Mapping[str, str]:
    """Return a colour for each name, the same in every panel; none where there are too many to tell apart."""
    ordered = sorted(names, key=in_order)
    return dict(zip(ordered, COLOURS, strict=False)) if len(ordered) <= len(COLOURS) else {}


def _unit(labels: Mapping[str, str], scope: LabelScope) -> tuple[str, ...]:
    """Return what tells one service's series, or one pod's, from another's."""
    if scope.by:
        return tuple(labels.get(name, "") for name in scope.by)
    return tuple(labels.get(f"{EXPORTED}{name}") or labels.get(name, "") for name in ("pod", "service")) + tuple(
        value for name, value in sorted(labels.items()) if name.startswith("destination_")
    )


def expression_of(variant: Variant, window_s: float, namespace: str | None, scope: LabelScope) -> str:
    """Return the variant as one expression: with its divisor, its quantile and its scale."""
    parts = variant.queries(window_s, namespace, scope if variant.join == "labels" else None)
    text = f"({parts[0]}) / ({parts[1]})" if len(parts) > 1 else parts[0]
    if variant.quantile is not None:
        text = f"histogram_quantile({variant.quantile:g}, {text})"
    return text if variant.scale == 1.0 else f"({text}) * {variant.scale:.12g}"


def _scopes(variant: Variant, sources: TelemetrySources) -> Sequence[LabelScope]:
    """Return the labels of the owners as they are written: pods that come later are theirs, too."""
    if variant.join != "labels":
        return (LabelScope(()),)
    each = ({owner.each: f"{REGEX_MARK}.+"} if owner.each else {} for owner in sources.owners)
    matches = (
        LabelMatch(owner.services[0], {**any_value, **owner.labels})
        for any_value, owner in zip(each, sources.owners, strict=True)
    )
    return label_scopes(matches, exported=True)


def _letters(number: int) -> str:
    """Return A, B … Z, AA …"""
    text = ""
    number += 1
    while number:
        number, rest = divmod(number - 1, 26)
        text = chr(ord("A") + rest) + text
    return text


def _panel(number: int, chart: _Chart, colours: Mapping[str, str], grid: Mapping[str, int]) -> dict[str, Any]:
    metric = chart.metric
    overrides = [
        {
            "matcher": {"id": "byName", "options": name},
            "properties": [{"id": "color", "value": {"mode": "fixed", "fixedColor": colours[name]}}],
        }
        for name in sorted(chart.names & colours.keys(), key=in_order)
    ]
    return {
        "id": number,
        "type": "timeseries",
        "title": metric.name,
        "description": f"{metric.name} in {metric.unit}",
        "datasource": DATASOURCE,
        "gridPos": dict(grid),
        "fieldConfig": {
            "defaults": {"unit": UNITS.get(metric.unit, "short"), "min": 0, "custom": {}},
            "overrides": overrides,
        },
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "targets": list(chart.targets),
    }


def _uid(campaign: str) -> str:
    return f"{TAG}-{campaign}"[:LONGEST_UID]


def _source_name(campaign: str) -> str:
    return f"RCArena {campaign}"


def _datasource_variable(campaign: str) -> dict[str, Any]:
    """Return the choice of a Prometheus, at first the provisioned one; where Grafana has none of that, its first."""
    return {
        "name": "datasource",
        "label": "Prometheus",
        "type": "datasource",
        "query": "prometheus",
        "hide": 0,
        "current": {"selected": True, "text": _source_name(campaign), "value": _uid(campaign)},
    }


def _annotation(name: str, tag: str, colour: str, campaign: str) -> dict[str, Any]:
    return {
        "name": name,
        "enable": True,
        "iconColor": colour,
        "datasource": {"type": "grafana", "uid": "-- Grafana --"},
        "target": {"type": "tags", "tags": [TAG, tag, campaign], "limit": 100, "matchAny": False},
    }


def injection_annotation(
    campaign: str, case_id: str, start_ms: int, end_ms: int, kind: str, target: str, verdict: str
) -> dict[str, Any]:
    """Return the body of a request to Grafana's annotations for one injection; its tags find it again."""
    return {
        "time": start_ms,
        "timeEnd": end_ms,
        "tags": [TAG, "injection", campaign, case_id, f"{target}: {kind}"],
        "text": f"{kind} on {target} ({verdict})",
    }
