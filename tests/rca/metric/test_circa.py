from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tasks.rca.features.panel import build_panel
from tasks.rca.method import MethodError
from tasks.rca.metric.circa import circa, structural_graph
from tasks.rca.view import CaseView
from tests.rca.views import view_of

NORMAL, ABNORMAL = 60, 15


def with_calls(view: CaseView, *calls: tuple[str, str]) -> CaseView:
    topology = pd.DataFrame([("calls", *call) for call in calls], columns=["relation", "source", "target"])
    return replace(view, topology=topology)


def planted(seed: int = 0, *, fault: float = 30.0) -> CaseView:
    """a calls b and c. The processor of b is at fault; latencies follow, with noise. Memory follows nothing."""
    rng = np.random.default_rng(seed)
    rows = NORMAL + ABNORMAL
    noise = {name: rng.standard_normal(rows) for name in ("b cpu", "c cpu", "a", "b", "c", "memory")}
    cpu = noise["b cpu"] + fault * (np.arange(rows) >= NORMAL)
    b, c = 2 * cpu + 0.1 * noise["b"], noise["c cpu"] + 0.1 * noise["c"]
    view = view_of(
        {
            ("a", "latency_p90"): (b + c + 0.1 * noise["a"]).tolist(),
            ("b", "latency_p90"): b.tolist(),
            ("c", "latency_p90"): c.tolist(),
            ("b", "container_cpu_usage"): cpu.tolist(),
            ("c", "container_cpu_usage"): noise["c cpu"].tolist(),
            ("c", "container_memory_usage"): noise["memory"].tolist(),
        },
        normal_rows=NORMAL,
    )
    return with_calls(view, ("a", "b"), ("a", "c"))


def metric_scores(view: CaseView, **parameters: Any) -> dict[tuple[str, str], float]:
    ranking = circa(view, np.random.default_rng(0), **parameters)
    return {(service, metric): score for service, metric, score in ranking.metrics}


def edges(view: CaseView) -> set[tuple[tuple[str, str], tuple[str, str]]]:
    panel = build_panel(view)
    graph = structural_graph(view, panel)
    assert graph is not None
    pairs = list(zip(graph.cause.tolist(), graph.effect.tolist(), strict=True))
    assert len(set(pairs)) == len(pairs)
    return {(panel.columns[cause], panel.columns[effect]) for cause, effect in pairs}


def worst(scores: dict[tuple[str, str], float]) -> tuple[str, str]:
    return max(scores, key=scores.__getitem__)


@pytest.mark.parametrize("seed", range(3))
def test_the_intervened_metric_comes_first_though_its_effects_move_more(seed: int) -> None:
    assert worst(metric_scores(planted(seed))) == ("b", "container_cpu_usage")


@pytest.mark.parametrize("seed", range(3))
def test_causes_that_pc_can_tell_explain_their_effect(seed: int) -> None:
    """cpu -> latency <- memory; the effect moves twice as far as the cause."""
    rng = np.random.default_rng(seed)
    cpu, memory, noise = rng.standard_normal((3, 400))
    cpu[300:] += 30
    columns = {"cpu": cpu, "memory": memory, "latency": 2 * cpu + memory + 0.5 * noise}
    view = view_of({("a", metric): values.tolist() for metric, values in columns.items()}, normal_rows=300)
    scores = metric_scores(view, graph="pc", alpha=0.001)
    assert worst(scores) == ("a", "cpu")
    assert scores["a", "latency"] < 10


def test_effects_are_explained_by_their_causes() -> None:
    scores = metric_scores(planted(), threshold=1e9)
    assert scores["b", "container_cpu_usage"] > 25
    assert scores["b", "latency_p90"] < 12
    assert scores["a", "latency_p90"] < 12


def test_structural_graph_by_hand() -> None:
    metrics = ["request_rate", "cpu", "latency", "error_rate"]
    rng = np.random.default_rng(0)
    view = view_of({(s, m): rng.random(9).tolist() for s in "ab" for m in metrics}, normal_rows=5)
    traffic, cpu, latency, errors = ({s: (s, m) for s in "ab"} for m in metrics)
    within = {
        (signal[s], effect[s])
        for s in "ab"
        for signal, effect in [
            (traffic, cpu),
            (traffic, latency),
            (traffic, errors),
            (cpu, latency),
            (cpu, errors),
            (latency, errors),
        ]
    }
    between = {(traffic["a"], traffic["b"]), (latency["b"], latency["a"]), (errors["b"], errors["a"])}
    assert edges(with_calls(view, ("a", "b"))) == within | between


def test_a_service_without_metrics_hands_on_its_causes() -> None:
    rng = np.random.default_rng(0)
    columns = [("a", "latency"), ("c", "latency"), ("c", "cpu"), ("a", "qps")]
    view = view_of({column: rng.random(9).tolist() for column in columns}, normal_rows=5)
    view = with_calls(replace(view, services=("a", "b", "c")), ("a", "b"), ("b", "c"))
    assert edges(view) == {
        (("c", "latency"), ("a", "latency")),
        (("a", "qps"), ("a", "latency")),
        (("a", "qps"), ("c", "cpu")),
        (("a", "qps"), ("c", "latency")),
        (("c", "cpu"), ("c", "latency")),
    }


def test_calls_in_a_circle_make_no_edge() -> None:
    rng = np.random.default_rng(0)
    view = view_of({(s, "latency"): rng.random(9).tolist() for s in "abc"}, normal_rows=5)
    assert edges(with_calls(view, ("a", "b"), ("b", "a"), ("c", "a"))) == {(("a", "latency"), ("c", "latency"))}


def test_every_metric_is_scored_whatever_its_name_and_edges() -> None:
    """Avoided defects: names of three parts collapsed, so only latency was scored; isolated metrics were dropped."""
    view = planted()
    assert set(metric_scores(view)) == set(view.metrics.columns)
    renamed = view.metrics.rename(columns={"container_memory_usage": "my_ctn_mem_rss"}, level=1)
    scores = metric_scores(replace(view, metrics=renamed))
    assert scores["c", "my_ctn_mem_rss"] == pytest.approx(metric_scores(view)["c", "container_memory_usage"])


@pytest.mark.parametrize("row", [NORMAL, NORMAL + 7])
def test_the_whole_abnormal_window_is_tested(row: int) -> None:
    """Avoided defect: only the last sample, after the fault, was tested."""
    view = planted(fault=0.0)
    metrics = view.metrics.copy()
    metrics.loc[metrics.index[row], ("c", "container_memory_usage")] += 50.0
    scores = metric_scores(replace(view, metrics=metrics))
    assert worst(scores) == ("c", "container_memory_usage")


def test_falls_count_as_rises_do() -> None:
    assert worst(metric_scores(planted(fault=-30.0))) == ("b", "container_cpu_usage")


def test_without_calls_the_graph_is_learned() -> None:
    view = planted()
    assert metric_scores(with_calls(view)) == metric_scores(view, graph="pc")
    assert metric_scores(view) != metric_scores(view, graph="pc")


def test_too_few_normal_rows() -> None:
    view = planted()
    with pytest.raises(MethodError, match="3 metric rows before the inject time; CIRCA needs at least 4"):
        circa(replace(view, inject_time=view.metrics.index[3]), np.random.default_rng(0))
