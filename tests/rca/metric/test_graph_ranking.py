from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from tasks.rca.graph.causal_graph import CausalGraph
from tasks.rca.method import MethodError, Ranking
from tasks.rca.metric import graph_ranking
from tasks.rca.registry import get_method
from tasks.rca.run.pair import run_pair
from tasks.rca.view import CaseView
from tests.rca.views import view_of

LEARNERS = ["pc", "fci", "granger", "lingam"]
WALKS = ["pagerank", "randomwalk"]
NAMES = [f"{learner}_{walk}" for learner in LEARNERS for walk in WALKS]
LONE = "loner"


def planted(rows: int = 1500, seed: int = 0, *, lag: int = 0) -> CaseView:
    """x -> z <- y, z -> w with uniform noise, each effect ``lag`` rows late; a column alone; the SLI follows w."""
    rng = np.random.default_rng(seed)
    x, y, z, w, alone = rng.uniform(-1, 1, (5, rows))
    z[lag:] += (x + y)[: rows - lag]
    w[lag:] += z[: rows - lag]
    columns = {("a", "x"): x, ("a", "z"): z, ("b", "w"): w, ("b", "y"): y, (LONE, "alone"): alone}
    view = view_of({name: values.tolist() for name, values in columns.items()}, normal_rows=rows // 2)
    return replace(view, sli=pd.Series(w + rng.uniform(-1, 1, rows), index=view.metrics.index, name="sli"))


def metric_scores(name: str, view: CaseView, **parameters: float) -> dict[str, float]:
    run: Callable[..., Ranking] = get_method(name).run
    ranking = run(view, np.random.default_rng(0), **parameters)
    return {metric: score for _, metric, score in ranking.metrics}


@pytest.mark.parametrize("learner", ["pc", "fci", "lingam"])
def test_pagerank_by_hand(learner: str) -> None:
    """With b for every column: z = b + .85 w, w = b; x = y = b + .85 z / 2."""
    scores = metric_scores(f"{learner}_pagerank", planted(), alpha=1e-5)
    in_units_of_alone = {metric: score / scores["alone"] for metric, score in scores.items()}
    expected = {"w": 1.0, "alone": 1.0, "z": 1.85, "x": 1 + 0.425 * 1.85, "y": 1 + 0.425 * 1.85}
    assert in_units_of_alone == pytest.approx(expected)


def test_pagerank_of_granger_by_hand() -> None:
    """The past of x and y predicts w too, two rows later, so w has three causes."""
    scores = metric_scores("granger_pagerank", planted(lag=1), alpha=1e-5)
    z = 1 + 0.85 / 3
    x = 1 + 0.85 / 3 + 0.425 * z
    in_units_of_alone = {metric: score / scores["alone"] for metric, score in scores.items()}
    assert in_units_of_alone == pytest.approx({"w": 1.0, "alone": 1.0, "z": z, "x": x, "y": x})


@pytest.mark.parametrize("learner", LEARNERS)
def test_a_walk_stays_within_what_its_graph_joins(learner: str) -> None:
    scores = metric_scores(f"{learner}_randomwalk", planted(lag=1 if learner == "granger" else 0), alpha=1e-5)
    assert scores["alone"] == pytest.approx(1 / 5)
    assert sum(scores.values()) == pytest.approx(1)


@pytest.mark.parametrize("learner", ["pc", "fci", "lingam"])
def test_a_walk_leaves_the_effect_that_follows_the_sli_most(learner: str) -> None:
    """Avoided defect: whatever the learner found, one fixed permutation of column positions came out."""
    scores = metric_scores(f"{learner}_randomwalk", planted(), alpha=1e-5)
    assert max(scores, key=scores.__getitem__) == "z"
    assert min(scores["x"], scores["y"]) > scores["w"]


@pytest.mark.parametrize("name", NAMES)
def test_positions_of_columns_decide_nothing(name: str) -> None:
    first = metric_scores(name, planted(120, seed=1))
    swapped = planted(120, seed=1)
    swapped = replace(swapped, metrics=swapped.metrics.iloc[:, ::-1])
    assert metric_scores(name, swapped) == pytest.approx(first)
    assert sorted(first) == ["alone", "w", "x", "y", "z"], "every column is ranked"


def test_the_graph_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    order = {}
    for cause, effect in ((0, 1), (1, 0)):
        directed = np.zeros((5, 5), dtype=bool)
        directed[cause, effect] = True
        monkeypatch.setattr(graph_ranking, "learn_pc", _constant(CausalGraph.of_directed(directed)))
        for walk in WALKS:
            order[walk, cause] = metric_scores(f"pc_{walk}", planted(50))
    for walk in WALKS:
        assert order[walk, 0] != pytest.approx(order[walk, 1])


def _constant(graph: CausalGraph) -> Callable[..., CausalGraph]:
    return lambda values, *, alpha: graph


@pytest.mark.parametrize("name", NAMES)
def test_registered_with_what_it_needs(name: str) -> None:
    method = get_method(name)
    assert method.needs == ({"metrics", "sli"} if name.endswith("randomwalk") else {"metrics"})
    assert method.seeded == name.startswith("lingam")
    walk = {"rho", "steps"} if name.endswith("randomwalk") else {"damping"}
    learner = {"granger": {"max_lag"}, "lingam": {"max_iterations"}}.get(name.split("_")[0], set())
    assert set(method.parameters) == {"alpha"} | walk | learner
    assert all(f"``{parameter}``" in str(method.run.__doc__) for parameter in method.parameters)
    assert method.parameters["alpha"].annotation is float


def test_a_parameter_it_does_not_have() -> None:
    with pytest.raises(TypeError, match="max_lag"):
        metric_scores("pc_pagerank", planted(50), max_lag=3)


def test_a_walk_needs_an_sli_that_moves() -> None:
    view = planted(50)
    assert run_pair(get_method("pc_randomwalk"), replace(view, sli=view.sli * np.nan), seed=0).status == "missing"
    with pytest.raises(MethodError, match="the SLI never moves"):
        metric_scores("pc_randomwalk", replace(view, sli=view.sli * 0))


def test_lingam_says_how_many_rows_it_needs() -> None:
    with pytest.raises(MethodError, match="5 metrics, 5 rows; LiNGAM needs more rows than metrics"):
        metric_scores("lingam_pagerank", planted(5))
