"""A child process that builds views from cases, for :mod:`tasks.rca.run.runner`.

It reads whole cases, the answer included, so no method ever runs in it.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.case import read_case
from tasks.rca.run.build_view import NoChangeDetected, build_view
from tasks.rca.view import column_names

if TYPE_CHECKING:
    from tasks.params import ScoreParams


@dataclass(frozen=True)
class ViewFacts:
    """What a scorer needs to know of a view.

    ``columns``: the (service, metric) that the methods see. ``inject_time``: as they are told it, ISO 8601.
    ``problem``: why there is no view, else empty. ``profile``: the profile of the view.
    """

    columns: tuple[tuple[str, str], ...]
    inject_time: str
    problem: str = ""
    profile: str = ""


@dataclass(frozen=True)
class Build:
    """A request to build the view of the case in ``path``."""

    path: Path
    params: ScoreParams


@dataclass(frozen=True)
class Built:
    """The answer to :class:`Build`. ``data``: the pickled view, empty if there is none. ``error``: why the case cannot
    be read."""

    facts: ViewFacts | None = None
    data: bytes = b""
    error: str = ""


def build(path: Path, params: ScoreParams) -> Built:
    """Build the view of a case, pickle it, and collect the facts about it."""
    case = read_case(path)
    try:
        view = build_view(case, params)
    except NoChangeDetected as error:
        known = build_view(case, params.model_copy(update={"inject_time": "known"}))
        return Built(ViewFacts(tuple(column_names(known.metrics)), "", str(error), params.profile))
    facts = ViewFacts(tuple(column_names(view.metrics)), view.inject_time.isoformat(), profile=params.profile)
    return Built(facts, pickle.dumps(view, protocol=pickle.HIGHEST_PROTOCOL))


def main(connection: Connection) -> None:
    """Answer each :class:`Build` with a :class:`Built` until the other side closes."""
    while True:
        try:
            request: Build = connection.recv()
        except EOFError:
            return
        try:
            built = build(request.path, request.params)
        except Exception as error:  # noqa: BLE001 (the boundary: the parent says it in one line)
            built = Built(error=f"{type(error).__name__}: {error}")
        connection.send(built)
