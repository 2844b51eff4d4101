from __future__ import annotations

import numpy as np
import pytest

from tasks.rca.features.separation import separation_scores


def test_rounds_decide_and_the_p_value_orders_within_a_round() -> None:
    scores = separation_scores(np.array([2, 2, 2, 3]), np.log([1.0, np.exp(-1), 1e-300, 1.0]))
    assert scores[:2] == pytest.approx([2, 2.5])
    assert 2.99 < scores[2] < scores[3] == 3
