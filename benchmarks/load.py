"""Jitter and cost of the load generator, beside a minimal aiohttp open loop.

A mock server in a process of its own on one core answers each request with its first token 30.0 ms after the request
arrived and more tokens every 5 ms; a generator runs on another core. Whatever is measured above 30.0 ms was added by
generator, kernel and machine.

    python benchmarks/load.py [--rates 100,200] [--seconds 15] [--repeats 1]
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tasks.load.run import start_generator
from tasks.load.spec import LoadSpec
from tasks.load.timer import ExactTimer
from tasks.params import LoadParams

TTFT_NS = 30_000_000
TTFT_MS = TTFT_NS / 1e6
GAP_NS = 5_000_000
TOKENS = 16
SERVER_CORE, GENERATOR_CORE = 0, 1
TOOLS = ("rcarena", "aiohttp")
COLUMNS = (
    "req/s",
    "tool",
    "achieved",
    "added TTFT from sent",
    "added TTFT from scheduled",
    "send lag",
    "CPU-s",
    "RSS MiB",
    "failed",
    "server late",
)


def _http_chunk(event: dict | str) -> bytes:
    payload = event if isinstance(event, str) else json.dumps(event)
    data = f"data: {payload}\n\n".encode()
    return b"%x\r\n%b\r\n" % (len(data), data)


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
FIRST = HEAD + _http_chunk({"choices": [{"index": 0, "delta": {"role": "assistant", "content": "t"}}]})
MIDDLE = _http_chunk({"choices": [{"index": 0, "delta": {"content": "t"}}]})
USAGE = {"choices": [], "usage": {"prompt_tokens": 24, "completion_tokens": TOKENS}}
LAST = MIDDLE + _http_chunk(USAGE) + _http_chunk("[DONE]") + b"0\r\n\r\n"


class Agenda:
    """What the mock server has to write and when: exact to the timer's wake-up, without busy waiting.

    ``lateness_ms``: how late each first token left, seen from the server.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.due: list[tuple[int, int, asyncio.Transport]] = []
        self.timer = ExactTimer(loop, self.write_due)
        self.lateness_ms: list[float] = []

    def add(self, when: int, index: int, transport: asyncio.Transport) -> None:
        heapq.heappush(self.due, (when, index, transport))
        if self.due[0][0] == when:
            self.timer.arm(when)

    def write_due(self) -> None:
        while self.due and self.due[0][0] <= (now := time.monotonic_ns()):
            when, index, transport = heapq.heappop(self.due)
            if index == 0:
                self.lateness_ms.append((now - when) / 1e6)
            transport.write(FIRST if index == 0 else MIDDLE if index < TOKENS - 1 else LAST)
            if index < TOKENS - 1:
                heapq.heappush(self.due, (when + GAP_NS, index + 1, transport))
        if self.due:
            self.timer.arm(self.due[0][0])


class MockServer(asyncio.Protocol):
    """Answers every POST the same way."""

    def __init__(self, agenda: Agenda) -> None:
        self.agenda = agenda
        self.buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        arrival = time.monotonic_ns()
        self.buffer += data
        head, separator, body = self.buffer.partition(b"\r\n\r\n")
        if not separator:
            return
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        if len(body) >= length:
            self.buffer = body[length:]
            self.agenda.add(arrival + TTFT_NS, 0, self.transport)


def serve() -> None:
    """Print the port, serve until standard input closes, print own lateness."""
    os.sched_setaffinity(0, {SERVER_CORE})
    loop = asyncio.new_event_loop()
    agenda = Agenda(loop)
    server = loop.run_until_complete(loop.create_server(lambda: MockServer(agenda), "127.0.0.1", 0))
    print(server.sockets[0].getsockname()[1], flush=True)
    loop.add_reader(sys.stdin.fileno(), loop.stop)
    loop.run_forever()
    print(json.dumps([round(float(x), 3) for x in np.percentile(agenda.lateness_ms, (50, 99))]))


async def aiohttp_loop(url: str, rate: float, seconds: float, out: Path) -> None:
    """The comparison: as little as one can write with aiohttp."""
    import aiohttp

    rows: list[list[float]] = []

    async def request(session: aiohttp.ClientSession, scheduled: float) -> None:
        sent = time.monotonic()
        body = {"model": "m", "messages": [{"role": "user", "content": "w1 " * 24}], "stream": True}
        first = None
        async with session.post(f"{url}/v1/chat/completions", json=body) as response:
            async for line in response.content:
                if line.startswith(b"data: {"):
                    choices = json.loads(line[6:])["choices"]
                    if first is None and choices and choices[0]["delta"].get("content"):
                        first = time.monotonic()
        rows.append([scheduled, sent, first or float("nan")])

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session, asyncio.TaskGroup() as group:
        start = time.monotonic() + 0.05
        for i in range(int(rate * seconds)):
            await asyncio.sleep(start + i / rate - time.monotonic())
            group.create_task(request(session, start + i / rate))
    out.write_text(json.dumps(rows))


@dataclass(frozen=True)
class Result:
    """One run. Times in milliseconds; ``added``: first token - scheduled (and - sent) - 30.0."""

    achieved_rate: float
    added_from_sent: tuple[float, float]
    added_from_scheduled: tuple[float, float]
    send_lag: tuple[float, float]
    cpu_s: float
    rss_mib: float
    failed: int
    server_lateness: tuple[float, float]


def measure(tool: str, rate: float, seconds: float, scratch: Path) -> Result:
    server = subprocess.Popen(
        [sys.executable, __file__, "--role", "server"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    try:
        url = f"http://127.0.0.1:{server.stdout.readline().strip()}"
        out = scratch / "out"
        pin = ["taskset", "--cpu-list", str(GENERATOR_CORE)]
        if tool == "rcarena":
            params = LoadParams(arrival="constant", rate=rate)
            spec = LoadSpec(params=params, url=url, model="m", duration_s=seconds, seed=1)
            process = start_generator(spec, out, argv_prefix=pin)
        else:
            command = [*pin, sys.executable, __file__, "--role", "aiohttp", "--url", url, "--rates", str(rate)]
            process = subprocess.Popen([*command, "--seconds", str(seconds), "--out", str(out)])
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{tool} failed with exit status {process.returncode}")
        lateness, _ = server.communicate(timeout=10)
    finally:
        server.kill()
        server.wait()
    table = read_rcarena(out) if tool == "rcarena" else np.array(json.loads(out.read_text()), dtype=float) * 1e3
    scheduled, sent, first = table[:, 0], table[:, 1], table[:, 2]
    answered = ~np.isnan(first)

    def percentiles(values: np.ndarray) -> tuple[float, float]:
        p50, p99 = np.percentile(values, (50, 99))
        return float(p50), float(p99)

    return Result(
        achieved_rate=(len(sent) - 1) / (sent.max() - sent.min()) * 1e3,
        added_from_sent=percentiles((first - sent)[answered] - TTFT_MS),
        added_from_scheduled=percentiles((first - scheduled)[answered] - TTFT_MS),
        send_lag=percentiles(sent - scheduled),
        cpu_s=usage.ru_utime + usage.ru_stime,
        rss_mib=usage.ru_maxrss / 1024,
        failed=int((~answered).sum()),
        server_lateness=tuple(json.loads(lateness)),
    )


def read_rcarena(out: Path) -> np.ndarray:
    """scheduled, sent, first token in milliseconds after the first scheduled time."""
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    origin = min(row["scheduled"] for row in rows)
    columns = ("scheduled", "sent", "first_token")
    return np.array(
        [[float("nan") if row[c] is None else (row[c] - origin) / 1e6 for c in columns] for row in rows], dtype=float
    )


def show(rate: float, tool: str, result: Result) -> None:
    def pair(values: tuple[float, float]) -> str:
        return f"{values[0]:.2f} / {values[1]:.2f}"

    print(
        f"| {rate:g} | {tool} | {result.achieved_rate:.1f} | {pair(result.added_from_sent)} "
        f"| {pair(result.added_from_scheduled)} | {pair(result.send_lag)} | {result.cpu_s:.2f} | {result.rss_mib:.0f} "
        f"| {result.failed} | {pair(result.server_lateness)} |",
        flush=True,
    )


def ratios(rate: float, ours: list[Result], other: list[Result]) -> None:
    """Ratios of the medians over the repeats."""

    def ratio(figure: Callable[[Result], float]) -> str:
        return f"{statistics.median(map(figure, ours)) / statistics.median(map(figure, other)):.2f}"

    print(
        f"{rate:g}/s, {' : '.join(TOOLS)}, median of {len(ours)}, lower is better: "
        f"added TTFT p50 {ratio(lambda r: r.added_from_scheduled[0])}, "
        f"p99 {ratio(lambda r: r.added_from_scheduled[1])}, "
        f"send lag p99 {ratio(lambda r: r.send_lag[1])}, CPU {ratio(lambda r: r.cpu_s)}, "
        f"RSS {ratio(lambda r: r.rss_mib)}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", default="100,200", help="requests per second, comma-separated")
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--role", choices=("server", "aiohttp"), help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    rates = [float(rate) for rate in options.rates.split(",")]
    if options.role == "server":
        serve()
    elif options.role == "aiohttp":
        asyncio.run(aiohttp_loop(options.url, rates[0], options.seconds, options.out))
    else:
        print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; p50 / p99 in ms")
        print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
        runs: dict[tuple[float, str], list[Result]] = {}
        with tempfile.TemporaryDirectory() as scratch:
            for _, rate, tool in itertools.product(range(options.repeats), rates, TOOLS):
                result = measure(tool, rate, options.seconds, Path(scratch))
                runs.setdefault((rate, tool), []).append(result)
                show(rate, tool, result)
        for rate in rates:
            ratios(rate, *(runs[rate, tool] for tool in TOOLS))


if __name__ == "__main__":
    main()
