"""Which of several stacks records which case.

A claim is a lock on a file of the case: it ends with the processes that hold it, so that a case whose stack is lost is
free for the others. Small files beside it say what failed in this run of the campaign.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator

from tasks.case import is_finished
from tasks.errors import RCArenaError
from tasks.system.durable import write_durably
from tasks.system.file_lock import FileLock
from tasks.workspace import Workspace

LOST_SUFFIX = ".lost"


class Claims:
    def __init__(self, place: Workspace) -> None:
        self._cases = place.cases
        self._directory = place.claims

    def reset(self) -> None:
        """Forget the failures of earlier runs. No process of one may still hold a claim."""
        shutil.rmtree(self._directory, ignore_errors=True)
        self._directory.mkdir(parents=True)

    @contextlib.contextmanager
    def claim(self, case_id: str) -> Iterator[int | None]:
        """Hold the case; yield the lock's descriptor, or None when another stack has it or it is settled."""
        lock = FileLock(self._directory / f"{case_id}.lock", RCArenaError(f"{case_id} is claimed"))
        try:
            yield lock.descriptor if lock.try_acquire() and not self.is_settled(case_id) else None
        finally:
            lock.release()

    def is_settled(self, case_id: str) -> bool:
        """Say whether the case is recorded, or has failed in this run."""
        return is_finished(self._cases / case_id) or self.has_failed(case_id)

    def has_failed(self, case_id: str) -> bool:
        return (self._directory / f"{case_id}.failed").exists()

    def fail(self, case_id: str) -> None:
        """Keep other stacks from the case: another attempt would fail, too."""
        (self._directory / f"{case_id}.failed").touch()

    def give_back(self, case_id: str) -> None:
        """Leave a case, on which the stack was lost, to another one; the second stack that it costs is the last."""
        given_back = self._directory / f"{case_id}.given-back"
        if given_back.exists():
            self.fail(case_id)
        given_back.touch()

    def lose(self, stack: str, reason: str) -> None:
        """Note why a stack records no more cases."""
        write_durably(self._directory / f"{stack}{LOST_SUFFIX}", reason.encode())

    def lost(self) -> dict[str, str]:
        """Return the reasons by stack."""
        files = self._directory.glob(f"*{LOST_SUFFIX}")
        return {file.name.removesuffix(LOST_SUFFIX): file.read_text(encoding="utf-8") for file in files}
