"""Goes on looking at a live stack: now and then, and whenever an alert comes.

Each diagnosis is a process of its own: it may enter the network of the stack, and whatever memory it takes is given
back. There is one at a time, so that alerts which come meanwhile wait and share the next one.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import NamedTemporaryFile

from pydantic import TypeAdapter, ValidationError

from tasks.diagnose import incidents
from tasks.diagnose.alerts import Inbox
from tasks.diagnose.diagnosis import Alert, Diagnosis
from tasks.diagnose.notify import NotifyError, notify
from tasks.errors import EXIT_NOTHING
from tasks.live_params import DiagnoseParams

log = logging.getLogger(__name__)

Say = Callable[[str], None]
After = Callable[[Diagnosis], None]
"""Called after each diagnosis that names a root."""

CHILD_LIMIT_S = 900.0
END_S = 20.0
"""A diagnosis that is told to end gets so long to clean up."""
SETTLED_S = 120.0
"""With so much telemetry after it, a change without a root is not looked at again."""
APART_S = 15.0
"""Two sightings of one change differ by less."""
SAME_S = 600.0
"""The same roots again within this time are the same incident."""
NEAR_S = 360.0
"""An alert is first thought to follow a change of so much time before it: in a longer window the detector sees fewer
changes, and an earlier incident may be taken for the cause."""
AGAIN_S = 60.0
"""An alert without a root is looked at once more after this time: the telemetry may have been too short."""
ALERTS = TypeAdapter(tuple[Alert, ...])


@dataclass(frozen=True)
class Ask:
    """What a diagnosis is asked: see ``Question`` of :mod:`tasks.diagnose.diagnose`."""

    since_s: float | None = None
    at: datetime | None = None
    not_before: datetime | None = None
    alerts: tuple[Alert, ...] = ()


@dataclass(frozen=True)
class Reply:
    """``diagnosis`` None and no ``problem``: nothing changed."""

    diagnosis: Diagnosis | None = None
    problem: str = ""


class ChildProcess:
    """Asks by ``rcarena diagnose --json`` with further ``options``."""

    def __init__(self, options: Sequence[str]) -> None:
        self._command = [sys.executable, "-m", "tasks.cli", "diagnose", "--json", *options]

    def __call__(self, ask: Ask) -> Reply:
        command = list(self._command)
        if ask.since_s is not None:
            command += ["--since", f"{ask.since_s:.0f}"]
        if ask.at is not None:
            command += ["--at", ask.at.isoformat()]
        if ask.not_before is not None:
            command += ["--after", ask.not_before.isoformat()]
        with NamedTemporaryFile(suffix=".json") as file:
            if ask.alerts:
                file.write(ALERTS.dump_json(ask.alerts))
                file.flush()
                command += ["--alerts-of", file.name]
            return self._run(command)

    def _run(self, command: Sequence[str]) -> Reply:
        child = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        try:
            output, errors = child.communicate(timeout=CHILD_LIMIT_S)
        except subprocess.TimeoutExpired:
            return Reply(problem=f"the diagnosis took more than {CHILD_LIMIT_S:g} s")
        finally:
            _end(child)
        if child.returncode not in (0, EXIT_NOTHING):
            lines = errors.strip().splitlines()
            return Reply(problem=lines[-1] if lines else f"the diagnosis ended with status {child.returncode}")
        try:
            return Reply(Diagnosis.model_validate_json(output))
        except ValidationError:
            return Reply()


def _end(child: subprocess.Popen[str]) -> None:
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(END_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


@dataclass
class Watch:
    """``ask``: makes a diagnosis. ``folder``: of the incidents. ``look``: whether to look now and then; else it acts on
    alerts alone. ``after``: what else follows a diagnosis that names a root."""

    ask: Callable[[Ask], Reply]
    params: DiagnoseParams
    folder: Path
    say: Say
    inbox: Inbox = field(default_factory=Inbox)
    look: bool = True
    after: Sequence[After] = ()
    last: Diagnosis | None = None
    _not_before: datetime | None = None
    _next_look: float = 0.0
    _again: tuple[float, tuple[Alert, ...]] | None = None
    _trouble: str = ""

    def run(self) -> None:
        """Watch until the process is interrupted."""
        while True:
            self.step()

    def step(self) -> None:
        """Wait for an alert or for the time of the next look, and do what is due."""
        now = time.monotonic()
        due = [self._next_look] if self.look else []
        due += [self._again[0]] if self._again else []
        if alerts := self.inbox.wait(min(due) - now if due else self.params.every_s):
            self.answer(alerts + self.inbox.storm(self.params.join_s, 4 * self.params.join_s))
        elif self._again and time.monotonic() >= self._again[0]:
            alerts, self._again = self._again[1], None
            self._diagnose(alerts, last_try=True)
        elif self.look and time.monotonic() >= self._next_look:
            self.glance()

    def answer(self, alerts: tuple[Alert, ...]) -> None:
        """Answer alerts with one diagnosis; those that the last diagnosis explains join it."""
        if self.inbox.dropped:
            self.say(f"{self.inbox.dropped} alerts were dropped: too many waited")
            self.inbox.dropped = 0
        joining = tuple(alert for alert in alerts if self._explained(alert))
        if joining and self.last is not None:
            self.last = self.last.model_copy(update={"alerts": (*self.last.alerts, *joining)[-100:]})
            incidents.keep(self.last, self.folder)
            self.say(f"{_names(joining)}: joins {self.last.incident}: {self.last.headline}")
            self._tell(self.last.model_copy(update={"alerts": joining}))
        if others := tuple(alert for alert in alerts if alert not in joining):
            self._diagnose(others, last_try=False)

    def glance(self) -> None:
        """Look at the stack; an incident without a root is not kept."""
        self._next_look = time.monotonic() + self.params.every_s
        reply = self._asked(Ask(not_before=self._not_before))
        found = reply.diagnosis
        log.info("looked: %s", "no diagnosis" if found is None else found.headline)
        if found is None:
            return
        if found.named or (found.end - found.change).total_seconds() >= SETTLED_S:
            self._not_before = found.change + timedelta(seconds=APART_S)
        if not found.named:
            incidents.remove(self.folder, found.incident)
        elif self._continues(found):
            self.say(f"{found.headline}: goes on")
            incidents.remove(self.folder, found.incident)
        else:
            self._settle(found)

    def _diagnose(self, alerts: tuple[Alert, ...], last_try: bool) -> None:
        first = min(alert.started for alert in alerts)
        self.say(f"alert: {_names(alerts)}")
        ago_s = max(0.0, (datetime.now(UTC) - first).total_seconds())
        near_s, far_s = (min(86_400.0, ago_s + before_s) for before_s in (NEAR_S, self.params.since_s))
        asks = [
            Ask(since_s=min(near_s, far_s), not_before=self._not_before, alerts=alerts),
            Ask(at=first, alerts=alerts),
        ]
        if last_try:
            asks.append(Ask(since_s=far_s, alerts=alerts))
        found = self._first_named(asks)
        log.info("looked for an alert: %s", "no diagnosis" if found is None else found.headline)
        if (found is None or not found.named) and not last_try:
            soonest, waiting = self._again or (time.monotonic() + AGAIN_S, ())
            self._again = (soonest, (*waiting, *alerts))
            if found is not None:
                incidents.remove(self.folder, found.incident)
            return
        if found is not None:
            self._settle(found)

    def _first_named(self, asks: Sequence[Ask]) -> Diagnosis | None:
        """Ask until a root is named or there is trouble; return the last diagnosis, and keep no other."""
        last: Diagnosis | None = None
        for ask in asks:
            reply = self._asked(ask)
            if reply.diagnosis is not None:
                if last is not None and last.incident != reply.diagnosis.incident:
                    incidents.remove(self.folder, last.incident)
                last = reply.diagnosis
            if reply.problem or (last is not None and last.named):
                break
        return last

    def _settle(self, found: Diagnosis) -> None:
        self.last = found
        self._not_before = max(filter(None, (self._not_before, found.change + timedelta(seconds=APART_S))))
        self.say(f"{found.incident}: {found.headline} ({found.page})")
        self._tell(found)
        if found.named:
            for follow in self.after:
                follow(found)

    def _tell(self, diagnosis: Diagnosis) -> None:
        for target in self.params.notify:
            try:
                notify(target, diagnosis)
            except NotifyError as error:
                self.say(f"notify: {error}")

    def _asked(self, ask: Ask) -> Reply:
        """Ask; trouble is said once, until it is over or another comes."""
        reply = self.ask(ask)
        if reply.problem and reply.problem != self._trouble:
            self.say(reply.problem)
        elif self._trouble and not reply.problem:
            self.say("it can be diagnosed again")
        self._trouble = reply.problem
        return reply

    def _explained(self, alert: Alert) -> bool:
        """Return whether the last diagnosis names a root, and the alert began while that was looked at."""
        if self.last is None or not self.last.named:
            return False
        slack = timedelta(seconds=self.params.join_s)
        return self.last.change - slack <= alert.started <= self.last.end + slack

    def _continues(self, found: Diagnosis) -> bool:
        return (
            self.last is not None
            and {root.service for root in found.roots} == {root.service for root in self.last.roots}
            and (found.change - self.last.end).total_seconds() < SAME_S
        )


def _names(alerts: Sequence[Alert]) -> str:
    names = list(dict.fromkeys(alert.name for alert in alerts))
    return f"{', '.join(names[:3])}{' …' if len(names) > 3 else ''} ({len(alerts)})"
