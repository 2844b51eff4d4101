"""Prometheus -> Parquet: ours against prometheus-api-client + pandas, on one real Prometheus in one run.

``python benchmarks/export.py [--series 2000] [--hours 1] [--step 5]`` fills a private Prometheus with synthetic series
(promtool), exports all of them with each exporter in a process of its own, in alternation, and prints the time to
import its libraries, then the wall time of the export, CPU of client (imports included) and server, peak memory and
Parquet size, then ratios. ``--growth`` measures ours alone on 500 to 4,000 series and on 1 to 6 hours: its peak memory
should not grow. Needs ``prometheus`` and ``prometheus-api-client`` with pandas.
"""

from __future__ import annotations

import argparse
import importlib
import json
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import psutil

METRICS = 20
START = 1_760_400_000
OURS, OTHER = "rcarena", "prometheus-api-client"


def write_samples(file: Path, series: int, seconds: int, step: int) -> None:
    """Random walks as OpenMetrics text: ``METRICS`` names, the series spread over their label ``service``."""
    rng = np.random.default_rng(0)
    times = np.arange(START, START + seconds + 1, step)
    with file.open("w", encoding="ascii") as stream:
        for metric in range(METRICS):
            stream.write(f"# TYPE bench_{metric} gauge\n")
            for service in range(series // METRICS):
                values = np.round(100 + rng.standard_normal(len(times)).cumsum(), 3)
                name = f'bench_{metric}{{service="s{service}"}}'
                stream.write("".join(f"{name} {v} {t}\n" for v, t in zip(values, times, strict=True)))
        stream.write("# EOF\n")


@contextmanager
def prometheus(directory: Path) -> Iterator[tuple[str, psutil.Process]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = directory / "prometheus.yml"
    config.write_text("")
    command = [
        *("prometheus", f"--config.file={config}", f"--storage.tsdb.path={directory / 'tsdb'}"),
        *("--storage.tsdb.retention.time=50y", f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"),
    ]
    process = subprocess.Popen(command)
    try:
        url = f"http://127.0.0.1:{port}"
        for _ in range(300):
            try:
                urllib.request.urlopen(f"{url}/-/ready", timeout=1).close()
                break
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        yield url, psutil.Process(process.pid)
    finally:
        process.kill()
        process.wait()


def export_ours(url: str, out: Path, seconds: int, step: int) -> None:
    from tasks.export.base import Sink
    from tasks.export.sources.prometheus import PrometheusClient, TimeGrid, metrics_table

    grid = TimeGrid(START * 1000, step * 1000, seconds // step + 1)
    with PrometheusClient(url) as client, Sink("metrics", out) as sink:
        for metric in range(METRICS):
            for chunk in client.query_range(f"bench_{metric}", grid):
                sink.write(metrics_table(chunk, f"bench_{metric}", "1", "bench"))


def export_other(url: str, out: Path, seconds: int, step: int) -> None:
    import pandas as pd
    from prometheus_api_client import MetricRangeDataFrame, PrometheusConnect

    connection = PrometheusConnect(url=url, disable_ssl=True)
    chunk = 10_000 * step
    frames = []
    for metric in range(METRICS):
        for first in range(START, START + seconds + 1, chunk):
            last = min(first + chunk - step, START + seconds)
            answer = connection.custom_query_range(
                f"bench_{metric}",
                datetime.fromtimestamp(first, UTC),
                datetime.fromtimestamp(last, UTC),
                str(step),
            )
            frames.append(MetricRangeDataFrame(answer))
    pd.concat(frames).to_parquet(out, compression="zstd")


IMPORTS = {OURS: ("tasks.export.base",), OTHER: ("pandas", "prometheus_api_client", "pyarrow.parquet")}
EXPORTERS = {OURS: export_ours, OTHER: export_other}


def measure_here(name: str, url: str, out: Path, seconds: int, step: int) -> dict[str, float]:
    started = time.perf_counter()
    for module in IMPORTS[name]:
        importlib.import_module(module)
    began = time.perf_counter()
    EXPORTERS[name](url, out, seconds, step)
    wall = time.perf_counter() - began
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "import s": began - started,
        "wall s": wall,
        "client CPU s": usage.ru_utime + usage.ru_stime,
        "peak MiB": usage.ru_maxrss / 1024,
        "Parquet MiB": out.stat().st_size / 2**20,
    }


def measure(name: str, url: str, server: psutil.Process, out: Path, seconds: int, step: int) -> dict[str, float]:
    before = server.cpu_times()
    command = [sys.executable, __file__, "--exporter", name, "--url", url, "--out", str(out)]
    command += ["--hours", str(seconds / 3600), "--step", str(step)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    after = server.cpu_times()
    figures: dict[str, float] = json.loads(done.stdout)
    figures["server CPU s"] = after.user + after.system - before.user - before.system
    return figures


def check_equal(directory: Path) -> int:
    """Both files hold the same number of samples and the same sum."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    values = [pq.read_table(directory / f"{name}.parquet", columns=["value"]).column("value") for name in EXPORTERS]
    sums = [pc.sum(column.cast("float64")).as_py() for column in values]
    if len(values[0]) != len(values[1]) or abs(sums[0] - sums[1]) > 1e-6 * abs(sums[0]):
        raise SystemExit(f"the exporters disagree: rows {[len(v) for v in values]}, sums {sums}")
    return len(values[0])


@contextmanager
def filled(series: int, seconds: int, step: int) -> Iterator[tuple[str, psutil.Process, Path]]:
    """URL and process of a Prometheus with the samples, and a directory for results."""
    with tempfile.TemporaryDirectory() as text:
        directory = Path(text)
        write_samples(directory / "samples.om", series, seconds, step)
        fill = ["promtool", "tsdb", "create-blocks-from", "openmetrics", "samples.om", "tsdb"]
        subprocess.run(fill, cwd=directory, check=True, capture_output=True)
        (directory / "samples.om").unlink()
        with prometheus(directory) as (url, server):
            yield url, server, directory


def compare(series: int, hours: float, step: int, runs: int) -> None:
    seconds = int(hours * 3600)
    results: dict[str, list[dict[str, float]]] = {name: [] for name in EXPORTERS}
    with filled(series, seconds, step) as (url, server, directory):
        for _ in range(runs):
            for name in EXPORTERS:
                results[name].append(measure(name, url, server, directory / f"{name}.parquet", seconds, step))
        rows = check_equal(directory)
    print(f"{series} series x {hours:g} h at {step} s = {rows} samples; median of {runs}")
    columns = list(results[OURS][0])
    print(f"{'':24}" + "".join(f"{column:>15}" for column in columns))
    medians = {n: [statistics.median(r[c] for r in runs) for c in columns] for n, runs in results.items()}
    for name, figures in medians.items():
        print(f"{name:24}" + "".join(f"{figure:15.2f}" for figure in figures))
    ratios = [other / ours for ours, other in zip(medians[OURS], medians[OTHER], strict=True)]
    print(f"{'ratio (other / ours)':24}" + "".join(f"{ratio:15.1f}" for ratio in ratios))


def growth(step: int) -> None:
    print(f"{'series':>8}{'hours':>8}{'samples':>12}{'peak MiB':>12}")
    for series, hours in ((500, 1), (1000, 1), (2000, 1), (4000, 1), (500, 3), (500, 6)):
        with filled(series, hours * 3600, step) as (url, server, directory):
            figures = measure(OURS, url, server, directory / "out.parquet", hours * 3600, step)
        print(f"{series:8}{hours:8}{series * (hours * 3600 // step + 1):12}{figures['peak MiB']:12.1f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--series", type=int, default=2000)
    parser.add_argument("--hours", type=float, default=1)
    parser.add_argument("--step", type=int, default=5)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--growth", action="store_true")
    parser.add_argument("--exporter", choices=EXPORTERS, help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.exporter:
        seconds = round(options.hours * 3600)
        print(json.dumps(measure_here(options.exporter, options.url, options.out, seconds, options.step)))
        return
    if shutil.which("prometheus") is None or shutil.which("promtool") is None:
        raise SystemExit("prometheus and promtool must be installed")
    if options.growth:
        growth(options.step)
    else:
        compare(options.series, options.hours, options.step, options.runs)


if __name__ == "__main__":
    main()
