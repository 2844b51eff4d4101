"""Seconds and memory of every method, and how they grow with the number of services.

Each (method, view) pair runs as `rcarena score` runs it: in a child process, one thread, under limits. The synthetic
views are call trees (fan-out 4) of 5 to 500 services with 5 metrics and 600 rows each and 12 calls per second; the
"published" one is the size on which the reference code was timed: 5 services, 25 columns, 73 rows, 7,000 spans. Give
the project's own cases with --cases.

    python benchmarks/rca.py [--services 5,20,100,500] [--methods nsigma,baro] [--cases workspace/cases] [--timeout 120]
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from tasks.case import SIGNALS, read_cases
from tasks.params import ScoreParams
from tasks.rca.method import Method
from tasks.rca.registry import get_method, list_methods
from tasks.rca.run.build_view import build_view
from tasks.rca.run.pool import Limits, Outcome
from tasks.rca.run.runner import run_pairs
from tasks.rca.view import CaseView

REFERENCE_CPU_S = 135.0
"""What the published reference code needs for its 24 methods on a case of the published size, on two such cores."""
FAN_OUT = 4
SPANS_PER_TRACE = 5
START = pd.Timestamp("2026-01-02T03:04:05Z").as_unit("ns")


def synthetic_view(services: int, rows: int, step_s: float, spans: int, seed: int = 0) -> CaseView:
    """A call tree whose services feel the load and latency of those that they call; one leaf is broken."""
    rng = np.random.default_rng(seed)
    names = tuple(f"service-{i:03d}" for i in range(services))
    caller = np.maximum(np.arange(services) - 1, 0) // FAN_OUT
    inject_row = rows * 4 // 5
    broken = services - 1
    values = _metrics(rng, caller, rows, inject_row, broken)
    index = pd.DatetimeIndex(START + pd.to_timedelta(np.arange(rows) * step_s, unit="s"), name="time").as_unit("ns")
    labels = ["cpu_usage", "memory_working_set", "network_transmit", "accelerator_utilization", "latency_p90"]
    columns = pd.MultiIndex.from_product([names, labels], names=["service", "metric"])
    metrics = pd.DataFrame(values.transpose(1, 0, 2).reshape(rows, -1), index=index, columns=columns)
    topology = pd.DataFrame(
        [("calls", names[caller[i]], names[i]) for i in range(1, services)]
        + [("runs_on", name, f"node-{i // 8}") for i, name in enumerate(names)],
        columns=["relation", "source", "target"],
    )
    inject_time = index[inject_row]
    span_table = _spans(rng, names, caller, spans, index, inject_time, broken)
    logs = pd.DataFrame(
        {
            "time": span_table["start"].iloc[::5],
            "service": span_table["service"].iloc[::5],
            "level": "info",
            "message": "request finished",
            "template_id": None,
        }
    ).reset_index(drop=True)
    empty = SIGNALS["requests"].empty_table().to_pandas().drop(columns="request_id")
    return CaseView(
        services=names,
        roles={name: "gateway" if i == 0 else "replica" for i, name in enumerate(names)},
        front_end=names[0],
        inject_time=inject_time,
        metrics=metrics,
        sli=metrics[(names[0], "latency_p90")].rename("sli"),
        logs=logs,
        spans=span_table,
        requests=empty,
        topology=topology,
        content_key=f"benchmark-{services}-{rows}",
    )


def _metrics(rng: np.random.Generator, caller: np.ndarray, rows: int, inject_row: int, broken: int) -> np.ndarray:
    """(services, rows, 5): load runs down the tree, latency up."""
    services = len(caller)
    noise = rng.standard_normal((services, rows, 5))
    noise[:, 1:] += 0.5 * noise[:, :-1]
    load = np.zeros((services, rows))
    load[0] = noise[0, :, 0]
    for service in range(1, services):
        load[service] = 0.7 * load[caller[service]] + 0.7 * noise[service, :, 0]
    values = np.empty((services, rows, 5))
    values[..., 0] = 0.4 + 0.05 * load
    values[..., 1] = 1e9 + 1e7 * noise[..., 1]
    values[..., 2] = 5e4 * (1 + 0.1 * load + 0.05 * noise[..., 2])
    values[..., 3] = 0.5 + 0.05 * (0.8 * load + 0.5 * noise[..., 3])
    values[broken, inject_row:, 0] += 0.5
    latency = 0.05 + 0.005 * noise[..., 4] + 0.05 * np.maximum(values[..., 0] - 0.4, 0)
    for service in range(services - 1, 0, -1):
        latency[caller[service]] += 0.5 * latency[service]
    values[..., 4] = latency
    return values


def _spans(
    rng: np.random.Generator,
    names: tuple[str, ...],
    caller: np.ndarray,
    spans: int,
    index: pd.DatetimeIndex,
    inject_time: pd.Timestamp,
    broken: int,
) -> pd.DataFrame:
    """Each trace runs from the root to a random service; at most ``SPANS_PER_TRACE`` of its spans are kept."""
    chains = []
    for service in range(len(names)):
        chain = [service]
        while chain[-1] != 0:
            chain.append(int(caller[chain[-1]]))
        chains.append(np.array(chain[::-1])[-SPANS_PER_TRACE:])
    rounds = rng.integers(0, len(names), spans)
    lengths = np.array([len(chains[service]) for service in rounds])
    traces = int(np.searchsorted(np.cumsum(lengths), spans)) + 1
    ends, lengths = rounds[:traces], lengths[:traces]
    service = np.concatenate([chains[end] for end in ends])
    trace = np.repeat(np.arange(traces), lengths)
    depth = np.arange(len(trace)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    seconds = (index[-1] - index[0]).total_seconds()
    start = index[0] + pd.to_timedelta(np.sort(rng.uniform(0, seconds, traces))[trace] + 0.001 * depth, unit="s")
    hit = (service == broken) & (start >= inject_time)
    own = rng.gamma(9, 0.002, len(trace)) * np.where(hit, 10, 1)
    duration = pd.Series(own[::-1]).groupby(trace[::-1]).cumsum().to_numpy()[::-1]
    span = np.array([f"{i:016x}" for i in range(len(trace))])
    return pd.DataFrame(
        {
            "trace_id": [f"{i:032x}" for i in trace],
            "span_id": span,
            "parent_span_id": np.where(depth > 0, np.roll(span, 1), None),
            "service": pd.Categorical(np.array(names)[service], categories=names),
            "operation": pd.Categorical(np.full(len(trace), "call")),
            "start": pd.DatetimeIndex(start).as_unit("ns"),
            "duration": duration,
            "status_code": 200,
            "attributes": "{}",
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--services", default="5,20,100,500", help="sizes of the synthetic views")
    parser.add_argument("--methods", help="comma-separated names (default: all)")
    parser.add_argument("--cases", type=Path, help="directory of finished cases to time, too")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds per pair")
    parser.add_argument("--memory-mb", type=int, default=4096)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    methods = [get_method(name) for name in options.methods.split(",")] if options.methods else list_methods()
    limits = Limits(options.timeout, options.memory_mb)
    sizes = [int(size) for size in options.services.split(",")]

    published = _measure([("published", synthetic_view(5, 73, 5.0, 7000))], methods, limits)
    views = ((str(size), synthetic_view(size, 600, 1.0, 12 * 600)) for size in sizes)
    grown = _measure(views, methods, limits)
    _print_table(methods, published | grown, ["published", *map(str, sizes)])
    _print_total(methods, published)
    if options.cases:
        figures = _measure(_own_views(options.cases), methods, limits)
        labels = sorted({label for label, _ in figures})
        _print_table(methods, _mean_over(figures, methods, labels), ["own cases"])
        print(f"\nown cases: mean over {len(labels)}")
    if options.json:
        rows = [
            {"case": case, "method": name, "status": o.result.status, "message": o.result.message}
            | {"cpu_s": o.result.cpu_s, "wall_s": o.result.wall_s, "peak_mb": o.result.peak_mb}
            for (case, name), o in (published | grown).items()
        ]
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def _own_views(cases_dir: Path) -> Iterator[tuple[str, CaseView]]:
    params = ScoreParams.model_validate({"methods": ["random"], "profile": "llm"})
    for case in read_cases(cases_dir):
        yield case.record.case_id, build_view(case, params)


def _measure(
    views: Iterator[tuple[str, CaseView]] | list[tuple[str, CaseView]], methods: list[Method], limits: Limits
) -> dict[tuple[str, str], Outcome]:
    """One worker after another pair; each pair twice, the second time is kept: imports are paid in the first."""
    outcomes: dict[tuple[str, str], Outcome] = {}
    for label, view in views:
        for method in methods:
            for outcome in run_pairs([(label, view)] * 2, [method], limits=limits, seed=1, workers=1):
                outcomes[label, outcome.method] = outcome
                if outcome.result.status != "ok":
                    break
    return outcomes


def _mean_over(
    figures: dict[tuple[str, str], Outcome], methods: list[Method], labels: list[str]
) -> dict[tuple[str, str], Outcome]:
    from dataclasses import replace

    means = {}
    for method in methods:
        results = [figures[label, method.name].result for label in labels]
        failed = next((result for result in results if result.status != "ok"), results[0])
        mean = replace(
            failed,
            cpu_s=float(np.mean([result.cpu_s for result in results])),
            peak_mb=max(result.peak_mb for result in results),
        )
        means["own cases", method.name] = Outcome("own cases", method.name, mean)
    return means


def _print_table(methods: list[Method], figures: dict[tuple[str, str], Outcome], labels: list[str]) -> None:
    print("\n| method | " + " | ".join(f"{label} (CPU s, MiB)" for label in labels) + " | growth |")
    print("|---" * (len(labels) + 2) + "|")
    for method in methods:
        cells = [_cell(figures[label, method.name]) for label in labels]
        print(f"| {method.name} | " + " | ".join(cells) + f" | {_growth(figures, method.name, labels)} |")


def _cell(outcome: Outcome) -> str:
    result = outcome.result
    return (
        f"{result.cpu_s:.3f}, {result.peak_mb:.0f}" if result.status == "ok" else f"{result.status}: {result.message}"
    )


def _growth(figures: dict[tuple[str, str], Outcome], name: str, labels: list[str]) -> str:
    """Exponent of the CPU time in the number of services, between the two largest sizes that finished."""
    done = [
        (int(s), figures[s, name].result.cpu_s)
        for s in labels
        if s.isdigit() and figures[s, name].result.status == "ok"
    ]
    if len(done) < 2:
        return ""
    (small, before), (large, after) = done[-2:]
    return f"n^{math.log(after / before) / math.log(large / small):.1f} ({small} to {large})"


def _print_total(methods: list[Method], figures: dict[tuple[str, str], Outcome]) -> None:
    seconds = {method.name: figures["published", method.name].result.cpu_s for method in methods}
    total, causalrca = sum(seconds.values()), seconds.get("causalrca", 0.0)
    print(
        f"\npublished size: {len(methods)} methods in {total:.2f} CPU s, {total - causalrca:.2f} without causalrca; "
        f"the reference code takes about {REFERENCE_CPU_S:g} ({REFERENCE_CPU_S / total:.0f} times as long)"
    )


if __name__ == "__main__":
    main()
