"""Symptoms in the metrics of a case, and how hard they make it to find the root: strata.

Definitions: docs/scores.md.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pandas as pd

Stratum = Literal["I", "II", "III"]
"""``I``: the symptom of the root is the strongest. ``II``: there is no symptom. ``III``: one elsewhere is as strong."""
STRATA: tuple[Stratum, ...] = get_args(Stratum)

SYMPTOM = 3.0
"""Least strength of a symptom, in standard deviations. Source: the 3-sigma rule of SimpleRCA (arXiv 2510.04711)."""
STRONGEST = 100.0
"""Strength beyond which symptoms are equal: a metric that never moved before has no scale."""
AS_STRONG = 1.1
"""Strengths within this factor are equal."""
_FLOOR = 0.1
"""Least standard deviation, as a share of the typical value before."""
_FEWEST = 3
"""Fewest samples of a metric in either window."""


@dataclass(frozen=True)
class Symptom:
    """The strongest symptom of a service: ``strength`` in standard deviations of ``metric`` before the fault."""

    strength: float
    metric: str


def symptoms(
    metrics: pd.DataFrame, begin: pd.Timestamp, inject_time: pd.Timestamp, end: pd.Timestamp
) -> dict[str, Symptom]:
    """Return by service its strongest symptom, over all its metrics (``metrics``: a table of a case).

    The strength of a metric is |median in [inject time, end) - median in [begin, inject time)| / scale, at most
    ``STRONGEST``; the scale is the greater of its standard deviation and a tenth of its median before. A service
    without enough samples is left out. Equal strengths: the first metric by name.
    """
    samples = metrics.dropna(subset="value")
    samples = samples[(samples["time"] >= begin) & (samples["time"] < end)]
    is_after = samples["time"] >= inject_time
    before, after = (_typical(samples[side]) for side in (~is_after, is_after))
    both = before.index.intersection(after.index)
    before, after = before.loc[both], after.loc[both]
    middle = before["median"].to_numpy()
    shift = np.abs(after["median"].to_numpy() - middle)
    scale = np.maximum(before["std"].to_numpy(), _FLOOR * np.abs(middle))
    with np.errstate(divide="ignore", invalid="ignore"):
        strength = np.where(shift > 0, np.minimum(shift / scale, STRONGEST), 0.0)
    found: dict[str, Symptom] = {}
    for (service, metric), value in zip(both, strength.tolist(), strict=True):
        if service not in found or value > found[service].strength:
            found[service] = Symptom(round(value, 6), metric)
    return found


def _typical(samples: pd.DataFrame) -> pd.DataFrame:
    """Return median and standard deviation by (service, metric), sorted; without those that have too few samples."""
    keys = [samples["service"].astype(str), samples["metric"].astype(str)]
    found = samples["value"].groupby(keys, sort=True).agg(["median", "std", "count"])
    return found[found["count"] >= _FEWEST].sort_index()


def strongest(found: Mapping[str, Symptom], services: Collection[str]) -> tuple[str, Symptom] | None:
    """Return which of ``services`` has the strongest symptom (equals: the first by name); None if none has any."""
    return max(
        ((name, found[name]) for name in sorted(services) if name in found),
        key=lambda entry: entry[1].strength,
        default=None,
    )


def weakest(found: Mapping[str, Symptom], roots: Collection[str]) -> tuple[str, Symptom]:
    """Return which of ``roots`` (at least one) has the weakest symptom; one without samples has strength 0."""
    return min(
        ((name, found.get(name, Symptom(0.0, ""))) for name in sorted(roots)), key=lambda entry: entry[1].strength
    )


def stratum_of(found: Mapping[str, Symptom], roots: Collection[str]) -> Stratum:
    """Return the stratum of a case whose ``roots`` (at least one) broke: its weakest root against all others."""
    first = strongest(found, found)
    if first is None or first[1].strength < SYMPTOM:
        return "II"
    other = strongest(found, found.keys() - set(roots))
    root = weakest(found, roots)[1].strength
    return "III" if other is not None and other[1].strength * AS_STRONG > root and other[1].strength >= SYMPTOM else "I"
