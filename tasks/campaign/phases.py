"""The schedule of one attempt at a case, on which its load and its injection agree, even from different pods."""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal, get_args

from pydantic import AwareDatetime, ValidationError

from tasks.campaign.errors import AttemptError
from tasks.case import Phase
from tasks.params import Windows
from tasks.system.durable import create_once
from tasks.validation import Frozen

SCHEDULE_FILE = "schedule.json"
LEAD_TIME_S = 3.0
"""Seconds between all being ready and the first request, in which the generator and the guardians start."""
Partner = Literal["load", "inject"]
LOST_AFTER_S = 15.0
"""A partner that waits and has not said so for this long is lost; another may come in its place."""


class Schedule(Frozen):
    """The times of an attempt's phases, decided before the load starts."""

    load_start: AwareDatetime
    windows: Windows

    @classmethod
    def starting_soon(cls, windows: Windows) -> Schedule:
        """Return a schedule that starts after the lead time, on a whole second: phases fall on the sampling grid."""
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
    """Return the schedule of the attempt in ``directory``; None when there is none yet.

    Raises:
        AttemptError: the file is damaged.
    """
    try:
        return Schedule.model_validate_json((directory / SCHEDULE_FILE).read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise AttemptError(f"{directory / SCHEDULE_FILE}: cannot be read: {error}") from error


def publish_schedule(directory: Path, schedule: Schedule) -> Schedule:
    """Write ``schedule`` unless another process was faster. Return the one that was written: all get the same."""
    create_once(directory / SCHEDULE_FILE, schedule.model_dump_json(indent=1).encode())
    fixed = read_schedule(directory)
    assert fixed is not None
    return fixed


def agree_on_start(directory: Path, partner: Partner, windows: Windows, timeout_s: float) -> Schedule:
    """Wait until both partners are ready, and return the schedule of both. One process per partner gets it.

    Before the start a partner that was lost can be replaced; after it, its part of the attempt is lost with it.

    Raises:
        AttemptError: the other one is not ready within ``timeout_s``, the schedule began before this call, another
            process has begun this partner's part, or the schedule's file is damaged.
    """
    deadline = time.monotonic() + timeout_s
    while (schedule := read_schedule(directory)) is None:
        _ready_file(directory, partner).touch()
        missing = [each for each in get_args(Partner) if not _is_ready(directory, each, partner)]
        if not missing:
            schedule = publish_schedule(directory, Schedule.starting_soon(windows))
            break
        if time.monotonic() > deadline:
            raise AttemptError(f"{partner}: waited {timeout_s:g} s for {' and '.join(missing)}, which did not come")
        time.sleep(0.2)
    if schedule.load_start < datetime.now(UTC):
        raise AttemptError(f"{partner}: the attempt began at {schedule.load_start.isoformat()}, without this process")
    if not create_once(directory / f"begun-{partner}", b""):
        raise AttemptError(f"{partner}: another process has begun this part of the attempt")
    return schedule


def _ready_file(directory: Path, partner: Partner) -> Path:
    return directory / f"ready-{partner}"


def _is_ready(directory: Path, partner: Partner, asking: Partner) -> bool:
    """Say whether ``partner`` has lately said that it waits; by the file system's clock, which all pods share."""
    try:
        said, now = (_ready_file(directory, each).stat().st_mtime for each in (partner, asking))
    except FileNotFoundError:
        return False
    return now - said < LOST_AFTER_S
