from __future__ import annotations

from collections import Counter

import numpy as np

from tasks.rca.metric.uniform_random import uniform_random
from tests.rca.views import view_of


def test_every_order_is_equally_likely() -> None:
    view = view_of({("a", "x"): [1, 2], ("a", "y"): [1, 2], ("a", "z"): [1, 2], ("b", "x"): [1, 2]}, normal_rows=1)
    firsts = Counter(
        max(uniform_random(view, np.random.default_rng(seed)).services, key=lambda entry: entry[1])[0]
        for seed in range(2000)
    )
    assert abs(firsts["a"] / 2000 - 0.5) < 0.04  # three metrics do not make it likelier
    assert set(firsts) == {"a", "b"}
