"""``rcarena``: one command per stage; what people, DVC and pods all call.

Exit status: 0 done, 1 failed, 2 wrong usage or parameters.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Literal, ParamSpec

import typer

from tasks import __version__
from tasks.console import Console
from tasks.datasets.commands import export_dataset, import_dataset
from tasks.params import DEFAULT_PARAMS_FILE, Params, load_params
from tasks.validation import ParamsError
from tasks.workspace import DEFAULT_WORKSPACE, Workspace

if TYPE_CHECKING:
    from tasks.plan import CasePlan
    from tasks.score.campaign import OpenPool

Arguments = ParamSpec("Arguments")

ParamsFile = Annotated[
    Path, typer.Option("--params", metavar="FILE", help="Parameters of the campaign.", show_default=True)
]
WorkspaceDir = Annotated[
    Path, typer.Option("--workspace", metavar="DIR", help="Where the campaign keeps its files.", show_default=True)
]
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]

EXIT_FAILED, EXIT_USAGE = 1, 2

app = typer.Typer(
    help="Break a known component of an LLM inference stack and score which RCA method names it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
deploy_app = typer.Typer(help="Bring the stack up and down.", no_args_is_help=True)
params_app = typer.Typer(help="Look at the parameters.", no_args_is_help=True)
app.add_typer(deploy_app, name="deploy")
app.add_typer(params_app, name="params")


def _stage(function: Callable[Arguments, None]) -> Callable[Arguments, None]:
    """Turn the errors that a user can cause or cure into one clear message and an exit status."""

    @wraps(function)
    def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> None:
        try:
            function(*args, **kwargs)
        except ParamsError as error:
            _fail(error, EXIT_USAGE)
        except KeyboardInterrupt:
            _fail("interrupted; run the same command again to continue", EXIT_FAILED)
        except _failures() as error:
            _fail(error, EXIT_FAILED)

    return run


def _failures() -> tuple[type[Exception], ...]:
    from tasks.attempt import AttemptError
    from tasks.campaign import CampaignError
    from tasks.case import CaseError
    from tasks.deploy.local.lifecycle import DeployError
    from tasks.deploy.local.runtime import StackNotRunningError
    from tasks.export.base import ExportError
    from tasks.inject.injection import InjectionError
    from tasks.inject.journal import JournalError
    from tasks.inject.local.target import FaultError
    from tasks.load.run import LoadError
    from tasks.rca.child import RunnerError
    from tasks.report.score_files import ScoresError
    from tasks.score.campaign import ScoreError

    return (
        AttemptError,
        CampaignError,
        CaseError,
        DeployError,
        ExportError,
        FaultError,
        InjectionError,
        JournalError,
        LoadError,
        RunnerError,
        ScoreError,
        ScoresError,
        StackNotRunningError,
        OSError,
    )


def _fail(error: object, status: int) -> None:
    for line in str(error).splitlines() or [type(error).__name__]:
        typer.echo(f"rcarena: {line}", err=True)
    raise typer.Exit(status)


def _checked_params(path: Path) -> Params:
    from tasks.plan import check_params

    params = load_params(path)
    check_params(params, str(path))
    return params


def _workspace(root: Path) -> Workspace:
    if root.exists() and not root.is_dir():
        raise ParamsError([f"--workspace: {root} is not a directory"])
    if any(character in str(root.resolve()) for character in '"$\n\\'):
        raise ParamsError([f"--workspace: {root.resolve()} must not contain quotes, $, backslashes or line breaks"])
    return Workspace(root.resolve())


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"rcarena {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show what each step does.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and end.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING, format="%(levelname)s %(name)s: %(message)s"
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """The first signal starts the clean-up; further ones must not interrupt it."""
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt


@app.command()
@_stage
def campaign(
    params: ParamsFile = DEFAULT_PARAMS_FILE,
    workspace: WorkspaceDir = DEFAULT_WORKSPACE,
    keep_stack: Annotated[bool, typer.Option("--keep-stack", help="Leave the stack up at the end.")] = False,
) -> None:
    """Run a whole campaign: collect every case, score every method, write the report."""
    checked, place, console = _checked_params(params), _workspace(workspace), Console()
    _collect(checked, place, console, keep_stack)
    table = _score(checked, place, console)
    page = _report(checked, place, console)
    console.show("")
    console.show(table)
    console.show("")
    console.show(f"report: {page}")


@app.command()
@_stage
def collect(
    params: ParamsFile = DEFAULT_PARAMS_FILE,
    workspace: WorkspaceDir = DEFAULT_WORKSPACE,
    keep_stack: Annotated[bool, typer.Option("--keep-stack", help="Leave the stack up at the end.")] = False,
) -> None:
    """Record every case of the campaign that is not finished yet."""
    _collect(_checked_params(params), _workspace(workspace), Console(), keep_stack)


@app.command()
@_stage
def plan(
    params: ParamsFile = DEFAULT_PARAMS_FILE, workspace: WorkspaceDir = DEFAULT_WORKSPACE, as_json: AsJson = False
) -> None:
    """List the cases of the campaign and which are finished."""
    from dataclasses import asdict

    from tasks.case import is_finished
    from tasks.plan import plan_campaign

    checked, place = _checked_params(params), _workspace(workspace)
    plans = [(each, is_finished(place.cases / each.case_id)) for each in plan_campaign(checked)]
    if as_json:
        typer.echo(json.dumps([{**asdict(each), "finished": finished} for each, finished in plans], indent=1))
        return
    for each, finished in plans:
        typer.echo(f"{each.case_id}  {'finished' if finished else 'pending '}  {each.label}")
    windows = checked.campaign.windows
    seconds = windows.warmup_s + windows.baseline_s + windows.fault_s + windows.recovery_s
    typer.echo(
        f"{len(plans)} cases of {seconds:g} s each: about {len(plans) * (seconds + 8) / 60:.0f} min and the start"
    )


@app.command()
@_stage
def case(
    case_id: Annotated[str, typer.Argument(help="A case id of `rcarena plan`.")],
    params: ParamsFile = DEFAULT_PARAMS_FILE,
    workspace: WorkspaceDir = DEFAULT_WORKSPACE,
) -> None:
    """Record one case on the running stack (load ‖ inject, then export)."""
    from tasks.attempt import run_case
    from tasks.case import is_finished

    checked, place, console = _checked_params(params), _workspace(workspace), Console()
    planned = _planned_case(checked, case_id)
    if is_finished(place.cases / case_id):
        console.say(f"{case_id} is finished already")
        return
    finished = run_case(checked, place, planned, console.say)
    console.say(f"recorded {finished.path.name}: {finished.record.load.requests} requests")


def _planned_case(params: Params, case_id: str) -> CasePlan:
    from tasks.plan import plan_campaign
    from tasks.validation import suggest

    plans = {each.case_id: each for each in plan_campaign(params)}
    if case_id not in plans:
        raise ParamsError([f"unknown case '{case_id}'; {suggest(case_id, plans)}"])
    return plans[case_id]


@deploy_app.command("up")
@_stage
def deploy_up(params: ParamsFile = DEFAULT_PARAMS_FILE, workspace: WorkspaceDir = DEFAULT_WORKSPACE) -> None:
    """Bring the stack up (or find it up); done when a completion came back through the gateway."""
    from tasks.deploy.local.lifecycle import drop_lease, up

    place, console = _workspace(workspace), Console()
    runtime = up(_checked_params(params).deploy, place.stack, console.say)
    drop_lease(place.stack)
    console.say(f"gateway {runtime.gateway_url}, prometheus {runtime.prometheus_url} (inside: rcarena deploy exec)")


@deploy_app.command("status")
@_stage
def deploy_status(
    params: ParamsFile = DEFAULT_PARAMS_FILE, workspace: WorkspaceDir = DEFAULT_WORKSPACE, as_json: AsJson = False
) -> None:
    """Say what runs; exit status 1 unless the stack is ready."""
    from dataclasses import asdict

    from tasks.deploy.local.lifecycle import status

    found = status(_workspace(workspace).stack)
    if as_json:
        typer.echo(json.dumps(asdict(found), indent=1))
    else:
        typer.echo(f"{found.state}: {found.detail}")
        for service in found.services:
            quota = "no quota" if service.cpu_cores is None else f"{service.cpu_cores:g} cores"
            typer.echo(
                f"  {service.name:<18} {service.role:<8} {service.address:<12} "
                f"{service.processes:>3} processes  {quota:<10} {service.memory_mb:6.0f} MB"
            )
    if found.state != "ready":
        raise typer.Exit(EXIT_FAILED)


@deploy_app.command("down")
@_stage
def deploy_down(params: ParamsFile = DEFAULT_PARAMS_FILE, workspace: WorkspaceDir = DEFAULT_WORKSPACE) -> None:
    """End the stack and remove everything it left outside the workspace."""
    from tasks.campaign import take_down

    typer.echo("the stack is down" if take_down(_workspace(workspace)) else "no stack was up")


@deploy_app.command("exec", context_settings={"ignore_unknown_options": True})
@_stage
def deploy_exec(
    service: Annotated[str, typer.Argument(help="A service, or `fabric` for the side of Prometheus and the load.")],
    command: Annotated[list[str], typer.Argument(help="What to run there, for example: ip address")],
    params: ParamsFile = DEFAULT_PARAMS_FILE,
    workspace: WorkspaceDir = DEFAULT_WORKSPACE,
) -> None:
    """Run a command inside a service's network namespace."""
    from tasks.deploy.local.runtime import running_stack
    from tasks.validation import suggest

    runtime = running_stack(_workspace(workspace).stack)
    names = [each.name for each in runtime.services]
    if service not in ("fabric", *names):
        raise ParamsError([f"unknown service '{service}'; {suggest(service, ['fabric', *names])}"])
    prefix = runtime.enter_fabric() if service == "fabric" else runtime.enter_service(service)
    os.execvp(prefix[0], [*prefix, *command])  # noqa: S606 (the user's own command)


@app.command()
@_stage
def inject(
    kind: Annotated[str | None, typer.Argument(help="A fault kind of `rcarena faults`.")] = None,
    target: Annotated[str | None, typer.Argument(help="The service to break.")] = None,
    duration: Annotated[float, typer.Option("--duration", min=1, max=86_400, help="Seconds.")] = 30,
    parameter: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A parameter of the fault; repeatable.")
    ] = None,
    recover_only: Annotated[
        bool, typer.Option("--recover", help="Undo every fault that is still there, and say what was found.")
    ] = False,
    params: ParamsFile = DEFAULT_PARAMS_FILE,
    workspace: WorkspaceDir = DEFAULT_WORKSPACE,
) -> None:
    """Break one service of the running stack for a while, or undo what is left of faults (--recover)."""
    from tasks.inject.recover import recover, residue

    place, console = _workspace(workspace), Console()
    if recover_only:
        for line in recover(place):
            console.say(line)
        left = residue(place)
        if left:
            _fail("\n".join(["residue that could not be removed:", *left]), EXIT_FAILED)
        console.say("no fault is left")
        return
    if kind is None or target is None:
        raise ParamsError(["give a fault kind and a target, or --recover"])
    _inject_once(_checked_params(params), place, console, kind, target, duration, _assignments(parameter or []))


def _inject_once(
    params: Params,
    place: Workspace,
    console: Console,
    kind: str,
    target: str,
    duration_s: float,
    parameters: dict[str, Any],
) -> None:
    import time
    from datetime import UTC, datetime, timedelta

    from tasks.attempt import sole_experiment
    from tasks.deploy.local.runtime import running_stack
    from tasks.inject.catalogue import resolve_parameters, validate_injection
    from tasks.inject.injection import LEAD_S, InjectionPlan, start_injection

    problems = validate_injection(kind, target, parameters, params.deploy.roles(), "inject")
    if problems:
        raise ParamsError(problems)
    runtime = running_stack(place.stack)
    plan = InjectionPlan(
        injection_id=f"manual-{time.time_ns()}",
        kind=kind,
        target=target,
        parameters=resolve_parameters(kind, parameters).model_dump(mode="json"),
        start_at=datetime.now(UTC) + timedelta(seconds=LEAD_S),
        duration_s=duration_s,
    )
    console.say(f"{kind} → {target} for {duration_s:g} s; Ctrl-C undoes it at once")
    with sole_experiment(place), start_injection(runtime, place, plan) as handle:
        injection = handle.wait()
    console.say(f"{injection.verdict}: {injection.reason}")


def _assignments(pairs: list[str]) -> dict[str, Any]:
    import yaml

    values: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise ParamsError([f"--set {pair}: must be NAME=VALUE"])
        try:
            values[name] = yaml.safe_load(text)
        except yaml.YAMLError:
            values[name] = text
    return values


@app.command()
@_stage
def load(
    url: Annotated[str, typer.Option("--url", help="An OpenAI-compatible server.")],
    model: Annotated[str, typer.Option("--model", help="The model name it serves.")],
    out: Annotated[Path, typer.Option("--out", help="Parquet file for the requests.")],
    duration: Annotated[float, typer.Option("--duration", min=0.1, help="Seconds.")] = 30,
    params: ParamsFile = DEFAULT_PARAMS_FILE,
    workspace: WorkspaceDir = DEFAULT_WORKSPACE,
) -> None:
    """Load any OpenAI-compatible server as a campaign would, and record every request."""
    import pyarrow.parquet as pq

    from tasks.load.run import read_requests, run_foreground
    from tasks.load.spec import LoadSpec

    checked, console = load_params(params), Console()
    try:
        spec = LoadSpec(params=checked.load, url=url, model=model, duration_s=duration, seed=checked.campaign.seed)
    except ValueError as error:
        raise ParamsError([f"--url {url}: {str(error).splitlines()[-2].strip()}"]) from error
    rows = out.with_name(f".{out.name}.rows")
    try:
        record = run_foreground(spec, rows)
        pq.write_table(read_requests(rows), out, compression="zstd")
    finally:
        for leftover in (rows, rows.with_name(f"{rows.name}.spec.json")):
            leftover.unlink(missing_ok=True)
    console.say(
        f"{record.requests} requests, {record.failed} failed, send lag p99 {record.send_lag_p99_ms or 0:.1f} ms: "
        f"{record.verdict}; {out}"
    )


@app.command()
@_stage
def score(
    fresh: Annotated[bool, typer.Option("--fresh", help="Run every pair again, also those that are kept.")] = False,
    engine: Annotated[
        Literal["process", "ray"], typer.Option("--engine", help="Where the pairs run: here, or on a Ray cluster.")
    ] = "process",
    ray_address: Annotated[
        str | None,
        typer.Option("--ray-address", metavar="ADDRESS", help="auto, HOST:PORT, ray://HOST:PORT, or local (default)."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Pairs at once; default: one per CPU of this engine.")
    ] = None,
    params: ParamsFile = DEFAULT_PARAMS_FILE,
    workspace: WorkspaceDir = DEFAULT_WORKSPACE,
) -> None:
    """Let every method rank the suspects of every case, and score the rankings.

    Killed or interrupted, the same command goes on where it stopped.
    """
    if ray_address is not None and engine != "ray":
        raise ParamsError(["--ray-address: needs --engine ray"])
    console = Console()
    checked, place = _checked_params(params), _workspace(workspace)
    if engine == "process":
        console.show(_score(checked, place, console, fresh=fresh, workers=workers))
        return
    from tasks.rca.ray_pool import RayPool
    from tasks.rca.runner import Limits, PairPool

    def on_ray(limits: Limits) -> PairPool:
        return RayPool(limits, ray_address, workers)

    console.show(_score(checked, place, console, fresh=fresh, open_pool=on_ray))


@app.command()
@_stage
def report(params: ParamsFile = DEFAULT_PARAMS_FILE, workspace: WorkspaceDir = DEFAULT_WORKSPACE) -> None:
    """Write the HTML report from the recorded cases and their scores."""
    console = Console()
    console.show(f"report: {_report(_checked_params(params), _workspace(workspace), console)}")


app.command("import")(_stage(import_dataset))
app.command("export")(_stage(export_dataset))


@app.command()
@_stage
def methods(
    params: ParamsFile = DEFAULT_PARAMS_FILE, workspace: WorkspaceDir = DEFAULT_WORKSPACE, as_json: AsJson = False
) -> None:
    """List the RCA methods."""
    from tasks.rca.registry import list_methods

    rows: list[dict[str, Any]] = [
        {
            "name": each.name,
            "family": each.family,
            "summary": each.summary,
            "needs": sorted(each.needs),
            "paper": {"title": each.paper.title, "venue": each.paper.venue, "year": each.paper.year},
            "cost": each.cost,
            "seeded": each.seeded,
            "installed": each.installed,
            "missing_packages": list(each.missing_packages),
            "parameters": {
                name: {"default": parameter.default, "type": parameter.kind}
                for name, parameter in each.parameters.items()
            },
        }
        for each in list_methods()
    ]
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    for row in rows:
        needs = ", ".join(row["needs"]) or "nothing"
        state = "ready" if row["installed"] else f"NOT INSTALLED: {', '.join(row['missing_packages'])}"
        drawn = ", draws random numbers" if row["seeded"] else ""
        typer.echo(f"{row['name']:<20} {row['family']:<12} {row['cost']:<9} needs {needs:<20} {state}{drawn}")
        typer.echo(f"    {row['summary']}")
        typer.echo("    {title}, {venue} {year}".format(**row["paper"]))
        for name, parameter in row["parameters"].items():
            typer.echo(f"    {name} = {parameter['default']}  {parameter['type']}")


@app.command()
@_stage
def faults(
    params: ParamsFile = DEFAULT_PARAMS_FILE, workspace: WorkspaceDir = DEFAULT_WORKSPACE, as_json: AsJson = False
) -> None:
    """List the fault kinds and their parameters."""
    from tasks.inject.catalogue import list_faults

    rows: list[dict[str, Any]] = [
        {
            "kind": each.kind,
            "summary": each.summary,
            "roles": sorted(each.roles),
            "parameters": {
                name: {"default": field.default, "description": field.description or ""}
                for name, field in each.parameters.model_fields.items()
            },
        }
        for each in list_faults()
    ]
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    for row in rows:
        typer.echo(f"{row['kind']} (on {', '.join(row['roles'])}): {row['summary']}")
        for name, field in row["parameters"].items():
            typer.echo(f"    {name} = {field['default']}  {field['description']}")


@app.command()
@_stage
def validate(
    paths: Annotated[list[Path], typer.Argument(help="Case directories.")],
    params: ParamsFile = DEFAULT_PARAMS_FILE,
    workspace: WorkspaceDir = DEFAULT_WORKSPACE,
) -> None:
    """Check case directories against the case contract; exit status 1 when one breaks it."""
    from tasks.case import validate_case

    broken = 0
    for path in paths:
        problems = validate_case(path)
        broken += bool(problems)
        typer.echo("\n".join(f"{path}: {problem}" for problem in problems) or f"{path}: ok")
    if broken:
        raise typer.Exit(EXIT_FAILED)


@app.command()
@_stage
def preflight(params: ParamsFile = DEFAULT_PARAMS_FILE, workspace: WorkspaceDir = DEFAULT_WORKSPACE) -> None:
    """Say what this machine lacks for the local stack, and what to do; exit status 1 when something is missing."""
    from tasks.deploy.local.preflight import problems

    _checked_params(params)
    found = problems()
    if found:
        _fail("\n".join(found), EXIT_FAILED)
    typer.echo("this machine can run the local stack")


@params_app.command("check")
@_stage
def params_check(params: ParamsFile = DEFAULT_PARAMS_FILE, workspace: WorkspaceDir = DEFAULT_WORKSPACE) -> None:
    """Check a parameter file; exit status 2 when it cannot be used."""
    _checked_params(params)
    typer.echo(f"{params}: ok")


@params_app.command("show")
@_stage
def params_show(params: ParamsFile = DEFAULT_PARAMS_FILE, workspace: WorkspaceDir = DEFAULT_WORKSPACE) -> None:
    """Print the resolved parameters: every default spelled out."""
    typer.echo(_checked_params(params).dump(), nl=False)


def _collect(params: Params, place: Workspace, console: Console, keep_stack: bool) -> None:
    from tasks.campaign import collect as collect_cases

    collected = collect_cases(params, place, console, keep_stack=keep_stack)
    console.say(f"collect: {len(collected.recorded)} cases recorded, {len(collected.kept)} kept, in {place.cases}")


def _score(
    params: Params,
    place: Workspace,
    console: Console,
    *,
    fresh: bool = False,
    workers: int | None = None,
    open_pool: OpenPool | None = None,
) -> str:
    from tasks.score.campaign import score_campaign
    from tasks.score.store import PairStore

    methods_text = ", ".join(params.score.methods)
    console.say(f"score: {methods_text}")
    pairs = sum(path.is_dir() for path in place.cases.glob("[!.]*")) * len(params.score.methods)
    with console.progress("rankings", pairs) as advance:
        result = score_campaign(
            place.cases,
            params.score,
            place.scores,
            store=PairStore(place.pairs, fresh=fresh),
            progress=lambda done, total, what: advance(1),
            workers=workers,
            open_pool=open_pool,
        )
    if result.kept:
        console.say(f"score: {result.kept} of {len(result.truths) * len(params.score.methods)} rankings were there")
    console.say(f"score: {place.scores}")
    return result.score_table().text()


def _report(params: Params, place: Workspace, console: Console) -> Path:
    from tasks.report.page import write_report

    page = write_report(place.cases, place.scores, place.report, title=params.report.title, params=params)
    console.say("report: written")
    return page


def main() -> None:
    """Entry point of the console script."""
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # a log shows each line as it comes
    app()


if __name__ == "__main__":
    main()
