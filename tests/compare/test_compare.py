"""What a comparison says about two campaigns, and when the gate is red."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from tasks.compare.compare import MEAN_OF_METHODS, Comparison, compare
from tasks.compare.page import render
from tasks.compare.regression import Verdict, judge, line
from tasks.compare.side import HealthyRequests, Side, flat_parameters, read_side
from tasks.compare.statistics import Resampling
from tasks.compare.tables import document, verdict_lines
from tasks.params import GateParams
from tests.record.campaigns import Campaign, params_text, spoil_rankings

HOW = Resampling(samples=300)

pytestmark = pytest.mark.timeout(400)  # a busy machine


def side(campaign: Campaign, label: str = "a night") -> Side:
    return read_side(campaign.workspace.root, campaign.text, label)


@pytest.fixture(scope="module")
def first(finished: Campaign) -> Side:
    return side(finished, "first")


def night(first: Side, factor: float = 1.0, *, seed: int = 1) -> Side:
    """The same campaign another night: every request takes ``factor`` times as long, give or take a tenth."""
    rng = np.random.default_rng(seed)
    requests = {
        case: HealthyRequests(
            each.fault_free,
            each.latency_s * factor * rng.uniform(0.9, 1.1, len(each.latency_s)),
            each.ttft_s * factor * rng.uniform(0.9, 1.1, len(each.ttft_s)),
            each.failed,
        )
        for case, each in first.requests.items()
    }
    return replace(first, label="a night", requests=requests)


def judged(first: Side, now: Side, **gate: object) -> tuple[Comparison, Verdict]:
    comparison = compare(first, now, HOW)
    return comparison, judge(comparison, GateParams(**gate))  # type: ignore[arg-type]


def test_a_side_has_the_figures_that_the_score_stage_wrote(finished: Campaign, first: Side) -> None:
    table = pd.read_parquet(finished.workspace.scores / "scores.parquet")
    overall = table[(table["level"] == "overall") & (table["granularity"] == "service")]
    for row in overall[overall["score"].isin(["avg5", "ac1", "mrr"])].to_dict("records"):
        values = first.scores[row["method"]][row["score"]]
        assert len(values) == row["cases"] == 6
        assert sum(values.values()) / 6 == pytest.approx(row["value"])
    assert sum(each.fault_free for each in first.requests.values()) == 1
    assert {each.kind for injections in first.injections.values() for each in injections} == {"cpu-stress"}
    assert first.parameters["score.methods"] == "random, nsigma"


def test_an_unchanged_night_is_green(first: Side) -> None:
    comparison, verdict = judged(first, night(first))
    assert verdict.regressions == ()
    assert verdict.blind == ()
    assert verdict_lines(verdict)[0].startswith("no regression against first")
    assert comparison.parameters == comparison.versions == comparison.failures == ()
    change = comparison.score("nsigma", "avg5")
    assert change is not None
    assert change.difference is not None
    assert (change.difference.value, change.difference.paired, change.difference.cases_a) == (0, True, 6)


def test_a_slower_stack_is_red(first: Side) -> None:
    slow = night(first, 1.5)
    comparison, verdict = judged(first, slow)
    figures = {"stack: latency p50", "stack: latency p90", "stack: TTFT p50"}
    assert {check.what for check in verdict.regressions} == figures
    p50 = next(change for change in comparison.latency if (change.figure, change.group) == ("latency p50", "healthy"))
    ratio, low, high = p50.ratio
    assert low is not None
    assert high is not None
    assert 1.4 < low < ratio < high < 1.6
    assert ratio == pytest.approx(1.5, rel=0.05)
    delta = next(each.delta for each in comparison.dominance if (each.figure, each.group) == ("latency", "healthy"))
    assert delta.size == "large"
    assert delta.value > 0
    assert "→" in line(verdict.regressions[0])
    assert judge(comparison, GateParams(latency_margin=0.8)).regressions == ()


def test_a_method_that_lost_it_is_red(first: Side, campaign: Campaign) -> None:
    spoil_rankings(campaign, "nsigma")
    comparison, verdict = judged(first, replace(night(first), scores=side(campaign).scores))
    assert "score: nsigma Avg@5" in {check.what for check in verdict.regressions}
    assert not any(check.what.startswith("stack") for check in verdict.regressions)
    assert judge(comparison, GateParams(methods=("random",))).regressions == ()


def with_methods(of: Side, *others: str) -> Side:
    """The side with other methods that rank as nsigma does."""
    scores, estimates = ({**each, **dict.fromkeys(others, each["nsigma"])} for each in (of.scores, of.estimates))
    return replace(of, scores=scores, estimates=estimates)


def test_a_yardstick_is_in_no_mean_and_judged_only_by_name(first: Side) -> None:
    assert first.references == {"random"}
    comparison, verdict = judged(first, night(first))
    assert comparison.score(MEAN_OF_METHODS, "avg5") is None
    assert "score: random Avg@5" not in {check.what for check in verdict.checks}
    named = judge(comparison, GateParams(methods=("random",)))
    assert "score: random Avg@5" in {check.what for check in named.checks}
    three, later = with_methods(first, "other"), with_methods(night(first), "other")
    comparison, verdict = judged(three, later)
    mean = comparison.score(MEAN_OF_METHODS, "avg5")
    assert mean is not None
    assert mean.a is not None
    assert mean.a.value == pytest.approx(first.estimates["nsigma"]["avg5"].value)
    assert f"score: {MEAN_OF_METHODS} Avg@5" in {check.what for check in verdict.checks}


def test_a_stack_that_fails_requests_is_red(first: Side) -> None:
    failing = {case: replace(each, failed=each.total) for case, each in first.requests.items()}
    _, verdict = judged(first, replace(first, requests=failing))
    assert [check.what for check in verdict.regressions] == ["stack: failed requests"]


def test_too_few_cases_to_see_anything_is_said(first: Side) -> None:
    few = replace(first, requests=dict(list(first.requests.items())[:2]))
    _, verdict = judged(few, night(few, 9.0))
    assert verdict.regressions == ()
    assert "too few cases" in verdict_lines(verdict)[1]
    assert "latency p50" in verdict_lines(verdict)[1]


def test_cases_of_their_own_on_each_side(first: Side) -> None:
    slow = night(first, 2.0)
    other = {f"other-{case}": each for case, each in slow.requests.items()}
    _, verdict = judged(first, replace(slow, cases=tuple(other), requests=other))
    assert {check.p for check in verdict.checks if check.what.startswith("stack")} == {None}
    assert "stack: latency p50" in {check.what for check in verdict.regressions}


def test_parameters_are_compared_with_defaults_spelled_out() -> None:
    a, b = flat_parameters(params_text()), flat_parameters(params_text(confidence=0.9))
    assert {key for key in a if a[key] != b[key]} == {"score.confidence"}
    assert a["inject.faults[0].targets"] == "ray-replicas-0, ray-replicas-1, ray-replicas-2"
    assert flat_parameters("campaign: {name: old}\nunknown: 1\n") == {"campaign.name": "old", "unknown": "1"}


def test_the_page_needs_no_network_and_the_json_is_plain(first: Side) -> None:
    comparison, verdict = judged(first, night(first, 1.5))
    html = render(comparison, verdict)
    assert "REGRESSION stack: latency p50" in html
    assert "default-src 'none'" in html
    assert "http" not in html.replace("http-equiv", "").split('<script type="application/octet-stream"')[0]
    found = json.loads(json.dumps(document(comparison, verdict), allow_nan=False))
    assert found["gate"]["regressed"] is True
    assert found["a"]["scored"] == 6
