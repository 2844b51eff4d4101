"""Break services of a running local stack by hand, without `rcarena inject`, and let `rcarena diagnose` find it.

    rcarena deploy up --workspace W
    python benchmarks/diagnose_by_hand.py --workspace W --tries 10        # root; ends with a table

Faults are what an operator would type: stress-ng in the service's cgroup, a CPU quota, kill -STOP, kill -9, tc.
Load runs meanwhile. Every fault is undone before the next.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.deploy.local.runtime import ServiceRuntime, StackRuntime
from tasks.inject.executors.local.target import LocalTarget
from tasks.workspace import Workspace

QUIET_S = 50.0
"""Load without a fault before each try."""
FAULT_S = 30.0


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--workspace", type=Path, required=True, help="of a local stack that is up")
    options.add_argument("--params", type=Path, default=Path("params.yaml"), help="what diagnose is given")
    options.add_argument("--attached", type=Path, help="parameters that attach to the same stack: asked as well")
    options.add_argument("--tries", type=int, default=10)
    options.add_argument("--kinds", nargs="+", choices=sorted(FAULTS), default=list(FAULTS))
    options.add_argument("--seed", type=int, default=1)
    given = options.parse_args()
    runtime = StackRuntime.read(Workspace(given.workspace.resolve()).stack)
    if runtime is None or not runtime.alive:
        sys.exit(f"no local stack runs in {given.workspace}")
    rng = random.Random(given.seed)
    replicas = [service.name for service in runtime.services if service.role == "replica"]
    rows = []
    with load(runtime, 240.0 * given.tries):
        for number in range(given.tries):
            kind = given.kinds[number % len(given.kinds)]
            target = rng.choice(replicas)
            rows.append(attempt(runtime, given, kind, target, meanwhile=number % 2 == 0))
            print(*rows[-1], sep=" | ", flush=True)
    head = ["fault", "on", "diagnosed", "named", "right service", "seconds"]
    head += ["as a stranger: named", "right service", "seconds"] if given.attached else []
    print(f"\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(map(str, row))} |")


def attempt(
    runtime: StackRuntime, given: argparse.Namespace, kind: str, target: str, meanwhile: bool
) -> tuple[object, ...]:
    """Break, diagnose during the fault or after it, undo."""
    time.sleep(QUIET_S)
    began = time.time()
    with FAULTS[kind](LocalTarget.of(runtime, target)):
        time.sleep(FAULT_S)
        cells = diagnosed(runtime, given, target) if meanwhile else []
    if not meanwhile:
        time.sleep(10)
        cells = diagnosed(runtime, given, target)
    print(f"  fault at {time.strftime('%H:%M:%S', time.gmtime(began))}", flush=True)
    return kind, target, "during" if meanwhile else "after", *cells


def diagnosed(runtime: StackRuntime, given: argparse.Namespace, target: str) -> list[str]:
    """Return what is named, whether it is right, and the seconds: by the stack's parameters, then as a stranger."""
    cells = diagnose(runtime, ["--params", str(given.params), "--workspace", str(given.workspace)], target)
    if given.attached is not None:
        place = given.workspace / "stranger"
        cells += diagnose(runtime, ["--params", str(given.attached), "--workspace", str(place)], target)
    return cells


def diagnose(runtime: StackRuntime, options: list[str], target: str) -> list[str]:
    began = time.monotonic()
    command = [
        "nsenter",
        "--target",
        str(runtime.supervisor.pid),
        "--net",
        sys.executable,
        "-m",
        "tasks.cli",
        "diagnose",
    ]
    done = subprocess.run([*command, "--json", "--since", "100s", *options], capture_output=True, text=True)
    seconds = f"{time.monotonic() - began:.0f}"
    if done.returncode not in (0, 4):
        return [done.stderr.strip()[-200:], "no", seconds]
    answer = json.loads(done.stdout)
    roots = [
        (finding["service"] or "no service", finding["kind"])
        for of_method in answer.get("answers", ())[:1]
        for finding in of_method["findings"] or ()
        if finding["role"] == "root"
    ]
    print(f"  change {answer.get('change')}, {seconds} s", flush=True)
    number = target.rpartition("-")[2]
    hits = [service.endswith(f"-{number}") for service, _ in roots]
    right = "no" if not any(hits) else "yes" if all(hits) else "first" if hits[0] else "among others"
    said = ", ".join(f"{service}: {kind}" for service, kind in roots)
    return [said or answer.get("text", "nothing significant")[:40], right, seconds]


@contextmanager
def load(runtime: StackRuntime, duration_s: float) -> Iterator[None]:
    """Send load from the network of the stack. Exits where it does not run."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            "nsenter",
            "--target",
            str(runtime.supervisor.pid),
            "--net",
            sys.executable,
            "-m",
            "tasks.cli",
            "load",
        ]
        command += ["--url", runtime.gateway_url, "--model", runtime.model, "--duration", f"{duration_s:.0f}"]
        log = Path(folder) / "load.log"
        with log.open("wb") as stream:
            process = subprocess.Popen([*command, "--out", f"{folder}/requests.parquet"], stdout=stream, stderr=stream)
        time.sleep(20)
        if process.poll() is not None:
            sys.exit(f"the load ended: {log.read_text()[-500:]}")
        try:
            yield
        finally:
            process.terminate()
            process.wait()
            print(f"  {log.read_text().splitlines()[-1][-120:]}", flush=True)


def _joined(service: ServiceRuntime, *command: str) -> subprocess.Popen[bytes]:
    """Start a command in the cgroup of a service."""
    files = [f"{path}/cgroup.procs" for path in service.cgroups.values()]
    script = "".join(f"echo 0 > {file} 2>/dev/null; " for file in files) + 'exec "$@"'
    return subprocess.Popen(["sh", "-c", script, "sh", *command], start_new_session=True)


@contextmanager
def _stress(target: LocalTarget, *arguments: str) -> Iterator[None]:
    process = _joined(target.service, "stress-ng", "--quiet", "--timeout", "180s", *arguments)
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def _quota(target: LocalTarget) -> Iterator[None]:
    cgroups = target.service.cgroups
    file = Path(cgroups["cpu"]) / "cpu.cfs_quota_us" if "cpu" in cgroups else Path(cgroups["unified"]) / "cpu.max"
    old = file.read_text()
    quota, _, period = old.strip().partition(" ")
    file.write_text(f"{int(quota) * 3 // 10} {period}".strip())
    try:
        yield
    finally:
        file.write_text(old.strip())


@contextmanager
def _stop(target: LocalTarget) -> Iterator[None]:
    stopped = list(target.engine_processes())
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)


@contextmanager
def _kill(target: LocalTarget) -> Iterator[None]:
    for pid in target.engine_processes():
        os.kill(pid, signal.SIGKILL)
    yield


@contextmanager
def _tc(target: LocalTarget) -> Iterator[None]:
    device = target.service.interface
    target.run(
        "tc", "qdisc", "replace", "dev", device, "root", "tbf", "rate", "96kbit", "burst", "4kb", "latency", "2s"
    )
    try:
        yield
    finally:
        target.run("tc", "qdisc", "del", "dev", device, "root")


FAULTS: dict[str, Callable[[LocalTarget], object]] = {
    "stress-ng --cpu 2": lambda target: _stress(target, "--cpu", "2"),
    "cgroup quota": _quota,
    "kill -STOP": _stop,
    "kill -9": _kill,
    "tc tbf": _tc,
}

if __name__ == "__main__":
    main()
