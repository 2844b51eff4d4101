"""Loads with random shapes, and their rate from the definition of each kind alone."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from tasks.traffic import LoadShape


@st.composite
def load_shapes(draw: st.DrawFn) -> tuple[LoadShape, ...]:
    """Up to four shapes; ramps do not overlap."""
    found: list[LoadShape] = []
    for kind in draw(st.lists(st.sampled_from(["surge", "drop", "ramp", "burst"]), min_size=1, max_size=4)):
        low, high = {"surge": (1.1, 6), "drop": (0, 0.9), "ramp": (0.1, 5), "burst": (1.1, 6)}[kind]
        shape = LoadShape(
            kind=kind,  # type: ignore[arg-type]
            start_s=draw(st.floats(-15, 15)),
            duration_s=draw(st.floats(0.2, 20)),
            factor=draw(st.floats(low, high)),
            period_s=draw(st.floats(0.5, 8)),
        )
        clash = any(shape.start_s < other.end_s and other.start_s < shape.end_s for other in found if kind == "ramp")
        found += [] if clash else [shape]
    return tuple(found)


def factor_at(shapes: tuple[LoadShape, ...], since_fault_s: np.ndarray) -> np.ndarray:
    """Return the product of the shapes at times that count from the fault window."""
    product = np.ones_like(since_fault_s)
    for shape in shapes:
        share = (since_fault_s - shape.start_s) / shape.duration_s
        inside = (share >= 0) & (share < 1)
        if shape.kind == "ramp":
            product *= 1 + (shape.factor - 1) * np.clip(share, 0, 1)
        elif shape.kind == "burst":
            periods = max(1, round(shape.duration_s / shape.period_s))
            product[inside] *= np.where((share[inside] * periods) % 1 < 1 / shape.factor, shape.factor, 0)
        else:
            product[inside] *= shape.factor
    return product


def integral(shapes: tuple[LoadShape, ...], fault_start_s: float, until_s: float, steps: int = 200_000) -> float:
    """Integrate the factor from the start of the run by the midpoint rule."""
    step = until_s / steps
    return float(factor_at(shapes, (np.arange(steps) + 0.5) * step - fault_start_s).sum() * step)
