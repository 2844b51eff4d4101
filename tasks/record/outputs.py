"""Checks whether scores and report in the workspace are up to date with cases, parameters and code.

DVC only recognises files that it knows. Files written by pods outside DVC are therefore derived again, from the
rankings kept in the workspace (``pairs``): that takes seconds and runs no method.
"""

from __future__ import annotations

import filecmp
import hashlib
import shutil
from pathlib import Path

from tasks.params import Params
from tasks.rca.run.runner import Limits, PairPool
from tasks.record.stage_code import PACKAGES, REPOSITORY, stage_code
from tasks.report.page import PAGE_FILE, write_report
from tasks.score.campaign import score_campaign
from tasks.score.files import METRICS_FILE, TABLES, TIMINGS_FILE
from tasks.score.store import PairStore
from tasks.text import some
from tasks.workspace import Workspace

_SCORE_FILES = (*(table.file for table in TABLES), METRICS_FILE)


class _NotKeptError(Exception):
    """A ranking is not in the store, so that deriving the scores would run methods."""


def stale_scores_reason(place: Workspace, params: Params) -> str | None:
    """Return why the scores must be computed again; None if they equal those of scoring now."""
    absent = [name for name in (*_SCORE_FILES, TIMINGS_FILE) if not (place.scores / name).is_file()]
    if absent:
        return f"{some(absent)} {'are' if len(absent) > 1 else 'is'} not there"
    derived = place.root / ".derived" / "scores"
    store = PairStore(place.pairs if place.pairs.is_dir() else None)
    try:
        score_campaign(place.cases, params.score, derived, store=store, open_pool=_refuse)
        others = [name for name in _SCORE_FILES if not _same(place.scores / name, derived / name)]
    except _NotKeptError:
        return "some rankings are not among those that the workspace keeps for these parameters and this code"
    finally:
        shutil.rmtree(derived.parent, ignore_errors=True)
    return f"{some(others)}: not what these cases, parameters and this code give" if others else None


def _same(a: Path, b: Path) -> bool:
    return filecmp.cmp(a, b, shallow=False)


def _refuse(limits: Limits) -> PairPool:
    raise _NotKeptError


def stale_report_reason(place: Workspace, params: Params) -> str | None:
    """Return why the report must be written again; None if it equals that of reporting now."""
    found = sorted(path.name for path in place.report.iterdir()) if place.report.is_dir() else []
    if found != [PAGE_FILE]:
        return f"the folder holds {some(found) or 'nothing'}, not {PAGE_FILE} alone"
    derived = place.root / ".derived" / "report"
    try:
        page = write_report(
            place.cases,
            place.scores,
            derived,
            title=params.report.title,
            params=params,
            recovery_dir=place.remediation,
        )
        same = _same(page, place.report / PAGE_FILE)
    finally:
        shutil.rmtree(derived.parent, ignore_errors=True)
    return None if same else "not what these cases and scores give"


def foreign_code(tree: Path) -> tuple[str, ...]:
    """Return the source files of the offline stages that differ between the running code and ``tree``."""
    ours, theirs = _sources(REPOSITORY), _sources(tree)
    return tuple(sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)))


def _sources(repository: Path) -> dict[str, str]:
    """Return path -> digest of the existing files that determine scores and report."""
    paths = {repository / path for stage in PACKAGES for path in stage_code(stage)}
    files = {file for path in paths for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file()}
    return {
        str(file.relative_to(repository)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
        if "__pycache__" not in file.parts
    }
