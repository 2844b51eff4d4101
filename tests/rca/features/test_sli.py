"""What users saw: from which signal, and that a severe fault never makes it look better."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tasks.case import SIGNALS, Case, as_signal
from tasks.rca.features.sli import Telemetry
from tasks.rca.run.build_view import build_view, widen
from tasks.rca.view import SliSource
from tests.copies import copied
from tests.rca.views import T0, score_params
from tests.synthetic import synthetic_case

NAN = float("nan")
NONE = {name: schema.empty_table().to_pandas() for name, schema in SIGNALS.items()}


def at(seconds: float | None) -> pd.Timestamp | None:
    return None if seconds is None else T0 + pd.Timedelta(seconds=seconds)


def metrics(*columns: tuple[str, str, list[float]]) -> pd.DataFrame:
    """One row per second."""
    frames = [
        pd.DataFrame(
            {"time": [at(i) for i in range(len(values))], "service": service, "metric": metric, "value": values}
        )
        for service, metric, values in columns
    ]
    return widen(pd.concat(frames), T0)[0]


def rows(count: int) -> pd.DataFrame:
    return metrics(("a", "cpu_usage", [1.0] * count))


def requests(*lines: tuple[float, float | None, float | None, str | None, int | None]) -> pd.DataFrame:
    """Of (scheduled, first token, last token, error, status)."""
    table = pd.DataFrame(
        [(at(s), at(s), at(first), at(last), error, status) for s, first, last, error, status in lines],
        columns=["scheduled", "sent", "first_token", "last_token", "error", "status"],
    ).assign(request_id=[str(i) for i in range(len(lines))])
    return as_signal("requests", table).to_pandas()


def spans(*lines: tuple[str, str | None, str, float, float, int | None]) -> pd.DataFrame:
    """Of (id, parent, service, start, duration, status), all in one trace."""
    table = pd.DataFrame(
        [("t", span, parent, service, "x", at(start), d, status) for span, parent, service, start, d, status in lines],
        columns=SIGNALS["spans"].names[:-1],
    )
    return as_signal("spans", table).to_pandas()


def calls(*edges: tuple[str, str]) -> pd.DataFrame:
    return as_signal(
        "topology", pd.DataFrame([("calls", *e) for e in edges], columns=SIGNALS["topology"].names)
    ).to_pandas()


def telemetry(**given: object) -> Telemetry:
    tables = {"requests": NONE["requests"], "spans": NONE["spans"], "topology": NONE["topology"], "metrics": rows(5)}
    return Telemetry(**{"front_end": "a", **tables, **given})  # type: ignore[arg-type]  # by name


def test_a_request_counts_where_it_ended() -> None:
    served = requests((0.2, 0.3, 0.5, None, 200), (0.1, 0.2, 0.9, None, None), (0.8, 1.2, 3.8, None, 200))
    slis = telemetry(requests=served).slis()
    np.testing.assert_allclose(slis.latency.values, [NAN, 0.3 + 0.9 * 0.5, NAN, NAN, 3.0])
    np.testing.assert_allclose(slis.ttft.values, [NAN, 0.1, 0.4, NAN, NAN])
    np.testing.assert_allclose(slis.error_rate.values, [NAN, 0.0, NAN, NAN, 0.0])
    assert slis.latency.source == slis.ttft.source == slis.error_rate.source == SliSource("requests")


def test_a_failed_request_counts_as_its_time_out() -> None:
    lines = requests(
        (0.2, 0.3, 0.5, None, 200),
        (2.2, 2.3, 2.5, "stream ended early", 200),  # its stream failed 0.2 s after the first token
        (3.1, None, None, "http 503", 503),
        (3.2, 3.3, 3.4, None, 200),
    )
    slis = telemetry(requests=lines, timeout_s=20.0).slis()
    np.testing.assert_allclose(slis.latency.values, [NAN, 0.3, NAN, 20.0, 0.2 + 0.9 * 19.8])
    np.testing.assert_allclose(slis.error_rate.values, [NAN, 0, NAN, 1, 0.5])
    np.testing.assert_allclose(slis.ttft.values, [NAN, 0.1, NAN, 0.1, 0.1 + 0.9 * 19.9])


def test_what_never_answers_counts_in_the_last_row_if_the_recording_ends_first() -> None:
    lines = requests((0.2, 0.3, 0.5, None, 200), (2.1, None, None, "timeout", None), (4.5, None, None, "timeout", None))
    slis = telemetry(requests=lines, timeout_s=20.0, boundary=at(2)).slis()
    np.testing.assert_allclose(slis.latency.values, [NAN, 0.3, NAN, NAN, 20.0])
    np.testing.assert_allclose(slis.error_rate.values, [NAN, 0.0, NAN, NAN, 1.0])


def test_nothing_from_after_the_inject_time_counts_in_a_row_before_it() -> None:
    hung = requests((0.2, 0.3, 0.5, None, 200), (2.5, None, None, "timeout", None))
    sli = telemetry(requests=hung, metrics=rows(4), timeout_s=20.0, boundary=at(3.5)).slis().latency.values
    np.testing.assert_allclose(sli, [NAN, 0.3, NAN, NAN])


@pytest.mark.parametrize("error", ["timeout", "connection reset", "http 502", "error in stream"])
@pytest.mark.parametrize("share", [0.3, 1.0])
@pytest.mark.parametrize("knows_time_out", [True, False])
def test_the_worse_the_fault_the_worse_the_sli(tmp_path: Path, error: str, share: float, knows_time_out: bool) -> None:
    case = synthetic_case(tmp_path, baseline_s=25, fault_s=25, recovery_s=10)
    broken = with_failures(case, error, share, knows_time_out)
    healthy, view = build_view(case, score_params()), build_view(broken, score_params())
    before, after = (view.sli[view.sli.index < view.inject_time], view.sli[view.sli.index >= view.inject_time])
    assert after.max() >= (20.0 if knows_time_out else before.max())
    assert before.max() <= healthy.sli.max()
    nothing_served = view.error_rate == 1.0
    assert nothing_served.sum() > 3 or share < 1
    assert (view.sli[nothing_served] >= (20.0 if knows_time_out else before.max())).all()
    assert view.error_rate[view.sli.index >= view.inject_time].max() > 0.2
    assert not view.error_rate[view.sli.index < view.inject_time].any()


def with_failures(case: Case, error: str, share: float, knows_time_out: bool) -> Case:
    """The requests scheduled from the inject time on fail: at once, or 0.1 s after the first token."""
    table = case.requests.copy()
    late = (table["scheduled"] >= pd.Timestamp(case.record.injection_time)).to_numpy()
    hit = late & (np.random.default_rng(1).random(len(table)) < share)
    streaming = hit & (np.arange(len(table)) % 2 == 0) & (error != "timeout")
    table.loc[hit, "last_token"] = pd.NaT
    table.loc[hit & ~streaming, "first_token"] = pd.NaT
    table.loc[streaming, "last_token"] = table.loc[streaming, "first_token"] + pd.Timedelta("0.1s")
    table.loc[hit, "error"] = error
    table.loc[hit & ~streaming, "status"] = np.nan
    load = case.record.load.model_copy(update={"parameters": {"request_timeout_s": 20.0} if knows_time_out else {}})
    record = case.record.model_copy(update={"case_id": "broken", "load": load})
    return copied(case, record, {"requests": table})


FRONT_SPANS = [(f"s{i}", None, "a", i - 0.5, 0.4 + i / 100, 200) for i in range(1, 5)]


def test_without_requests_it_is_the_calls_into_the_front_end() -> None:
    inner = [("x", "s2", "a", 1.6, 9.0, 200), ("y", "s3", "b", 2.6, 0.3, 200), ("z", "y", "a", 2.9, 0.05, 500)]
    latency = [("a", "latency_p90", [7.0] * 5)]
    found = telemetry(spans=spans(*FRONT_SPANS, *inner), metrics=metrics(*latency)).slis()
    assert found.latency.source == SliSource("spans", services=("a",))
    z = 0.44  # a failed call counts as the slowest that did not fail
    np.testing.assert_allclose(found.latency.values, [NAN, 0.41, 0.42, 0.43 + 0.9 * (z - 0.43), 0.44])
    np.testing.assert_allclose(found.error_rate.values, [NAN, 0, 0, 0.5, 0])
    assert found.ttft.source.kind == "none"


def test_without_spans_it_is_a_latency_metric_of_the_front_end_in_a_declared_order() -> None:
    columns = [("a", "latency_p50", [5.0, 6]), ("b", "latency_p90", [1.0, 1]), ("a", "ttft_mean", [0.1, 0.2])]
    found = telemetry(metrics=metrics(*columns)).slis()
    np.testing.assert_array_equal(found.latency.values, [5, 6])
    assert found.latency.source == SliSource("metric", "latency_p50", ("a",))
    assert found.ttft.source == SliSource("metric", "ttft_mean", ("a",))
    found = telemetry(metrics=metrics(*columns, ("a", "latency_p90", [7.0, 8]))).slis()
    np.testing.assert_array_equal(found.latency.values, [7, 8])


def test_a_success_ratio_of_the_front_end_is_an_error_rate() -> None:
    found = telemetry(metrics=metrics(("a", "availability", [1.0, 0.75, 1.01]), ("b", "availability", [0.0, 0, 0])))
    np.testing.assert_allclose(found.slis().error_rate.values, [0, 0.25, 0])
    assert found.slis().error_rate.source == SliSource("metric", "availability", ("a",))


def test_without_any_of_the_front_end_it_is_the_latency_nearest_below() -> None:
    columns = metrics(
        ("a", "cpu_usage", [1.0, 1, 1]),
        ("c", "latency_p90", [2.0, 4, NAN]),
        ("d", "latency_p90", [4.0, 6, 8]),
        ("e", "latency_p90", [9.0, 9, 9]),
        ("f", "latency_p90", [5.0, 5, 5]),
    )
    edges = calls(("a", "b"), ("b", "c"), ("b", "d"), ("c", "e"), ("f", "a"))
    found = telemetry(metrics=columns, topology=edges).slis().latency
    np.testing.assert_allclose(found.values, [3, 5, 6])  # c is silent at last: it counts as it last was
    assert found.source == SliSource("below", "latency_p90", ("c", "d"))
    unknown = telemetry(metrics=columns, topology=calls(("f", "a"), ("c", "d"))).slis().latency
    assert unknown.source == SliSource("below", "latency_p90", ("c", "d", "e", "f"))
    np.testing.assert_allclose(unknown.values, [5, 6, 6.5])
    known = telemetry(metrics=columns, topology=calls(("a", "b"), ("f", "a"))).slis().latency
    assert known.source.kind == "none"
    seen = spans(("1", None, "a", 0, 1, None), ("2", "1", "d", 0, 1, None)).query("span_id == '2' or service == 'a'")
    below = telemetry(metrics=columns, spans=seen.assign(duration=NAN)).slis().latency
    assert below.source == SliSource("below", "latency_p90", ("d",))


def test_a_source_that_reaches_into_both_windows_goes_first() -> None:
    """Spans that were only recorded around the fault say nothing of what is normal."""
    columns = metrics(("a", "latency_p90", [7.0, 8, 9, 9, 9]))
    late = spans(*FRONT_SPANS[2:])
    assert telemetry(spans=late, metrics=columns, boundary=at(2)).slis().latency.source.kind == "metric"
    assert telemetry(spans=late, boundary=at(2)).slis().latency.source.kind == "spans"


def test_without_metrics_it_is_per_second() -> None:
    served = requests((0.2, 0.3, 0.5, None, None), (1.0, 1.1, 1.6, None, None))
    sli = telemetry(requests=served, metrics=NONE_WIDE).slis().latency.values
    np.testing.assert_allclose(sli, [0.3, 0.6])
    assert list(sli.index) == [at(1), at(2)]


NONE_WIDE = widen(pd.DataFrame({"time": [], "service": [], "metric": [], "value": []}), T0)[0]


def test_nothing_at_all() -> None:
    slis = telemetry(metrics=NONE_WIDE).slis()
    assert slis.latency.values.empty
    assert {slis.latency.source.kind, slis.ttft.source.kind, slis.error_rate.source.kind} == {"none"}
    assert telemetry().slis().latency.values.isna().all()
