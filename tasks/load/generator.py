"""The load generator: a process of its own, so that nothing disturbs its timing.

``python -m tasks.load.generator SPEC OUT`` reads a ``LoadSpec`` (JSON) and writes one JSON row per request to OUT while
it runs. Heavy libraries stay out of this process: ``tasks.load.run.read_run`` turns OUT into the case's table.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import logging
import os
import resource
import secrets
import signal
import ssl
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import orjson

from tasks.errors import ParamsError
from tasks.load.api_key import ApiKey
from tasks.load.connection import Exchange, Pool
from tasks.load.prompts import POOL_WORDS, BodyWriter
from tasks.load.schedule import draw_schedule
from tasks.load.spec import LoadSpec, read_spec
from tasks.load.timer import ExactTimer

log = logging.getLogger(__name__)

ODDITIES = "oddities"
"""Key of a row beside the columns of the case's table: what was wrong with an answer that was read all the same."""

_NS = 1_000_000_000
_LEAD_NS = 50_000_000
_TICK_S = 0.1
_REPORT_EVERY_TICKS = 10

LINGER_NS = 500_000_000
"""A response may stay open this long behind its last event; then the connection is dropped."""


@dataclass(frozen=True)
class Progress:
    """Progress of a run. ``total``: scheduled requests; ``open``: sent and not finished."""

    elapsed_s: float
    total: int
    sent: int
    finished: int
    failed: int

    @property
    def open(self) -> int:
        return self.sent - self.finished


class Generator:
    """A run. ``run`` returns when every request is finished, or soon after ``stop``."""

    def __init__(
        self,
        spec: LoadSpec,
        out: Path,
        on_progress: Callable[[Progress], None] | None = None,
        api_key: ApiKey | None = None,
    ) -> None:
        params = spec.params
        self._spec = spec
        self._out = out
        self._on_progress = on_progress
        self._schedule = draw_schedule(params, spec.duration_s, spec.seed, POOL_WORDS, spec.fault_start_s)
        self._bodies = BodyWriter(params, spec.model, spec.seed)
        self._request_head = request_head(spec, api_key)
        self._timeout_ns = round(params.request_timeout_s * _NS)
        self._run_id = secrets.token_hex(4)
        self._wall_minus_monotonic = _wall_minus_monotonic()
        self._open: dict[int, Exchange] = {}
        self._rows: list[bytes] = []
        self._next = 0
        self._failed = 0
        self._odd: Counter[str] = Counter()
        self._ticks = 0

    async def run(self) -> None:
        """Send everything on schedule, wait for the answers, write the rows.

        Raises:
            OSError: OUT cannot be written.
        """
        loop = asyncio.get_running_loop()
        server = self._spec.server
        tls = ssl.create_default_context() if server.scheme == "https" else None
        port = server.port or (443 if tls else 80)
        self._over = loop.create_future()
        self._pool = Pool(loop, server.hostname or "", port, tls, self._finished)
        with self._out.open("wb") as self._file:
            self._timer = ExactTimer(loop, self._send_due)
            self._start_ns = self._start_time()
            ticker = loop.create_task(self._tick())
            gc.collect()
            gc.freeze()
            try:
                self._arm()
                await asyncio.wait({ticker, self._over}, return_when=asyncio.FIRST_COMPLETED)
                if ticker.done():
                    ticker.result()
            finally:
                ticker.cancel()
                self._timer.close()
                self._abandon("interrupted")
                self._pool.close()
                self._flush()
        self._report()
        for oddity, count in sorted(self._odd.items()):
            log.warning("%d answers with %s: each was read as far as it goes", count, oddity)

    def stop(self) -> None:
        """Send no more; requests still open are recorded as ``interrupted``."""
        if not self._over.done():
            self._over.set_result(None)

    def _start_time(self) -> int:
        """Return the monotonic time of offset zero of the schedule.

        It is the one asked for even if that has passed: shapes stay where the fault window is, and what was due by now
        leaves at once, with its send lag.
        """
        ready = time.monotonic_ns()
        if self._spec.start_at is None:
            return ready + _LEAD_NS
        wanted = round(self._spec.start_at * _NS) - self._wall_minus_monotonic
        if wanted < ready:
            log.warning("the start time had passed by %.3f s when the generator was ready", (ready - wanted) / _NS)
        return wanted

    def _due(self, index: int) -> int:
        return self._start_ns + int(self._schedule.offset_ns[index])

    def _arm(self) -> None:
        if self._next < len(self._schedule):
            self._timer.arm(self._due(self._next))
        elif not self._open:
            self.stop()

    def _send_due(self) -> None:
        while self._next < len(self._schedule) and not self._over.done():
            due = self._due(self._next)
            if due > time.monotonic_ns():
                break
            self._next += 1
            self._send(self._next - 1, due)
        self._arm()

    def _send(self, index: int, due: int) -> None:
        schedule = self._schedule
        body = self._bodies.body(
            int(schedule.prompt_start[index]), int(schedule.prompt_tokens[index]), int(schedule.output_tokens[index])
        )
        exchange = Exchange(index, f"{self._run_id}-{index:06d}", secrets.token_hex(16), due)
        own_headers = (
            f"x-request-id: {exchange.request_id}\r\ntraceparent: 00-{exchange.trace_id}-{secrets.token_hex(8)}-01\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        self._open[index] = exchange
        self._pool.send(exchange, self._request_head + own_headers.encode() + body)

    def _finished(self, exchange: Exchange) -> None:
        del self._open[exchange.index]
        self._failed += exchange.error is not None
        self._rows.append(self._row(exchange))
        if not self._open and self._next == len(self._schedule):
            self.stop()

    def _row(self, exchange: Exchange) -> bytes:
        stream = exchange.stream
        answered = exchange.response.status == 200
        self._odd.update(stream.oddities)
        row = {
            "request_id": exchange.request_id,
            "trace_id": exchange.trace_id,
            "scheduled": self._wall(exchange.scheduled),
            "sent": self._wall(exchange.sent),
            "first_token": self._wall(stream.first_token),
            "last_token": self._wall(stream.last_token),
            "tokens_in": stream.tokens_in,
            "tokens_out": stream.tokens_out if answered else None,
            "status": exchange.response.status,
            "error": exchange.error,
            ODDITIES: sorted(stream.oddities) or None,
        }
        return orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)

    def _wall(self, monotonic: int | None) -> int | None:
        return None if monotonic is None else monotonic + self._wall_minus_monotonic

    def _abandon(self, reason: str, sent_before: int | None = None) -> None:
        """Give up on open requests, all of them or those sent before a time; they are in the order of sending."""
        while self._open:
            exchange = next(iter(self._open.values()))
            if sent_before is not None and exchange.sent >= sent_before:
                return
            self._give_up(exchange, reason)

    def _give_up(self, exchange: Exchange, reason: str) -> None:
        self._pool.cancel(exchange)
        exchange.judge(reason)
        self._finished(exchange)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            self._ticks += 1
            now = time.monotonic_ns()
            self._abandon("timeout", now - self._timeout_ns)
            for exchange in self._pool.lingering(now - LINGER_NS):
                self._give_up(exchange, "stream ended early")
            self._flush()
            if self._ticks % _REPORT_EVERY_TICKS == 0:
                self._report()

    def _flush(self) -> None:
        """Write what has ended: somebody may decide by it while the run goes on."""
        if self._rows:
            self._file.write(b"".join(self._rows))
            self._file.flush()
            self._rows.clear()

    def _report(self) -> None:
        if self._on_progress is not None:
            elapsed = max(0, time.monotonic_ns() - self._start_ns) / _NS
            finished = self._next - len(self._open)
            self._on_progress(Progress(elapsed, len(self._schedule), self._next, finished, self._failed))


def request_head(spec: LoadSpec, api_key: ApiKey | None = None) -> bytes:
    """Return the beginning of every request's header; ``api_key`` goes out as a bearer token."""
    lines = [
        f"POST {spec.target} HTTP/1.1",
        f"Host: {spec.server.netloc}",
        "User-Agent: rcarena",
        "Accept: text/event-stream",
        "Accept-Encoding: identity",
        "Content-Type: application/json",
        *([f"Authorization: Bearer {api_key.secret}"] if api_key else []),
    ]
    return "".join(f"{line}\r\n" for line in lines).encode()


def _wall_minus_monotonic() -> int:
    """Return wall time minus monotonic time, once for the whole run: a step of the wall clock bends no latency."""
    readings = [(time.monotonic_ns(), time.time_ns(), time.monotonic_ns()) for _ in range(100)]
    before, wall, after = min(readings, key=lambda reading: reading[2] - reading[0])
    return wall - (before + after) // 2


class _ProgressLine:
    """A progress line on standard error: rewritten on a terminal, every ten seconds a new one elsewhere."""

    def __init__(self, duration_s: float) -> None:
        self._duration_s = duration_s
        self._terminal = sys.stderr.isatty()
        self._last = 0.0

    def __call__(self, progress: Progress) -> None:
        over = progress.finished == progress.total
        if not self._terminal and not over and progress.elapsed_s - self._last < 10:
            return
        self._last = progress.elapsed_s
        line = (
            f"load: {min(progress.elapsed_s, self._duration_s):.0f}/{self._duration_s:.0f} s, "
            f"sent {progress.sent}/{progress.total}, open {progress.open}, failed {progress.failed}"
        )
        sys.stderr.write(f"\r\x1b[K{line}" + ("\n" if over else "") if self._terminal else f"{line}\n")
        sys.stderr.flush()


async def _run(generator: Generator, parent: int | None) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, generator.stop)
    if parent is None:
        await generator.run()
        return
    parent_fd = os.pidfd_open(parent)
    try:
        loop.add_reader(parent_fd, generator.stop)
        await generator.run()
    finally:
        loop.remove_reader(parent_fd)
        os.close(parent_fd)


def _allow_many_connections() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 the rows are written (also after SIGTERM or SIGINT), 1 failed, 2 wrong usage or specification."""
    parser = argparse.ArgumentParser(prog="python -m tasks.load.generator", description=__doc__)
    parser.add_argument("spec", type=Path, help="LoadSpec as JSON")
    parser.add_argument("out", type=Path, help="where to write the rows")
    parser.add_argument("--parent", type=int, help="stop when the process with this id ends")
    parser.add_argument("--nice", type=int, default=0, help="change of the scheduling priority; below 0 needs root")
    parser.add_argument("--progress", action="store_true", help="show a progress line on standard error")
    parser.add_argument("--api-key-on-stdin", action="store_true", help="send the API key that standard input holds")
    options = parser.parse_args(arguments)
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    try:
        spec = read_spec(options.spec)
        api_key = ApiKey.checked(sys.stdin.read(), "standard input") if options.api_key_on_stdin else None
    except ParamsError as error:
        log.error("%s", error)
        return 2
    with contextlib.suppress(PermissionError):
        os.nice(options.nice)
    _allow_many_connections()
    on_progress = _ProgressLine(spec.duration_s) if options.progress else None
    try:
        asyncio.run(_run(Generator(spec, options.out, on_progress, api_key), options.parent))
    except ParamsError as error:
        log.error("%s", error)
        return 2
    except ProcessLookupError:
        log.error("parent process %s does not exist", options.parent)
        return 1
    except OSError as error:
        log.error("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
