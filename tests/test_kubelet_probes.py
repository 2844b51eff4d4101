"""The rule of the stand-in for the kubelet's prober (benchmarks/kubelet_probes.py)."""

from __future__ import annotations

import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import groupby

from hypothesis import given
from hypothesis import strategies as st

from benchmarks.kubelet_probes import Probe, Prober, Verdict, execute, http_get

PROBES = st.builds(Probe, failure_threshold=st.integers(1, 5), success_threshold=st.integers(1, 5))


@given(PROBES, st.booleans(), st.lists(st.booleans(), max_size=60))
def test_the_verdict_is_that_of_the_last_run_that_was_long_enough(
    probe: Probe, passed: bool, results: list[bool]
) -> None:
    verdict = Verdict(probe, passed)
    changes = sum(verdict.take(result) for result in results)
    runs = [(result, len(list(same))) for result, same in groupby(results)]
    long_enough = [r for r, length in runs if length >= (probe.success_threshold if r else probe.failure_threshold)]
    assert verdict.passed == ([passed, *long_enough][-1])
    assert changes == len(list(groupby([passed, *long_enough]))) - 1


@given(st.integers(1, 8))
def test_a_container_that_hangs_is_noticed_after_its_threshold(threshold: int) -> None:
    verdict = Verdict(Probe(failure_threshold=threshold), passed=True)
    assert [verdict.take(False) for _ in range(threshold)] == [False] * (threshold - 1) + [True]


def test_a_prober_keeps_its_period_and_its_initial_delay() -> None:
    asked: list[float] = []

    def check(timeout_s: float) -> bool:
        asked.append(time.time())
        return len(asked) < 3

    began = time.time()
    probe = Probe(initial_delay_s=0.1, period_s=0.05, failure_threshold=2)
    prober = Prober(probe, check, passed=False, started_s=began).start()
    while len(prober.changes) < 2:
        time.sleep(0.01)
    prober.stop()
    assert [passed for _, passed in prober.changes] == [True, False]
    assert prober.noticed(began, time.time()) == prober.changes[1][0] >= asked[3]
    assert prober.noticed(began, asked[3]) is None
    assert prober.failed(began, asked[3] + 0.001) == (2, 4)
    assert all(at >= began + 0.1 + 0.05 * number for number, at in enumerate(asked))


def test_a_command_succeeds_by_its_status_within_its_time() -> None:
    assert execute([sys.executable, "-c", ""])(10)
    assert not execute([sys.executable, "-c", "raise SystemExit(1)"])(10)
    assert not execute(["sleep", "5"])(0.05)


def test_an_answer_succeeds_by_its_status_within_its_time() -> None:
    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/slow":
                time.sleep(0.3)
            self.send_response(int(self.path[1:]) if self.path[1:].isdecimal() else 200)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        found = {path: http_get(f"{url}/{path}")(2.0) for path in ("200", "204", "404", "503")}
        assert found == {"200": True, "204": True, "404": False, "503": False}
        assert not http_get(f"{url}/slow")(0.05)
        server.shutdown()
    assert not http_get(url)(0.5)
