"""The page of one incident: self-contained HTML that needs no script."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import pandas as pd
from markupsafe import Markup

from tasks.case import Case
from tasks.diagnose.diagnosis import Diagnosis, who
from tasks.diagnose.recording import clock
from tasks.html import shell
from tasks.html.formatting import quantity
from tasks.metrics import IMPORTED, METRICS
from tasks.rca.method import Finding

PANELS = 6
PLOTTED = 4
"""So many suspects get plots."""
POINTS = 240
WIDTH, HEIGHT = 300, 90


@dataclass(frozen=True)
class Plot:
    """A metric of one suspect. Paths are SVG; ``band``: from the least to the greatest of the services of its role,
    ``siblings`` of them."""

    metric: str
    low: str
    high: str
    line: str
    band: str
    siblings: int
    change: float


@dataclass(frozen=True)
class Shown:
    """A suspect with what speaks for it. ``finding`` None: only its rank does."""

    service: str
    finding: Finding | None
    plots: tuple[Plot, ...]


def write_page(diagnosis: Diagnosis, case: Case) -> None:
    """Write the page to ``diagnosis.page``."""
    assert diagnosis.page is not None
    shell.write(render(diagnosis, case), diagnosis.page)


def render(diagnosis: Diagnosis, case: Case) -> str:
    """Return the page as a string."""
    body = (
        shell.templates("tasks.diagnose", "templates")
        .get_template("page.html.j2")
        .render(
            d=diagnosis,
            shown=_shown(diagnosis, case),
            clock=clock,
            who=who,
            WIDTH=WIDTH,
            HEIGHT=HEIGHT,
            rows=max((len(answer.suspects) for answer in diagnosis.answers), default=0),
            siblings_note=_roles(case),
        )
    )
    style = shell.asset("tasks.diagnose", "templates/page.css")
    return shell.page(f"RCArena: {diagnosis.incident}", Markup(body), style=style)  # noqa: S704 (the template escapes)


def _roles(case: Case) -> str:
    roles = sorted(service.role for service in case.record.stack.services)
    return ", ".join(f"{len(list(of_role))} × {role}" for role, of_role in groupby(roles))


def _shown(diagnosis: Diagnosis, case: Case) -> list[Shown]:
    """Return the suspects to explain: what the findings name, else the first of each ranking."""
    wide = _wide(case)
    findings = list(diagnosis.speaker.findings or ()) if diagnosis.speaker else []
    named: dict[str | None, Finding | None] = {}
    for finding in findings:
        named.setdefault(finding.service, finding)
    if not findings:
        named = {answer.suspects[0].service: None for answer in diagnosis.answers if answer.suspects}
    shown: list[Shown] = []
    for finding in findings:
        plots = _plots(finding.service, finding, wide, case, diagnosis) if len(shown) < PLOTTED else ()
        shown.append(Shown(who(finding), finding, plots))
    if not findings:
        shown = [Shown(str(name), None, _plots(name, None, wide, case, diagnosis)) for name in list(named)[:PLOTTED]]
    return shown


def _wide(case: Case) -> pd.DataFrame:
    """Return the metrics with a row per point in time and a column per (service, metric), thinned to ``POINTS``."""
    rows = case.metrics.dropna(subset="value")
    span_s = (rows["time"].max() - rows["time"].min()).total_seconds()
    step = f"{max(1, round(1000 * span_s / POINTS))}ms"
    table = pd.DataFrame(
        {
            "time": rows["time"].dt.floor(step),
            "service": rows["service"].astype(str),
            "metric": rows["metric"].astype(str),
            "value": rows["value"],
        }
    )
    return table.pivot_table(index="time", columns=["service", "metric"], values="value", aggfunc="mean")


def _plots(
    service: str | None, finding: Finding | None, wide: pd.DataFrame, case: Case, diagnosis: Diagnosis
) -> tuple[Plot, ...]:
    """Return the metrics of the evidence, then those that changed most."""
    if service is None or service not in wide.columns.get_level_values(0):
        return ()
    own = wide[service]
    role = next(each.role for each in case.record.stack.services if each.name == service)
    others = [each.name for each in case.record.stack.services if each.role == role and each.name != service]
    told = [each.signal for each in finding.evidence] if finding else []
    changes = {str(metric): _change(own[metric], diagnosis) for metric in own.columns}
    order = [metric for metric in dict.fromkeys(told) if metric in changes]
    order += [metric for metric in sorted(changes, key=lambda each: -changes[each]) if metric not in order]
    seconds = (pd.DatetimeIndex(wide.index) - pd.Timestamp(diagnosis.change)).total_seconds().to_numpy()
    shown = order[:PANELS]
    return tuple(_plot(name, own[name].to_numpy(), _siblings(wide, others, name), seconds) for name in shown)


def _change(values: pd.Series, diagnosis: Diagnosis) -> float:
    """Return the distance of the medians before and after the change, in the spread of what was before."""
    after = np.asarray(values.index >= pd.Timestamp(diagnosis.change))
    before, during = values[~after].dropna(), values[after].dropna()
    if before.empty or during.empty:
        return 0.0
    scale = max(float(before.std(ddof=0)), 0.05 * abs(float(before.median())), 1e-12)
    return min(abs(float(during.median() - before.median())) / scale, 50.0)


def _siblings(wide: pd.DataFrame, others: list[str], metric: str) -> np.ndarray:
    """Return (rows, siblings that have the metric)."""
    return wide[[(name, metric) for name in others if (name, metric) in wide.columns]].to_numpy()


def _plot(metric: str, values: np.ndarray, siblings: np.ndarray, seconds: np.ndarray) -> Plot:
    known: Mapping[str, str] = {name: each.unit for name, each in {**IMPORTED, **METRICS}.items()}
    unit = known.get(metric, "")
    everything = np.concatenate([values, siblings.ravel()])
    finite = everything[np.isfinite(everything)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    low = 0.0 if 0 <= low < 0.5 * high else low
    extent, span = (high - low) or 1.0, float(seconds[-1] - seconds[0]) or 1.0
    x = (seconds - seconds[0]) / span * WIDTH

    def y(of: np.ndarray) -> np.ndarray:
        return HEIGHT - (of - low) / extent * HEIGHT

    band = ""
    if siblings.shape[1]:
        some = np.isfinite(siblings).any(axis=1)
        top, bottom = np.nanmax(siblings[some], axis=1), np.nanmin(siblings[some], axis=1)
        edge = [*zip(x[some], y(top), strict=True), *zip(x[some][::-1], y(bottom)[::-1], strict=True)]
        band = _path(edge) + "Z" if len(edge) > 2 else ""
    where = float(np.clip((0 - seconds[0]) / span, 0, 1) * WIDTH)
    return Plot(
        metric=metric,
        low=quantity(low, unit),
        high=quantity(high, unit),
        line=_path(list(zip(x, y(values), strict=True))),
        band=band,
        siblings=siblings.shape[1],
        change=where,
    )


def _path(points: list[tuple[float, float]]) -> str:
    """Return an SVG path through the points; a missing value interrupts it."""
    parts, down = [], False
    for x, y in points:
        if not np.isfinite(y):
            down = False
            continue
        parts.append(f"{'L' if down else 'M'}{x:.1f} {y:.1f}")
        down = True
    return "".join(parts)
