"""Checks this machine before a local stack starts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from functools import cache

import psutil

from tasks.deploy.local.cgroups import STACKS_PREFIX, Cgroup, CgroupError
from tasks.deploy.local.layout import SERVE_PYTHON_VARIABLE, serve_python

PROGRAMS = {
    "nginx": "nginx-light",
    "prometheus": "prometheus",
    "prometheus-nginx-exporter": "prometheus-nginx-exporter",
    "stress-ng": "stress-ng",
    "ip": "iproute2",
    "tc": "iproute2",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
}
SERVING_PACKAGES = ("ray", "vllm", "torch")
BASE_MEMORY_GB, REPLICA_MEMORY_GB = 1.5, 1.5


def problems(replicas: int = 3) -> list[str]:
    """Return one line per problem, with its cure; empty when a stack can start."""
    if os.geteuid() != 0:
        return ["not root: namespaces, cgroups and faults need it. Run again with sudo (or as root in a container)"]
    found = []
    missing = sorted({package for program, package in PROGRAMS.items() if shutil.which(program) is None})
    if missing:
        found.append(f"programs missing: install the packages {', '.join(missing)} (`make setup` does)")
    if not serve_python().exists():
        found.append(f"no serving environment at {serve_python()}: run `make setup`, or set {SERVE_PYTHON_VARIABLE}")
    elif not set(SERVING_PACKAGES) <= set(versions()):
        found.append(f"the serving environment lacks {', '.join(SERVING_PACKAGES)}: run `make setup`")
    try:
        probe = Cgroup.create(f"{STACKS_PREFIX}preflight-{os.getpid()}", "probe")
        probe.parent.remove()
    except CgroupError as error:
        found.append(str(error))
    except OSError as error:
        found.append(f"cgroups cannot be made: {error} (in a container: --privileged)")
    if shutil.which("unshare") and not _namespaces_allowed():
        found.append("the kernel refuses new PID, mount or network namespaces (in a container: --privileged)")
    available, needed = psutil.virtual_memory().available / 1e9, BASE_MEMORY_GB + replicas * REPLICA_MEMORY_GB
    if available < needed:
        found.append(f"only {available:.1f} GB of memory available; {replicas} toy engines need about {needed:g}")
    return found


@cache
def versions() -> dict[str, str]:
    """Return the versions of the serving environment's main packages; empty when it does not run."""
    code = (
        "import json, importlib.metadata as m\n"
        "found = {}\n"
        f"for name in {SERVING_PACKAGES!r}:\n"
        "    try: found[name] = m.version(name)\n"
        "    except m.PackageNotFoundError: pass\n"
        "print(json.dumps(found))"
    )
    try:
        answer = subprocess.run(
            [str(serve_python()), "-c", code], capture_output=True, text=True, check=True, timeout=60, cwd="/"
        )
        found: dict[str, str] = json.loads(answer.stdout)
    except (OSError, ValueError, subprocess.SubprocessError):
        return {}
    return found


def _namespaces_allowed() -> bool:
    command = ["unshare", "--fork", "--pid", "--mount", "--net", "--mount-proc", "true"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
