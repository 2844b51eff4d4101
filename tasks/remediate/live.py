"""A real stack under a case's load and faults, as the loop sees it: what passes here is wall time.

Faults, load and gate are those of a recorded case. A fault lasts until an action ends what it lives in (the processes,
the link, a setting), or until the end of the fault window.
"""

from __future__ import annotations

import contextlib
import math
import shutil
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from tasks import __version__
from tasks.actions.act import act, lasting, undo_action
from tasks.actions.catalogue import find_action
from tasks.backends import backend_of, find
from tasks.backends.base import Patient, Say
from tasks.campaign.attempt import Attempt, experiment_lock, order_of, scheduled_from, stop_load
from tasks.campaign.errors import AttemptError
from tasks.campaign.lease import leased_stack
from tasks.campaign.phases import Schedule, publish_schedule
from tasks.campaign.plan import CasePlan
from tasks.campaign.settle import campaign_lock
from tasks.case import REQUESTS, Case, CaseRecord, CaseWriter, Completeness, Phase, Sampling
from tasks.deploy.errors import StackNotRunningError
from tasks.errors import ParamsError
from tasks.export.exporter import export_case
from tasks.export.queries.metrics import METRIC_MAP_VERSION
from tasks.inject.errors import FaultError
from tasks.inject.journal import read_journal
from tasks.inject.recover import recover
from tasks.inject.start import ActiveInjection, start_injection
from tasks.load.prompts import POOL_WORDS
from tasks.load.run import load_record, read_run
from tasks.load.schedule import draw_schedule
from tasks.params import Params
from tasks.requests import failed
from tasks.workspace import Workspace

POLL_S = 0.2
RATE_S = 20.0
"""The offered rate is counted over so long."""
NAME = "remediate"
PLATFORM = "platform"


def is_live(params: Params) -> bool:
    """Return whether the experiment runs on a real stack, one run at a time."""
    backend = find(params.deploy.backend)
    return backend.admits() and not backend.makes_cases()


@contextlib.contextmanager
def ready(params: Params, workspace: Workspace, say: Say, keep_stack: bool) -> Iterator[None]:
    """Hold a leased stack up, for backends that have one; without ``keep_stack`` it ends with the block.

    Raises:
        ParamsError: a policy is none on a real stack.
        CampaignError: another campaign uses the workspace.
        DeployError: the stack does not come up.
        FaultError: faults or actions of an earlier run cannot be undone.
    """
    if not is_live(params):
        yield
        return
    if PLATFORM in params.remediate.policies:
        raise ParamsError(
            [
                f"remediate.policies: '{PLATFORM}' must not be given with the backend {params.deploy.backend}: the "
                "stack's own health checks are at work under every policy"
            ]
        )
    with campaign_lock(workspace):
        recover(workspace)
        with leased_stack(backend_of(params, workspace), say, keep_stack):
            yield


def admit(params: Params, workspace: Workspace, plan: CasePlan, say: Say) -> Patient:
    """Return the case at its start: on a stack that is steady and without faults, its load about to begin.

    A stack that does not become steady is replaced once. Raises RCArenaError.
    """
    backend = backend_of(params, workspace)
    if not is_live(params):
        return backend.admit(order_of(params, plan))
    try:
        return LivePatient(params, workspace, plan, say)
    except (AttemptError, FaultError, StackNotRunningError) as error:
        say(f"{error}; once more, on a fresh stack")
        backend.down()
        backend.up(say)
        return LivePatient(params, workspace, plan, say)


class LivePatient(Patient):
    """A running stack. It moves this process into the network of the stack for good.

    Raises:
        AttemptError: no steady stack, or another experiment on it.
        FaultError: a fault cannot be carried out, or an earlier one not undone.
        StackNotRunningError: no stack runs in this workspace.
    """

    def __init__(self, params: Params, workspace: Workspace, plan: CasePlan, say: Say) -> None:
        self._params, self._workspace, self._plan, self._say = params, workspace, plan, say
        windows = params.campaign.windows
        self.begin_s: float = windows.warmup_s
        self.fault_s = windows.warmup_s + windows.baseline_s
        self.recovery_s = self.fault_s + windows.fault_s
        self.end_s = self.recovery_s + windows.recovery_s
        self._share: float | None = None
        self._acted = 0
        self._unseen = False
        self._held = contextlib.ExitStack()
        try:
            self._begin()
        except BaseException:
            self.release()
            raise

    def _begin(self) -> None:
        self._held.enter_context(experiment_lock(self._workspace))
        self._attempt = attempt = Attempt(self._params, self._workspace, self._plan, self._say, NAME)
        attempt.prepare()
        self._held.callback(shutil.rmtree, attempt.directory, ignore_errors=True)
        self._schedule = publish_schedule(attempt.directory, Schedule.starting_soon(self._params.campaign.windows))
        self._start_ns = round(self._schedule.load_start.timestamp()) * 1_000_000_000
        self._run = f"{self._plan.case_id}-{self._schedule.load_start:%H%M%S}"
        drawn = draw_schedule(self._plan.load, self._schedule.load_seconds, self._plan.seed, POOL_WORDS, self.fault_s)
        self._due, self._tokens = drawn.offset_ns / 1e9, drawn.output_tokens
        self._generator = attempt.start_load(self._schedule)
        self._held.callback(stop_load, self._generator)
        for index, planned in enumerate(self._plan.injections):
            injection = start_injection(
                attempt.stack.runtime,
                self._workspace,
                planned,
                injection_id=f"{self._run}-{index}",
                window_start=self._schedule.fault_start,
            )
            self._held.callback(self._end, injection)
        self._held.callback(self._undo_actions)

    @property
    def now_s(self) -> float:
        return time.time() - self._start_ns / 1e9

    def advance(self, until_s: float) -> None:
        """Wait; after the faults, when the last request has ended, there is nothing to wait for. Raises AttemptError,
        StackNotRunningError."""
        until_baseline_ends = self._share is None and self.now_s < self.fault_s <= until_s
        while (left_s := until_s - self.now_s) > 0:
            if (status := self._generator.poll()) is not None:
                if status:
                    raise AttemptError(f"the load generator ended with exit status {status}")
                if self.now_s >= self.recovery_s:
                    return
            if not self._attempt.stack.runtime.alive:
                raise StackNotRunningError("the stack has died")
            time.sleep(min(left_s, POLL_S))
        if until_baseline_ends:
            self._share = self._attempt.stack.load_share()

    def requests(self) -> pd.DataFrame:
        count = int(np.searchsorted(self._due, self.now_s, side="right"))
        columns = {name: np.full(count, np.nan) for name in ("first_token", "last_token")}
        lost = np.zeros(count, dtype=bool)
        rows = self._answered().to_pandas()
        if len(rows):
            number = rows["request_id"].str.rpartition("-")[2].astype(int).to_numpy()
            rows = rows[number < count]
            number = number[number < count]
            over = failed(rows).to_numpy()
            lost[number] = over
            for name, values in columns.items():
                ns = pd.DatetimeIndex(rows[name]).as_unit("ns").asi8
                seconds = np.where(rows[name].isna(), np.nan, (ns - self._start_ns) / 1e9)
                values[number] = np.where(over, np.nan, seconds)
        return pd.DataFrame(
            {"scheduled": self._due[:count], **columns, "failed": lost, "output_tokens": self._tokens[:count]}
        )

    def recording(self, directory: Path) -> Case:
        """Publish what has arrived, without a word on the faults. Raises ExportError, CaseError."""
        sources, stack = self._attempt.stack.sources(), self._attempt.stack.describe()
        start = self._schedule.baseline_start
        end = datetime.fromtimestamp(int(time.time() - sources.settle_s), UTC)
        export = self._params.export
        with CaseWriter(directory, self._run) as writer:
            requests = scheduled_from(start, self._answered())
            writer.write("requests", requests)
            completeness = export_case(writer, sources, (start, end), export, stack)
            completeness["requests"] = Completeness(status="complete" if requests.num_rows else "missing")
            return writer.finish(
                CaseRecord(
                    case_id=self._run,
                    kind="incident",
                    campaign=self._params.campaign.name,
                    stack=stack,
                    front_end=stack.nearest_users,
                    load=load_record(requests, self._plan.load),
                    phases=(Phase(name="baseline", start=start, end=end),),
                    completeness=completeness,
                    sampling=Sampling(step_s=export.step_s, rate_window_s=export.rate_window_s),
                    versions={"rcarena": __version__, "metric_map": str(METRIC_MAP_VERSION), **stack.versions},
                    seed=self._plan.seed,
                )
            )

    def act(self, action: str, target: str) -> float:
        now_s = self.now_s
        self._acted += 1  # an action may be repeated in a run; `act` does it once per id, target and action
        journal = act(self._attempt.stack.runtime, self._workspace, action, target, f"{self._run}.{self._acted}")
        took_s = self.now_s - now_s
        self._say(f"{action} of {target} at {now_s - self.fault_s:.1f} s of the fault, took {took_s:.1f} s")
        if journal.open:
            return math.inf
        return self._params.remediate.guards.restart_s if find_action(action).capacity else 0.0

    def unresponsive(self) -> Sequence[str]:
        return self._attempt.stack.unresponsive()

    def load_share(self) -> float | None:
        """Return the share of the end of the baseline, times what the offered rate has become."""
        if self._share is None:
            return None
        now_s, before_s = self.now_s, self._params.campaign.windows.baseline_s
        now = float(((self._due > now_s - RATE_S) & (self._due <= now_s)).sum()) / RATE_S
        before = float(((self._due > self.fault_s - before_s) & (self._due <= self.fault_s)).sum()) / before_s
        return self._share * max(1.0, now / before) if before else None

    def unseen(self) -> bool:
        return self._unseen

    def release(self) -> None:
        """Undo actions that last, end faults and load. Raises FaultError, ActionError: something is left."""
        self._held.close()

    def _answered(self) -> pa.Table:
        file = self._attempt.requests_file
        return read_run(file).requests if file.exists() else REQUESTS.empty_table()

    def _end(self, injection: ActiveInjection) -> None:
        """End a fault, and say when its effect was not seen: such a run says little."""
        done = injection.stop()
        if read_journal(injection.path).effect_seen_at is None:
            self._unseen = True
            self._say(f"{done}: its effect was not seen ({done.reason})")

    def _undo_actions(self) -> None:
        for journal in lasting(self._workspace):
            if journal.injection_id.startswith(f"{self._run}.") and not journal.finishes:
                undo_action(self._workspace, journal.kind, journal.target.name)
