"""A child process that runs pairs, one after another, for :mod:`tasks.rca.runner`.

It talks over the connected socket whose number is its argument. It is sent views as bytes, never a path, and
unpickles one afresh for each pair, so a method cannot spoil the telemetry of the next.
"""

from __future__ import annotations

import ctypes
import faulthandler
import importlib
import os
import pickle
import resource
import signal
import sys
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path

import psutil

from tasks.rca.method import REGISTRY
from tasks.rca.pair import PairResult, run_pair

READY = "ready"
MIB = 2**20
_PR_SET_PDEATHSIG = 1
_DATA_LIMIT_FACTOR = 2
_DATA_LIMIT_SLACK_MB = 512


@dataclass(frozen=True)
class Start:
    """First message: the limits of this worker."""

    parent_pid: int
    memory_mb: int


@dataclass(frozen=True)
class NewView:
    """The view of the pairs that follow, pickled."""

    data: bytes


@dataclass(frozen=True)
class Job:
    method: str
    module: str
    seed: int


def serve(connection: Connection) -> None:
    """Answer each :class:`Job` with a :class:`PairResult` until the other side closes."""
    start: Start = connection.recv()
    _die_with(start.parent_pid)
    # The runner watches the resident size; this stops one allocation that would outrun it.
    data_limit = (_DATA_LIMIT_FACTOR * start.memory_mb + _DATA_LIMIT_SLACK_MB) * MIB
    resource.setrlimit(resource.RLIMIT_DATA, (data_limit, data_limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    connection.send(READY)
    view = b""
    while True:
        try:
            message = connection.recv()
        except EOFError:
            return
        if isinstance(message, NewView):
            view = message.data
        else:
            connection.send(_run(message, view))


def _run(job: Job, view: bytes) -> PairResult:
    importlib.import_module(job.module)
    _reset_peak_memory()
    result = run_pair(REGISTRY[job.method], pickle.loads(view), job.seed)  # noqa: S301 (from our runner)
    return replace(result, peak_mb=_peak_memory_mb())


def _reset_peak_memory() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return  # the peak is then that of the process so far


def _peak_memory_mb() -> float:
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return float(psutil.Process().memory_info().rss) / MIB


def _die_with(parent_pid: int) -> None:
    """Be killed when the parent ends, however it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:
        os._exit(1)


def main() -> None:
    faulthandler.enable()
    serve(Connection(int(sys.argv[1])))
