"""``rcarena dashboard`` with a Prometheus and a Grafana that are told what to answer."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.diagnose.diagnosis import Diagnosis
from tasks.diagnose.incidents import keep
from tests.backends.attached.params import attached
from tests.command import ROOT, rcarena_here
from tests.export.emulators import Request, Response, json_response, serving

CASE, INCIDENT = "case-5df9384ac027", "incident-20261130-040000"


def _prometheus(request: Request) -> Response:
    """Has two names of series, and answers for the requests that run only."""
    if not request.path.endswith("/query_range"):
        return json_response({"status": "success", "data": ["vllm:num_requests_running", "up"]})
    (query,), (start,) = request.fields["query"], request.fields["start"]
    answered = query.startswith("sum by (pod) (vllm:")
    found = [{"metric": {"pod": "vllm-0"}, "values": [[float(start), "1"]]}] if answered else []
    return json_response({"status": "success", "data": {"resultType": "matrix", "result": found}})


@pytest.fixture
def run(tmp_path: Path) -> Any:
    """Runs the command on a workspace with one recorded case."""
    place = tmp_path / "w" / "cases"
    place.mkdir(parents=True)
    shutil.copytree(ROOT / "tests/recorded_cases" / CASE, place / CASE)

    def call(*words: str) -> Any:
        with serving(_prometheus) as url:
            service = {"name": "vllm", "role": "replica", "labels": [{"pod": "vllm-0"}]}
            (tmp_path / "params.yaml").write_text(yaml.safe_dump(attached(url, [service])))
            where = ("--params", str(tmp_path / "params.yaml"), "--workspace", str(tmp_path / "w"))
            return rcarena_here("dashboard", *where, "--out", str(tmp_path / "grafana"), *words)

    return call


def test_files_are_written(run: Any, tmp_path: Path) -> None:
    done = run("--prometheus", "http://prometheus:9090")
    assert done.exit_code == 0, done.output
    assert "1 panels" in done.stdout
    board = json.loads((tmp_path / "grafana/dashboards/attached.json").read_text())
    assert [panel["title"] for panel in board["panels"]] == ["saturation", "requests_running"]
    assert (board["uid"], board["title"]) == ("rcarena-attached", "RCArena: attached")
    for name in ("dashboards", "datasources"):
        assert yaml.safe_load((tmp_path / f"grafana/provisioning/{name}/rcarena.yaml").read_text())["apiVersion"] == 1
    assert "url: http://prometheus:9090\n" in (tmp_path / "grafana/provisioning/datasources/rcarena.yaml").read_text()


def test_injections_are_marked_once(run: Any, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("of-grafana")
    incidents = tmp_path / "w" / "incidents"
    incidents.mkdir()
    now = datetime(2026, 11, 30, 4, tzinfo=UTC)
    about = {"incident": INCIDENT, "campaign": "attached", "backend": "attached", "services": 1, "metrics": 1}
    times = {"start": now, "change": now, "end": now, "detected": True, "case": incidents / INCIDENT}
    keep(Diagnosis(**about, **times, answers=()), incidents)
    marks: list[dict[str, Any]] = []
    seen: set[str] = set()

    def grafana(request: Request) -> Response:
        seen.add(request.headers["Authorization"])
        if "tags" in request.fields:
            wanted = set(request.fields["tags"])
            return json_response([each for each in marks if wanted <= set(each["tags"])])
        (body,) = request.fields  # the emulator reads a body as a form
        marks.append(json.loads(body))
        return json_response({"id": len(marks)})

    with serving(grafana) as url:
        first = run("--annotate", url, "--token-file", str(tmp_path / "token"))
        again = run("--annotate", url, "--token-file", str(tmp_path / "token"))
    assert (first.exit_code, again.exit_code) == (0, 0), first.output + again.output
    assert "1 injections, 1 diagnoses marked" in first.stdout
    assert "0 injections, 0 diagnoses marked" in again.stdout
    mark, diagnosis = marks
    assert {INCIDENT, "rcarena", "diagnosis", "attached"} <= set(diagnosis["tags"])
    assert {CASE, "rcarena", "injection"} < set(mark["tags"])
    assert mark["time"] < mark["timeEnd"]
    assert seen == {"Bearer of-grafana"}


@pytest.mark.parametrize(
    ("response", "problem"),
    [
        (Response(b"", 401), "HTTP 401: the server asks for credentials"),
        (Response(b"", 404), "HTTP 404"),
    ],
)
def test_a_refusal_is_one_line(run: Any, response: Response, problem: str) -> None:
    with serving(lambda _: response) as url:
        done = run("--annotate", url)
    assert done.exit_code == 1
    assert problem in done.stderr
    assert run("--annotate", "grafana:3000").exit_code == 2
    assert run("--prometheus", "prometheus:9090").exit_code == 2
    withheld = run("--prometheus", "http://me:s3cret@prometheus:9090")
    assert withheld.exit_code == 2
    assert "s3cret" not in withheld.output


@pytest.mark.parametrize("body", [b"<html>", b"[1]", b"5", b"\xff"])
def test_a_server_that_is_no_grafana_is_one_line_without_the_password(run: Any, body: bytes) -> None:
    with serving(lambda _: Response(body)) as url:
        done = run("--annotate", url.replace("://", "://bob:s3cret@"))
    assert done.exit_code == 1
    assert "answers no annotations" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "s3cret" not in done.output
    for wrong in (
        "http://bob:s3cret@127.0.0.1:1",
        "bob:s3cret@grafana:3000",
        "http://bob:s3cret@[x",
        "ftp://a:s3cret@b",
    ):
        done = run("--annotate", wrong)
        assert done.exit_code in (1, 2), done.output
        assert "s3cret" not in done.output
