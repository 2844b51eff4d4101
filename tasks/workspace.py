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

    ``cases`` (raw telemetry), ``scores``, ``remediation`` and ``report`` are results and are versioned by DVC;
    ``stack``, ``journal`` and ``runs`` are the live state of one stack. ``stack_index`` says of which, where the
    campaign has several.
    """

    root: Path
    stack_index: int | None = None

    def on(self, stack_index: int | None) -> Workspace:
        """Return the same workspace with the live state of another stack; None: that of the only stack."""
        return Workspace(self.root, stack_index)

    def on_disk(self) -> tuple[Workspace, ...]:
        """Return this workspace as the only stack uses it, and as each of several stacks with files here does."""
        folders = sorted(int(path.name) for path in self._stacks.glob("*") if re.fullmatch(r"\d{1,4}", path.name))
        return (self.on(None), *map(self.on, folders))

    @property
    def _stacks(self) -> Path:
        return self.root / "stacks"

    @property
    def live(self) -> Path:
        """The folder of the live state of the stack."""
        return self.root if self.stack_index is None else self._stacks / str(self.stack_index)

    @property
    def claims(self) -> Path:
        """One file per case that is being recorded on one of several stacks, locked meanwhile."""
        return self._stacks / "claims"

    @property
    def holders(self) -> Path:
        """Numbered files that say which attempt at a case has the stack, where attempts are made of several pods."""
        return self.live / "holders"

    @property
    def cases(self) -> Path:
        return self.root / "cases"

    @property
    def incidents(self) -> Path:
        """Recorded incidents: a case, a page and a file with the answers of each. Old ones are removed."""
        return self.root / "incidents"

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
    def remediation(self) -> Path:
        """Tables of the experiment with actions."""
        return self.root / "remediation"

    @property
    def episodes(self) -> Path:
        """Finished runs of the experiment with actions, so that one that was stopped goes on there. May be deleted."""
        return self.root / "episodes"

    @property
    def stack(self) -> Path:
        return self.live / "stack"

    @property
    def journal(self) -> Path:
        """One file per injection: what was changed, how to undo it, whether that was done."""
        return self.live / "journal"

    def run(self, case_id: str, attempt: str = "local") -> Path:
        """Scratch space of one attempt at a case; removed when the case is finished.

        Raises:
            ValueError: ``attempt`` is not a plain name.
        """
        if not re.fullmatch(ATTEMPT_PATTERN, attempt):
            raise ValueError(f"'{attempt}': allowed are letters, digits, '.', '_' and '-', a letter or digit first")
        return self.live / "runs" / case_id / attempt
