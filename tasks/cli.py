"""``rcarena``: one command per stage; what people, DVC and pods all call.

Exit status: 0 done, 1 failed, 2 wrong usage or parameters (trying again does not help), 3 a regression was found
(`compare --gate`).
"""

from __future__ import annotations

import json
import logging
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tasks import __version__
from tasks.commands.benchmark import benchmark
from tasks.commands.datasets import export_dataset, import_dataset
from tasks.commands.deploy import deploy_app, preflight
from tasks.commands.errors import Commands
from tasks.commands.inject import inject
from tasks.commands.listing import faults, methods
from tasks.commands.options import AsJson, ParamsFile, WorkspaceDir, checked_params, planned_case, workspace_at
from tasks.commands.params import params_app
from tasks.commands.performance import performance
from tasks.commands.record import compare, record
from tasks.commands.step import step_app
from tasks.console import Console
from tasks.errors import EXIT_FAILED
from tasks.params import DEFAULT_PARAMS_FILE, Params, load_params
from tasks.validation import ParamsError, validation_problems
from tasks.workspace import DEFAULT_WORKSPACE, Workspace

if TYPE_CHECKING:
    from tasks.score.campaign import OpenPool

app = typer.Typer(
    cls=Commands,
    help="Break a known component of an LLM inference stack and score which RCA method names it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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


def campaign(
    params: ParamsFile = DEFAULT_PARAMS_FILE,
    workspace: WorkspaceDir = DEFAULT_WORKSPACE,
    keep_stack: Annotated[bool, typer.Option("--keep-stack", help="Leave the stack up at the end.")] = False,
) -> None:
    """Run a whole campaign: collect every case, score every method, write the report."""
    checked, place, console = checked_params(params), workspace_at(workspace), Console()
    _collect(checked, place, console, keep_stack)
    table = _score(checked, place, console)
    page = _report(checked, place, console)
    console.show("")
    console.show(table)
    console.show("")
    console.show(f"report: {page}")


def collect(
    params: ParamsFile = DEFAULT_PARAMS_FILE,
    workspace: WorkspaceDir = DEFAULT_WORKSPACE,
    keep_stack: Annotated[bool, typer.Option("--keep-stack", help="Leave the stack up at the end.")] = False,
) -> None:
    """Record every case of the campaign that is not finished yet."""
    _collect(checked_params(params), workspace_at(workspace), Console(), keep_stack)


def plan(
    params: ParamsFile = DEFAULT_PARAMS_FILE, workspace: WorkspaceDir = DEFAULT_WORKSPACE, as_json: AsJson = False
) -> None:
    """List the cases of the campaign and which are finished."""
    from tasks.campaign.plan import plan_campaign
    from tasks.case import is_finished

    checked, place = checked_params(params), workspace_at(workspace)
    plans = [(each, is_finished(place.cases / each.case_id)) for each in plan_campaign(checked)]
    if as_json:
        rows = [
            {
                "case_id": each.case_id,
                "repetition": each.repetition,
                "seed": each.seed,
                "injections": [injection.model_dump(mode="json") for injection in each.injections],
                "finished": finished,
            }
            for each, finished in plans
        ]
        typer.echo(json.dumps(rows, indent=1))
        return
    for each, finished in plans:
        typer.echo(f"{each.case_id}  {'finished' if finished else 'pending '}  {each.label}")
    windows = checked.campaign.windows
    seconds = windows.warmup_s + windows.baseline_s + windows.fault_s + windows.recovery_s
    typer.echo(
        f"{len(plans)} cases of {seconds:g} s each: about {len(plans) * (seconds + 8) / 60:.0f} min and the start"
    )


def case(
    case_id: Annotated[str, typer.Argument(help="A case id of `rcarena plan`.")],
    params: ParamsFile = DEFAULT_PARAMS_FILE,
    workspace: WorkspaceDir = DEFAULT_WORKSPACE,
) -> None:
    """Record one case on the running stack (load ‖ inject, then export)."""
    from tasks.campaign.attempt import run_case
    from tasks.case import is_finished

    checked, place, console = checked_params(params), workspace_at(workspace), Console()
    planned = planned_case(checked, case_id)
    if is_finished(place.cases / case_id):
        console.say(f"{case_id} is finished already")
        return
    finished = run_case(checked, place, planned, console.say)
    console.say(f"recorded {finished.path.name}: {finished.record.load.requests} requests")


def load(
    url: Annotated[str, typer.Option("--url", help="An OpenAI-compatible server; a ?query is kept.")],
    model: Annotated[str, typer.Option("--model", help="The model name it serves.")],
    out: Annotated[Path, typer.Option("--out", help="Parquet file for the requests.")],
    duration: Annotated[float, typer.Option("--duration", min=0.1, help="Seconds.")] = 30,
    api_key_env: Annotated[
        str | None,
        typer.Option("--api-key-env", metavar="NAME", help="Send the API key in this environment variable."),
    ] = None,
    api_key_file: Annotated[
        Path | None, typer.Option("--api-key-file", metavar="FILE", help="Send the API key in this file.")
    ] = None,
    ignore_eos: Annotated[
        bool | None,
        typer.Option(
            "--ignore-eos/--no-ignore-eos",
            help="Ask for exactly the wanted number of tokens, an extension of vLLM; default: load.ignore_eos.",
        ),
    ] = None,
    params: ParamsFile = DEFAULT_PARAMS_FILE,
    workspace: WorkspaceDir = DEFAULT_WORKSPACE,
) -> None:
    """Load any OpenAI-compatible server as a campaign would, and record every request."""
    import pyarrow.parquet as pq
    from pydantic import ValidationError

    from tasks.load.api_key import ApiKey
    from tasks.load.run import load_record, run_foreground
    from tasks.load.spec import LoadSpec, url_problem

    checked, console = load_params(params), Console()
    problem = url_problem(url)
    if problem is not None:
        raise ParamsError([f"--url: {problem}"])
    if api_key_env is not None and api_key_file is not None:
        raise ParamsError(["give --api-key-env or --api-key-file, not both"])
    api_key = ApiKey.of_variable(api_key_env) if api_key_env is not None else None
    api_key = ApiKey.of_file(api_key_file) if api_key_file is not None else api_key
    asked = checked.load if ignore_eos is None else checked.load.model_copy(update={"ignore_eos": ignore_eos})
    try:
        spec = LoadSpec(params=asked, url=url, model=model, duration_s=duration, seed=checked.campaign.seed)
    except ValidationError as error:
        raise ParamsError(validation_problems(error, LoadSpec)) from error
    rows = out.with_name(f".{out.name}.rows")
    try:
        run = run_foreground(spec, rows, api_key=api_key)
        pq.write_table(run.requests, out, compression="zstd")
    finally:
        for leftover in (rows, rows.with_name(f"{rows.name}.spec.json")):
            leftover.unlink(missing_ok=True)
    record = load_record(run.requests, asked, run.oddities)
    console.say(
        f"{record.requests} requests, {record.failed} failed, send lag p99 {record.send_lag_p99_ms or 0:.1f} ms: "
        f"{record.verdict}; {out}"
    )


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
    only: Annotated[
        str | None,
        typer.Option("--only", metavar="METHOD", help="Run this method and keep its rankings; write no scores."),
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
    checked, place = checked_params(params), workspace_at(workspace)
    if only is not None:
        if engine == "ray":
            raise ParamsError(["--only: not with --engine ray"])
        _rank_only(checked, place, console, only, fresh=fresh, workers=workers)
        return
    if engine == "process":
        console.show(_score(checked, place, console, fresh=fresh, workers=workers))
        return
    from tasks.rca.run.pool import Limits, PairPool
    from tasks.rca.run.ray_pool import RayPool

    def on_ray(limits: Limits) -> PairPool:
        return RayPool(limits, ray_address, workers)

    console.show(_score(checked, place, console, fresh=fresh, open_pool=on_ray))


def report(params: ParamsFile = DEFAULT_PARAMS_FILE, workspace: WorkspaceDir = DEFAULT_WORKSPACE) -> None:
    """Write the HTML report from the recorded cases and their scores."""
    console = Console()
    console.show(f"report: {_report(checked_params(params), workspace_at(workspace), console)}")


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


def _collect(params: Params, place: Workspace, console: Console, keep_stack: bool) -> None:
    from tasks.campaign.collect import collect as collect_cases

    collected = collect_cases(params, place, console, keep_stack=keep_stack)
    console.say(f"collect: cases {collected}, in {place.cases}")


def _score(
    params: Params,
    place: Workspace,
    console: Console,
    *,
    fresh: bool = False,
    workers: int | None = None,
    open_pool: OpenPool | None = None,
) -> str:
    from tasks.rca.run.sandbox import MEANING
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
    for level in result.levels:
        console.say(f"score: methods ran {MEANING[level]}")
    if result.kept:
        console.say(f"score: {result.kept} of {len(result.truths) * len(params.score.methods)} rankings were there")
    console.say(f"score: {place.scores}")
    return result.score_table().text()


def _rank_only(
    params: Params, place: Workspace, console: Console, method: str, *, fresh: bool, workers: int | None
) -> None:
    from tasks.score.campaign import rank_campaign
    from tasks.score.store import PairStore
    from tasks.validation import suggest

    if method not in params.score.methods:
        raise ParamsError([f"--only: '{method}' is not one of score.methods; {suggest(method, params.score.methods)}"])
    alone = params.score.model_copy(update={"methods": (method,)})
    store = PairStore(place.pairs, fresh=fresh)
    pairs = rank_campaign(
        place.cases, alone, store, progress=lambda done, total, what: console.say(what), workers=workers
    )
    console.say(f"score: {method} ranked {pairs} cases; `rcarena score` makes scores of it")


def _report(params: Params, place: Workspace, console: Console) -> Path:
    from tasks.report.page import write_report

    page = write_report(place.cases, place.scores, place.report, title=params.report.title, params=params)
    console.say("report: written")
    return page


COMMANDS: dict[str, Callable[..., None]] = {
    "campaign": campaign,
    "collect": collect,
    "plan": plan,
    "case": case,
    "inject": inject,
    "load": load,
    "score": score,
    "report": report,
    "record": record,
    "compare": compare,
    "performance": performance,
    "benchmark": benchmark,
    "import": import_dataset,
    "export": export_dataset,
    "methods": methods,
    "faults": faults,
    "validate": validate,
    "preflight": preflight,
}
for name, command in COMMANDS.items():
    app.command(name)(command)
app.add_typer(deploy_app, name="deploy")
app.add_typer(params_app, name="params")
app.add_typer(step_app, name="step")


def main() -> None:
    """Entry point of the console script."""
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # a log shows each line as it comes
    app()


if __name__ == "__main__":
    main()
