"""For the tests of scores: what a run left behind, another process that scores, a pool without processes."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path

from tasks.rca.registry import get_method
from tasks.rca.run.pair import run_pair
from tasks.rca.run.pool import Limits, Outcome, PairJob
from tasks.system.process import usable_cpus


def contents(scores: Path) -> dict[str, bytes]:
    """The score files by name, but for the one that holds times."""
    return {file.name: file.read_bytes() for file in scores.iterdir() if file.name != "timings.json"}


def scoring(script: str, *arguments: Path | str, hash_seed: str = "random") -> subprocess.Popen[str]:
    """A Python process that runs ``script`` with ``sys``, ``Path`` and ``score_campaign``; its output can be read."""
    imports = "import sys; from pathlib import Path; from tasks.score.campaign import score_campaign\n"
    path = os.pathsep.join(entry for entry in sys.path if entry)
    return subprocess.Popen(
        [sys.executable, "-c", imports + script, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": hash_seed},
        stdout=subprocess.PIPE,
        text=True,
    )


class InThisProcess:
    """Stands in for a pool of workers where a test is about scores: runs each pair at once, without limits."""

    size = 1
    busy_here = usable_cpus() - 1
    """So that one process at a time builds views."""

    def __init__(self, limits: Limits) -> None:
        self._outcomes: list[Outcome] = []

    @property
    def busy(self) -> int:
        return len(self._outcomes)

    def has_room(self) -> bool:
        return not self._outcomes

    def start(self, job: PairJob) -> None:
        pair = job.job
        result = run_pair(get_method(pair.method), pickle.loads(job.view), pair.seed, pair.parameters)
        self._outcomes.append(Outcome(job.case, job.name, result))

    def wait(self, timeout_s: float, also: Sequence[Connection]) -> list[Outcome]:
        if not self._outcomes:
            wait(list(also), timeout=timeout_s)
        outcomes, self._outcomes = self._outcomes, []
        return outcomes

    def close(self) -> None:
        pass
