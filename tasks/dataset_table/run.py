"""Figures of several data sets: read from scores that are there, or by scoring every method on every data set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from tasks.case import is_finished
from tasks.console import Console
from tasks.dataset_table.figures import DatasetFigures, read_figures
from tasks.dataset_table.sources import Source, gather
from tasks.errors import RCArenaError
from tasks.params import ScoreParams
from tasks.score.campaign import score_campaign
from tasks.score.stage import progress_lines
from tasks.score.store import PairStore

Figures = tuple[dict[str, DatasetFigures], list[str]]
"""By data set, and one line per problem. A data set that could not be scored is left out."""


def read_scores(sources: Sequence[Source]) -> Figures:
    """Read the scores that each source, a workspace, has."""
    return _figures(sources, lambda source, problems: read_figures(source.path / "scores"))


def score_sources(
    sources: Sequence[Source], place: Path, score: ScoreParams, console: Console, workers: int | None
) -> Figures:
    """Score the methods of ``score`` on the cases of each source. Imported cases and rankings are kept in ``place``."""
    return _figures(
        sources, lambda source, problems: _scored(source, place / source.name, score, console, workers, problems)
    )


def _figures(sources: Sequence[Source], read: Callable[[Source, list[str]], DatasetFigures]) -> Figures:
    problems: list[str] = []
    datasets: dict[str, DatasetFigures] = {}
    for source in sources:
        try:
            datasets[source.name] = read(source, problems)
        except RCArenaError as error:
            problems.append(f"{source.name}: {error}")
    return datasets, problems


def _scored(
    source: Source, place: Path, score: ScoreParams, console: Console, workers: int | None, problems: list[str]
) -> DatasetFigures:
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
            progress=progress_lines(source.name, console, advance),
            workers=workers,
        )
    console.say(f"{source.name}: scored; {result.kept} of {pairs} rankings were there")
    return read_figures(place / "scores")
