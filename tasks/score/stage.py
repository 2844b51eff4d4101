"""Score the cases of a workspace, showing how far it is: what ``rcarena score`` and ``rcarena campaign`` run."""

from __future__ import annotations

import time
from collections.abc import Callable

from tasks.console import Console
from tasks.errors import ParamsError
from tasks.params import Params
from tasks.rca.run.sandbox import MEANING
from tasks.score.campaign import OpenPool, rank_campaign, score_campaign
from tasks.score.results import ScoreResult
from tasks.score.store import PairStore
from tasks.text import suggest
from tasks.workspace import Workspace

_LINE_EVERY_S = 60.0


def score_workspace(
    params: Params,
    workspace: Workspace,
    console: Console,
    *,
    fresh: bool = False,
    workers: int | None = None,
    open_pool: OpenPool | None = None,
) -> ScoreResult:
    """Score the methods of ``params`` on the finished cases of ``workspace`` and write the results there.

    Rankings that the workspace keeps are used again unless ``fresh``. See ``score_campaign`` for the rest.
    """
    methods = params.score.methods
    console.say(f"score: {', '.join(methods)}")
    pairs = sum(path.is_dir() for path in workspace.cases.glob("[!.]*")) * len(methods)
    with console.progress("rankings", pairs) as advance:
        result = score_campaign(
            workspace.cases,
            params.score,
            workspace.scores,
            store=PairStore(workspace.pairs, fresh=fresh),
            progress=lambda done, total, what: advance(1),
            workers=workers,
            open_pool=open_pool,
        )
    for level in result.levels:
        console.say(f"score: methods ran {MEANING[level]}")
    if result.kept:
        console.say(f"score: {result.kept} of {len(result.truths) * len(methods)} rankings were there")
    console.say(f"score: {workspace.scores}")
    return result


def rank_workspace(
    params: Params,
    workspace: Workspace,
    console: Console,
    method: str,
    *,
    fresh: bool = False,
    workers: int | None = None,
) -> None:
    """Let ``method`` alone rank the suspects of every finished case, and keep the rankings; no scores are written.

    Raises:
        ParamsError: ``method`` is not one of ``score.methods``.
    """
    if method not in params.score.methods:
        raise ParamsError([f"--only: '{method}' is not one of score.methods; {suggest(method, params.score.methods)}"])
    alone = params.score.model_copy(update={"methods": (method,)})
    store = PairStore(workspace.pairs, fresh=fresh)
    pairs = rank_campaign(
        workspace.cases, alone, store, progress=lambda done, total, what: console.say(what), workers=workers
    )
    console.say(f"score: {method} ranked {pairs} cases; `rcarena score` makes scores of it")


def progress_lines(what: str, console: Console, advance: Callable[[int], None]) -> Callable[[int, int, str], None]:
    """Return a callback that moves the bar by one per pair, and now and then prints a line for a log."""
    last = time.monotonic()

    def progress(done: int, total: int, pair: str) -> None:
        nonlocal last
        advance(1)
        if time.monotonic() - last > _LINE_EVERY_S:
            last = time.monotonic()
            console.say(f"{what}: {done} of {total} rankings")

    return progress
