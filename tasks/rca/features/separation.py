"""One score from two facts: how long a metric lasted before it was separated from the fault, and how clear that was.

RCD and CausalAI test, in rounds and with ever larger sets, whether other metrics account for a metric's link to the
fault, and drop it once they do. A metric that stays longer ranks higher; a p value orders those that leave at the same
point. (The p value alone would not do: where many metrics show the fault, each accounts for the others' links, which
then end with larger p values than links that were never there.)
"""

from __future__ import annotations

import numpy as np


def separation_scores(survived: np.ndarray, log_p_value: np.ndarray) -> np.ndarray:
    """Return rounds ``survived`` plus a share below 1 that grows as the p value shrinks: L / (1 + L), L = -ln p."""
    surprise = -np.minimum(log_p_value, 0.0)
    return survived + surprise / (1 + surprise)
