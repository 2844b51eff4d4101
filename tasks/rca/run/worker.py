"""A child process that runs pairs, one after another, for :mod:`tasks.rca.run.local_pool`.

It is confined (:mod:`tasks.rca.run.sandbox`). It gets views as bytes, never a path, and unpickles one afresh for each
pair, so that a method cannot change the telemetry of the next.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil

from tasks.rca.method import METHODS
from tasks.rca.run.child import MIB, reset_peak_memory
from tasks.rca.run.pair import PairResult, run_pair


@dataclass(frozen=True)
class NewView:
    """The pickled view of the pairs that follow."""

    data: bytes


@dataclass(frozen=True)
class Started:
    """The pair starts: all that it needs is imported, and its limits count from here. ``cpu_s``: CPU time of the worker
    so far."""

    cpu_s: float


@dataclass(frozen=True)
class Job:
    """One pair: a method, its module, its parameters, the seed. The case is the last view that was sent."""

    method: str
    module: str
    parameters: Mapping[str, Any]
    seed: int


def main(connection: Connection) -> None:
    """Answer each :class:`Job` with :class:`Started` and a :class:`PairResult` until the other side closes."""
    view = b""
    while True:
        try:
            message = connection.recv()
        except EOFError:
            return
        if isinstance(message, NewView):
            view = message.data
        else:
            connection.send(_run(message, view, connection))


def _run(job: Job, view: bytes, connection: Connection) -> PairResult:
    importlib.import_module(job.module)
    method, seen = METHODS.registered[job.method], pickle.loads(view)  # noqa: S301 (from our runner)
    for package in method.packages:  # so that the first pair is not charged for it
        with contextlib.suppress(Exception):  # the method will say what is wrong
            importlib.import_module(package)
    reset_peak_memory()
    before = _peak_memory_mb()
    connection.send(Started(sum(os.times()[:4])))
    result = run_pair(method, seen, job.seed, job.parameters)
    peak = _peak_memory_mb()
    return replace(result, peak_mb=peak, grown_mb=peak - before)


def _peak_memory_mb() -> float:
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return float(psutil.Process().memory_info().rss) / MIB
