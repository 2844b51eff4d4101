"""Which attempt at a case has which stack, where an attempt is several processes that come and go, on any machine.

A holder is a numbered file of the stack; the highest number counts. It is created by one process alone (a hard link),
so that no lock has to reach over machines. It lasts while a process of the attempt renews it and ``seconds`` beyond,
whatever becomes of the others: a killed process, a lost machine, an attempt that nobody ends.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from tasks.backends import backend_of
from tasks.backends.base import Say
from tasks.campaign.errors import AttemptError
from tasks.deploy.errors import DeployError
from tasks.params import Params
from tasks.system.durable import create_once, write_durably
from tasks.text import some
from tasks.workspace import Workspace

logger = logging.getLogger(__name__)

HOLD_S = 1800.0
"""Time (s) from the last renewal to the end: longer than the next process of an attempt may take to start."""
SET_ASIDE_S = 600.0
"""Time (s) for which a stack that does not come up is left alone."""
RENEWAL_S = 20.0
POLL_S = 5.0
SUFFIX = ".json"


class Holder(BaseModel):
    """Who has a stack. Without ``case_id`` nobody: it is set aside for ``reason``, or given back (``seconds`` 0)."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    case_id: str = ""
    attempt: str = ""
    seconds: float = HOLD_S
    reason: str = ""

    def __str__(self) -> str:
        return f"attempt {self.attempt} at {self.case_id}" if self.case_id else self.reason


def holder_of(place: Workspace) -> Holder | None:
    """Return who has the stack of ``place``; None when it is free."""
    return _latest(place).valid


def held_by(places: Sequence[Workspace], case_id: str, attempt: str) -> Workspace | None:
    """Return the stack that the attempt has; None when it has none (any more).

    A hold that has run out is renewed where nobody has taken the stack since.
    """
    wanted = Holder(case_id=case_id, attempt=attempt)
    return next((place for place in places if _latest(place).is_of(wanted) and _take(place, wanted)), None)


def take_free(places: Sequence[Workspace], case_id: str, attempt: str) -> Workspace | None:
    """Take the stack that was free the longest, or the one that this or an earlier attempt at the case has.

    Return None when other cases have all of them.
    """
    wanted = Holder(case_id=case_id, attempt=attempt)
    found = {place: _latest(place) for place in places}

    def order(place: Workspace) -> tuple[bool, float]:
        valid = found[place].valid
        return valid is None or valid.case_id != case_id, -found[place].age_s

    return next((place for place in sorted(places, key=order) if _take(place, wanted)), None)


def give_back(place: Workspace, case_id: str, attempt: str) -> None:
    """Leave the stack to others, if the attempt has it."""
    _replace(place, Holder(case_id=case_id, attempt=attempt), Holder(seconds=0))


def set_aside(place: Workspace, case_id: str, attempt: str, reason: str) -> None:
    """Leave the stack, which the attempt has, to nobody for a while."""
    _replace(place, Holder(case_id=case_id, attempt=attempt), Holder(seconds=SET_ASIDE_S, reason=reason))


def forget(place: Workspace) -> None:
    """Free the stack of ``place``, whoever has it: it is down, or its campaign is over."""
    for file in place.holders.glob(f"*{SUFFIX}"):
        file.unlink(missing_ok=True)


@contextlib.contextmanager
def renewing(place: Workspace, case_id: str, attempt: str) -> Iterator[None]:
    """Renew the hold in a thread within the context, if the attempt has the stack."""
    stopped = threading.Event()
    wanted = Holder(case_id=case_id, attempt=attempt)

    def renew() -> None:
        while _renew(place, wanted) and not stopped.wait(RENEWAL_S):
            pass

    thread = threading.Thread(target=renew, name="holder", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def place_of(places: Sequence[Workspace], case_id: str, attempt: str) -> Workspace:
    """Return the stack that the attempt has taken, or the only one, if nobody has it.

    Raises:
        AttemptError: the attempt has no stack, or has lost it.
    """
    if (held := held_by(places, case_id, attempt)) is not None:
        return held
    if len(places) > 1:
        raise AttemptError(
            f"attempt {attempt} at {case_id} has none of the {len(places)} stacks: `rcarena step claim` takes one, "
            "or name one with --stack"
        )
    if (holder := holder_of(places[0])) is not None:
        raise AttemptError(f"the stack is not this attempt's: {holder}")
    return places[0]


def claim_stack(
    params: Params, places: Sequence[Workspace], case_id: str, attempt: str, hold_s: int, say: Say
) -> Workspace:
    """Wait for a free stack, take it for the attempt and bring it up; one that does not come up is set aside.

    Raises:
        DeployError: no stack that was free comes up.
        ParamsError: the parameters cannot be used.
    """
    problems: list[str] = []
    told = ""
    while True:
        place = take_free(places, case_id, attempt)
        if place is not None:
            try:
                with renewing(place, case_id, attempt):
                    backend_of(params, place).up_for(hold_s, say)
            except DeployError as error:
                problems.append(str(error))
                if len(places) == 1:
                    give_back(place, case_id, attempt)
                    raise
                reason = f"stack {place.stack_index} did not come up: {some(str(error).splitlines(), 1)}"
                say(reason)
                set_aside(place, case_id, attempt, reason)
                continue
            return place
        if problems:
            raise DeployError("\n".join(problems))
        holders = "; ".join(sorted(str(holder) for place in places if (holder := holder_of(place)) is not None))
        if holders != told:
            say(f"waiting for a free stack: {holders}")
            told = holders
        time.sleep(POLL_S)


@dataclass(frozen=True)
class _Latest:
    """The file with the highest number: ``holder`` is None when there is none, or it cannot be read."""

    number: int
    holder: Holder | None
    age_s: float

    @property
    def valid(self) -> Holder | None:
        return self.holder if self.holder is not None and self.age_s < self.holder.seconds else None

    def is_of(self, wanted: Holder) -> bool:
        return self.holder is not None and _same(self.holder, wanted)


def _same(one: Holder, other: Holder) -> bool:
    return (one.case_id, one.attempt) == (other.case_id, other.attempt)


def _latest(place: Workspace) -> _Latest:
    while True:
        numbers = [int(file.stem) for file in place.holders.glob(f"*{SUFFIX}") if file.stem.isdigit()]
        if not numbers:
            return _Latest(0, None, math.inf)
        file = _file(place, max(numbers))
        try:
            age_s = time.time() - file.stat().st_mtime
            return _Latest(max(numbers), Holder.model_validate_json(file.read_bytes()), age_s)
        except FileNotFoundError:  # a higher one has replaced it meanwhile
            continue
        except ValidationError as error:
            logger.warning("%s is not readable: %s", file, error)
            return _Latest(max(numbers), None, age_s)


def _file(place: Workspace, number: int) -> Path:
    return place.holders / f"{number}{SUFFIX}"


def _take(place: Workspace, wanted: Holder) -> bool:
    """Take the stack unless another case has it; from an earlier attempt at the same case it is taken over."""
    place.holders.mkdir(parents=True, exist_ok=True)
    latest = _latest(place)
    if latest.valid is not None and latest.valid.case_id != wanted.case_id:
        return False
    if latest.valid is not None and _same(latest.valid, wanted):
        return True
    own = _file(place, latest.number + 1)
    if not create_once(own, wanted.model_dump_json().encode()):
        return False
    if _latest(place).number != latest.number + 1:  # others came and went since this process looked
        own.unlink(missing_ok=True)
        return False
    for file in place.holders.glob(f"*{SUFFIX}"):
        if file.stem.isdigit() and int(file.stem) <= latest.number:
            file.unlink(missing_ok=True)
    return True


def _renew(place: Workspace, wanted: Holder) -> bool:
    """Renew the hold. Return False when it is not the latest (any more)."""
    latest = _latest(place)
    if latest.is_of(wanted):
        with contextlib.suppress(OSError):
            os.utime(_file(place, latest.number))
    return latest.is_of(wanted)


def _replace(place: Workspace, wanted: Holder, new: Holder) -> None:
    latest = _latest(place)
    if latest.is_of(wanted):
        write_durably(_file(place, latest.number), new.model_dump_json().encode())
