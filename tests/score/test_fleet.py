"""Scores among a thousand candidates of a fleet with several models: known answers for every table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tasks.case import CaseRecord, Service
from tasks.params import ScoreParams
from tasks.rca.method import Method
from tasks.rca.run.pair import MetricSuspect, PairResult, Suspect
from tasks.score.assemble import score_tables
from tasks.score.detection import detection_table
from tasks.score.references import CHANCE, CHANCE_PER_COLUMN, ROLE_PRIOR, reference_scores
from tasks.score.results import ScoreResult, method_costs
from tasks.score.tables import Scored, in_order, score_pair
from tasks.score.traits import CaseTraits, SymptomAt
from tasks.score.truth import Truth, truth_of
from tests.report.scores import _method
from tests.synthetic import synthetic_case

REPLICAS = 1000
SERVICES = ["nginx-proxy", "ray-head", *(f"ray-replicas-{i}" for i in range(REPLICAS))]
COLUMNS = {"nginx-proxy": 8, "ray-head": 12} | {f"ray-replicas-{i}": 40 if i < 700 else 50 for i in range(REPLICAS)}
TOTAL = 8 + 12 + 700 * 40 + 300 * 50
METHODS = ("first", "fourth", "short", "fails")
TARGETS = ("ray-replicas-3", "ray-replicas-999", "ray-replicas-500", "ray-replicas-7")


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[CaseRecord]:
    record = synthetic_case(tmp_path_factory.mktemp("one"), target="ray-replicas-0").record
    services = [Service(name=name, role="replica") for name in SERVICES[2:]]
    stack = record.stack.model_copy(update={"services": (*record.stack.services[:2], *services)})
    template = record.injections[0].model_copy(update={"metrics": ("m0", "m1")})
    return [
        record.model_copy(
            update={
                "case_id": f"case-{i}",
                "stack": stack,
                "injections": (template.model_copy(update={"target": target}),),
            }
        )
        for i, target in enumerate(TARGETS)
    ]


def truth(record: CaseRecord, stratum: str = "I") -> Truth:
    columns = [(service, f"m{i}") for service, count in COLUMNS.items() for i in range(count)]
    return truth_of(record, include_ineffective=False, columns=columns, profile="llm", stratum=stratum)


def ranking(target: str, place: int, listed: int, metric_place: int) -> PairResult:
    """The target at ``place`` of ``listed`` services (0: left out), its metric m1 at ``metric_place`` of 100."""
    others = [name for name in SERVICES if name != target]
    services = [*others[: place - 1], target, *others[place - 1 :]][:listed] if place else others[:listed]
    columns = [("ray-head", f"m{i}") for i in range(12)] + [(others[-1], f"m{i}") for i in range(40)]
    columns = [*columns[: metric_place - 1], (target, "m1"), *columns[metric_place - 1 :]]
    return PairResult(
        "ok",
        suspects=tuple(Suspect(i, name, 1.0 / i, False, None) for i, name in enumerate(services, 1)),
        metrics=tuple(MetricSuspect(i, *column, 1.0 / i, False) for i, column in enumerate(columns, 1)),
        wall_s=1.0,
    )


@pytest.fixture(scope="module")
def pairs(records: list[CaseRecord]) -> list[Scored]:
    methods: dict[str, Method] = {name: _method(name, "metric") for name in METHODS}
    truths = [truth(record, "I" if i < 3 else "III") for i, record in enumerate(records)]
    results = {
        "first": lambda target: ranking(target, 1, 1002, 1),
        "fourth": lambda target: ranking(target, 4, 1002, 50),
        "short": lambda target: ranking(target, 0, 3, 2),
        "fails": lambda target: PairResult("error", "2 much"),
    }
    scored = [score_pair(t, methods[name], results[name](t.services[0])) for t in truths for name in METHODS]
    return in_order(truths, list(methods.values()), scored)


@pytest.fixture(scope="module")
def tables(pairs: list[Scored], records: list[CaseRecord]) -> dict[str, pd.DataFrame]:
    truths = [pair.truth for pair in pairs[:: len(METHODS)]]
    root = SymptomAt("ray-replicas-0", 9.0, "m0")
    traits = {t.case: CaseTraits("attributed", "", "I", root, None, None) for t in truths}
    params = ScoreParams(methods=METHODS, profile="llm", bootstrap_samples=100)
    return score_tables(pairs, truths, traits, detection_table([], {}), params)


def cell(tables: dict[str, pd.DataFrame], method: str, score: str, **group: str) -> pd.Series:
    wanted = {"method": method, "score": score, "level": "overall", "granularity": "service"} | group
    scores = tables["scores"]
    (row,) = scores[np.logical_and.reduce([scores[name] == value for name, value in wanted.items()])].to_dict("records")
    return pd.Series(row)


def test_references_of_a_fleet_of_two_models(records: list[CaseRecord]) -> None:
    """By services 1 of 1,002, or of the 1,000 replicas; by columns the 40 or 50 of the target of all 43,020."""
    for record, own in zip(records, (40, 50, 40, 40), strict=True):
        found = reference_scores(truth(record), "service", frozenset({"replica"}))
        for k, score in ((1, "ac1"), (3, "ac3"), (5, "ac5"), (3, "avg5")):
            assert found[CHANCE][score] == pytest.approx(k / 1002)
            assert found[ROLE_PRIOR][score] == pytest.approx(k / 1000)
        assert found[CHANCE]["mrr"] == pytest.approx(sum(1 / r for r in range(1, 1003)) / 1002)
        assert found[CHANCE_PER_COLUMN]["ac1"] == pytest.approx(own / TOTAL)
        at_metrics = reference_scores(truth(record), "metric", frozenset({"replica"}))[CHANCE]
        assert at_metrics["ac1"] == pytest.approx(2 / TOTAL)
        assert at_metrics["ac5"] == pytest.approx(1 - (TOTAL - 5) * (TOTAL - 6) / (TOTAL * (TOTAL - 1)))


@pytest.mark.parametrize(
    ("method", "expected", "tail"),
    [
        ("first", (1, 1, 1, 1, 1), (1, 1, 1, 1, 1)),
        ("fourth", (0, 0, 1, 0.4, 0.25), (0, 0, 1, 0.4, 0.25)),
        ("short", (0, 0, 0, 0, 0), (0, 0, 2 / 999, 3 / 999 / 5, None)),
        ("fails", (0, 0, 0, 0, 0), (0, 0, 0, 0, 0)),
    ],
)
def test_scores_lists_and_tails(
    tables: dict[str, pd.DataFrame], method: str, expected: tuple[float, ...], tail: tuple[float | None, ...]
) -> None:
    for score, value, behind in zip(("ac1", "ac3", "ac5", "avg5", "mrr"), expected, tail, strict=True):
        row = cell(tables, method, score)
        assert row["value"] == pytest.approx(value)
        if behind is not None:
            assert row["tail"] == pytest.approx(behind)
        assert row["cases"] == 4
    assert cell(tables, method, "ac1")["lift"] == pytest.approx(1002 * expected[0])


def test_groups_and_metric_level(tables: dict[str, pd.DataFrame]) -> None:
    assert cell(tables, "fourth", "ac5", level="stratum", group="III")["cases"] == 1
    assert cell(tables, "fourth", "avg5", level="macro")["value"] == pytest.approx(0.4)
    target = cell(tables, "first", "ac1", level="target", group="ray-replicas-999")
    assert (target["value"], target["cases"]) == (1, 1)
    at_metrics = {
        name: cell(tables, name, "mrr", granularity="metric")["value"] for name in ("first", "fourth", "short")
    }
    assert at_metrics == pytest.approx({"first": 1, "fourth": 1 / 50, "short": 1 / 2})
    assert cell(tables, "first", "ac1", granularity="metric")["chance"] == pytest.approx(2 / TOTAL)


def test_comparisons_and_ranks(tables: dict[str, pd.DataFrame]) -> None:
    """first against fourth: four cases won, so both tests say 2 / 2^4 for AC@1."""
    found = tables["comparisons"].set_index(["score", "method_a", "method_b"]).loc[("ac1", "first", "fourth")]
    assert (found["wins"], found["losses"], found["difference"]) == (4, 0, 1)
    assert (found["p"], found["mcnemar_p"]) == (0.125, 0.125)
    ranks = tables["average_ranks"]
    of_score = ranks[ranks["score"] == "avg5"].set_index("method")["average_rank"]
    assert of_score.to_dict() == {"first": 1, "fourth": 2, "short": 3.5, "fails": 3.5}


def test_misattribution_and_what_people_read(
    tables: dict[str, pd.DataFrame], pairs: list[Scored], tmp_path: Path
) -> None:
    blamed = tables["misattribution"].groupby(["method", "error"])["cases"].sum().to_dict()
    assert blamed == {
        ("first", "correct"): 4,
        ("fourth", "gateway"): 4,
        ("short", "gateway"): 4,
        ("fails", "nothing"): 4,
    }
    result = ScoreResult(
        out_dir=tmp_path,
        **tables,
        parameters={name: {} for name in METHODS},
        costs=method_costs(pairs),
        truths=tuple(pair.truth for pair in pairs[:: len(METHODS)]),
        failures=4,
        kept=0,
    )
    rows = {row[0]: row for row in result.score_table().rows}
    assert rows["(chance)"][1:3] == ("0.001", "0.003")
    assert rows["first"][1].startswith("1.00")
    assert len(tables["rankings"]) == 4 * (1002 + 1002 + 3 + 1)
