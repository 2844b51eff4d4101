"""Prometheus -> Parquet: ours against prometheus-api-client + pandas, on one real Prometheus in one run.

``python benchmarks/export.py [--series 2000] [--hours 1] [--step 5]`` fills a private Prometheus with synthetic series
(promtool), exports all of them with each exporter in a process of its own, in alternation, and prints wall time, CPU of
client and server, peak memory and Parquet size, then ratios. Needs ``prometheus`` and ``prometheus-api-client`` with
pandas.
"""

from __future__ import annotations

import argparse
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
    from tasks.export.prometheus import PrometheusClient, TimeGrid, metrics_table

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


EXPORTERS = {OURS: export_ours, OTHER: export_other}


def measure_here(name: str, url: str, out: Path, seconds: int, step: int) -> dict[str, float]:
    began = time.perf_counter()
    EXPORTERS[name](url, out, seconds, step)
    wall = time.perf_counter() - began
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--series", type=int, default=2000)
    parser.add_argument("--hours", type=float, default=1)
    parser.add_argument("--step", type=int, default=5)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--exporter", choices=EXPORTERS, help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    seconds = int(options.hours * 3600)
    if options.exporter:
        print(json.dumps(measure_here(options.exporter, options.url, options.out, seconds, options.step)))
        return
    if shutil.which("prometheus") is None or shutil.which("promtool") is None:
        raise SystemExit("prometheus and promtool must be installed")
    with tempfile.TemporaryDirectory() as text:
        directory = Path(text)
        write_samples(directory / "samples.om", options.series, seconds, options.step)
        fill = ["promtool", "tsdb", "create-blocks-from", "openmetrics", "samples.om", "tsdb"]
        subprocess.run(fill, cwd=directory, check=True, capture_output=True)
        (directory / "samples.om").unlink()
        results: dict[str, list[dict[str, float]]] = {name: [] for name in EXPORTERS}
        with prometheus(directory) as (url, server):
            for _ in range(options.runs):
                for name in EXPORTERS:
                    out = directory / f"{name}.parquet"
                    results[name].append(measure(name, url, server, out, seconds, options.step))
            rows = check_equal(directory)
    print(
        f"{options.series} series x {options.hours:g} h at {options.step} s = {rows} samples; median of {options.runs}"
    )
    columns = list(results[OURS][0])
    print(f"{'':24}" + "".join(f"{column:>15}" for column in columns))
    medians = {n: [statistics.median(r[c] for r in runs) for c in columns] for n, runs in results.items()}
    for name, figures in medians.items():
        print(f"{name:24}" + "".join(f"{figure:15.2f}" for figure in figures))
    ratios = [other / ours for ours, other in zip(medians[OURS], medians[OTHER], strict=True)]
    print(f"{'ratio (other / ours)':24}" + "".join(f"{ratio:15.1f}" for ratio in ratios))


if __name__ == "__main__":
    main()
