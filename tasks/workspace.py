"""The paths of a campaign's files: pure functions of the workspace and the case."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

DEFAULT_WORKSPACE = Path("workspace")
RUNTIME_FILE = "runtime.json"
"""JSON file that ``up`` writes into the workspace's ``stack``; its key ``backend`` names the backend that reads it."""
ATTEMPT_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,120}"


@dataclass(frozen=True)
class Workspace:
    """The directory of one campaign.

    ``cases`` (raw telemetry), ``scores`` and ``report`` are results and are versioned by DVC; ``stack``, ``journal``
    and ``runs`` are the live state of this machine.
    """

    root: Path

    @property
    def cases(self) -> Path:
        return self.root / "cases"

    @property
    def superseded(self) -> Path:
        """Finished cases that the present parameters no longer ask for: kept, never deleted."""
        return self.root / "superseded"

    @property
    def scores(self) -> Path:
        return self.root / "scores"

    @property
    def pairs(self) -> Path:
        """Finished (method, case) pairs, so that a scoring that was stopped goes on there. May be deleted."""
        return self.root / "pairs"

    @property
    def report(self) -> Path:
        return self.root / "report"

    @property
    def stack(self) -> Path:
        return self.root / "stack"

    @property
    def journal(self) -> Path:
        """One file per injection: what was changed, how to undo it, whether that was done."""
        return self.root / "journal"

    def run(self, case_id: str, attempt: str = "local") -> Path:
        """Scratch space of one attempt at a case; removed when the case is finished.

        Raises:
            ValueError: ``attempt`` is not a plain name.
        """
        if not re.fullmatch(ATTEMPT_PATTERN, attempt):
            raise ValueError(f"'{attempt}': allowed are letters, digits, '.', '_' and '-', a letter or digit first")
        return self.root / "runs" / case_id / attempt
