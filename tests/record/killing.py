"""Records again and again; kills the n-th run before its n-th kind of step with SIGKILL, until one gets through.

Run as a program, so that the processes that are killed are forks of one without threads. Prints a line per run: the
step (if killed), the exit status, the commits there are then.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import dvc.config  # noqa: F401 (once, not in every fork)

from tasks.campaign.plan import plan_campaign
from tasks.params import load_params
from tasks.record import record as recording
from tasks.record import staging
from tasks.record.git import Git
from tasks.workspace import Workspace
from tests.record.campaigns import Campaign, git
from tests.record.pretend_dvc import PretendDvc, pushed

STEPS = ("read-tree", "cat-file", "hash-object", "update-index", "write-tree", "commit-tree", "update-ref")


class Killer:
    """Counts the kinds of steps that write something; kills before number ``last``."""

    def __init__(self, last: int) -> None:
        self.last = last
        self.done: list[str] = []

    def step(self, name: str) -> None:
        if name in self.done:
            return
        if len(self.done) == self.last:
            print(name, end=" ", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        self.done.append(name)

    def watch(self) -> None:
        plain = Git._bytes

        def watched(self_: Git, *arguments: str, **options: Any) -> bytes:
            if arguments[0] in STEPS:
                self.step(arguments[0])
            return plain(self_, *arguments, **options)

        Git._bytes = watched  # type: ignore[method-assign]
        for name in ("commit", "reproduce", "push"):
            setattr(PretendDvc, name, self._before(getattr(PretendDvc, name), f"dvc-{name}"))

    def _before(self, method: Any, name: str) -> Any:
        def watched(*arguments: Any) -> Any:
            self.step(name)
            return method(*arguments)

        return watched


def record_in_fork(campaign: Campaign, repository: Path, last: int) -> int:
    """The exit status: 0 recorded, 9 killed, 1 anything else."""
    pid = os.fork()
    if pid == 0:
        killer = Killer(last)
        killer.watch()
        try:
            campaign.record(repository)
        except BaseException as error:  # noqa: BLE001 (a fork must not return into its parent's work)
            print(repr(error), file=sys.stderr)
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def commits(repository: Path) -> int:
    known = git(repository, "branch", "--list", "results")
    return int(git(repository, "rev-list", "--count", "main..results")) if known else 0


def main(repository: Path, folder: Path, store: Path) -> None:
    PretendDvc.store = store
    staging.Dvc = PretendDvc  # type: ignore[misc]
    recording.stale_scores_reason = recording.stale_report_reason = lambda place, params: None  # type: ignore[assignment]
    text = (folder / "params.yaml").read_text()
    campaign = Campaign(Workspace(folder / "workspace"), text, load_params(folder / "params.yaml"))
    plan_campaign(campaign.params)  # imports what every fork would
    for last in range(100):
        status = record_in_fork(campaign, repository, last)
        there = commits(repository)
        print(status, there, flush=True)
        if there and not pushed(git(repository, "show", "results:dvc.lock"), store):
            raise SystemExit(f"step {last}: published before its data was pushed")
        if status != -signal.SIGKILL:
            return


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
