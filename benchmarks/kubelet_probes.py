"""A stand-in for the kubelet's prober, where there is no kubelet: the documented rule of liveness and readiness probes.

A check succeeds by a status from 200 to 399 (HTTP GET) or by exit status 0 (exec) within ``timeout_s``; it is made
every ``period_s``, one at a time; the verdict changes after ``failure_threshold`` or ``success_threshold`` equal
results in a row. https://kubernetes.io/docs/tasks/configure-pod-container/configure-liveness-readiness-startup-probes/
What follows a verdict is left out: nothing is restarted, nothing leaves a Service.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Check = Callable[[float], bool]
"""Makes one check within so many seconds."""


@dataclass(frozen=True)
class Probe:
    """The settings of a probe, with the defaults of the Kubernetes API."""

    initial_delay_s: float = 0.0
    period_s: float = 10.0
    timeout_s: float = 1.0
    failure_threshold: int = 3
    success_threshold: int = 1


KUBERAY_LIVENESS = Probe(initial_delay_s=30, period_s=5, timeout_s=2, failure_threshold=120)
"""What KubeRay gives a worker pod that sets none; for Ray 2.53 or newer an HTTP GET of the node's health."""
KUBERAY_SERVE_READINESS = Probe(initial_delay_s=10, period_s=5, timeout_s=2, failure_threshold=1)
"""The same of a RayService: an exec probe of the node's health, then of its Serve proxy."""


@dataclass
class Verdict:
    """What a probe says of a container. ``passed`` before the first result: True for liveness, False for readiness."""

    probe: Probe
    passed: bool
    _last: bool | None = None
    _run: int = 0

    def take(self, succeeded: bool) -> bool:
        """Take the result of a check; return whether the verdict changed."""
        self._run = self._run + 1 if succeeded == self._last else 1
        self._last = succeeded
        needed = self.probe.success_threshold if succeeded else self.probe.failure_threshold
        if self._run < needed or self.passed == succeeded:
            return False
        self.passed = succeeded
        return True


class Prober:
    """Probes a container that was started at ``started_s`` (Unix time) until ``stop``. ``results``: when each check
    began and whether it succeeded; ``changes``: when the verdict became what."""

    def __init__(self, probe: Probe, check: Check, passed: bool = True, started_s: float = 0.0) -> None:
        self.results: list[tuple[float, bool]] = []
        self.changes: list[tuple[float, bool]] = []
        self._probe, self._check, self._started_s = probe, check, started_s
        self._verdict = Verdict(probe, passed)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> Prober:
        self._thread.start()
        return self

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()

    def noticed(self, since_s: float, until_s: float) -> float | None:
        """Return when the verdict became failure in that time, None if it did not."""
        return next((at_s for at_s, passed in self.changes if since_s <= at_s < until_s and not passed), None)

    def failed(self, since_s: float, until_s: float) -> tuple[int, int]:
        """Return how many checks failed of how many that began in that time."""
        inside = [succeeded for at_s, succeeded in self.results if since_s <= at_s < until_s]
        return inside.count(False), len(inside)

    def _run(self) -> None:
        tick = time.monotonic()
        while not self._ended.wait(max(0.0, tick - time.monotonic())):
            tick = max(tick + self._probe.period_s, time.monotonic())
            began_s = time.time()
            if began_s - self._started_s < self._probe.initial_delay_s:
                continue
            succeeded = self._check(self._probe.timeout_s)
            self.results.append((began_s, succeeded))
            if self._verdict.take(succeeded):
                self.changes.append((time.time(), succeeded))


def http_get(url: str) -> Check:
    """Return a check that fetches ``url`` over a new connection."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def check(timeout_s: float) -> bool:
        end = time.monotonic() + timeout_s
        try:
            with opener.open(url, timeout=timeout_s) as answer:
                answer.read(10_000)
                return 200 <= answer.status < 400 and time.monotonic() <= end
        except (OSError, http.client.HTTPException):
            return False

    return check


def execute(command: Sequence[str]) -> Check:
    """Return a check that runs ``command`` and kills it, with what it started, when the time is over."""

    def check(timeout_s: float) -> bool:
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, process_group=0
        ) as started:
            try:
                return started.wait(timeout_s) == 0
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(started.pid, signal.SIGKILL)
                return False

    return check
