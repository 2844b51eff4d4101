"""Which requests are bad, when that is an alarm, and when it is over."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tasks.live_params import SloParams
from tasks.remediate.slo import Slo, alarm, calm, judge, lasting_from, mitigated_at, onset, promised

PARAMS = SloParams()
SLO = Slo(0.5, 0.1, 0.01)


def requests(
    scheduled: list[float], first: list[float], last: list[float], failed: list[bool] | None = None
) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "scheduled": scheduled,
            "first_token": first,
            "last_token": last,
            "failed": failed or [False] * len(scheduled),
            "output_tokens": 11,
        }
    )


def test_the_baseline_sets_the_promise():
    at = np.arange(200) * 0.1
    slo = promised(requests(list(at), list(at + 0.2), list(at + 0.7)), PARAMS, np.inf)
    assert slo.first_token_s == pytest.approx(0.24)
    assert slo.per_token_s == pytest.approx(0.06)
    assert slo.bad_share == pytest.approx(1 / 200)


def test_a_baseline_without_an_answer_promises_nothing():
    with pytest.raises(ValueError, match="no request"):
        promised(requests([0.0], [np.nan], [np.nan], [True]), PARAMS, np.inf)


@pytest.mark.parametrize(
    ("first", "last", "failed", "bad", "excess_s"),
    [
        (0.4, 1.0, False, True, None),  # in time to the first token, 0.06 s per token: good
        (0.9, 1.2, False, True, 0.4),
        (0.2, 2.2, False, True, 1.0),
        (np.nan, np.nan, True, True, 20.0),
        (np.nan, np.nan, False, True, 4.5),
    ],
)
def test_a_request_is_bad_by_what_is_beyond_its_limits(
    first: float, last: float, failed: bool, bad: bool, excess_s: float | None
):
    judged = judge(requests([0.0], [first], [last], [failed]), SLO, 5.0, 20.0)
    assert judged.bad.tolist() == [excess_s is not None]
    assert judged.excess_s.tolist() == pytest.approx([excess_s or 0.0])


def test_a_request_under_way_is_decided_when_its_limit_has_passed():
    under_way = requests([0.0], [np.nan], [np.nan])
    assert len(judge(under_way, SLO, 0.4, 20.0).bad) == 0
    late = judge(under_way, SLO, 3.0, 20.0)
    assert (late.decided.tolist(), late.bad.tolist()) == ([0.5], [True])


def stream(bad_from: float, bad_until: float, share: float, seed: int = 1) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    at = np.arange(0, 100, 0.1)
    late = (at >= bad_from) & (at < bad_until) & (rng.random(len(at)) < share)
    return requests(list(at), list(at + np.where(late, 2.0, 0.2)), list(at + np.where(late, 2.7, 0.9)))


def test_an_alarm_needs_more_bad_requests_than_the_baseline_explains():
    judged = judge(stream(50, 100, 0.3), SLO, 100.0, 20.0)
    assert not alarm(judged, SLO, 49.0, PARAMS)
    assert alarm(judged, SLO, 70.0, PARAMS)
    assert not alarm(judge(stream(0, 100, 0.01), SLO, 100.0, 20.0), SLO, 70.0, PARAMS)


def test_it_is_over_at_the_first_steady_window_that_keeps_the_promise():
    judged = judge(stream(50, 75, 0.5), SLO, 100.0, 20.0)
    at = mitigated_at(judged, SLO, 55.0, 100.0, PARAMS)
    assert at is not None
    assert 73 <= at <= 76
    assert calm(judged, SLO, 80, 95)
    assert not calm(judged, SLO, 60, 70)
    assert mitigated_at(judge(stream(50, 100, 0.5), SLO, 100.0, 20.0), SLO, 55.0, 95.0, PARAMS) is None


def test_what_comes_back_has_not_lasted():
    at = np.arange(0, 100, 0.1)
    bad = ((at >= 50) & (at < 60)) | ((at >= 75) & (at < 80))
    first = at + np.where(bad, 2.0, 0.2)
    judged = judge(requests(list(at), list(first), list(first + 0.5)), SLO, 100.0, 20.0)
    assert mitigated_at(judged, SLO, 52.0, 100.0, PARAMS) == pytest.approx(60, abs=2)
    assert lasting_from(judged, SLO, 52.0, 100.0, PARAMS) == pytest.approx(80, abs=2)
    assert lasting_from(judged, SLO, 52.0, 85.0, PARAMS) is None
    assert lasting_from(judged, SLO, 95.0, 100.0, PARAMS) is mitigated_at(judged, SLO, 95.0, 100.0, PARAMS) is None
    calm_from = lasting_from(judged, SLO, 10.0, 50.0, PARAMS)
    assert calm_from == mitigated_at(judged, SLO, 10.0, 50.0, PARAMS) == 10


def test_what_is_rare_is_seen_by_the_long_window():
    judged = judge(stream(20, 100, 0.05), SLO, 100.0, 20.0)
    rare = Slo(0.5, 0.1, 0.012)
    assert not alarm(judged, rare, 24.0, PARAMS)
    assert alarm(judged, rare, 99.0, PARAMS)


def test_a_few_requests_that_hang_are_an_alarm():
    at = list(np.arange(0, 40, 0.1))
    rare = Slo(0.5, 0.1, 0.001)
    hung = [34.95 <= each < 35.45 for each in at]
    first = [np.nan if each else t + 0.2 for t, each in zip(at, hung, strict=True)]
    judged = judge(requests(at, first, [each + 0.7 for each in first]), rare, 46.0, 20.0)
    assert int(judged.bad.sum()) == 5
    assert alarm(judged, rare, 46.0, PARAMS)
    late = [t + (0.6 if each else 0.2) for t, each in zip(at, hung, strict=True)]
    assert not alarm(judge(requests(at, late, [each + 0.5 for each in late]), rare, 46.0, 20.0), rare, 46.0, PARAMS)


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_the_onset_is_where_bad_requests_begin(share: float):
    judged = judge(stream(60, 100, share), SLO, 75.0, 20.0)
    assert alarm(judged, SLO, 75.0, PARAMS)
    assert onset(judged, SLO, 75.0, PARAMS) == pytest.approx(60, abs=3)
