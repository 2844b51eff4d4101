"""What the method computes with: a module of its own."""

from __future__ import annotations

import pandas as pd

DIRECTION = 1.0


def shift(normal: pd.DataFrame, abnormal: pd.DataFrame) -> pd.Series:
    return DIRECTION * (abnormal.mean() - normal.mean()).abs()
