"""What a comparison says about two campaigns, and when the gate is red."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from tasks.params import GateParams
from tasks.record.compare import MEAN_OF_METHODS, Comparison, compare
from tasks.record.page import render
from tasks.record.regression import Verdict, judge, line
from tasks.record.side import HealthyRequests, Side, flat_parameters, read_side
from tasks.record.statistics import Resampling
from tasks.record.tables import document, verdict_lines
from tests.record.campaigns import Campaign, change_requests, params_text, spoil_rankings
from tests.record.conftest import copied

HOW = Resampling(samples=300)


def side(campaign: Campaign, label: str = "a night") -> Side:
    return read_side(campaign.workspace.root, campaign.text, label)


@pytest.fixture(scope="module")
def first(finished: Campaign) -> Side:
    return side(finished, "first")


@pytest.fixture
def quiet_night(campaign: Campaign) -> Campaign:
    change_requests(campaign, seed=1)
    return campaign


def judged(first: Side, campaign: Campaign, **gate: object) -> tuple[Comparison, Verdict]:
    comparison = compare(first, side(campaign), HOW)
    return comparison, judge(comparison, GateParams(**gate))  # type: ignore[arg-type]


def test_a_side_has_the_figures_that_the_score_stage_wrote(finished: Campaign, first: Side) -> None:
    table = pd.read_parquet(finished.workspace.scores / "scores.parquet")
    overall = table[(table["level"] == "overall") & (table["granularity"] == "service")]
    for row in overall[overall["score"].isin(["avg5", "ac1", "mrr"])].to_dict("records"):
        values = first.scores[row["method"]][row["score"]]
        assert len(values) == row["cases"] == 6
        assert sum(values.values()) / 6 == pytest.approx(row["value"])
    assert sum(each.fault_free for each in first.requests.values()) == 1
    assert {effect.fault for effects in first.effects.values() for effect in effects} == {"cpu-stress"}
    assert first.parameters["score.methods"] == "random, nsigma"


def test_an_unchanged_night_is_green(first: Side, quiet_night: Campaign) -> None:
    comparison, verdict = judged(first, quiet_night)
    assert verdict.regressions == ()
    assert verdict.blind == ()
    assert verdict_lines(verdict)[0].startswith("no regression against first")
    assert comparison.parameters == comparison.versions == comparison.failures == ()
    change = comparison.score("nsigma", "avg5")
    assert change is not None
    assert change.difference is not None
    assert (change.difference.value, change.difference.paired, change.difference.cases_a) == (0, True, 6)


def test_a_slower_stack_is_red(first: Side, campaign: Campaign) -> None:
    change_requests(campaign, 1.5, seed=1)
    comparison, verdict = judged(first, campaign)
    assert {check.what for check in verdict.regressions} == {
        "stack: latency p50",
        "stack: latency p90",
        "stack: TTFT p50",
    }
    p50 = next(change for change in comparison.latency if (change.figure, change.group) == ("latency p50", "healthy"))
    ratio, low, high = p50.ratio
    assert low is not None
    assert high is not None
    assert 1.4 < low < ratio < high < 1.6
    assert ratio == pytest.approx(1.5, rel=0.05)
    delta = next(
        change.delta for change in comparison.dominance if (change.figure, change.group) == ("latency", "healthy")
    )
    assert delta.size == "large"
    assert delta.value > 0
    assert "→" in line(verdict.regressions[0])
    assert judged(first, campaign, latency_margin=0.8)[1].regressions == ()


def test_a_method_that_lost_it_is_red(first: Side, quiet_night: Campaign) -> None:
    spoil_rankings(quiet_night, "nsigma")
    _, verdict = judged(first, quiet_night)
    assert "score: nsigma Avg@5" in {check.what for check in verdict.regressions}
    assert f"score: {MEAN_OF_METHODS} Avg@5" in {check.what for check in verdict.checks}
    assert not any(check.what.startswith("stack") for check in verdict.regressions)
    assert judged(first, quiet_night, methods=("random",))[1].regressions == ()


def test_a_stack_that_fails_requests_is_red(first: Side, quiet_night: Campaign) -> None:
    now = side(quiet_night)
    failing = {case: replace(each, failed=each.total) for case, each in now.requests.items()}
    verdict = judge(compare(first, replace(now, requests=failing), HOW), GateParams())
    assert [check.what for check in verdict.regressions] == ["stack: failed requests"]


def test_too_few_cases_to_see_anything_is_said(first: Side) -> None:
    few = dict(list(first.requests.items())[:2])
    slow = {
        case: HealthyRequests(each.fault_free, each.latency_s * 9, each.ttft_s * 9, 0) for case, each in few.items()
    }
    verdict = judge(compare(replace(first, requests=few), replace(first, requests=slow), HOW), GateParams())
    assert verdict.regressions == ()
    assert "too few cases" in verdict_lines(verdict)[1]
    assert "latency p50" in verdict_lines(verdict)[1]


def test_cases_of_their_own_on_each_side(first: Side, quiet_night: Campaign) -> None:
    def renamed(side: Side) -> Side:
        return replace(
            side,
            cases=tuple(f"other-{case}" for case in side.cases),
            requests={f"other-{case}": each for case, each in side.requests.items()},
        )

    change_requests(quiet_night, 2.0, seed=3)
    comparison = compare(first, renamed(side(quiet_night)), HOW)
    verdict = judge(comparison, GateParams())
    assert {check.p for check in verdict.checks if check.what.startswith("stack")} == {None}
    assert "stack: latency p50" in {check.what for check in verdict.regressions}


def test_parameters_are_compared_with_defaults_spelled_out() -> None:
    a, b = flat_parameters(params_text()), flat_parameters(params_text(confidence=0.9))
    assert {key for key in a if a[key] != b[key]} == {"score.confidence"}
    assert a["inject.faults[0].targets"] == "ray-replicas-0, ray-replicas-1, ray-replicas-2"
    assert flat_parameters("campaign: {name: old}\nunknown: 1\n") == {"campaign.name": "old", "unknown": "1"}


def test_the_page_needs_no_network_and_the_json_is_plain(first: Side, campaign: Campaign, tmp_path: Path) -> None:
    change_requests(campaign, 1.5, seed=1)
    comparison, verdict = judged(first, campaign)
    html = render(comparison, verdict)
    assert "REGRESSION stack: latency p50" in html
    assert "default-src &#39;none&#39;" in html or "default-src 'none'" in html
    assert "http://" not in html.split("plotting-library")[0]
    assert "https://" not in html.split("plotting-library")[0]
    found = json.loads(json.dumps(document(comparison, verdict), allow_nan=False))
    assert found["gate"]["regressed"] is True
    assert found["a"]["scored"] == 6
    assert html == render(*judged(first, copied(campaign, tmp_path / "again")))
