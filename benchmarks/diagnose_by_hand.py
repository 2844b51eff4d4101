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

QUIET_S = 75.0
"""Load without a fault before each try."""
FAULT_S = 40.0


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--workspace", type=Path, required=True, help="of a local stack that is up")
    options.add_argument("--params", type=Path, default=Path("params.yaml"), help="what diagnose is given")
    options.add_argument("--diagnose-workspace", type=Path, help="where incidents go; default: --workspace")
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
    for number in range(given.tries):
        kind = given.kinds[number % len(given.kinds)]
        target = rng.choice(replicas)
        rows.append(attempt(runtime, given, kind, target, meanwhile=number % 2 == 0))
        print(*rows[-1], sep=" | ", flush=True)
    print("\n| fault | on | diagnosed | named | right service | seconds |\n|---|---|---|---|---|---|")
    for row in rows:
        print(f"| {' | '.join(map(str, row))} |")


def attempt(
    runtime: StackRuntime, given: argparse.Namespace, kind: str, target: str, meanwhile: bool
) -> tuple[object, ...]:
    """Break, diagnose during the fault or after it, undo."""
    with load(runtime, QUIET_S + 2 * FAULT_S + 60):
        time.sleep(QUIET_S)
        began = time.time()
        with FAULTS[kind](LocalTarget.of(runtime, target)):
            time.sleep(FAULT_S)
            found = diagnose(given) if meanwhile else None
        if found is None:
            time.sleep(10)
            found = diagnose(given)
    wait_for_replicas(runtime)
    answer, seconds = found
    roots = [
        (f["service"], f["kind"])
        for a in answer.get("answers", ())[:1]
        for f in a["findings"] or ()
        if f["role"] == "root"
    ]
    when = "during" if meanwhile else "after"
    named = ", ".join(f"{service}: {of}" for service, of in roots) or answer.get("text", "nothing")
    right = (
        "yes"
        if {service for service, _ in roots} == {target}
        else "first"
        if roots[:1] and roots[0][0] == target
        else ("among others" if target in {service for service, _ in roots} else "no")
    )
    print(f"  change {answer.get('change')}, fault at {time.strftime('%H:%M:%S', time.gmtime(began))}", flush=True)
    return kind, target, when, named, right, f"{seconds:.1f}"


def diagnose(given: argparse.Namespace) -> tuple[dict, float]:
    place = given.diagnose_workspace or given.workspace
    began = time.monotonic()
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "tasks.cli",
            "diagnose",
            "--json",
            "--since",
            "150s",
            "--params",
            str(given.params),
            "--workspace",
            str(place),
        ],
        capture_output=True,
        text=True,
    )
    seconds = time.monotonic() - began
    if done.returncode not in (0, 4):
        return {"text": done.stderr.strip()[-200:]}, seconds
    return json.loads(done.stdout), seconds


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


def wait_for_replicas(runtime: StackRuntime) -> None:
    time.sleep(15)


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
