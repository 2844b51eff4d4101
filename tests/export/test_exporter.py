from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tasks.case import (
    METRICS,
    CaseRecord,
    CaseWriter,
    Completeness,
    Phase,
    Service,
    Stack,
    read_case,
)
from tasks.deploy.local.params import LocalDeployParams
from tasks.export import base
from tasks.export.base import ExportError, Sink, TelemetrySources, exporter
from tasks.export.derived_metrics import engine_metrics, number_attribute, serve_metrics
from tasks.export.exporter import check_metrics, export_case
from tasks.export.queries.metrics import METRIC_MAP
from tasks.export.sources.prometheus import TimeGrid
from tasks.params import ExportParams
from tasks.system.record_file import RecordFile

ROLES = LocalDeployParams(backend="local", replicas=2).roles()
STACK = Stack(backend="local", services=tuple(Service(name=s, role=r, node="n") for s, r in ROLES.items()))
STEPS = 20
PARAMS = ExportParams(step_s=1, rate_window_s=5)
ENGINE_ATTRIBUTES = {
    "gen_ai.latency.time_to_first_token": 0.05,
    "gen_ai.latency.time_in_queue": 0.00003,
    "gen_ai.latency.time_in_model_prefill": 0.04,
    "gen_ai.latency.time_in_model_decode": 0.3,
    "gen_ai.latency.e2e": 0.35,
    "gen_ai.usage.completion_tokens": 16,
}


def _spans(start: float, path: Path) -> None:
    """One trace a second per replica, as Ray Serve and vLLM send it."""
    file = RecordFile(path, 2**24)
    for i in range(STEPS):
        for r in range(2):
            trace, base_id = f"{i:015x}{r}" * 2, f"{i:06x}{r:02x}"
            chain = [
                ("ray-head", "proxy_http_request", "1", "f", 0.01, 0.5),
                ("ray-head", "route_to_replica", "2", "1", 0.02, 0.1),
                (f"ray-replicas-{r}", "replica_handle_request", "3", "2", 0.05, 0.45),
                (f"ray-replicas-{r}", "llm_request", "4", "3", 0.06, 0.4),
            ]
            for service, name, own, parent, since, until in chain:
                request = ExportTraceServiceRequest()
                resource = request.resource_spans.add()
                resource.resource.attributes.add(key="k8s.pod.name").value.string_value = service
                span = resource.scope_spans.add().spans.add(
                    name=name,
                    trace_id=bytes.fromhex(trace),
                    span_id=bytes.fromhex(base_id + own * 8),
                    parent_span_id=bytes.fromhex(base_id + parent * 8),
                    start_time_unix_nano=int((start + i + since) * 1e9),
                    end_time_unix_nano=int((start + i + until) * 1e9),
                )
                if name == "llm_request":
                    for key, value in ENGINE_ATTRIBUTES.items():
                        span.attributes.add(key=key).value.double_value = value
                file.append(request.SerializeToString())
    file.close()


def _access_log(start: float, path: Path) -> None:
    lines = []
    for i in range(STEPS):
        for r in range(2):
            trace, parent = f"{i:015x}{r}" * 2, f"{i:06x}{r:02x}" + "f" * 8
            entry = {
                "time": round(start + i + 0.51, 3),
                "request_id": "",
                "traceparent": f"00-{trace}-{parent}-01",
                "method": "POST",
                "uri": "/v1/chat/completions",
                "status": 200,
                "request_time": 0.51,
                "upstream_response_time": "0.500",
            }
            lines.append(json.dumps(entry, separators=(",", ":")))
    path.write_text("\n".join(lines) + "\n")


def _openmetrics(start: float) -> str:
    """Figures of the cgroup exporter and of Ray for every service, from before the window to its end."""
    counters = (
        "container_cpu_usage_seconds",
        "container_network_receive_bytes",
        "container_network_transmit_bytes",
        "container_cpu_cfs_throttled_seconds",
        "container_network_receive_packets_dropped",
        "container_network_transmit_packets_dropped",
        "ray_vllm_generation_tokens",
        "ray_vllm_prompt_tokens",
        "ray_serve_num_http_requests",
        "ray_serve_deployment_request_counter",
    )
    asked = {series for spec in METRIC_MAP for v in spec.variants_of("processes") for series in v.series}
    gauges = {
        **dict.fromkeys(sorted(s for s in asked if s.startswith("container_") and not s.endswith("_total")), 1),
        "container_memory_failcnt": 0,
        "container_memory_working_set_bytes": 1e9,
        "container_memory_rss": 9e8,
        "container_processes": 5,
        "container_spec_cpu_quota": 60_000,
        "container_spec_cpu_period": 100_000,
        "ray_vllm_num_requests_running": 1,
        "ray_vllm_num_requests_waiting": 0,
        "ray_vllm_kv_cache_usage_perc": 0.1,
        "ray_serve_num_ongoing_http_requests": 1,
        "ray_serve_replica_processing_queries": 1,
        "ray_serve_deployment_queued_queries": 0,
        "ray_serve_deployment_replica_healthy": 2,
    }
    times = [int(start) + i for i in range(-10, STEPS + 5)]
    text = []
    for name in counters:
        text.append(f"# TYPE {name} counter")
        text += [f'{name}_total{{service="{s}"}} {0.3 * (t - times[0]):.3f} {t}' for s in ROLES for t in times]
    for name, value in gauges.items():
        text.append(f"# TYPE {name} gauge")
        text += [f'{name}{{service="{s}"}} {value} {t}' for s in ROLES for t in times]
    text.append("# TYPE up gauge")
    text += [f'up{{job="ray",service="{s}"}} 1 {t}' for s in ROLES for t in times]
    return "\n".join(text) + "\n"


@pytest.fixture
def window() -> tuple[datetime, datetime]:
    start = datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=STEPS + 10)
    return start, start + timedelta(seconds=STEPS)


@pytest.fixture
def sources(tmp_path: Path, window: tuple[datetime, datetime]) -> TelemetrySources:
    start = window[0].timestamp()
    _spans(start, tmp_path / "spans.otlp")
    _access_log(start, tmp_path / "access.log")
    directories = {}
    for service in ROLES:
        directories[service] = tmp_path / "logs" / service
        directories[service].mkdir(parents=True)
        line = f"{window[0] + timedelta(seconds=3):%Y-%m-%d %H:%M:%S},000\tINFO a.py:1 -- alive\n"
        (directories[service] / "service.log").write_text(line)
    return TelemetrySources(
        otlp_file=tmp_path / "spans.otlp",
        nginx_access_log=tmp_path / "access.log",
        log_dirs=directories,
        log_timezone="UTC",
        calls=(("nginx-proxy", "ray-head"),),
        settle_s=0,
    )


def _export(tmp_path: Path, sources: TelemetrySources, window: tuple[datetime, datetime], stack: Stack = STACK) -> Any:
    with CaseWriter(tmp_path / "cases", "c") as writer:
        found = export_case(writer, sources, window, PARAMS, stack)
        record = CaseRecord(
            case_id="c",
            campaign="x",
            stack=stack,
            front_end="nginx-proxy",
            phases=(Phase(name="baseline", start=window[0], end=window[1]),),
            completeness={**found, "requests": Completeness(status="missing")},
        )
        writer.finish(record)
    return found, read_case(tmp_path / "cases" / "c")


def test_whole_case_from_a_real_prometheus(
    tmp_path: Path,
    sources: TelemetrySources,
    window: tuple[datetime, datetime],
    start_prometheus: Callable[..., str],
) -> None:
    url = start_prometheus(_openmetrics(window[0].timestamp()))
    sources = TelemetrySources(**{**vars(sources), "prometheus_url": url})
    found, case = _export(tmp_path, sources, window)
    signals = ("metrics", "logs", "spans", "topology")
    assert {signal: (found[signal].status, found[signal].reason) for signal in signals} == dict.fromkeys(
        signals, ("complete", "")
    )
    metrics = case.metrics.set_index(["metric", "service", "time"])["value"].sort_index()
    late = window[0] + timedelta(seconds=12)
    assert metrics["cpu_usage", "ray-head", late] == pytest.approx(0.3, abs=1e-6)
    assert metrics["accelerator_utilization", "ray-replicas-1", late] == pytest.approx(0.5, abs=1e-6)
    assert metrics["latency_p50", "nginx-proxy", late] == pytest.approx(0.51)
    assert metrics["latency_p50", "ray-head", late] == pytest.approx(0.5)
    assert metrics["latency_p50", "ray-replicas-0", late] == pytest.approx(0.49)
    assert metrics["queue_time_mean", "ray-replicas-0", late] == pytest.approx(0.00003)
    assert metrics["inter_token_latency_mean", "ray-replicas-0", late] == pytest.approx(0.02)
    assert metrics["serve_processing_latency_mean", "ray-replicas-0", late] == pytest.approx(0.4)
    assert metrics["request_rate", "nginx-proxy", late] == pytest.approx(2)
    assert metrics["preemptions_rate", "ray-replicas-0", late] == 0
    assert not case.metrics.duplicated(["time", "service", "metric"]).any()
    sources_of = case.metrics.groupby("metric", observed=True)["source"].unique()
    assert set(sources_of["ttft_mean"]) == {"spans"}
    assert set(sources_of["request_rate"]) == {"spans", "ray_serve"}
    assert check_metrics(sources, window, PARAMS, STACK) == {}
    edges = case.topology[case.topology["relation"] == "calls"][["source", "target"]].to_numpy().tolist()
    assert ["ray-head", "ray-replicas-1"] in edges
    assert ["nginx-proxy", "ray-head"] in edges


def test_missing_sources_are_declared_and_never_faked(tmp_path: Path, window: tuple[datetime, datetime]) -> None:
    stack = Stack(backend="local", services=tuple(Service(name=s, role=r) for s, r in ROLES.items()))
    found, case = _export(tmp_path, TelemetrySources(settle_s=0), window, stack)
    assert {c.status for c in found.values()} == {"missing"}
    assert "the stack has no Prometheus" in found["metrics"].reason
    assert "the stack has no OTLP file" in found["spans"].reason
    assert "no log file of ray-head" in found["logs"].reason
    assert case.metrics.empty


def test_partial_signals_say_what_is_missing(
    tmp_path: Path,
    sources: TelemetrySources,
    window: tuple[datetime, datetime],
    start_prometheus: Callable[..., str],
) -> None:
    text = _openmetrics(window[0].timestamp())
    kept = [
        line
        for line in text.splitlines()
        if not (
            line.startswith("container_memory_rss{")
            and 'service="ray-replicas-1"' in line
            and int(line.rsplit(" ", 1)[1]) % 2 == 0
        )
        and 'container_processes{service="ray-head"}' not in line
    ]
    (sources.log_dirs["ray-head"] / "service.log").unlink()
    url = start_prometheus("\n".join(kept) + "\n")
    sources = TelemetrySources(**{**vars(sources), "prometheus_url": url})
    found, case = _export(tmp_path, sources, window)
    assert found["metrics"].status == "partial"
    assert f"no sample of processes for ray-head at {STEPS + 1} of {STEPS + 1} steps" in found["metrics"].reason
    assert "memory_rss" not in found["metrics"].reason, "a gap shorter than the look-back is no gap"
    assert found["logs"] == Completeness(status="partial", reason="no log file of ray-head")
    assert check_metrics(sources, window, PARAMS, STACK) == {"processes": ("ray-head",)}
    processes = case.metrics[case.metrics["metric"] == "processes"]
    assert "ray-head" not in set(processes["service"])


def test_odd_spans_and_log_lines_are_counted_in_the_case(
    tmp_path: Path, sources: TelemetrySources, window: tuple[datetime, datetime]
) -> None:
    """From the receiver's file, from a collector's and from the access log; what is good in them is all there."""
    assert sources.otlp_file is not None
    assert sources.nginx_access_log is not None
    good, _ = _export(tmp_path / "good", sources, window)
    content = sources.otlp_file.read_bytes()
    sources.otlp_file.write_bytes(content[:-1] + b"?")
    lines = sources.nginx_access_log.read_text().splitlines()
    lines[3:3] = ['{"time":"soon","request_time":1}', '{"time":null}', '{"time":[1]}', "[error] worker died", "{", "7"]
    lines[6:6] = [lines[0].replace('"request_time":0.51', f'"request_time":{odd}') for odd in ("-5", "1e300")]
    sources.nginx_access_log.write_text("\n".join(lines) + "\n")
    collected = tmp_path / "collected.json"
    collected.write_text('null\n{"resourceSpans":[5]}\nnot JSON\n{"resourceSpans":')
    sources = TelemetrySources(**{**vars(sources), "otlp_files": (collected,)})
    found, case = _export(tmp_path / "odd", sources, window)
    assert good["spans"] == Completeness(status="complete")
    assert found["spans"].status == "partial"
    for said in (
        "spans.otlp: left out 1 x a damaged record of the receiver",
        "collected.json: left out 1 x a line that is no export request",
        "collected.json: left out 1 x an entry of resourceSpans that is no object",
        "collected.json: left out 1 x a line that is not JSON",
        "collected.json ends within a line or message",
        "access.log: left out 3 x an entry without a time",
        "access.log: left out 2 x an entry whose duration cannot be",
    ):
        assert said in found["spans"].reason
    assert len(case.spans) == STEPS * 2 * 5 - 1


def test_prometheus_that_does_not_answer_fails_the_export(
    tmp_path: Path, sources: TelemetrySources, window: tuple[datetime, datetime], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.export.sources.prometheus.PrometheusClient.__init__.__defaults__", (1, 1, 0.01, None))
    sources = TelemetrySources(**{**vars(sources), "prometheus_url": "http://127.0.0.1:1"})
    with CaseWriter(tmp_path / "cases", "c") as writer, pytest.raises(ExportError, match="no answer after retries"):
        export_case(writer, sources, window, PARAMS, STACK)
    assert list((tmp_path / "cases").iterdir()) == []


def test_window_without_time_zone_is_refused(tmp_path: Path) -> None:
    with CaseWriter(tmp_path, "c") as writer, pytest.raises(ValueError, match="need a time zone"):
        export_case(writer, TelemetrySources(), (datetime(2026, 1, 1), datetime(2026, 1, 2)), PARAMS, STACK)


def test_sink_streams_row_groups_and_leaves_no_file_without_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "ROWS_PER_GROUP", 10)
    with Sink("metrics", tmp_path / "empty.parquet") as sink:
        sink.write(METRICS.empty_table())
    assert not (tmp_path / "empty.parquet").exists()
    rows = pd.DataFrame(
        {"time": pd.Timestamp("2026-01-01", tz="UTC"), "service": "a", "metric": "m", "value": [1.0, np.nan, np.inf]}
    )
    with Sink("metrics", tmp_path / "m.parquet") as sink:
        for i in range(10):
            sink.write(rows.assign(service=f"s{i}"))
    table = pq.read_table(tmp_path / "m.parquet")
    assert table.schema.equals(METRICS)
    assert (sink.rows, table.num_rows, table.column("value").null_count) == (30, 30, 0)
    assert pq.read_metadata(tmp_path / "m.parquet").num_row_groups >= 3
    assert table.column("service").cast("string").to_pylist()[::3] == [f"s{i}" for i in range(10)]


def test_a_new_exporter_registers_itself(tmp_path: Path, window: tuple[datetime, datetime]) -> None:
    @exporter("test-extra", "topology")
    def extra(context: Any, sink: Sink) -> list[str]:
        sink.write(pd.DataFrame({"relation": ["calls"], "source": ["nginx-proxy"], "target": ["ray-head"]}))
        return ["extra says so"]

    try:
        found, case = _export(tmp_path, TelemetrySources(settle_s=0), window)
        assert "extra says so" in found["topology"].reason
        assert len(case.topology[case.topology["relation"] == "calls"]) == 1
        with pytest.raises(ValueError, match="unknown signal 'metric'; allowed: metrics"):
            exporter("x", "metric")  # type: ignore[arg-type]
    finally:
        base.EXPORTERS.registered.pop("test-extra")


def test_engine_means_weigh_tokens_and_skip_spans_without_figures() -> None:
    attributes = [
        {"gen_ai.latency.time_in_model_decode": 0.3, "gen_ai.usage.completion_tokens": 4},
        {"gen_ai.latency.time_in_model_decode": 1.0, "gen_ai.usage.completion_tokens": 11},
        {"gen_ai.latency.e2e": 3.4e-05},
        {},
    ]
    spans = pd.DataFrame(
        {
            "service": "r",
            "operation": "llm_request",
            "start": pd.Timestamp(0, unit="s", tz="UTC").as_unit("ns"),
            "duration": 0.5,
            "attributes": pd.Series([json.dumps(a, separators=(",", ":")) for a in attributes], dtype="string"),
        }
    )
    np.testing.assert_array_equal(number_attribute(spans, "gen_ai.latency.e2e"), [np.nan, np.nan, 3.4e-05, np.nan])
    table = engine_metrics(spans, TimeGrid(0, 1000, 3), 1.0).pivot(index="time", columns="metric", values="value")
    assert table["inter_token_latency_mean"].iloc[1] == pytest.approx(1.3 / 13)
    assert table["decode_time_mean"].iloc[1] == pytest.approx(0.65)
    assert table["e2e_latency_mean"].iloc[1] == pytest.approx(3.4e-05)
    assert table.iloc[[0, 2]].isna().all(axis=None)
    assert serve_metrics(spans, TimeGrid(0, 1000, 3), 1.0).empty
