"""The journal file of one injection: the fault, its undo steps, and its state."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    SerializeAsAny,
    SkipValidation,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from tasks.backends import UnknownBackendError, faults_on
from tasks.inject.errors import ForeignJournalError, JournalError
from tasks.inject.executor import FaultTarget, UndoStepBase
from tasks.injection import ROOT, InjectionRole, ProbeRecord, phrase
from tasks.system.durable import write_durably
from tasks.system.file_lock import FileLock
from tasks.system.process import ProcessId, machine_id

State = Literal["planned", "applying", "active", "undoing", "failed", "recovered"]
CLOSED: State = "recovered"
ID_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,120}"
SUFFIX = ".json"


class Journal(BaseModel):
    """State of one injection, or of one action that may cure a fault.

    Deadlines on the monotonic clock, ``owner`` and ``guardian`` are valid only on ``machine`` (one boot, one PID
    namespace); wall times and the undo steps are valid anywhere.

    States: ``planned`` (nothing was done), ``applying`` (may be partly applied), ``active``, ``undoing``, ``failed``
    (the undo was tried and something is left), ``recovered`` (nothing is left). All but the last are open.
    """

    model_config = ConfigDict(extra="forbid")

    what: Literal["fault", "action"] = "fault"
    finishes: bool = False
    """True for an action without a way back: the undo steps carry it out, and who finds it half done finishes it."""
    injection_id: str
    kind: str
    role: InjectionRole = ROOT
    parameters: dict[str, Any]
    target: SerializeAsAny[FaultTarget]
    start_at: AwareDatetime
    duration_s: float
    start_monotonic: float
    resources: tuple[str, ...]
    undo: tuple[SerializeAsAny[SkipValidation[UndoStepBase[Any]]], ...]
    machine: str
    owner: ProcessId
    guardian: ProcessId | None = None
    state: State = "planned"
    executor: str | None = None
    applied_at: AwareDatetime | None = None
    """Time just before the fault acts; no effect is earlier."""
    undone_at: AwareDatetime | None = None
    effect_seen_at: AwareDatetime | None = None
    normal_seen_at: AwareDatetime | None = None
    probe: ProbeRecord | None = None
    outcome: ProbeRecord | None = None
    verdict: Literal["effective", "ineffective"] = "ineffective"
    reason: str = ""
    recovered_by: str | None = None
    notes: list[str] = []
    unconfirmed: list[str] = []

    @field_validator("target", mode="before")
    @classmethod
    def _target_of_its_backend(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return faults_on(str(value.get("backend"))).target_model.model_validate(value)

    @field_validator("undo", mode="before")
    @classmethod
    def _steps_of_its_backend(cls, value: Any, info: ValidationInfo) -> Any:
        if "target" not in info.data:
            return ()
        return faults_on(info.data["target"].backend).steps.validate_python(value)

    @property
    def phrase(self) -> str:
        return phrase(self.kind, self.target.name)

    @property
    def began(self) -> bool:
        """False for an action without a way back that was cut off before it acted: it stays undone."""
        return not self.finishes or self.applied_at is not None

    @property
    def closing(self) -> str:
        """What running the undo steps does."""
        return "finished" if self.finishes else "undone"

    @property
    def end_monotonic(self) -> float:
        return self.start_monotonic + self.duration_s

    @property
    def end_at(self) -> datetime:
        return self.start_at + timedelta(seconds=self.duration_s)

    @property
    def is_here(self) -> bool:
        """True if this machine (in this PID namespace) carries it out."""
        return self.machine == machine_id()

    @property
    def open(self) -> bool:
        return self.state != CLOSED


def journal_path(directory: Path, injection_id: str) -> Path:
    """Return the file of an injection's journal. Raises ValueError for an id that is no plain file name."""
    if not re.fullmatch(ID_PATTERN, injection_id):
        raise ValueError(f"injection id '{injection_id}': allowed are letters, digits, '.', '_' and '-'")
    return directory / f"{injection_id}{SUFFIX}"


def journal_files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.glob(f"*{SUFFIX}") if not path.name.startswith("."))


def read_journal(path: Path) -> Journal:
    """Read a journal.

    Raises:
        ForeignJournalError: it is of a backend that is not installed here.
        JournalError: it is missing, torn or not a journal.
    """
    try:
        return Journal.model_validate_json(path.read_bytes())
    except OSError as error:
        raise JournalError(f"{path.name}: {error.strerror}") from error
    except UnknownBackendError as error:
        raise ForeignJournalError(f"{path.name}: {error}; it can be undone where that is installed") from error
    except ValidationError as error:
        raise JournalError(f"{path.name}: not a journal ({error.error_count()} problems)") from error


def write_journal(path: Path, journal: Journal) -> None:
    """Write durably and atomically: a reader sees the old state or the new one, also after a crash.

    Raises:
        OSError: it cannot be written; the old state stays.
    """
    write_durably(path, journal.model_dump_json(indent=1).encode())


def journal_lock(path: Path, timeout_s: float = 10) -> FileLock:
    """Return the lock for acting and undoing. Entering it raises JournalError after ``timeout_s``.

    It creates no directory: an undo must not recreate a deleted workspace.
    """
    busy = JournalError(f"{path.name}: its lock is held by another process")
    return FileLock(path.with_suffix(".lock"), busy, timeout_s=timeout_s, make_directory=False)
