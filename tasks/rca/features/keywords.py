"""Words in log lines that speak of trouble."""

from __future__ import annotations

import numpy as np
import pandas as pd

KEYWORDS = "error|fail|exception|timeout|problem|critical|fatal"
"""A regular expression, for :func:`contains`."""


def contains(texts: pd.Series, pattern: str) -> np.ndarray:
    """Return (lines,) whether each text contains the regular expression ``pattern``, in any case; a missing one does
    not."""
    import pyarrow as pa
    import pyarrow.compute as pc

    distinct, code = pd.factorize(texts)[::-1]
    found = pc.match_substring_regex(pa.array(distinct, pa.string()), pattern, ignore_case=True)
    named: np.ndarray = np.append(found.to_numpy(zero_copy_only=False).astype(bool), False)[code]
    return named
