from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from tasks.rca.context import Context, MetricFacts
from tasks.rca.features.evidence import BY_NAME
from tasks.rca.features.serving import serving_columns
from tasks.rca.view import CaseView
from tests.rca.traces import Call, call, with_traces
from tests.rca.views import view_of

ROWS, BEFORE = 20, 10


def steady(**changed: list[float]) -> CaseView:
    columns = {("a", name): values for name, values in changed.items()}
    return view_of(columns or {("a", "cpu_usage"): [1.0] * ROWS}, normal_rows=BEFORE)


def column(view: CaseView, name: str) -> np.ndarray:
    return serving_columns(view, np.arange(len(view.metrics)) < BEFORE).columns[name][:, 0]


def then(before: float, after: float) -> list[float]:
    return [before] * BEFORE + [after] * (ROWS - BEFORE)


def test_cpu_beyond_load_allows_for_as_much_more_as_there_is_work() -> None:
    grown = column(steady(cpu_usage=then(1, 3), request_rate=then(2, 6)), "cpu_beyond_load")
    assert grown[-1] == pytest.approx(1.0)
    idle = column(steady(cpu_usage=then(1, 1), request_rate=then(2, 1)), "cpu_beyond_load")
    assert idle[-1] == pytest.approx(1.0), "less work explains nothing"


def test_step_beyond_load_allows_for_a_larger_batch() -> None:
    view = steady(inter_token_latency_mean=then(0.01, 0.03), requests_running=then(1, 2))
    assert column(view, "step_beyond_load")[-1] == pytest.approx(0.02)  # 3 times as long, 1.5 times as many


def test_stopped_and_mute_are_less_than_idle() -> None:
    assert column(steady(cpu_usage=then(1, 0.02)), "stopped").tolist() == then(0, 1)
    assert column(steady(cpu_usage=then(1, 0.2)), "stopped").tolist() == then(0, 0)
    assert column(steady(network_transmit=then(1e4, 10)), "mute").tolist() == then(0, 1)
    assert column(steady(network_transmit=then(1e4, 100)), "mute").tolist() == then(0, 0)


def test_lost_samples_are_not_silence() -> None:
    assert np.isnan(column(steady(generation_tokens_rate=then(10, np.nan)), "silent")[-1])
    assert column(steady(generation_tokens_rate=then(10, 0)), "silent")[-1] == 1


def test_vanished_is_how_far_processes_fell() -> None:
    assert column(steady(processes=then(8, 0)), "vanished")[-1] == pytest.approx(np.log(8.5 / 0.5))


def test_an_idle_clock_is_not_looked_at() -> None:
    clock = [1800.0, 300, 300, 900, 1800, 1800] + [1800.0] * (ROWS - 6)
    view = steady(gpu_sm_clock=clock, requests_running=[1, 0, 0, 1, 1, 1] + [1.0] * (ROWS - 6))
    assert column(view, "gpu_clock_busy")[:6] == pytest.approx(
        [1800, np.nan, np.nan, np.nan, 1800, 1800], nan_ok=True
    ), "neither the idle steps nor the first busy one, in which the clock still rises"


def test_the_quota_is_known_where_utilisation_is_of_a_quota() -> None:
    view = steady(cpu_usage=then(0.3, 0.15), accelerator_utilization=then(0.5, 0.75))
    assert "quota" not in serving_columns(view, np.arange(ROWS) < BEFORE).columns
    facts = {("a", "accelerator_utilization"): MetricFacts("ratio", "cgroup")}
    found = column(replace(view, context=Context(metrics=facts)), "quota")
    assert found == pytest.approx(then(0.6, 0.2))


def traced(*calls: Call) -> CaseView:
    view = view_of({("front", "cpu_usage"): [1.0] * ROWS, ("back", "cpu_usage"): [1.0] * ROWS}, normal_rows=BEFORE)
    return with_traces(view, calls)


def test_the_gap_is_what_a_caller_waits_beyond_the_work() -> None:
    view = traced(call("front", -2.5, 1.0, call("back", -2.3, 0.5)))
    serving = serving_columns(view, np.arange(ROWS) < BEFORE)
    back = view.services.index("back")
    assert np.nansum(serving.columns["gap"][:, back]) == pytest.approx(0.5)
    assert np.nansum(serving.columns["request_leg"][:, back]) == pytest.approx(0.2)
    assert serving.columns["completed"][:, back].sum() == 1
    assert serving.callees == {view.services.index("front"): (back,)}


def test_a_caller_whose_inner_span_ends_at_the_handover_waits_in_the_outer_one() -> None:
    inner = call("front", -2.4, 0.1, call("back", -2.35, 0.8), operation="route")
    view = traced(call("front", -2.5, 1.0, inner))
    serving = serving_columns(view, np.arange(ROWS) < BEFORE)
    assert np.nansum(serving.columns["gap"][:, view.services.index("back")]) == pytest.approx(0.2)


def test_engine_spans_stand_in_for_engine_metrics() -> None:
    view = traced(call("front", -2.5, 1.0, call("back", -2.3, 0.5)))
    said = (
        '{"gen_ai.latency.time_in_model_decode": 0.3, "gen_ai.usage.completion_tokens": 16,'
        ' "gen_ai.usage.prompt_tokens": 9}'
    )
    spans = view.spans.assign(attributes=[said if each == "back" else None for each in view.spans["service"]])
    serving = serving_columns(replace(view, spans=spans), np.arange(ROWS) < BEFORE)
    back = view.services.index("back")
    assert np.nanmax(serving.columns["step"][:, back]) == pytest.approx(0.02)
    assert np.nansum(serving.columns["tokens"][:, back]) == pytest.approx(16)
    assert {"decode step times", "tokens", "spans"} <= set(serving.coverage.seen)
    assert "GPU clocks" in serving.coverage.missing


def test_latencies_stand_in_for_spans() -> None:
    view = steady(latency_p50=then(0.2, 0.5), serve_processing_latency_mean=then(0.15, 0.15))
    assert column(view, "gap") == pytest.approx(then(0.05, 0.35))


def test_scales_are_harmful_up() -> None:
    table = np.array([[100.0, 50.0]])
    assert BY_NAME["clock"].scaled(table)[0, 1] > BY_NAME["clock"].scaled(table)[0, 0]
    assert BY_NAME["stopped"].scaled(np.array([[0.0, 1.0]])).tolist() == [[0.0, 1.0]]
    small = BY_NAME["memory"].scaled(np.array([[2e6, 7e6]]))
    assert np.diff(small)[0, 0] < 0.1, "5 MB do not matter"


def test_no_column_is_made_of_nothing() -> None:
    view = steady(some_other_metric=[1.0] * ROWS)
    assert serving_columns(view, np.arange(ROWS) < BEFORE).columns == {}
    assert isinstance(view.metrics, pd.DataFrame)
