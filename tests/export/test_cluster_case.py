"""A whole case from a cluster: a real Prometheus, and emulators of Loki, DeepFlow and the collector's file server."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tasks.case import CaseRecord, CaseWriter, Completeness, Phase, read_case
from tasks.export.base import ExportError, TelemetrySources
from tasks.export.exporter import export_case
from tasks.export.sources.http import HttpAccess, SecretSource
from tests.export.emulators import DeepFlowEmulator, FilesEmulator, LokiEmulator, Response, serving
from tests.export.sources.test_deepflow import _row
from tests.export.test_cluster_metrics import LENGTH, LIVES, PARAMS, PODS, STACK, START, T0, WINDOW, _cluster

NS = 1_000_000_000
NGINX_POD = next(iter(LIVES))


def _span(trace: int, number: int, parent: int, pod: str, name: str, since: float, until: float) -> dict[str, Any]:
    start = T0 + trace
    span = {
        "traceId": f"{trace:032x}",
        "spanId": f"{trace:08x}{number:08x}",
        "parentSpanId": f"{trace:08x}{parent:08x}",
        "name": name,
        "kind": 2,
        "startTimeUnixNano": str(round((start + since) * 1000) * 1_000_000),
        "endTimeUnixNano": str(round((start + until) * 1000) * 1_000_000),
        "attributes": [],
    }
    key = "service.name" if pod == "nginx-proxy" else "k8s.pod.name"
    resource = {"attributes": [{"key": key, "value": {"stringValue": pod}}]}
    return {"resourceSpans": [{"resource": resource, "scopeSpans": [{"spans": [span]}]}]}


def _spans() -> bytes:
    """NGINX's tracer, Ray Serve's proxy in a replica's pod, and vLLM, which names the gateway's span as its parent."""
    lines = []
    for trace in range(1, 59):
        pod = "worker-c" if trace % 2 else "worker-a" if trace < 30 else "worker-b"
        lines += [
            _span(trace, 1, 99, "nginx-proxy", "POST /v1", 0.0, 0.5),
            _span(trace, 2, 1, pod, "proxy_http_request", 0.01, 0.45),
            _span(trace, 3, 2, pod, "replica_handle_request", 0.02, 0.44),
            _span(trace, 4, 1, pod, "llm_request", 0.03, 0.43),
        ]
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def _loki() -> LokiEmulator:
    def labels(service: str, pod: str, **further: str) -> dict[str, str]:
        return {"namespace": "rcarena", "service": service, "pod": pod, **further}

    access = []
    for trace in range(1, 59):
        entry = {
            "time": T0 + trace + 0.5,
            "request_id": f"x-{trace}",
            "traceparent": "",
            "method": "POST",
            "uri": "/v1/chat/completions",
            "status": 200,
            "request_time": 0.5,
            "upstream_response_time": "0.480",
            "span_id": f"{trace:08x}{1:08x}",
        }
        access.append(((T0 + trace) * NS + 500_000_000, json.dumps(entry, separators=(",", ":"))))
    stamp = (START + timedelta(seconds=20)).strftime("%Y-%m-%d %H:%M:%S")
    late = (START + timedelta(seconds=45)).strftime("%Y-%m-%d %H:%M:%S")
    engine = [
        ((T0 + 21) * NS, f"ERROR {stamp},250 engine.py:1 -- step failed"),
        ((T0 + 21) * NS + 1, "Traceback (most recent call last):"),
        ((T0 + 21) * NS + 2, "ValueError: x"),
        ((T0 + 22) * NS, json.dumps({"log": "INFO:     10.0.0.1:5 - done\n", "stream": "stdout"})),
        ((T0 + LENGTH + 5) * NS, f"INFO {late},000 late.py:1 -- read late"),
        ((T0 + LENGTH + 25) * NS, "INFO after the window"),
    ]
    return LokiEmulator(
        [
            (labels("nginx-proxy", NGINX_POD), access),
            (labels("ray-replicas-0", "worker-a", source="ray"), engine),
            ({"namespace": "rcarena", "pod": "worker-b"}, [((T0 + 50) * NS, "INFO back again")]),
            (labels("ray-head", "rcarena-1-head"), [((T0 + 5) * NS, "WARNING 11-22 10:00:00 [x.py:3] slow")]),
            (labels("waypoint", "waypoint-1"), [((T0 + 5) * NS, "not of the stack")]),
        ],
        max_entries=40,
    )


def _write(tmp_path: Path, sources: TelemetrySources) -> tuple[dict[Any, Completeness], Any]:
    with CaseWriter(tmp_path / "cases", "c") as writer:
        found = export_case(writer, sources, WINDOW, PARAMS, STACK)
        record = CaseRecord(
            case_id="c",
            campaign="x",
            stack=STACK,
            front_end="nginx-proxy",
            phases=(Phase(name="baseline", start=WINDOW[0], end=WINDOW[1]),),
            completeness={**found, "requests": Completeness(status="missing")},
        )
        writer.finish(record)
    return found, read_case(tmp_path / "cases" / "c")


def test_whole_case(tmp_path: Path, start_prometheus: Callable[..., str]) -> None:
    token = tmp_path / "token"
    token.write_text("a-secret-token")
    flows = DeepFlowEmulator([_row(1, 1, pod_0=NGINX_POD, pod_1="rcarena-1-head", ip_0="", ip_1="")])
    loki, files = _loki(), FilesEmulator({"spans.jsonl": _spans()})
    with serving(loki) as loki_url, serving(flows) as deepflow_url, serving(files) as spans_url:
        sources = TelemetrySources(
            prometheus_url=start_prometheus(_cluster().text(), lookback="2s"),
            loki_url=loki_url,
            deepflow_url=deepflow_url,
            spans_url=spans_url,
            access={"loki": HttpAccess(token=SecretSource(file=token))},
            namespace="rcarena",
            pods=PODS,
            calls=(("ray-head", "ray-replicas-0"),),
            settle_s=0,
        )
        found, case = _write(tmp_path, sources)
    assert loki.queries[0].headers["Authorization"] == "Bearer a-secret-token"
    assert "a-secret-token" not in (case.path / "case.json").read_text()

    assert found["logs"].status == "partial"
    assert found["logs"].reason == "no log stream of ray-replicas-1"
    logs = case.logs.set_index("service")
    replica = case.logs[case.logs["service"] == "ray-replicas-0"].sort_values("time")
    assert replica["message"].tolist() == [
        "engine.py:1 -- step failed\nTraceback (most recent call last):\nValueError: x",
        "10.0.0.1:5 - done",
        "late.py:1 -- read late",
        "back again",
    ]
    seconds = (replica["time"] - START).dt.total_seconds().tolist()
    assert seconds == [20.25, 22, 45, 50], "a line says itself when it was written, if that is near"
    assert replica["level"].tolist()[:3] == ["error", "info", "info"]
    assert (logs.loc["ray-head", "level"], logs.loc["ray-head", "time"]) == ("warning", START + timedelta(seconds=5))
    assert len(logs.loc["nginx-proxy"]) == 58
    assert set(case.logs["service"]) == {"nginx-proxy", "ray-head", "ray-replicas-0"}

    assert found["spans"] == Completeness(status="complete")
    spans = case.spans
    gateway = spans[spans["service"] == "nginx-proxy"]
    assert len(gateway) == 58, "the access log adds no second span"
    engine = spans[spans["operation"] == "llm_request"].merge(
        spans, left_on=["trace_id", "parent_span_id"], right_on=["trace_id", "span_id"]
    )
    assert set(engine["operation_y"]) == {"replica_handle_request"}
    assert len(engine) == 58
    assert len(spans[spans["service"] == "ray-head"]) == 1, "from DeepFlow: the head has no tracer here"

    values = case.metrics.set_index(["metric", "service", "time"])["value"].sort_index()
    at = START + timedelta(seconds=20)
    assert values["latency_p50", "nginx-proxy", at] == pytest.approx(0.5)
    assert values["latency_p50", "ray-replicas-1", at] == pytest.approx(0.48), "what the gateway waited for"
    assert values["request_rate", "nginx-proxy", at] == pytest.approx(1)
    assert values["cpu_usage", "ray-replicas-1", at] == pytest.approx(0.6)
    assert values["serve_processing_latency_mean", "ray-replicas-1", at] == pytest.approx(0.43)
    edges = {tuple(edge) for edge in case.topology.astype(str).to_numpy().tolist()}
    assert {
        ("calls", "nginx-proxy", "ray-head"),
        ("calls", "nginx-proxy", "ray-replicas-0"),
        ("calls", "nginx-proxy", "ray-replicas-1"),
        ("calls", "ray-head", "ray-replicas-0"),
        ("runs_on", "ray-replicas-1", "n2"),
    } <= edges


@pytest.mark.parametrize("server", ["loki", "deepflow", "spans"])
def test_a_named_server_that_refuses_fails_the_export(tmp_path: Path, server: str) -> None:
    with serving(lambda _: Response(b"no", 403)) as url:
        sources = replace(TelemetrySources(namespace="rcarena", settle_s=0), **{f"{server}_url": url})
        with (
            CaseWriter(tmp_path / "cases", "c") as writer,
            pytest.raises(ExportError, match="HTTP 403: the server asks for credentials"),
        ):
            export_case(writer, sources, WINDOW, PARAMS, STACK)
