from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from tasks.rca.features.workload import changed_demand
from tasks.rca.view import CaseView
from tests.rca.serving_views import BEFORE, ROWS, serving_view

KNOWN = np.arange(ROWS) < BEFORE


def asked(per_second: tuple[int, ...], tokens: tuple[float, ...], *, at: int = BEFORE) -> CaseView:
    """A view with so many requests in each second before ``at`` and from it on, each with about so many tokens."""
    view = serving_view()
    rng = np.random.default_rng(0)
    start = view.metrics.index[0]
    rows = [
        {
            "scheduled": start + pd.Timedelta(seconds=second - 1 + (i + 0.5) / 10),
            "tokens_in": tokens[second >= at] + rng.integers(-3, 4),
        }
        for second in range(ROWS)
        for i in range(per_second[second >= at])
    ]
    requests = pd.DataFrame(rows).reindex(columns=view.requests.columns)
    return replace(view, requests=requests)


def test_more_requests_are_counted() -> None:
    (demand,) = changed_demand(asked((3, 6), (25, 25)), {}, KNOWN)
    assert (demand.name, demand.before, demand.during) == ("requests", 3.0, 6.0)
    # log 2 over the root of 1/90 + 1/180: 5.37 deviations, six tests
    assert demand.p == pytest.approx(6 * 7.9e-8, rel=0.02)


def test_longer_prompts_are_no_more_requests() -> None:
    (demand,) = changed_demand(asked((3, 3), (25, 80)), {}, KNOWN)
    assert (demand.name, round(demand.before), round(demand.during)) == ("prompts", 25, 80)
    assert demand.p < 1e-9


def test_a_change_of_half_the_window_is_seen() -> None:
    view = asked((3, 8), (25, 25), at=BEFORE + (ROWS - BEFORE) // 2)
    (demand,) = changed_demand(view, {}, KNOWN)
    assert (demand.before, demand.during) == (3.0, 8.0)


def test_little_more_and_few_requests_say_nothing() -> None:
    assert changed_demand(asked((10, 12), (25, 25)), {}, KNOWN) == ()  # a fifth more, surely
    few = asked((3, 6), (25, 25))
    assert changed_demand(replace(few, requests=few.requests.iloc[::20]), {}, KNOWN) == ()


def test_the_rate_of_the_front_end_stands_in_for_the_record() -> None:
    view = serving_view()
    front = view.services.index("gateway")
    rate = np.full((ROWS, len(view.services)), np.nan)
    rate[:, front] = np.where(KNOWN, 9.0, 27.0)
    for replica in ("r0", "r1", "r2"):
        rate[:, view.services.index(replica)] = rate[:, front] / 3
    tokens = rate * 30
    tokens[:, front] = np.nan
    rate[BEFORE + 5 :, [front, view.services.index("r1")]] = np.nan
    tokens[BEFORE + 5 :, view.services.index("r1")] = np.nan
    (demand,) = changed_demand(view, {"request_rate": rate, "prompt_tokens": tokens}, KNOWN)
    assert (demand.name, demand.before, demand.during) == ("requests", 9.0, 27.0)
    assert changed_demand(view, {}, KNOWN) == ()
