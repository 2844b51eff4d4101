"""Diagnosis of a live stack by Prometheus alone: a real one that holds a recorded case, or one that misbehaves."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from benchmarks.diagnose import attached, openmetrics, prometheus
from tasks.backends import backend_of
from tasks.case import read_case
from tasks.diagnose.diagnose import Question, diagnose
from tasks.diagnose.diagnosis import Diagnosis
from tasks.diagnose.errors import DiagnoseError
from tasks.diagnose.recording import LiveRecording
from tasks.export.base import ExportError
from tasks.params import validated
from tasks.workspace import Workspace
from tests.diagnose.conftest import TWO_ROOTS
from tests.export.emulators import Request, Response, json_response, serving
from tests.score.processes import InThisProcess

OVER_S = 60
LEFT_S = 14
"""The recorded case ended so long ago; the stack is looked at so long before its end, while its fault is on."""


def live(url: str, folder: Path, **diagnose_section: Any) -> LiveRecording:
    document = attached(read_case(TWO_ROOTS), url, 1)
    document["diagnose"] = diagnose_section
    params = validated(document, "test")
    return LiveRecording(backend_of(params, Workspace(folder)).live(), params)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, float]]:
    """A Prometheus with the recorded case, and an alert in it; and when the case ended."""
    if shutil.which("prometheus") is None:
        pytest.skip("prometheus is not installed")
    end_s = int(time.time()) - OVER_S
    more = "# TYPE ALERTS gauge\n"
    for at in range(end_s - 25, end_s):
        more += f'ALERTS{{alertname="Slow",alertstate="firing",service="ray-head"}} 1 {at}\n'
    with prometheus(tmp_path_factory.mktemp("prometheus"), openmetrics(read_case(TWO_ROOTS), end_s) + more) as url:
        yield url, end_s


@pytest.fixture(scope="session")
def found(server: tuple[str, float], tmp_path_factory: pytest.TempPathFactory) -> Diagnosis:
    folder = tmp_path_factory.mktemp("live")
    recording = live(server[0], folder)
    recording._ahead_s = server[1] - LEFT_S - time.time() + recording.sources.settle_s
    params = recording._params
    question = Question(("peerwise", "nsigma"), since_s=60)
    answer = diagnose(recording, question, params, folder / "incidents", open_pool=InThisProcess)
    assert isinstance(answer, Diagnosis)
    return answer


def test_the_root_that_metrics_alone_show_is_named(found: Diagnosis, server: tuple[str, float]) -> None:
    assert ("ray-replicas-0", "cpu-stress") in {(root.service, root.kind) for root in found.roots}
    truth = read_case(TWO_ROOTS).record
    moved_s = server[1] - max(phase.end for phase in truth.phases).timestamp()
    assert abs(found.change.timestamp() - moved_s - truth.injection_time.timestamp()) < 15
    assert (found.backend, found.services) == ("attached", 5)


def test_the_incident_holds_what_the_stack_tells(found: Diagnosis) -> None:
    record = read_case(found.case).record
    assert (record.kind, record.front_end, record.completeness["requests"].status) == (
        "incident",
        "nginx-proxy",
        "missing",
    )
    assert record.completeness["metrics"].status != "missing"
    assert not [line for line in found.missing if line.startswith("requests: ")]
    assert record.sampling.step_s == 1


def test_what_was_missing_names_the_series_that_would_fill_it(found: Diagnosis) -> None:
    assert found.speaker is not None
    assert "spans" in found.speaker.lacked
    assert any(
        line.startswith("memory_limit_hits of ") and "container_memory_failcnt" in line for line in found.missing
    )
    assert "What was missing" in (found.page or Path()).read_text()


def test_the_timeline_has_the_alert(found: Diagnosis) -> None:
    (alert,) = [event for event in found.events if event.kind == "alert"]
    assert (alert.service, alert.text) == ("ray-head", "Slow fires (service=ray-head)")
    assert "Slow fires" in (found.page or Path()).read_text()


def test_a_window_without_a_sample_is_one_line(server: tuple[str, float], tmp_path: Path) -> None:
    recording = live(server[0], tmp_path)
    question = Question(("nsigma",), at=datetime.now(UTC) - timedelta(hours=5))
    with pytest.raises(DiagnoseError, match=r"no sample of any metric from .* to .*") as error:
        diagnose(recording, question, recording._params, tmp_path)
    assert "\n" not in str(error.value)


def test_no_change_is_told_by_the_window_looked_at(server: tuple[str, float], tmp_path: Path) -> None:
    recording = live(server[0], tmp_path)
    start, end = recording.span(60)
    assert (end - start).total_seconds() == pytest.approx(60, abs=0.1)
    assert abs(end.timestamp() - time.time()) < 4


def clock_of(shift_s: float) -> Callable[[Request], Response]:
    def answer(request: Request) -> Response:
        now = time.time() + shift_s
        return json_response({"status": "success", "data": {"resultType": "scalar", "result": [now, f"{now}"]}})

    return answer


@pytest.mark.parametrize(("shift_s", "words"), [(120, "120 s ahead of"), (-45, "45 s behind")])
def test_clocks_that_differ_are_told(shift_s: float, words: str, tmp_path: Path) -> None:
    with serving(clock_of(shift_s)) as url:
        recording = live(url, tmp_path)
    assert words in recording.notes[0]
    assert recording.now.timestamp() - time.time() == pytest.approx(shift_s, abs=4)


def test_equal_clocks_are_not_worth_a_line(tmp_path: Path) -> None:
    with serving(clock_of(0.4)) as url:
        assert live(url, tmp_path).notes == ()


def slow(request: Request) -> Response:
    time.sleep(0.5)
    return Response(b"late")


@pytest.mark.parametrize(
    ("handle", "problem"),
    [
        (None, "no answer after retries: "),
        (slow, "no answer after retries: ReadTimeoutError"),
        (lambda request: Response(b"", 401), "HTTP 401: "),
        (lambda request: Response(b"<html>hello</html>"), "with a body that is not Prometheus's: '<html>hello</html>'"),
        (lambda request: Response(b"", 404), "HTTP 404"),
    ],
    ids=["nobody", "slow", "401", "another server", "404"],
)
def test_a_prometheus_that_does_not_answer_is_one_line(
    handle: Callable[[Request], Response] | None, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.diagnose.recording.CLOCK_TIMEOUT_S", 0.1)
    with ExitStack() as servers:
        url = servers.enter_context(serving(handle)) if handle else "http://127.0.0.1:1"
        with pytest.raises(ExportError) as error:
            live(url, tmp_path)
    assert str(error.value).startswith(f"Prometheus: {url}: ")
    assert problem in str(error.value)
    assert "\n" not in str(error.value)
