"""When the phases of one attempt at a case begin and end; load and injection may be different processes or pods."""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import AwareDatetime, ValidationError

from tasks.case import Phase
from tasks.errors import RCArenaError
from tasks.params import Windows
from tasks.system.durable import create_once
from tasks.validation import Frozen

SCHEDULE_FILE = "schedule.json"
LEAD_TIME_S = 3.0
"""From the moment when all are ready until the first request may leave: generator and guardians start meanwhile."""
PARTNERS = ("load", "inject")


class ScheduleError(RCArenaError):
    """No common schedule: a partner did not come, or the file is damaged."""


class Schedule(Frozen):
    """Fixed before the load starts."""

    load_start: AwareDatetime
    windows: Windows

    @classmethod
    def starting_soon(cls, windows: Windows) -> Schedule:
        """On a whole second, so that phases fall on the sampling grid."""
        now = datetime.fromtimestamp(math.ceil(time.time()), UTC)
        return cls(load_start=now + timedelta(seconds=LEAD_TIME_S), windows=windows)

    @property
    def baseline_start(self) -> datetime:
        return self.load_start + timedelta(seconds=self.windows.warmup_s)

    @property
    def fault_start(self) -> datetime:
        return self.baseline_start + timedelta(seconds=self.windows.baseline_s)

    @property
    def fault_end(self) -> datetime:
        return self.fault_start + timedelta(seconds=self.windows.fault_s)

    @property
    def end(self) -> datetime:
        return self.fault_end + timedelta(seconds=self.windows.recovery_s)

    @property
    def load_seconds(self) -> float:
        return (self.end - self.load_start).total_seconds()

    @property
    def phases(self) -> tuple[Phase, ...]:
        return (
            Phase(name="baseline", start=self.baseline_start, end=self.fault_start),
            Phase(name="fault", start=self.fault_start, end=self.fault_end),
            Phase(name="recovery", start=self.fault_end, end=self.end),
        )


def read_schedule(directory: Path) -> Schedule | None:
    """None when it was not agreed on yet.

    Raises:
        ScheduleError: the file is damaged.
    """
    try:
        return Schedule.model_validate_json((directory / SCHEDULE_FILE).read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise ScheduleError(f"{directory / SCHEDULE_FILE}: cannot be read: {error}") from error


def fix_schedule(directory: Path, schedule: Schedule) -> Schedule:
    """Publish ``schedule`` unless one is there; the one that holds. Atomic: all partners get the same."""
    create_once(directory / SCHEDULE_FILE, schedule.model_dump_json(indent=1).encode())
    fixed = read_schedule(directory)
    assert fixed is not None
    return fixed


def agree(directory: Path, partner: str, windows: Windows, timeout_s: float) -> Schedule:
    """Say that ``partner`` is ready and wait for the others; who comes last fixes the start.

    Raises:
        ScheduleError: not all came within ``timeout_s``, the schedule has begun without us, or it is damaged.
    """
    (directory / f"ready-{partner}").touch()
    deadline = time.monotonic() + timeout_s
    while (schedule := read_schedule(directory)) is None:
        missing = [each for each in PARTNERS if not (directory / f"ready-{each}").exists()]
        if not missing:
            schedule = fix_schedule(directory, Schedule.starting_soon(windows))
            break
        if time.monotonic() > deadline:
            raise ScheduleError(f"{partner}: waited {timeout_s:g} s for {' and '.join(missing)}, which did not come")
        time.sleep(0.2)
    if schedule.load_start < datetime.now(UTC):
        raise ScheduleError(f"{partner}: the attempt began at {schedule.load_start.isoformat()}, without this process")
    return schedule
