"""Scores at metric level: which metric of which service was the root cause."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from tasks.rca.registry import get_method
from tasks.rca.run.pair import MetricSuspect, PairResult, Suspect
from tasks.score.campaign import ScoreResult, score_campaign
from tasks.score.tables import METRICS_KEPT, in_order, metric_ranking_table, score_pair, score_table
from tasks.score.truth import Truth, truth_of
from tests.rca import misbehaving  # noqa: F401 (registers its methods)
from tests.rca.views import score_params
from tests.score.cases import with_injections, with_metrics
from tests.score.processes import InThisProcess
from tests.synthetic import LEVELS, synthetic_case

COLUMNS = {(service, metric) for service in ("nginx-proxy", "ray-head") for metric in ("cpu", "memory", "latency")}


@pytest.fixture
def record(tmp_path: Path):
    return synthetic_case(tmp_path).record


def truth_with(record, *injections: tuple[str, str, tuple[str, ...]], columns=COLUMNS) -> Truth:
    template = record.injections[0]
    made = tuple(
        template.model_copy(update={"kind": kind, "target": target, "metrics": metrics})
        for kind, target, metrics in injections
    )
    changed = record.model_copy(update={"injections": made})
    return truth_of(changed, include_ineffective=False, columns=columns)


def result_of(*named: tuple[str, str]) -> PairResult:
    metrics = tuple(MetricSuspect(i, *name, 1 / i, False) for i, name in enumerate(named, 1))
    return PairResult("ok", suspects=(Suspect(1, "ray-head", 1.0, False, None),), metrics=metrics)


def test_a_root_cause_is_one_injection_with_all_metrics_that_name_it(record) -> None:
    truth = truth_with(record, ("cpu-stress", "ray-head", ("cpu", "latency", "not-recorded")))
    assert truth.metrics.causes == (frozenset({("ray-head", "cpu"), ("ray-head", "latency")}),)
    assert (truth.metrics.candidates, truth.metrics.excluded) == (6, "")


def test_its_rank_is_the_best_rank_of_any_of_them(record) -> None:
    truth = truth_with(record, ("cpu-stress", "ray-head", ("cpu", "latency")))
    named = ("nginx-proxy", "cpu"), ("ray-head", "latency"), ("ray-head", "memory"), ("ray-head", "cpu")
    scores = score_pair(truth, get_method("nsigma"), result_of(*named)).scores["metric"]
    assert (scores["ac1"], scores["ac3"], scores["avg5"], scores["mrr"]) == (0, 1, 4 / 5, 1 / 2)
    unnamed = score_pair(truth, get_method("nsigma"), result_of(("nginx-proxy", "cpu"))).scores["metric"]
    assert (unnamed["ac5"], unnamed["mrr"]) == (0, 0)


def test_two_injections_are_two_root_causes_unless_they_share_a_metric(record) -> None:
    apart = truth_with(record, ("cpu-stress", "ray-head", ("cpu",)), ("delay", "nginx-proxy", ("latency",)))
    assert len(apart.metrics.causes) == 2
    one_found = score_pair(apart, get_method("nsigma"), result_of(("ray-head", "cpu")))
    assert (one_found.scores["metric"]["ac1"], one_found.scores["metric"]["ac3"]) == (1, 1 / 2)
    named = [("a", ("cpu",)), ("b", ("memory", "latency")), ("c", ("cpu", "memory"))]
    joined = truth_with(record, *((kind, "ray-head", metrics) for kind, metrics in named))
    assert [len(cause) for cause in joined.metrics.causes] == [3]


@pytest.mark.parametrize(
    ("injections", "reason"),
    [
        ([("cpu-stress", "ray-head", ())], "the metrics of cpu-stress are not known"),
        ([("cpu-stress", "ray-head", ("gpu",))], "no metric of cpu-stress is visible"),
        ([("a", "ray-head", ("cpu",)), ("b", "nginx-proxy", ())], "the metrics of b are not known"),
        ([], "fault-free"),
    ],
)
def test_a_truth_that_is_not_whole_is_not_scored(record, injections, reason: str) -> None:
    truth = truth_with(record, *injections)
    assert (truth.metrics.causes, truth.metrics.excluded) == ((), reason)
    assert "metric" not in score_pair(truth, get_method("nsigma"), result_of(("ray-head", "cpu"))).scores


def test_a_method_that_never_names_a_metric_has_no_scores_there(record) -> None:
    truth = truth_with(record, ("cpu-stress", "ray-head", ("cpu",)))
    failed = PairResult("error", "no luck")
    results = {
        "nsigma": [result_of(("ray-head", "cpu")), failed],
        "random": [replace(result_of(), metrics=()), failed],
    }
    truths = [truth, replace(truth, case="other")]
    methods = {name: get_method(name) for name in results}
    scored = [score_pair(truths[i], methods[name], found[i]) for name, found in results.items() for i in range(2)]
    table = score_table(in_order(truths, list(methods.values()), scored), score_params())
    at_metrics = table[table["granularity"] == "metric"].set_index(["level", "method", "score"])
    assert set(at_metrics.index.get_level_values("method")) == {"nsigma", ""}
    assert at_metrics.loc[("overall", "nsigma", "ac1"), "value"] == 0.5
    assert at_metrics.loc[("overall", "nsigma", "failure_rate"), "value"] == 0.5
    assert at_metrics.loc[("family", "", "ac1"), "value"] == 0.5


def test_long_rankings_keep_their_beginning_and_what_is_correct(record) -> None:
    columns = {("ray-head", f"m{i}") for i in range(200)}
    truth = truth_with(record, ("cpu-stress", "ray-head", ("m120", "m7", "m199")), columns=columns)
    pair = score_pair(truth, get_method("nsigma"), result_of(*(("ray-head", f"m{i}") for i in range(200))))
    table = metric_ranking_table([pair])
    assert table["rank"].tolist() == [*range(1, METRICS_KEPT + 1), 121, 200]
    assert table.loc[table["correct"], "metric"].tolist() == ["m7", "m120", "m199"]


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> ScoreResult:
    directory = tmp_path_factory.mktemp("cases")
    named = {"c0": ("cpu_usage", "latency_p90"), "c1": ("memory_working_set",), "c2": (), "c3": ("ttft_mean",)}
    for seed, (case_id, metrics) in enumerate(named.items()):
        with_metrics(synthetic_case(directory, case_id, target="ray-replicas-1", strength=20, seed=seed), *metrics)
    hidden = synthetic_case(directory, "c4", target="ray-head", strength=20, seed=9)
    with_injections(hidden, (hidden.record.injections[0].model_copy(update={"metrics": ("ttft_mean",)}),))
    methods = ["random", "nsigma", "test_raises"]
    out = tmp_path_factory.mktemp("out") / "scores"
    return score_campaign(directory, score_params(methods=methods), out, open_pool=InThisProcess)


def test_a_campaign_scores_metrics_beside_services(result: ScoreResult) -> None:
    table = result.scores.query("level == 'overall' and granularity == 'metric'").set_index(["method", "score"])
    assert set(table.index.get_level_values("method")) == {"nsigma"}
    assert (table["cases"] == 3).all()
    columns = 3 * len(LEVELS) + 2 * (len(LEVELS) - 5)
    assert table.loc[("nsigma", "ac1"), "chance"] == pytest.approx((2 + 1 + 1) / 3 / columns)
    assert 0 < table.loc[("nsigma", "mrr"), "value"] <= 1
    services = result.scores.query("level == 'overall' and granularity == 'service'")
    assert set(services["cases"]) == {5}


def test_its_rankings_are_kept(result: ScoreResult) -> None:
    kept = result.metric_rankings
    assert set(kept["method"]) == {"nsigma"}
    of_case = kept[kept["case_id"] == "c0"]
    assert of_case["rank"].tolist() == list(range(1, len(of_case) + 1))
    assert of_case["score"].is_monotonic_decreasing
    correct = of_case[of_case["correct"]]
    assert sorted(zip(correct["service"], correct["metric"], strict=True)) == [
        ("ray-replicas-1", "cpu_usage"),
        ("ray-replicas-1", "latency_p90"),
    ]
    ranking = pd.DataFrame(result.rankings).query("case_id == 'c0' and method == 'nsigma' and rank == 1").iloc[0]
    assert (of_case.iloc[0]["service"], of_case.iloc[0]["metric"]) == (ranking["service"], ranking["metric"])


def test_what_is_not_scored_there_is_named(result: ScoreResult) -> None:
    assert "not scored at metric level: c2: the metrics of cpu-stress are not known" in result.notes
    assert "not scored at metric level: c4: no metric of cpu-stress is visible" in result.notes


def test_metrics_json_and_the_table_for_people_show_it(result: ScoreResult) -> None:
    document = json.loads((result.out_dir / "metrics.json").read_text())
    assert document["cases"]["scored_at_metric_level"] == 3
    assert 0 < document["chance"]["metric_level"]["avg5"] < document["chance"]["avg5"]
    assert "metric_level" in document["methods"]["nsigma"]
    assert "metric_level" in document["methods"]["nsigma"]["by_fault"]["cpu-stress"]
    assert "metric_level" not in document["methods"]["random"]
    table = result.score_table()
    assert table.columns[4] == "metric Avg@5 (3)"
    cells = {row[0]: row[4] for row in table.rows}
    assert cells["random"] == ""
    assert float(cells["nsigma"]) > float(cells["(chance)"])
