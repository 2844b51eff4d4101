"""Break services of a running stack by hand, without `rcarena inject`, and let `rcarena diagnose` find it.

    rcarena deploy up --workspace W
    python benchmarks/diagnose_by_hand.py --workspace W --tries 10        # root; ends with a table
    python benchmarks/diagnose_by_hand.py --workspace W --strangers       # the stack of benchmarks/strangers_stack.sh

Faults are what an operator would type: stress-ng in the service's cgroup, a CPU quota, kill -STOP, kill -9, tc.
Load runs meanwhile. Every fault is undone before the next. A stranger's stack is attached first (`rcarena attach`).
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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tasks.deploy.local.cgroups import CGROUP_ROOT
from tasks.deploy.local.runtime import StackRuntime
from tasks.inject.executors.local.target import LocalTarget
from tasks.workspace import Workspace

QUIET_S = 50.0
"""Load without a fault before each try."""
FAULT_S = 30.0
STRANGERS = "stranger"
"""The cgroup of the stack of strangers_stack.sh."""


@dataclass(frozen=True)
class Victim:
    """A service on this machine. ``cgroups``: one directory per controller (v1) or one (v2). ``engines``: returns the
    processes to stop or kill."""

    name: str
    cgroups: tuple[Path, ...]
    engines: Callable[[], Sequence[int]]

    @property
    def quota(self) -> Path:
        """The file of the CPU quota: ``QUOTA`` (v1) or ``QUOTA PERIOD`` (v2)."""
        files = [path / name for path in self.cgroups for name in ("cpu.max", "cpu.cfs_quota_us")]
        return next(file for file in files if file.exists())

    def run(self, *command: str) -> None:
        """Run a command in the network of the service."""
        pid = str(self.engines()[0])
        subprocess.run(["nsenter", "--target", pid, "--net", *command], check=True, timeout=10)


@dataclass(frozen=True)
class Standing:
    """A stack that is up. ``enter``: a process in the network of its gateway; ``asked``: options of diagnose."""

    replicas: tuple[Victim, ...]
    enter: int
    url: str
    model: str
    asked: tuple[tuple[str, ...], ...]

    def inside(self, *command: str) -> list[str]:
        """Return a command of ``rcarena`` in the stack's network."""
        return ["nsenter", "--target", str(self.enter), "--net", sys.executable, "-m", "tasks.cli", *command]


def deployed(given: argparse.Namespace) -> Standing:
    """Return the local stack of the workspace, diagnosed by its own parameters and, if wanted, as a stranger."""
    runtime = StackRuntime.read(Workspace(given.workspace.resolve()).stack)
    if runtime is None or not runtime.alive:
        sys.exit(f"no local stack runs in {given.workspace}")
    victims = []
    for service in runtime.services:
        if service.role == "replica":
            target = LocalTarget.of(runtime, service.name)
            victims.append(Victim(service.name, tuple(target.cgroup.paths.values()), target.engine_processes))
    asked = [("--params", str(given.params), "--workspace", str(given.workspace))]
    if given.attached is not None:
        asked.append(("--params", str(given.attached), "--workspace", str(given.workspace / "stranger")))
    return Standing(tuple(victims), runtime.supervisor.pid, runtime.gateway_url, runtime.model, tuple(asked))


def strangers(given: argparse.Namespace) -> Standing:
    """Return the stack of strangers_stack.sh, once attached."""
    roots = [root for root in (CGROUP_ROOT, *CGROUP_ROOT.iterdir()) if (root / STRANGERS).is_dir()]
    if not roots:
        sys.exit("the stack of strangers_stack.sh does not run")
    victims = []
    for place in sorted((roots[0] / STRANGERS).glob("vllm-*")):
        groups = tuple(root / STRANGERS / place.name for root in roots)
        victims.append(Victim(place.name, groups, lambda place=place: engines_of(place)))
    gateway = int((roots[0] / STRANGERS / "nginx" / "cgroup.procs").read_text().split()[0])
    given.workspace.mkdir(parents=True, exist_ok=True)
    params = given.workspace / "attached.yaml"
    params.unlink(missing_ok=True)
    asked = ("--params", str(params), "--workspace", str(given.workspace))
    found = Standing(tuple(victims), gateway, "http://10.88.0.1:8080", "toy", (asked,))
    began = time.monotonic()
    subprocess.run(
        found.inside("attach", "--prometheus", "http://10.88.0.1:9090", "--out", str(params)), check=True, timeout=120
    )
    print(f"attached in {time.monotonic() - began:.0f} s", flush=True)
    return found


def engines_of(cgroup: Path) -> list[int]:
    """Return the processes of vLLM in a cgroup: those that listen for requests first."""
    found = []
    for pid in (cgroup / "cgroup.procs").read_text().split():
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if words[0] != b"sh":
            found.append(int(pid))
    return found


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--workspace", type=Path, required=True, help="of a local stack that is up")
    options.add_argument("--params", type=Path, default=Path("params.yaml"), help="what diagnose is given")
    options.add_argument("--attached", type=Path, help="parameters that attach to the same stack: asked as well")
    options.add_argument("--strangers", action="store_true", help="the stack of strangers_stack.sh")
    options.add_argument("--tries", type=int, default=10)
    options.add_argument("--kinds", nargs="+", choices=sorted(FAULTS), default=list(FAULTS))
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--quiet", type=float, default=QUIET_S, help="seconds before each try")
    given = options.parse_args()
    stack = strangers(given) if given.strangers else deployed(given)
    rng = random.Random(given.seed)
    rows: list[tuple[object, ...]] = []
    with load(stack, 240.0 * given.tries):
        for number in range(given.tries):
            kind = given.kinds[number % len(given.kinds)]
            target = rng.choice(stack.replicas)
            rows.append(attempt(stack, given.quiet, kind, target, meanwhile=number % 2 == 0))
            print(*rows[-1], sep=" | ", flush=True)
            if kind == "kill -9" and given.strangers and number + 1 < given.tries:
                await_answers(stack, len(stack.replicas))
    head = ["fault", "on", "diagnosed", "named", "right service", "seconds"]
    head += ["as a stranger: named", "right service", "seconds"] if given.attached else []
    print(f"\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(map(str, row))} |")


def await_answers(stack: Standing, replicas: int, limit_s: float = 300.0) -> None:
    """Wait until Prometheus reaches every engine again."""
    deadline = time.monotonic() + limit_s
    query = ["nsenter", "--target", str(stack.enter), "--net", "curl", "-sf", "http://10.88.0.1:9090/api/v1/query"]
    while time.monotonic() < deadline:
        done = subprocess.run([*query, "--data-urlencode", 'query=sum(up{job="vllm"})'], capture_output=True, text=True)
        if f'"{replicas}"' in done.stdout:
            return
        time.sleep(2)
    sys.exit("an engine that was killed did not come back")


def attempt(stack: Standing, quiet_s: float, kind: str, target: Victim, meanwhile: bool) -> tuple[object, ...]:
    """Break, diagnose during the fault or after it, undo."""
    time.sleep(quiet_s)
    began = time.time()
    since_s = quiet_s + FAULT_S + (5 if meanwhile else 15)
    with FAULTS[kind](target):
        time.sleep(FAULT_S)
        cells = diagnosed(stack, target, since_s) if meanwhile else []
    if not meanwhile:
        time.sleep(10)
        cells = diagnosed(stack, target, since_s)
    print(f"  fault at {time.strftime('%H:%M:%S', time.gmtime(began))}", flush=True)
    return kind, target.name, "during" if meanwhile else "after", *cells


def diagnosed(stack: Standing, target: Victim, since_s: float) -> list[str]:
    """Return what is named, whether it is right, and the seconds, for each way in which the stack is asked."""
    return [cell for options in stack.asked for cell in diagnose(stack, options, target, since_s)]


def diagnose(stack: Standing, options: Sequence[str], target: Victim, since_s: float) -> list[str]:
    began = time.monotonic()
    command = stack.inside("diagnose", "--json", "--since", f"{since_s:.0f}s", *options)
    done = subprocess.run(command, capture_output=True, text=True)
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
    number = target.name.rpartition("-")[2]
    hits = [service.endswith(f"-{number}") for service, _ in roots]
    right = "no" if not any(hits) else "yes" if all(hits) else "first" if hits[0] else "among others"
    said = ", ".join(f"{service}: {kind}" for service, kind in roots)
    return [said or answer.get("text", "nothing significant")[:40], right, seconds]


@contextmanager
def load(stack: Standing, duration_s: float) -> Iterator[None]:
    """Send load from the network of the stack. Exits where it does not run."""
    with tempfile.TemporaryDirectory() as folder:
        command = stack.inside("load", "--url", stack.url, "--model", stack.model, "--duration", f"{duration_s:.0f}")
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


@contextmanager
def _stress(target: Victim, *arguments: str) -> Iterator[None]:
    script = "".join(f"echo 0 > {path}/cgroup.procs 2>/dev/null; " for path in target.cgroups) + 'exec "$@"'
    command = ["sh", "-c", script, "sh", "stress-ng", "--quiet", "--timeout", "180s", *arguments]
    process = subprocess.Popen(command, start_new_session=True)
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def _quota(target: Victim) -> Iterator[None]:
    old = target.quota.read_text().strip()
    quota, _, period = old.partition(" ")
    target.quota.write_text(f"{int(quota) * 3 // 10} {period}".strip())
    try:
        yield
    finally:
        target.quota.write_text(old)


@contextmanager
def _stop(target: Victim) -> Iterator[None]:
    stopped = list(target.engines())
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)


@contextmanager
def _kill(target: Victim) -> Iterator[None]:
    for pid in target.engines():
        os.kill(pid, signal.SIGKILL)
    yield


@contextmanager
def _tc(target: Victim) -> Iterator[None]:
    link = ("tc", "qdisc", "replace", "dev", "eth0", "root")
    target.run(*link, "tbf", "rate", "96kbit", "burst", "4kb", "latency", "2s")
    try:
        yield
    finally:
        target.run("tc", "qdisc", "del", "dev", "eth0", "root")


FAULTS: dict[str, Callable[[Victim], object]] = {
    "stress-ng --cpu 2": lambda target: _stress(target, "--cpu", "2"),
    "cgroup quota": _quota,
    "kill -STOP": _stop,
    "tc tbf": _tc,
    "kill -9": _kill,
}

if __name__ == "__main__":
    main()
