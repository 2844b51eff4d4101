"""One attempt at a case, in steps: prepare -> load ‖ inject -> publish.

``run_case`` runs all steps in one process. Pods run them one by one (``rcarena step``) and exchange files in the
attempt's directory, whose path depends on case and attempt alone. An attempt leaves a published case, or nothing but
the journal.
"""

from __future__ import annotations

import logging
import shutil
import subprocess
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import TypeAdapter, ValidationError

from tasks import __version__
from tasks.backends import backend_of
from tasks.backends.base import CaseOrder, LiveStack, Say
from tasks.campaign.errors import AttemptError
from tasks.campaign.phases import Partner, Schedule, agree_on_start, publish_schedule, read_schedule
from tasks.campaign.plan import CasePlan
from tasks.case import NO_REQUEST, TIMESTAMP, Case, CaseRecord, CaseWriter, Completeness, Sampling
from tasks.export.exporter import export_case
from tasks.export.queries.metrics import METRIC_MAP_VERSION
from tasks.inject.recover import recover, recover_fully, residue
from tasks.inject.start import start_injection
from tasks.injection import Injection
from tasks.load.run import load_record, read_run, start_generator
from tasks.load.spec import LoadSpec
from tasks.params import Params
from tasks.system.durable import write_durably
from tasks.system.file_lock import FileLock
from tasks.workspace import Workspace

logger = logging.getLogger(__name__)

STEADY_TIMEOUT_S = 240.0
LOAD_NICENESS = -10
REQUESTS_FILE = "requests.jsonl"
INJECTIONS_FILE = "injections.json"
LOAD_DONE_FILE = "load-done"
DONE_FILES: dict[Partner, str] = {"load": LOAD_DONE_FILE, "inject": INJECTIONS_FILE}
INJECTIONS = TypeAdapter(tuple[Injection, ...])


class Attempt:
    """One attempt at ``plan`` on the running stack. It moves this process into the network of the stack for good.

    Raises:
        StackNotRunningError: no stack runs in this workspace.
    """

    def __init__(self, params: Params, workspace: Workspace, plan: CasePlan, say: Say, name: str = "local") -> None:
        self.params = params
        self.workspace = workspace
        self.plan = plan
        self.say = say
        self.directory = workspace.run(plan.case_id, name)
        self.stack: LiveStack = backend_of(params, workspace).live()
        self.stack.enter()

    @property
    def requests_file(self) -> Path:
        """The rows of the load generator, as far as requests have ended."""
        return self.directory / REQUESTS_FILE

    def prepare(self) -> None:
        """Remove what faults left, wait for a steady stack, make the attempt's directory.

        Raises:
            AttemptError: residue that cannot be removed, or no steady stack.
        """
        if found := residue(self.workspace):
            logger.warning("residue of a fault: %s; recovering", "; ".join(found))
            recover_fully(self.workspace, logger.warning)
        wait_until_steady(self.stack, self.say)
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(parents=True)

    def is_done(self, partner: Partner) -> bool:
        """Say whether this part of the attempt has ended well: a step that runs again has nothing to do then."""
        return (self.directory / DONE_FILES[partner]).exists()

    def agree_on_start(self, partner: Partner, timeout_s: float) -> Schedule:
        """Wait for the other process of this attempt, as ``partner``. Raises AttemptError when it does not come."""
        self._check_prepared()
        return agree_on_start(self.directory, partner, self.params.campaign.windows, timeout_s)

    def start_load(self, schedule: Schedule) -> subprocess.Popen[bytes]:
        """Start the load generator; its first request leaves at ``schedule.load_start``."""
        self.say(f"load: {self.plan.load.summary} for {schedule.load_seconds:g} s")
        spec = LoadSpec(
            params=self.plan.load,
            url=self.stack.runtime.gateway_url,
            model=self.stack.runtime.model,
            duration_s=schedule.load_seconds,
            seed=self.plan.seed,
            start_at=schedule.load_start.timestamp(),
            fault_start_s=(schedule.fault_start - schedule.load_start).total_seconds(),
        )
        return start_generator(spec, self.requests_file, nice=LOAD_NICENESS, log_file=self.directory / "load.log")

    def await_load(self, generator: subprocess.Popen[bytes], schedule: Schedule) -> None:
        """Wait for the end of the load. Raises AttemptError when the generator fails or does not end in time."""
        remaining = (schedule.end - datetime.now(UTC)).total_seconds() + self.plan.load.request_timeout_s + 30
        try:
            status = generator.wait(max(1.0, remaining))
        except subprocess.TimeoutExpired:
            raise AttemptError("the load generator did not end in time") from None
        if status != 0:
            raise AttemptError(f"the load generator ended with exit status {status}; see {self.directory}/load.log")
        (self.directory / LOAD_DONE_FILE).touch()

    def inject(self, schedule: Schedule) -> None:
        """Carry out the faults of the case at their times and write them to the attempt's directory.

        Raises:
            FaultError: a fault could not be undone.
            AttemptError: a fault that is not part of the case was found at its end.
        """
        with ExitStack() as cleanup:
            handles = []
            for index, planned in enumerate(self.plan.injections):
                handle = start_injection(
                    self.stack.runtime,
                    self.workspace,
                    planned,
                    injection_id=f"{self.plan.case_id}-{index}",
                    window_start=schedule.fault_start,
                )
                cleanup.callback(handle.stop)
                handles.append(handle)
            for phase in schedule.phases:
                _sleep_until(phase.start)
                what = f": {self.plan.label}" if phase.name == "fault" and self.plan.injections else ""
                self.say(f"{phase.name}{what} ({(phase.end - phase.start).total_seconds():g} s)")
            injections = tuple(handle.wait() for handle in handles)
        for done in injections:
            self.say(f"{done}: {done.verdict} ({done.reason})")
        _sleep_until(schedule.end)
        stray = residue(self.workspace)
        if stray:
            recover(self.workspace)
            raise AttemptError(f"a fault that is not part of the case was found at its end: {'; '.join(stray)}")
        write_durably(self.directory / INJECTIONS_FILE, INJECTIONS.dump_json(injections, indent=1))

    def publish(self) -> Case:
        """Export the telemetry of the attempt and publish the case; the directories of all attempts at it are removed.

        Raises:
            AttemptError: load or injection did not finish.
            ExportError: a telemetry source cannot be read.
        """
        self._check_prepared()
        schedule = read_schedule(self.directory)
        if schedule is None:
            raise AttemptError(f"{self.plan.case_id}: neither load nor injection has run in {self.directory}")
        injections = self._injections()
        if not (self.directory / LOAD_DONE_FILE).exists():
            raise AttemptError(f"{self.plan.case_id}: the load of this attempt did not finish")
        self.say("export")
        with CaseWriter(self.workspace.cases, self.plan.case_id) as writer:
            run = read_run(self.requests_file)
            requests = scheduled_from(schedule.baseline_start, run.requests)
            writer.write("requests", requests)
            stack = self.stack.describe().model_copy(update={"index": self.workspace.stack_index})
            window = (schedule.baseline_start, schedule.end)
            completeness = export_case(writer, self.stack.sources(), window, self.params.export, stack)
            completeness["requests"] = Completeness(
                status="complete" if requests.num_rows else "missing",
                reason="" if requests.num_rows else NO_REQUEST,
            )
            software = {"rcarena": __version__, "metric_map": str(METRIC_MAP_VERSION), **self.stack.runtime.versions}
            case = writer.finish(
                CaseRecord(
                    case_id=self.plan.case_id,
                    campaign=self.params.campaign.name,
                    stack=stack,
                    front_end=stack.nearest_users,
                    load=load_record(requests, self.plan.load, run.oddities),
                    phases=schedule.phases,
                    injections=injections,
                    scenario=self.plan.scenario,
                    completeness=completeness,
                    sampling=Sampling(step_s=self.params.export.step_s, rate_window_s=self.params.export.rate_window_s),
                    versions=software,
                    seed=self.plan.seed,
                    parameters=dict(self.plan.parameters),
                )
            )
        for place in self.workspace.on_disk():
            shutil.rmtree(place.run(self.plan.case_id).parent, ignore_errors=True)
        return case

    def _injections(self) -> tuple[Injection, ...]:
        try:
            return INJECTIONS.validate_json((self.directory / INJECTIONS_FILE).read_bytes())
        except FileNotFoundError:
            raise AttemptError(f"{self.plan.case_id}: the injection of this attempt did not finish") from None
        except ValidationError as error:
            raise AttemptError(f"{self.directory / INJECTIONS_FILE}: {error.error_count()} problems") from error

    def _check_prepared(self) -> None:
        if not self.directory.is_dir():
            raise AttemptError(f"{self.directory} does not exist: run `rcarena step prepare {self.plan.case_id}` first")


def run_case(params: Params, workspace: Workspace, plan: CasePlan, say: Say) -> Case:
    """Run every step of an attempt at ``plan`` on the running stack, and publish the case.

    Raises:
        AttemptError: no steady stack, residue that cannot be removed, a load generator that failed.
        StackNotRunningError: no stack runs in this workspace.
    """
    backend = backend_of(params, workspace)
    if backend.makes_cases():
        return backend.make_case(order_of(params, plan), workspace.cases)
    attempt = Attempt(params, workspace, plan, say)
    with experiment_lock(workspace):
        attempt.prepare()
        schedule = publish_schedule(attempt.directory, Schedule.starting_soon(params.campaign.windows))
        with ExitStack() as cleanup:
            generator = attempt.start_load(schedule)
            cleanup.callback(stop_load, generator)
            attempt.inject(schedule)
            attempt.await_load(generator, schedule)
        return attempt.publish()


def order_of(params: Params, plan: CasePlan) -> CaseOrder:
    """Return ``plan`` for a backend that makes cases itself."""
    return CaseOrder(
        case_id=plan.case_id,
        campaign=params.campaign.name,
        scenario=plan.scenario,
        seed=plan.seed,
        injections=plan.injections,
        load=plan.load,
        windows=params.campaign.windows,
        export=params.export,
        parameters=plan.parameters,
    )


def experiment_lock(workspace: Workspace) -> FileLock:
    """Keep other cases and injections by hand off the stack while held. Entering raises AttemptError when one runs."""
    busy = AttemptError(f"a case or an injection is under way in {workspace.live}")
    return FileLock(workspace.live / ".experiment.lock", busy)


def stop_load(generator: subprocess.Popen[bytes]) -> None:
    """End the load generator if it still runs."""
    if generator.poll() is None:
        generator.kill()
        generator.wait()


def wait_until_steady(stack: LiveStack, say: Say) -> None:
    """Wait until every replica serves, nothing is queued, and completions come back at once.

    Raises:
        AttemptError: the stack is not steady within ``STEADY_TIMEOUT_S``.
    """
    deadline = time.monotonic() + STEADY_TIMEOUT_S
    told = False
    while (problem := stack.unsteady()) is not None:
        if time.monotonic() > deadline:
            raise AttemptError(f"the stack is not steady after {STEADY_TIMEOUT_S:g} s: {problem}")
        if not told:
            say(f"waiting for a steady stack: {problem}")
            told = True
        time.sleep(1)


def scheduled_from(start: datetime, requests: pa.Table) -> pa.Table:
    """Leave out the requests before ``start``, those of the warm-up."""
    return requests.filter(pc.greater_equal(requests["scheduled"], pa.scalar(start, TIMESTAMP)))


def _sleep_until(moment: datetime) -> None:
    time.sleep(max(0.0, (moment - datetime.now(UTC)).total_seconds()))
