"""A child process that runs pairs, one after another, for :mod:`tasks.rca.local_pool`.

It is sent views as bytes, never a path, and unpickles one afresh for each pair, so a method cannot spoil the telemetry
of the next.
"""

from __future__ import annotations

import contextlib
import importlib
import pickle
import resource
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from tasks.rca.child import READY, answer_parent
from tasks.rca.method import REGISTRY
from tasks.rca.pair import PairResult, run_pair

MIB = 2**20
_DATA_LIMIT_FACTOR = 2
_DATA_LIMIT_SLACK_MB = 512


@dataclass(frozen=True)
class NewView:
    """The view of the pairs that follow, pickled."""

    data: bytes


@dataclass(frozen=True)
class Job:
    """One pair: a method, where it is defined, its parameters; the case is the last view that was sent."""

    method: str
    module: str
    parameters: Mapping[str, Any]
    seed: int


def main() -> None:
    """Answer each :class:`Job` with a :class:`PairResult` until the other side closes."""
    connection, hello = answer_parent()
    if hello.memory_mb is not None:
        _limit_memory(hello.memory_mb)
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


def _limit_memory(memory_mb: int) -> None:
    """The runner watches the resident size; this stops one allocation that would outrun it."""
    data_limit = (_DATA_LIMIT_FACTOR * memory_mb + _DATA_LIMIT_SLACK_MB) * MIB
    resource.setrlimit(resource.RLIMIT_DATA, (data_limit, data_limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _run(job: Job, view: bytes) -> PairResult:
    importlib.import_module(job.module)
    method, seen = REGISTRY[job.method], pickle.loads(view)  # noqa: S301 (from our runner)
    for package in method.packages:  # so that the first pair is not charged for it
        with contextlib.suppress(Exception):  # the method will say what is wrong
            importlib.import_module(package)
    _reset_peak_memory()
    before = _peak_memory_mb()
    result = run_pair(method, seen, job.seed, job.parameters)
    peak = _peak_memory_mb()
    return replace(result, peak_mb=peak, grown_mb=peak - before)


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
