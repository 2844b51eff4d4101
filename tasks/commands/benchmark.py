"""``rcarena benchmark``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tasks.commands.errors import fail
from tasks.commands.options import ParamsFile
from tasks.errors import EXIT_FAILED, ParamsError
from tasks.params import DEFAULT_PARAMS_FILE, ScoreParams, load_params
from tasks.workspace import DEFAULT_WORKSPACE

if TYPE_CHECKING:
    from tasks.dataset_table.figures import DatasetTable

DEFAULT_PLACE = DEFAULT_WORKSPACE / "benchmark"


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
    from tasks.dataset_table.figures import DatasetTable, changes
    from tasks.dataset_table.markdown import check_markers, markdown, write_into
    from tasks.dataset_table.run import read_scores, score_sources
    from tasks.dataset_table.sources import parse_sources

    if as_is and (methods is not None or workers is not None):
        raise ParamsError(["--methods and --workers: not with --as-is"])
    console = Console()
    parsed = parse_sources(sources)
    score = _score_params(params, profile, methods)
    if page is not None:
        check_markers(page)
        json_file = json_file or page.with_suffix(".json")
    before = _earlier(against, json_file)
    datasets, problems = read_scores(parsed) if as_is else score_sources(parsed, workspace, score, console, workers)
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
