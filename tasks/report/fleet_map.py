"""All services of a fleet at a glance: how far one metric of each strays from its own baseline, over time."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tasks.case import CaseRecord, Service

FLEET_SERVICES = 100
"""Services from which on a stack is a fleet: too many for a line or a name each."""
MAP_ROWS = 120
SINGLE_ROWS = 20
MAX_SIGMAS = 1000.0
"""Change (standard deviations) that stands for any beyond it: a metric that never moved before has no scale."""
CLIP_SIGMAS = 12.0
"""Deviation (standard deviations) of the darkest colour."""
CHANGED_SIGMAS = 3.0
_LEAST_SCALE = 0.01
_LEAST_SHARE = 0.5


@dataclass(frozen=True)
class MapRow:
    """One row: the services from ``first`` to ``last`` in the order of the stack, ``count`` of them."""

    first: str
    last: str
    count: int

    @property
    def label(self) -> str:
        return self.first if self.count == 1 else f"{self.first} … {self.last} ({self.count})"


@dataclass(frozen=True)
class FleetMap:
    """``values``: (rows, points) distance of ``metric`` from its baseline median, in baseline standard deviations (at
    least 1 % of that median), within ``CLIP_SIGMAS``; NaN: no sample. A row of several services, siblings and
    neighbours, shows at each point the one that strays most. ``single``: how many rows, the first ones, are single
    services: the targets, the suspects, then those that stray most."""

    metric: str
    rows: tuple[MapRow, ...]
    single: int
    values: NDArray[np.float64]


def siblings_of(services: Sequence[Service], wanted: Sequence[str]) -> frozenset[str]:
    """Return the services of the same role and with as many accelerators as the first of ``wanted`` that has siblings,
    itself among them; of the largest such group if none has."""
    groups = _groups(services)
    largest = max(groups, key=len)
    return frozenset(next((group for name in wanted for group in groups if name in group and len(group) > 1), largest))


def fleet_map(
    record: CaseRecord,
    series: pd.DataFrame,
    sigmas: pd.DataFrame,
    order: Sequence[str],
    key: Collection[str],
    seconds: NDArray[np.float64],
    suspects: Sequence[str],
) -> FleetMap | None:
    """Return the map of the metric that changed most on the targets (without any: on the first suspect, else on the
    most changed service), of those that half of the siblings have; None if there is none.

    ``series``: (metric, service) x points; ``sigmas``: change by metric and service, at most ``MAX_SIGMAS``, which
    counts only where nothing smaller is there; ``order``: metrics, the first of equally changed ones is taken; ``key``:
    metrics that come before others if they changed by ``CHANGED_SIGMAS``; ``seconds``: of the points.
    """
    wanted = record.targets or tuple(suspects[:1])
    metric = _metric(sigmas, order, key, wanted, siblings_of(record.stack.services, (*wanted, *suspects)))
    if metric is None:
        return None
    of_metric = series.loc[metric]
    names = [service.name for service in record.stack.services if service.name in of_metric.index]
    deviation = _deviation(of_metric.loc[names].to_numpy(dtype=float), seconds < 0)
    strays = np.nan_to_num(np.nanmax(np.abs(np.where(seconds >= 0, deviation, 0.0)), axis=1, initial=0.0))
    place = {name: i for i, name in enumerate(names)}
    asked = [name for name in dict.fromkeys((*record.targets, *suspects)) if name in place]
    farthest = [names[i] for i in np.argsort(-strays, kind="stable")]
    single = list(dict.fromkeys((*asked, *farthest)))[: max(SINGLE_ROWS, len(record.targets))]
    rows = [MapRow(name, name, 1) for name in single]
    values = [deviation[place[name]] for name in single]
    shown = frozenset(single)
    groups = _groups(record.stack.services)
    rest = [[name for name in group if name in place and name not in shown] for group in groups]
    each = max(1, -(-sum(map(len, rest)) // max(1, MAP_ROWS - len(single))))
    for group in rest:
        for start in range(0, len(group), each):
            part = group[start : start + each]
            rows.append(MapRow(part[0], part[-1], len(part)))
            values.append(_strongest(deviation[[place[name] for name in part]]))
    return FleetMap(metric, tuple(rows), len(single), np.stack(values))


def _groups(services: Sequence[Service]) -> list[list[str]]:
    """Return the names of services that do the same work, in the order of the stack."""
    groups: dict[tuple[str, int], list[str]] = {}
    for service in services:
        groups.setdefault((service.role, len(service.devices)), []).append(service.name)
    return list(groups.values())


def _metric(
    sigmas: pd.DataFrame,
    order: Sequence[str],
    key: Collection[str],
    wanted: Collection[str],
    siblings: Collection[str],
) -> str | None:
    common = sigmas.reindex(columns=list(siblings)).notna().mean(axis=1) >= _LEAST_SHARE
    changed = (sigmas.reindex(columns=list(wanted)) if wanted else sigmas)[common].max(axis=1).dropna()
    bounded = changed[changed < MAX_SIGMAS]
    chosen = bounded if len(bounded) else changed
    of_key = chosen[chosen.index.isin(key) & (chosen >= CHANGED_SIGMAS)]
    chosen = of_key if len(of_key) else chosen
    return max((name for name in order if name in chosen.index), key=chosen.__getitem__, default=None)


def _deviation(values: NDArray[np.float64], before: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the distances of (services, points) from the median of the points ``before``, in their deviations."""
    baseline = np.where(before, values, np.nan)
    known = np.isfinite(baseline).any(axis=1)
    middle, spread = np.full(len(values), np.nan), np.zeros(len(values))
    middle[known] = np.nanmedian(baseline[known], axis=1)
    spread[known] = np.nanstd(baseline[known], axis=1)
    scale = np.maximum(spread, _LEAST_SCALE * np.abs(middle))[:, None]
    away = values - middle[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.where(away == 0, 0.0, away / scale)
    return np.clip(found, -CLIP_SIGMAS, CLIP_SIGMAS)


def _strongest(deviation: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return per point of (services, points) the value that is farthest from 0; NaN where there is none."""
    size = np.where(np.isnan(deviation), -1.0, np.abs(deviation))
    return deviation[size.argmax(axis=0), np.arange(deviation.shape[1])]
