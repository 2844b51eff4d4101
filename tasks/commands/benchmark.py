"""``rcarena benchmark``."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tasks.commands.errors import fail
from tasks.commands.options import ParamsFile
from tasks.errors import EXIT_FAILED, RCArenaError
from tasks.params import DEFAULT_PARAMS_FILE, ScoreParams, load_params
from tasks.validation import ParamsError
from tasks.workspace import DEFAULT_WORKSPACE

if TYPE_CHECKING:
    from tasks.console import Console
    from tasks.dataset_table.figures import DatasetFigures, DatasetTable
    from tasks.dataset_table.sources import Source

DEFAULT_PLACE = DEFAULT_WORKSPACE / "benchmark"
_LINE_EVERY_S = 60.0


def benchmark(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME=[LAYOUT:]PATH...",
            help="A workspace, a directory or archive of cases, or a data set that `import` reads (directory or "
            "archive); its layout (rcaeval, petshop, nezha) only if it cannot be told.",
        ),
    ],
    workspace: Annotated[
        Path,
        typer.Option("--workspace", metavar="DIR", help="Where imported cases, rankings and scores are kept."),
    ] = DEFAULT_PLACE,
    profile: Annotated[
        Literal["paper", "llm"], typer.Option("--profile", help="Which metrics the methods may see.")
    ] = "llm",
    methods: Annotated[
        str | None, typer.Option("--methods", metavar="A,B", help="Default: score.methods of the parameters.")
    ] = None,
    page: Annotated[
        Path | None,
        typer.Option("--page", metavar="FILE", help="Markdown file to put the table into, between its markers."),
    ] = None,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="The figures for programs; default: beside --page, .json."),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(
            "--against",
            metavar="FILE",
            help="Figures of an earlier run: tell each change of more than .05. Default: what is in --json.",
        ),
    ] = None,
    as_is: Annotated[
        bool,
        typer.Option("--as-is", help="Run nothing: tabulate the scores that each workspace NAME=DIR has."),
    ] = False,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Pairs at once; default: one per CPU.")
    ] = None,
    params: ParamsFile = DEFAULT_PARAMS_FILE,
) -> None:
    """Score every method on several data sets and put the figures into one table.

    Killed or interrupted, the same command goes on where it stopped. Of the parameters only `score` matters.
    """
    from tasks.console import Console
    from tasks.dataset_table.figures import DatasetTable, changes, read_figures
    from tasks.dataset_table.markdown import check_markers, markdown, write_into

    console = Console()
    parsed = _parsed(sources)
    score = _score_params(params, profile, methods)
    if page is not None:
        check_markers(page)
        json_file = json_file or page.with_suffix(".json")
    before = _earlier(against, json_file)
    problems: list[str] = []
    datasets: dict[str, DatasetFigures] = {}
    for source in parsed:
        try:
            if as_is:
                datasets[source.name] = read_figures(source.path / "scores")
            else:
                datasets[source.name] = _scored(source, workspace / source.name, score, console, workers, problems)
        except RCArenaError as error:
            problems.append(f"{source.name}: {error}")
    if len(datasets) < len(parsed):
        fail("\n".join([*problems, "no table: a data set is missing; what was ranked is kept"]), EXIT_FAILED)
    settings = {"profile": score.profile, "inject_time": score.inject_time, "seed": score.seed}
    result = DatasetTable(settings=settings, datasets=datasets)
    table = markdown(result)
    if json_file is not None:
        result.write(json_file)
    if page is not None:
        write_into(page, table)
        console.say(f"benchmark: {page}, {json_file}")
    else:
        console.show(table)
    if before is not None:
        lines = changes(before, result)
        console.show(
            "\n".join(["", "changes of more than .05:", *lines] if lines else ["", "no change of more than .05"])
        )
    if problems:
        fail("\n".join(problems), EXIT_FAILED)


def _parsed(texts: list[str]) -> list[Source]:
    from tasks.dataset_table.sources import Source

    problems, found = [], []
    for text in texts:
        try:
            found.append(Source.parse(text))
        except ValueError as error:
            problems.append(str(error))
    names = [source.name for source in found]
    problems += [f"'{name}' is given twice" for name in dict.fromkeys(names) if names.count(name) > 1]
    problems += [f"{source.name}: {source.path} does not exist" for source in found if not source.path.exists()]
    if problems:
        raise ParamsError(problems)
    return found


def _score_params(file: Path, profile: Literal["paper", "llm"], methods: str | None) -> ScoreParams:
    from tasks.score.campaign import validate_score_params

    changes: dict[str, object] = {"profile": profile}
    if methods is not None:
        changes["methods"] = tuple(name.strip() for name in methods.split(",") if name.strip())
    score = ScoreParams.model_validate(load_params(file).score.model_dump() | changes)
    problems = validate_score_params(score)
    if problems:
        raise ParamsError(problems)
    return score


def _earlier(against: Path | None, json_file: Path | None) -> DatasetTable | None:
    from tasks.dataset_table.figures import DatasetTable

    if against is not None:
        return DatasetTable.read(against)
    return DatasetTable.read(json_file) if json_file is not None and json_file.exists() else None


def _scored(
    source: Source, place: Path, score: ScoreParams, console: Console, workers: int | None, problems: list[str]
) -> DatasetFigures:
    from tasks.case import is_finished
    from tasks.dataset_table.figures import read_figures
    from tasks.dataset_table.sources import gather
    from tasks.score.campaign import score_campaign
    from tasks.score.store import PairStore

    gathered = gather(source, place, console.progress)
    for line in gathered.skipped:
        console.say(f"{source.name}: {line}")
    problems += [f"{source.name}: {line}" for line in gathered.problems]
    cases = sum(is_finished(path) for path in gathered.cases.iterdir() if path.is_dir())
    pairs = cases * len(score.methods)
    console.say(f"{source.name}: {cases} cases, {pairs} rankings")
    with console.progress(f"rankings of {source.name}", pairs) as advance:
        result = score_campaign(
            gathered.cases,
            score,
            place / "scores",
            store=PairStore(place.parent / ".pairs"),
            progress=_lines(source.name, console, advance),
            workers=workers,
        )
    console.say(f"{source.name}: scored; {result.kept} of {pairs} rankings were there")
    return read_figures(place / "scores")


def _lines(name: str, console: Console, advance: Callable[[int], None]) -> Callable[[int, int, str], None]:
    """A step of the bar per pair, and now and then a line for a log."""
    last = time.monotonic()

    def progress(done: int, total: int, what: str) -> None:
        nonlocal last
        advance(1)
        if time.monotonic() - last > _LINE_EVERY_S:
            last = time.monotonic()
            console.say(f"{name}: {done} of {total} rankings")

    return progress
