"""One attempt at a case: load ‖ inject -> export. It ends with a published case or with nothing but the journal.

Everything live about an attempt is in ``Workspace.run(case_id)``; a new attempt starts by removing it.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
import subprocess
import time
import urllib.parse
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from tasks import __version__
from tasks.case import TIMESTAMP, Case, CaseRecord, CaseWriter, Completeness, Injection, Phase, Service, Stack
from tasks.deploy.local.health import DIRECT, complete
from tasks.deploy.local.layout import Layout
from tasks.deploy.local.namespaces import join_network
from tasks.deploy.local.runtime import StackRuntime, running_stack
from tasks.export.exporter import TelemetrySources, export_case
from tasks.export.metric_map import METRIC_MAP_VERSION
from tasks.inject.injection import InjectionPlan, start_injection
from tasks.inject.recover import recover, residue
from tasks.load.run import load_record, read_requests, start_generator
from tasks.load.spec import LoadSpec
from tasks.lock import sole
from tasks.params import Params, Windows
from tasks.plan import CasePlan
from tasks.stack import GATEWAY, HEAD
from tasks.workspace import Workspace

logger = logging.getLogger(__name__)

Say = Callable[[str], None]

LEAD_TIME_S = 3.0
"""From the decision to start until the first request may leave: the generator and the guardians get ready."""
STEADY_TIMEOUT_S = 240.0
STEADY_LATENCY_S = 2.0
LOAD_NICENESS = -10

HEALTHY_REPLICAS = "count(last_over_time(ray_serve_deployment_replica_healthy[15s]) == 1)"
OPEN_REQUESTS = 'sum({__name__=~"ray_vllm_num_requests_(running|waiting)"})'
"""Ray reports a gauge only while it is being set: an idle engine has none."""


class AttemptError(RuntimeError):
    """The case could not be recorded; the message says why. Nothing was published."""


@dataclass(frozen=True)
class Schedule:
    """When the phases of an attempt begin and end, fixed before the load starts."""

    load_start: datetime
    windows: Windows

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


def run_case(params: Params, workspace: Workspace, plan: CasePlan, say: Say) -> Case:
    """Carry out ``plan`` on the running stack and publish the case.

    Call it from a process of its own: it moves the calling thread into the stack's network.

    Raises:
        AttemptError: no steady stack, residue that cannot be removed, a load generator that failed.
        StackNotRunningError: no stack runs in this workspace.
    """
    runtime = running_stack(workspace.stack)
    join_network(runtime.supervisor.pid)
    with sole_experiment(workspace):
        return _record(params, workspace, plan, runtime, say)


def sole_experiment(workspace: Workspace) -> AbstractContextManager[None]:
    """One case or one injection by hand at a time: neither may disturb the other. Entering raises AttemptError."""
    busy = AttemptError(f"a case or an injection is under way in {workspace.root}")
    return sole(workspace.root / ".experiment.lock", busy)


def _record(params: Params, workspace: Workspace, plan: CasePlan, runtime: StackRuntime, say: Say) -> Case:
    remove_residue(workspace)
    wait_until_steady(runtime, params, say)
    directory = workspace.run(plan.case_id)
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    schedule = Schedule(_now_rounded_up() + timedelta(seconds=LEAD_TIME_S), params.campaign.windows)
    requests_file = directory / "requests.jsonl"
    say(f"load: {params.load.rate:g} requests/s for {schedule.load_seconds:g} s")
    with ExitStack() as cleanup:
        generator = start_generator(
            LoadSpec(
                params=params.load,
                url=runtime.gateway_url,
                model=runtime.model,
                duration_s=schedule.load_seconds,
                seed=plan.seed,
                start_at=schedule.load_start.timestamp(),
            ),
            requests_file,
            nice=LOAD_NICENESS,
            log_file=directory / "load.log",
        )
        cleanup.callback(_end, generator)
        injections = _inject(runtime, workspace, plan, schedule, cleanup, say)
        _await(generator, schedule, params, directory)
        stray = residue(workspace)
        if stray:
            recover(workspace)
            raise AttemptError(f"a fault that is not part of the case was found at its end: {'; '.join(stray)}")
    say("export")
    with CaseWriter(workspace.cases, plan.case_id) as writer:
        requests = _from(schedule.baseline_start, read_requests(requests_file))
        writer.write("requests", requests)
        stack = describe_stack(params, runtime)
        completeness = export_case(
            writer,
            telemetry_sources(params, runtime),
            (schedule.baseline_start, schedule.end),
            params.export,
            stack,
        )
        completeness["requests"] = Completeness(
            status="complete" if requests.num_rows else "missing", reason="" if requests.num_rows else "no request sent"
        )
        case = writer.finish(
            CaseRecord(
                case_id=plan.case_id,
                campaign=params.campaign.name,
                stack=stack,
                front_end=GATEWAY,
                load=load_record(requests, params.load),
                phases=schedule.phases,
                injections=injections,
                completeness=completeness,
                versions={"rcarena": __version__, "metric_map": str(METRIC_MAP_VERSION), **runtime.versions},
                seed=plan.seed,
            )
        )
    shutil.rmtree(directory, ignore_errors=True)
    return case


def remove_residue(workspace: Workspace) -> None:
    """Raises AttemptError when traces of a fault stay in spite of recovery: no case may start then."""
    found = residue(workspace)
    if not found:
        return
    logger.warning("residue of a fault: %s; recovering", "; ".join(found))
    recover(workspace)
    left = residue(workspace)
    if left:
        raise AttemptError(f"residue of a fault cannot be removed: {'; '.join(left)}")


def wait_until_steady(runtime: StackRuntime, params: Params, say: Say) -> None:
    """Every replica serves, nothing is queued, and completions come back at once.

    Raises:
        AttemptError: that did not happen within ``STEADY_TIMEOUT_S``.
    """
    deadline = time.monotonic() + STEADY_TIMEOUT_S
    told = False
    while (problem := _unsteady(runtime, params)) is not None:
        if time.monotonic() > deadline:
            raise AttemptError(f"the stack is not steady after {STEADY_TIMEOUT_S:g} s: {problem}")
        if not told:
            say(f"waiting for a steady stack: {problem}")
            told = True
        time.sleep(1)


def describe_stack(params: Params, runtime: StackRuntime) -> Stack:
    """The stack descriptor of ``case.json``."""
    model = params.deploy.model
    return Stack(
        backend=params.deploy.backend,
        model=f"{model.architecture} (toy: {model.layers} layers, hidden size {model.hidden_size}, random weights)",
        engine="vllm",
        parallelism={"data": params.deploy.replicas, "tensor": 1, "pipeline": 1},
        versions=runtime.versions,
        services=tuple(
            Service(name=service.name, role=service.role, node="local", address=service.address)
            for service in runtime.services
        ),
    )


def telemetry_sources(params: Params, runtime: StackRuntime) -> TelemetrySources:
    layout = Layout(params.deploy, runtime.directory)
    return TelemetrySources(
        prometheus_url=runtime.prometheus_url,
        otlp_file=layout.otlp_file,
        nginx_access_log=layout.access_log,
        log_dirs=layout.log_directories(),
        calls=((GATEWAY, HEAD), *((HEAD, replica) for replica in layout.replicas)),
    )


def _inject(
    runtime: StackRuntime, workspace: Workspace, plan: CasePlan, schedule: Schedule, cleanup: ExitStack, say: Say
) -> tuple[Injection, ...]:
    handles = []
    for index, planned in enumerate(plan.injections):
        handle = start_injection(
            runtime,
            workspace,
            InjectionPlan(
                injection_id=f"{plan.case_id}-{index}",
                kind=planned.kind,
                target=planned.target,
                parameters=planned.parameters,
                start_at=schedule.fault_start + timedelta(seconds=planned.offset_s),
                duration_s=planned.duration_s,
            ),
        )
        cleanup.callback(handle.stop)
        handles.append(handle)
    for phase in schedule.phases:
        _sleep_until(phase.start)
        what = f": {plan.label}" if phase.name == "fault" and plan.injections else ""
        say(f"{phase.name}{what} ({(phase.end - phase.start).total_seconds():g} s)")
    injections = tuple(handle.wait() for handle in handles)
    for injection in injections:
        say(f"{injection.kind} → {injection.target}: {injection.verdict} ({injection.reason})")
    return injections


def _from(start: datetime, requests: pa.Table) -> pa.Table:
    """The warm-up is not part of the record."""
    return requests.filter(pc.greater_equal(requests["scheduled"], pa.scalar(start, TIMESTAMP)))


def _await(generator: subprocess.Popen[bytes], schedule: Schedule, params: Params, directory: Path) -> None:
    remaining = (schedule.end - datetime.now(UTC)).total_seconds() + params.load.request_timeout_s + 30
    try:
        status = generator.wait(max(1.0, remaining))
    except subprocess.TimeoutExpired:
        raise AttemptError("the load generator did not end in time") from None
    if status != 0:
        raise AttemptError(f"the load generator ended with exit status {status}; see {directory}/load.log")


def _end(generator: subprocess.Popen[bytes]) -> None:
    if generator.poll() is None:
        generator.kill()
        generator.wait()


def _unsteady(runtime: StackRuntime, params: Params) -> str | None:
    if not runtime.alive:
        raise AttemptError("the stack has died")
    try:
        replicas = _query(runtime, HEALTHY_REPLICAS)
        open_requests = _query(runtime, OPEN_REQUESTS)
    except (OSError, ValueError, KeyError) as error:
        return f"Prometheus does not answer: {error}"
    if replicas < params.deploy.replicas:
        return f"{replicas:g} of {params.deploy.replicas} replicas are healthy"
    if open_requests > 0:
        return f"{open_requests:g} requests still open"
    for _ in range(params.deploy.replicas):
        started = time.monotonic()
        problem = complete(runtime.gateway_url, runtime.model)
        if problem:
            return f"a completion failed: {problem}"
        if time.monotonic() - started > STEADY_LATENCY_S:
            return f"a completion took {time.monotonic() - started:.1f} s"
    return None


def _query(runtime: StackRuntime, expression: str) -> float:
    """An instant query with one value; 0 when there is no series."""
    url = f"{runtime.prometheus_url}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
    with DIRECT.open(url, timeout=10) as response:
        result = json.load(response)["data"]["result"]
    return float(result[0]["value"][1]) if result else 0.0


def _now_rounded_up() -> datetime:
    """Whole seconds: phases then fall on the sampling grid."""
    return datetime.fromtimestamp(math.ceil(time.time()), UTC)


def _sleep_until(moment: datetime) -> None:
    time.sleep(max(0.0, (moment - datetime.now(UTC)).total_seconds()))
