from __future__ import annotations

from pathlib import Path

import pytest

from tasks.campaign.plan import plan_campaign
from tasks.case import CaseRecord
from tasks.params import load_params
from tasks.score.accuracy import chance_scores, column_chance_scores
from tasks.score.references import (
    CHANCE,
    CHANCE_PER_COLUMN,
    ROLE_PRIOR,
    mean_references,
    reference_scores,
    targeted_roles,
)
from tasks.score.truth import Truth, truth_of
from tests.synthetic import synthetic_case

REPLICAS = [f"ray-replicas-{i}" for i in range(3)]
COLUMNS = [("nginx-proxy", "cpu"), *((name, f"m{i}") for name in REPLICAS for i in range(4)), ("ray-head", "cpu")]


@pytest.fixture
def record(tmp_path: Path) -> CaseRecord:
    return synthetic_case(tmp_path).record


def truth_on(record: CaseRecord, *targets: str, metrics: tuple[str, ...] = (), verdict: str = "effective") -> Truth:
    template = record.injections[0]
    made = tuple(
        template.model_copy(update={"target": target, "metrics": metrics, "verdict": verdict}) for target in targets
    )
    changed = record.model_copy(update={"injections": made})
    return truth_of(changed, include_ineffective=False, columns=COLUMNS)


def test_replicas_first_at_random_is_what_the_role_prior_scores(record: CaseRecord) -> None:
    """Eight faults on three replicas beside a gateway and a head: AC@1 1/3 and Avg@5 (1/3 + 2/3 + 3) / 5."""
    truths = [truth_on(record, name) for name in (*REPLICAS, *REPLICAS, *REPLICAS[:2])]
    roles = targeted_roles(truths)
    assert roles == {"replica"}
    found = mean_references(truths, "service", roles)
    assert (found[CHANCE]["ac1"], found[CHANCE]["avg5"]) == pytest.approx((0.2, 0.6))
    assert (found[ROLE_PRIOR]["ac1"], found[ROLE_PRIOR]["avg5"]) == pytest.approx((1 / 3, 0.8))


def test_once_every_role_is_a_target_the_role_prior_is_chance(record: CaseRecord) -> None:
    truths = [truth_on(record, name) for name in ("nginx-proxy", "ray-head", *REPLICAS)]
    found = mean_references(truths, "service", targeted_roles(truths))
    assert found[ROLE_PRIOR] == pytest.approx(found[CHANCE])


def test_the_default_campaign_gives_the_role_prior_nothing() -> None:
    plans = plan_campaign(load_params(Path(__file__).parents[2] / "params.yaml"))
    targets = {injection.target for plan in plans for injection in plan.injections}
    assert {"nginx-proxy", "ray-head"} < targets
    assert any(target.startswith("ray-replicas-") for target in targets)


def test_a_role_counts_only_if_a_scored_case_has_its_truth_there(record: CaseRecord) -> None:
    unscored = truth_on(record, "nginx-proxy", verdict="ineffective")
    half = truth_on(record, "ray-replicas-0")
    assert targeted_roles([unscored, half, truth_on(record)]) == {"replica"}


def test_a_pair_is_found_among_the_preferred(record: CaseRecord) -> None:
    pair = truth_on(record, "ray-head", "ray-replicas-1")
    scores = reference_scores(pair, "service", frozenset({"head", "replica"}))
    assert scores[ROLE_PRIOR] == chance_scores(4, (1, 1))
    assert scores[CHANCE] == chance_scores(5, (1, 1))


def test_a_service_with_many_columns_is_likelier_to_lead(record: CaseRecord) -> None:
    roles = frozenset({"gateway", "head", "replica"})
    replica = reference_scores(truth_on(record, "ray-replicas-0"), "service", roles)[CHANCE_PER_COLUMN]
    gateway = reference_scores(truth_on(record, "nginx-proxy"), "service", roles)[CHANCE_PER_COLUMN]
    assert (replica["ac1"], gateway["ac1"]) == pytest.approx((4 / 14, 1 / 14))
    assert replica == column_chance_scores((4,), (1, 1, 4, 4))


def test_at_metric_level_columns_are_the_candidates(record: CaseRecord) -> None:
    truth = truth_on(record, "ray-replicas-0", metrics=("m1", "m2"))
    scores = reference_scores(truth, "metric", frozenset({"replica"}))
    assert scores[CHANCE] == scores[CHANCE_PER_COLUMN] == chance_scores(14, (2,))
    assert scores[ROLE_PRIOR] == chance_scores(12, (2,))


def test_without_any_metric_chance_per_column_is_chance(record: CaseRecord) -> None:
    truth = truth_of(record, include_ineffective=False)
    scores = reference_scores(truth, "service", frozenset({"replica"}))
    assert scores[CHANCE_PER_COLUMN] == pytest.approx(scores[CHANCE])
