"""Intervals of counts: the share of cases with a property, and events per hour. Score means: ``bootstrap.py``."""

from __future__ import annotations

import math


def wilson_interval(hits: int, total: int, confidence: float) -> tuple[float, float]:
    """Return bounds of a share of which ``hits`` of ``total`` were seen; NaN without any.

    Source: Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", JASA, 1927.
    """
    if total == 0:
        return math.nan, math.nan
    from scipy import special

    z = float(special.ndtri((1 + confidence) / 2))
    share, spread = hits / total, z * z / total
    centre = share + spread / 2
    reach = math.sqrt(spread * (share * (1 - share) + spread / 4))
    low = 0.0 if hits == 0 else (centre - reach) / (1 + spread)
    high = 1.0 if hits == total else (centre + reach) / (1 + spread)
    return low, high


def poisson_interval(events: int, exposure: float, confidence: float) -> tuple[float, float]:
    """Return exact bounds of a rate of which ``events`` were seen in ``exposure``; NaN without exposure.

    Source: Garwood, "Fiducial Limits for the Poisson Distribution", Biometrika, 1936.
    """
    if exposure <= 0:
        return math.nan, math.nan
    from scipy import special

    tail = (1 - confidence) / 2
    low = float(special.gammaincinv(events, tail)) if events else 0.0
    return low / exposure, float(special.gammaincinv(events + 1, 1 - tail)) / exposure
