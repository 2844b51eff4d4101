"""An attached stack is looked at and remembered; what cannot be read is one clear line."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.errors import ParamsError
from tasks.params import validated
from tests.backends.attached.params import attached
from tests.command import rcarena_here
from tests.export.emulators import Request, Response, json_response, serving

REPLICAS = {"name": "vllm", "role": "replica", "replicas": 2, "each": "pod", "labels": [{"namespace": "serving"}]}
ROUTER = {"name": "router", "role": "gateway", "labels": [{"pod": "router-0"}]}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"prometheus": {"url": "http://me:secret@p:9090"}}, "deploy.prometheus.url: must not hold a password"),
        ({"services": []}, "deploy.services: Tuple should have at least 1 item"),
        ({"services": [{**REPLICAS, "each": None}]}, "deploy.services[0]: each: is needed"),
        ({"services": [{**ROUTER, "labels": [{"pod": "~("}]}]}, "labels[0].pod: not a regular expression"),
        ({"services": [ROUTER, ROUTER]}, "deploy: services: router: the name is given twice"),
        ({"replicas": 7}, "deploy: replicas: must be left out, or 2 as services say (got 7)"),
        ({"calls": [["router", "vllm"]]}, "deploy: calls: unknown service 'vllm'; allowed: router, vllm-0, vllm-1"),
        ({"allow_faults": True}, "deploy: faults: must be given with allow_faults"),
        (
            {"prometheus": {"url": "http://p", "auth": {"bearer": {"file": "/t", "env": "T"}}}},
            "deploy.prometheus.auth.bearer: give either file or env",
        ),
        (
            {"prometheus": {"url": "http://p", "auth": {"bearer": {"env": "T"}, "service_account": True}}},
            "deploy.prometheus.auth: give one of bearer, service_account",
        ),
        (
            {"prometheus": {"url": "http://p", "auth": {"bearer": "secret"}}},
            "deploy.prometheus.auth.bearer: must be a mapping",
        ),
    ],
)
def test_wrong_parameters_are_named(changes: dict[str, Any], problem: str) -> None:
    document = attached("http://p:9090", [ROUTER, REPLICAS])
    document["deploy"] |= changes
    with pytest.raises(ParamsError) as caught:
        validated(document, "params.yaml")
    assert problem in str(caught.value)
    assert "secret" not in str(caught.value)


def test_replicas_are_numbered_and_calls_follow_roles() -> None:
    deploy: Any = validated(attached("http://p:9090", [ROUTER, REPLICAS]), "params.yaml").deploy
    assert deploy.roles() == {"router": "gateway", "vllm-0": "replica", "vllm-1": "replica"}
    assert deploy.replicas == 2
    assert deploy.call_edges() == (("router", "vllm-0"), ("router", "vllm-1"))


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., Any]:
    """Runs a command on the attached stack whose Prometheus is at ``url``."""

    def run(url: str, *words: str, **deploy: Any) -> Any:
        file = tmp_path / "attached.yaml"
        file.write_text(yaml.safe_dump(attached(url, [ROUTER, REPLICAS], timeout_s=0.3, **deploy)))
        return rcarena_here(*words, "--params", str(file), "--workspace", str(tmp_path / "w"))

    return run


def prometheus(request: Request, skew_s: float = 0) -> Response:
    """Two engines and no router."""
    if request.path == "/api/v1/query" and request.one("query") == "time()":
        now = time.time() + skew_s
        return json_response({"status": "success", "data": {"resultType": "scalar", "result": [now, str(now)]}})
    if request.path == "/api/v1/query":
        result = [{"metric": {"pod": pod}, "value": [0, "1"]} for pod in ("vllm-a", "vllm-b")]
        found = [{**each, "metric": {**each["metric"], "namespace": "serving"}} for each in result]
        return json_response({"status": "success", "data": {"resultType": "vector", "result": found}})
    if request.path == "/api/v1/query_range":
        start, end, step = (float(request.one(name)) for name in ("start", "end", "step"))
        value = "1" if request.one("query").startswith("count") else "0"  # nobody has an open request
        values = [[start + i * step, value] for i in range(int((end - start) / step + 1e-6) + 1)]
        labels = [{"pod": pod, "namespace": "serving"} for pod in ("vllm-b", "vllm-a")]
        found = [{"metric": each, "values": values} for each in labels]
        return json_response({"status": "success", "data": {"resultType": "matrix", "result": found}})
    names = ["vllm:num_requests_running", "up"] if "__name__" in request.path else ["pod", "namespace"]
    return json_response({"status": "success", "data": names})


def test_it_is_attached_looked_at_and_forgotten(command: Callable[..., Any], tmp_path: Path) -> None:
    with serving(prometheus) as url:
        done = command(url, "deploy", "up")
        assert done.exit_code == 0, done.output
        assert "services: 2 of 3 have series; none of router" in done.output
        assert "gateway none: it is only read" in done.output
        runtime = json.loads((tmp_path / "w" / "stack" / "runtime.json").read_text())
        assert runtime["known"] == {"vllm": {"vllm-a": "vllm-0", "vllm-b": "vllm-1"}}
        assert "ready: 3 services of somebody else's stack" in command(url, "deploy", "status").output
        assert command(url, "preflight").exit_code == 0
    assert "the stack is down" in command(url, "deploy", "down").output
    assert "down: no stack is attached here" in command(url, "deploy", "status").output


def _slow(request: Request) -> Response:
    time.sleep(1)
    return prometheus(request)


def _empty(request: Request) -> Response:
    if request.path == "/api/v1/query":
        return prometheus(request)
    return json_response({"status": "success", "data": []})


def _foreign(request: Request) -> Response:
    if "__name__" in request.path:
        return json_response({"status": "success", "data": ["go_goroutines"]})
    return prometheus(request)


def _without_labels(request: Request) -> Response:
    if request.path == "/api/v1/query" and request.one("query") != "time()":
        return json_response({"status": "success", "data": {"resultType": "vector", "result": []}})
    if request.path == "/api/v1/query_range":
        return json_response({"status": "success", "data": {"resultType": "matrix", "result": []}})
    return prometheus(request)


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (_slow, "no answer after retries: ReadTimeoutError"),
        (_empty, "no sample of the last 10 minutes: is it the right server, and does it scrape?"),
        (_foreign, "none of the series that RCArena knows"),
        (_without_labels, "no series has the labels of any service: see deploy.services[].labels"),
        (lambda _: Response(b"Unauthorized", 401), "HTTP 401: the server asks for credentials"),
        (lambda _: Response(b"<html>Grafana</html>"), "a body that is not Prometheus's: '<html>Grafana</html>'"),
        (lambda _: Response(b"404 page not found", 404), "HTTP 404 with a body that is not Prometheus's"),
    ],
)
def test_what_cannot_be_read_is_one_line(
    command: Callable[..., Any], answer: Callable[[Request], Response], problem: str
) -> None:
    with serving(answer) as url:
        done = command(url, "deploy", "up")
    assert done.exit_code == 1
    (line,) = [each for each in done.stderr.splitlines() if each.startswith("rcarena: ")]
    assert problem in line


def test_a_wrong_endpoint_is_one_line(command: Callable[..., Any]) -> None:
    done = command("http://127.0.0.1:9", "deploy", "up")
    (line,) = (each for each in done.stderr.splitlines() if each.startswith("rcarena: "))  # beside other tests' logs
    assert line.startswith("rcarena: prometheus: http://127.0.0.1:9: no answer after retries: NewConnectionError")


@pytest.mark.parametrize(("skew_s", "text"), [(0.5, "against ours"), (-40, "40.0 s behind"), (7, "7.0 s ahead of")])
def test_another_clock_is_told(command: Callable[..., Any], skew_s: float, text: str) -> None:
    with serving(lambda request: prometheus(request, skew_s)) as url:
        done = command(url, "deploy", "up")
    assert done.exit_code == 0
    assert any("clock: " in line and text in line for line in done.output.splitlines())


def test_without_leave_nothing_is_broken(command: Callable[..., Any]) -> None:
    with serving(prometheus) as url:
        command(url, "deploy", "up")
        done = command(url, "inject", "cpu-stress", "vllm-0", "--duration", "3")
    assert done.exit_code == 2
    assert "is somebody else's" in done.stderr or "has no cpu-stress" in done.stderr
