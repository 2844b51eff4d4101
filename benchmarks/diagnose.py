"""How long `rcarena diagnose` takes on an attached fleet, and how much memory: ``python benchmarks/diagnose.py``.

A simulated case of the fleet, a fault in its last minutes, is put into a real Prometheus under the names that vLLM,
cAdvisor and DCGM use; the command then looks at the last half hour. Prints seconds (wall, CPU), peak memory of the
largest process, and what was named, for 100 and 500 replicas.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml

from tasks.case import Case

ROOT = Path(__file__).parents[1]
SIZES = (100, 500)
STEP_S = 15


@dataclass(frozen=True)
class Series:
    """A series that fills a canonical metric: its samples, the running sum of a rate, or sum and count of a mean."""

    name: str
    kind: Literal["gauge", "rate", "mean"]
    labels: str = ""
    scale: float = 1.0


_POD = 'container="main"'
_NIC = 'interface="eth0"'
SERIES: dict[str, Series] = {
    "cpu_usage": Series("container_cpu_usage_seconds_total", "rate", _POD),
    "cpu_throttled": Series("container_cpu_cfs_throttled_seconds_total", "rate", _POD),
    "memory_working_set": Series("container_memory_working_set_bytes", "gauge", _POD),
    "memory_rss": Series("container_memory_rss", "gauge", _POD),
    "processes": Series("container_processes", "gauge", _POD),
    "network_receive": Series("container_network_receive_bytes_total", "rate", _NIC),
    "network_transmit": Series("container_network_transmit_bytes_total", "rate", _NIC),
    "requests_running": Series("vllm:num_requests_running", "gauge"),
    "requests_waiting": Series("vllm:num_requests_waiting", "gauge"),
    "kv_cache_usage": Series("vllm:kv_cache_usage_perc", "gauge"),
    "ttft_mean": Series("vllm:time_to_first_token_seconds", "mean"),
    "inter_token_latency_mean": Series("vllm:inter_token_latency_seconds", "mean"),
    "queue_time_mean": Series("vllm:request_queue_time_seconds", "mean"),
    "prefill_time_mean": Series("vllm:request_prefill_time_seconds", "mean"),
    "decode_time_mean": Series("vllm:request_decode_time_seconds", "mean"),
    "e2e_latency_mean": Series("vllm:e2e_request_latency_seconds", "mean"),
    "generation_tokens_rate": Series("vllm:generation_tokens_total", "rate"),
    "prompt_tokens_rate": Series("vllm:prompt_tokens_total", "rate"),
    "accelerator_utilization": Series("DCGM_FI_DEV_GPU_UTIL", "gauge", 'UUID="0"', 100.0),
    "gpu_sm_clock": Series("DCGM_FI_DEV_SM_CLOCK", "gauge", 'UUID="0"'),
    "gpu_power": Series("DCGM_FI_DEV_POWER_USAGE", "gauge", 'UUID="0"'),
    "gpu_power_limit": Series("DCGM_FI_DEV_POWER_MGMT_LIMIT", "gauge", 'UUID="0"'),
    "gpu_temperature": Series("DCGM_FI_DEV_GPU_TEMP", "gauge", 'UUID="0"'),
}


def openmetrics(case: Case, end_s: float) -> str:
    """Return the metrics of a case as OpenMetrics, moved so that the last sample is at ``end_s``, whole seconds.

    Every series has the labels ``pod``, the service, and ``role``.
    """
    table = case.metrics.dropna(subset="value")
    roles = {service.name: service.role for service in case.record.stack.services}
    seconds = table["time"].astype("int64") // 10**9
    table = table.assign(at=seconds + (int(end_s) - int(seconds.max())))
    families: dict[str, tuple[str, list[str]]] = {}
    for (metric, service), rows in table.groupby(["metric", "service"], observed=True):
        series = SERIES.get(str(metric))
        if series is None:
            continue
        rows = rows.sort_values("at").drop_duplicates("at")
        labels = ",".join(filter(None, [f'pod="{service}",role="{roles[str(service)]}"', series.labels]))
        at, values = rows["at"].to_numpy(), rows["value"].to_numpy(dtype=float) * series.scale
        steps = np.diff(at, prepend=at[0] - (at[1] - at[0] if len(at) > 1 else 1))
        if series.kind == "gauge":
            lines = families.setdefault(series.name, ("gauge", []))[1]
            lines += _lines(series.name, labels, at, values)
        elif series.kind == "rate":
            lines = families.setdefault(series.name.removesuffix("_total"), ("counter", []))[1]
            lines += _lines(series.name, labels, at, np.cumsum(values * steps))
        else:
            lines = families.setdefault(series.name, ("summary", []))[1]
            lines += _lines(f"{series.name}_sum", labels, at, np.cumsum(values * steps))
            lines += _lines(f"{series.name}_count", labels, at, np.cumsum(1.0 * steps))
    parts = [line for family, (kind, lines) in families.items() for line in (f"# TYPE {family} {kind}", *lines)]
    return "\n".join(parts) + "\n"


def _lines(name: str, labels: str, at: np.ndarray, values: np.ndarray) -> list[str]:
    return [f"{name}{{{labels}}} {value:.9g} {time}" for time, value in zip(at.tolist(), values.tolist(), strict=True)]


def attached(case: Case, prometheus_url: str, step_s: float) -> dict[str, Any]:
    """Return parameters that attach to the stack of a case in ``prometheus_url``."""
    services: list[dict[str, Any]] = [
        {"name": service.name, "role": service.role, "labels": [{"pod": service.name}]}
        for service in case.record.stack.services
        if service.role != "replica"
    ]
    replicas = [service.name for service in case.record.stack.services if service.role == "replica"]
    every = {"role": "replica", "replicas": len(replicas), "each": "pod", "labels": [{"role": "replica"}]}
    services.append({"name": "ray-replicas", **every})
    windows = {"warmup_s": 60, "baseline_s": 60, "fault_s": 60, "recovery_s": 0}
    return {
        "campaign": {"name": "attached", "seed": 1, "windows": windows},
        "deploy": {
            "backend": "attached",
            "prometheus": {"url": prometheus_url},
            "services": services,
            "scrape_interval_s": step_s,
        },
        "load": {"arrival": "constant", "rate": 1},
        "inject": {"faults": []},
        "export": {"step_s": step_s, "rate_window_s": max(4 * step_s, 5)},
        "score": {"methods": ["nsigma"], "profile": "llm"},
        "report": {},
    }


@contextmanager
def prometheus(folder: Path, text: str) -> Iterator[str]:
    """Run a Prometheus that holds ``text``."""
    (folder / "samples.om").write_text(text + "# EOF\n")
    data, config = folder / "tsdb", folder / "prometheus.yml"
    command = ["promtool", "tsdb", "create-blocks-from", "openmetrics", str(folder / "samples.om"), str(data)]
    subprocess.run(command, check=True, capture_output=True)
    config.write_text("")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={data}"]
    server = subprocess.Popen(
        [*program, f"--web.listen-address=127.0.0.1:{port}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{url}/-/ready", timeout=2).close()
                break
            except OSError:
                time.sleep(0.1)
        yield url
    finally:
        server.kill()
        server.wait()


def simulated(replicas: int, folder: Path) -> Case:
    """Simulate half an hour of a fleet with a lower clock on one replica in the last four minutes."""
    from tasks.backends import backend_of
    from tasks.campaign.attempt import order_of
    from tasks.campaign.plan import plan_campaign
    from tasks.params import overridden, read_document, validated
    from tasks.workspace import Workspace

    windows = {"warmup_s": 60, "baseline_s": 1560, "fault_s": 240, "recovery_s": 0}
    fault = {"kind": "gpu-clock-lock", "targets": ["ray-replicas-7"], "parameters": {"fraction": 0.2}}
    groups = [{"name": "all", "replicas": replicas}]
    changes = {
        "campaign": {"windows": windows, "fault_free_cases": 0},
        "deploy": {"replicas": replicas, "scrape_interval_s": STEP_S, "trace_share": 0.01, "groups": groups},
        "load": {"rate": 0.7 * replicas},
        "inject": {"faults": [fault], "scenarios": []},
        "export": {"step_s": STEP_S, "rate_window_s": 60},
    }
    params = validated(overridden(read_document(ROOT / "presets/fleet-100.yaml"), changes), "benchmark")
    workspace = Workspace(folder)
    workspace.cases.mkdir(parents=True)
    (plan,) = plan_campaign(params)
    return backend_of(params, workspace).make_case(order_of(params, plan), workspace.cases)


def measure(size: int, folder: Path) -> list[object]:
    """Return a row of the table."""
    return of_case(simulated(size, folder / "simulated"), folder)


def of_case(case: Case, folder: Path) -> list[object]:
    """Diagnose a case that is put into a Prometheus of its own."""
    text = openmetrics(case, time.time() - 2 * STEP_S)
    rows = [line for line in text.splitlines() if not line.startswith("#")]
    params = folder / "params.yaml"
    command = [sys.executable, "-m", "tasks.cli", "diagnose", "--json", "--params", str(params)]
    with prometheus(folder, text) as url:
        params.write_text(yaml.safe_dump(attached(case, url, STEP_S)))
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        done = subprocess.run([*command, "--workspace", str(folder)], capture_output=True, text=True, cwd=ROOT)
        wall_s, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    answer = json.loads(done.stdout) if done.returncode in (0, 4) else {}
    roots = [f"{f['service']}: {f['kind']}" for a in answer.get("answers", ())[:1] for f in a["findings"] or ()]
    first = [s["service"] for a in answer.get("answers", ())[:1] for s in a["suspects"][:1]]
    return [
        len(case.record.stack.services),
        len({line.partition(" ")[0] for line in rows}),
        len(rows),
        f"{wall_s:.1f}",
        f"{cpu_s:.1f}",
        f"{after.ru_maxrss / 1024:.0f}",
        ", ".join(roots) or done.stderr.strip()[-200:] or answer.get("text") or f"nothing (first suspect {first[0]})",
    ]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    given = options.parse_args()
    if shutil.which("prometheus") is None:
        sys.exit("prometheus is not installed")
    print("| services | series | samples | wall s | CPU s | peak MB | named |\n|---|---|---|---|---|---|---|")
    for size in given.sizes:
        with tempfile.TemporaryDirectory() as name:
            print(f"| {' | '.join(map(str, measure(size, Path(name))))} |", flush=True)


if __name__ == "__main__":
    main()
