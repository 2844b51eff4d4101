"""How long the serving stack's own defences take to notice a fault of a replica, on the real local stack (root).

``python benchmarks/platform_defences.py [--seconds 70] WORKSPACE [KIND …]``, with the stack of WORKSPACE up: for each
kind it breaks one replica, sends a request every half a second, and prints a row: when users had their first request
that failed or took more than three times the usual, how many there were, when Ray Serve's controller wrote that the
replica fails its health check, and when probes of Kubernetes would have said so, with how many of their checks failed.

Probes are made by a stand-in for the kubelet (``benchmarks/kubelet_probes.py``) of what KubeRay has it probe for
Ray 2.53 or newer: the health of the Ray node, which its agent answers at port 52365. KubeRay's readiness probe of a
RayService also asks the Serve proxy of the pod; a replica of the local stack has none, so that half is left out. NGINX
has one upstream in this stack, and of a group with one server it ignores ``max_fails``: its passive checks are measured
by ``benchmarks/nginx_passive_checks.py``.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import json
import re
import statistics
import time
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path

from benchmarks.kubelet_probes import (
    KUBERAY_LIVENESS,
    KUBERAY_SERVE_READINESS,
    Probe,
    Prober,
    execute,
    http_get,
)
from tasks.backends import running
from tasks.backends.local.stack import HEALTH_MEMORY_S, HEALTHY_REPLICAS
from tasks.deploy.local.namespaces import join_network
from tasks.deploy.local.runtime import StackRuntime
from tasks.inject.catalogue import resolve_parameters
from tasks.inject.start import LEAD_S, start_injection
from tasks.injection import InjectionSpec
from tasks.prometheus import PrometheusError, instant_value
from tasks.workspace import Workspace

KINDS = ("accelerator-throttle", "network-delay", "engine-stall", "process-freeze", "process-kill", "network-partition")
TARGET = "ray-replicas-1"
NOTICED = re.compile(r"failed health check|marking it unhealthy|Didn't receive health check")
TIMEOUT_S = 10.0
AGENT_PORT = 52365
NODE_HEALTH = f"wget --tries 1 -T 2 -q -O- http://localhost:{AGENT_PORT}/api/local_raylet_healthz | grep -q success"
CALM_S = 30.0
"""So long the probes run before the first fault."""


def ask(url: str, model: str) -> tuple[float, float, bool]:
    """Send one request; return when, how long it took, and whether it was answered."""
    message = {"role": "user", "content": "w1 w2 w3 w4"}
    body = json.dumps({"model": model, "messages": [message], "max_tokens": 8, "ignore_eos": True}).encode()
    request = urllib.request.Request(f"{url}/v1/chat/completions", body, {"Content-Type": "application/json"})
    began = time.time()
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            answer.read()
            return began, time.time() - began, True
    except OSError:
        return began, time.time() - began, False


def controller_lines(stack: Path, since: float) -> list[tuple[float, str]]:
    """Return what Serve's controller logged since then of replicas that fail."""
    found = []
    for log in stack.rglob("controller_*.log"):
        for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
            stamp = re.search(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3})", line)
            if stamp is None or not NOTICED.search(line):
                continue
            at = datetime.strptime(stamp[1], "%Y-%m-%d %H:%M:%S,%f").timestamp()
            if at >= since:
                found.append((at, line.split(" -- ")[-1][:110]))
    return sorted(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workspace", type=Path)
    parser.add_argument("kinds", nargs="*", metavar="KIND")
    parser.add_argument("--seconds", type=float, default=70)
    asked = parser.parse_args()
    place = Workspace(asked.workspace)
    runtime = running(place.stack)
    if not isinstance(runtime, StackRuntime):
        parser.error(f"the stack in {place.root} is no local one")
    join_network(runtime.supervisor.pid)
    usual = statistics.median(ask(runtime.gateway_url, runtime.model)[1] for _ in range(12))
    print(f"usual latency {usual:.2f} s; a request counts as slow from {3 * usual:.2f} s on\n")
    probers = start_probers(runtime)
    calm = time.time()
    time.sleep(CALM_S)
    row(
        "fault of one replica",
        "users notice",
        "failed, slow of sent",
        "Ray Serve notices",
        *(f"{name} fails" for name in probers),
    )
    row(*["---"] * (4 + len(probers)))
    row("none", "", "", "", *(_probed(each, calm, time.time()) for each in probers.values()))
    replicas = sum(each.role == "replica" for each in runtime.services)
    for number, kind in enumerate(asked.kinds or KINDS):
        if number:
            _settle(runtime.prometheus_url, replicas)
        parameters = resolve_parameters(kind, {}, runtime.backend).model_dump(mode="json")
        planned = InjectionSpec(kind=kind, target=TARGET).planned(asked.seconds, parameters)
        start = datetime.now(UTC) + timedelta(seconds=LEAD_S)
        name = f"defence-{time.time_ns()}"
        with (
            concurrent.futures.ThreadPoolExecutor(64) as pool,
            start_injection(runtime, place, planned, injection_id=name, window_start=start) as injection,
        ):
            sent = []
            while time.time() < start.timestamp() + asked.seconds:
                sent.append(pool.submit(ask, runtime.gateway_url, runtime.model))
                time.sleep(0.5)
            injection.stop()
            answers = [each.result() for each in sent]
        after = [each for each in answers if each[0] >= start.timestamp()]
        failed = sum(not answered for _, _, answered in after)
        slow = sum(answered and took > 3 * usual for _, took, answered in after)
        first_bad = min((at for at, took, ok in after if not ok or took > 3 * usual), default=None)
        noticed = controller_lines(place.stack, start.timestamp())
        serve = _after(noticed[0][0] if noticed else None, start) + (f" ({noticed[0][1]})" if noticed else "")
        row(
            f"`{kind}`",
            _after(first_bad, start),
            f"{failed}, {slow} of {len(after)}",
            serve,
            *(_probed(each, start.timestamp(), start.timestamp() + asked.seconds) for each in probers.values()),
        )
    for each in probers.values():
        each.stop()


def start_probers(runtime: StackRuntime) -> dict[str, Prober]:
    """Start probing the target; it has long been up. An exec probe runs in its network and its cgroup."""
    service = runtime.service(TARGET)
    url = f"http://{service.address}:{AGENT_PORT}/api/healthz"
    join = " && ".join(f"echo 0 > {file}" for file in service.cgroup.member_files())
    inside = ["bash", "-c", f'{join} && exec "$@"', "bash", *runtime.enter_service(TARGET), "bash", "-c", NODE_HEALTH]
    probers = {
        "KubeRay's readiness probe": Prober(KUBERAY_SERVE_READINESS, execute(inside)),
        "KubeRay's liveness probe": Prober(KUBERAY_LIVENESS, http_get(url)),
        "a liveness probe by default": Prober(Probe(), http_get(url)),
    }
    for each in probers.values():
        each.start()
    return probers


def row(*cells: str) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)


def _probed(prober: Prober, since: float, until: float) -> str:
    """Return when the verdict became failure, and how many checks of that time failed."""
    noticed = prober.noticed(since, until)
    failed, made = prober.failed(since, until)
    return f"{'never' if noticed is None else f'after {noticed - since:.0f} s'} ({failed} of {made} checks)"


def _settle(prometheus_url: str, replicas: int) -> None:
    """Wait until every replica is healthy again, at most three minutes."""
    end = time.time() + 180
    time.sleep(HEALTH_MEMORY_S)
    while time.time() < end:
        with contextlib.suppress(PrometheusError):
            if instant_value(prometheus_url, HEALTHY_REPLICAS) >= replicas:
                return
        time.sleep(2)


def _after(at: float | None, start: datetime) -> str:
    return "never" if at is None else f"after {at - start.timestamp():.0f} s"


if __name__ == "__main__":
    main()
