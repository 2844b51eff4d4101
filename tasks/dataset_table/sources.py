"""Sources of the cases of a data set: a workspace, recorded cases, or a data set of other people."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

from tasks.case import is_finished
from tasks.datasets.dataset import DatasetError, Found, Overrides
from tasks.datasets.importing import import_cases, unpacked
from tasks.datasets.registry import Layout, reader
from tasks.errors import ParamsError
from tasks.imports import code_digest
from tasks.system.durable import publish_directory, write_durably
from tasks.system.file_lock import FileLock

NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}"
_MARKER = "source.json"
_READING_CODE = ("tasks.datasets.importing", *(f"tasks.datasets.{layout.value}" for layout in Layout))

Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""Opened with what is counted and how many there are, it takes steps."""


def _silent(what: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
    return nullcontext(lambda steps: None)


@dataclass(frozen=True)
class Source:
    """``NAME=[LAYOUT:]PATH`` of the command line. ``layout`` None: found out."""

    name: str
    path: Path
    layout: Layout | None

    @classmethod
    def parse(cls, text: str) -> Source:
        """Raises ValueError: not of this form."""
        name, equals, rest = text.partition("=")
        if not equals or not rest or not re.fullmatch(NAME_PATTERN, name):
            raise ValueError(f"'{text}': expected NAME=PATH or NAME=LAYOUT:PATH; a name has letters, digits, ' ._-'")
        layout, colon, path = rest.partition(":")
        if colon and path and layout in list(Layout):
            return cls(name, Path(path), Layout(layout))
        return cls(name, Path(rest), None)


def parse_sources(texts: Sequence[str]) -> list[Source]:
    """Parse the sources of the command line.

    Raises:
        ParamsError: one is not of the form of a source, does not exist, or has the name of another.
    """
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


@dataclass(frozen=True)
class Gathered:
    """``cases``: the directory that has the cases, and nothing else. ``problems``: one line per case that could not be
    read; ``skipped``: what the data set has and the reader leaves out."""

    cases: Path
    problems: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()


def gather(source: Source, place: Path, progress: Progress = _silent) -> Gathered:
    """The cases of ``source``: where they are if it is a directory of cases or a workspace, else below ``place``.

    What an earlier call put there stays, unless the source or the code that reads it has changed since.

    Raises:
        DatasetError: nothing that holds cases, or another process is at it.
    """
    if source.layout is None and source.path.is_dir():
        found = _cases_below(source.path)
        if found is not None:
            return Gathered(found)
    place.mkdir(parents=True, exist_ok=True)
    with FileLock(place / ".gather.lock", DatasetError(f"{place}: another process is importing there")):
        cases, identity = place / "cases", _identity(source)
        known = _read_marker(place)
        if known is None or known.identity != identity:
            shutil.rmtree(cases, ignore_errors=True)
            _write_marker(place, _Marker(identity, done=False))
        elif known.done:
            return Gathered(cases, tuple(known.problems), tuple(known.skipped))
        with unpacked(source.path) as directory:
            result = _fill(source, directory, cases, progress)
        _write_marker(place, _Marker(identity, done=True, problems=result.problems, skipped=result.skipped))
    return result


def _fill(source: Source, directory: Path, cases: Path, progress: Progress) -> Gathered:
    recorded = _cases_below(directory) if source.layout is None else None
    if recorded is not None:
        finished = [path for path in sorted(recorded.iterdir()) if is_finished(path)]
        with progress(f"cases of {source.name}", len(finished)) as advance:
            for path in finished:
                if not is_finished(cases / path.name):
                    _copy(path, cases / path.name)
                advance(1)
        return Gathered(cases)
    found = _found(source, directory)
    with progress(f"cases of {source.name}", len(found.cases)) as advance:
        result = import_cases(found, cases, advance)
    problems = tuple(line.replace(f"{directory}/", "") for line in result.failed)
    if not result.imported and not result.kept:
        raise DatasetError(f"{source.name}: no case could be read: {problems[0] if problems else 'there is none'}")
    return Gathered(cases, problems, tuple(found.skipped))


def _found(source: Source, directory: Path) -> Found:
    """Read with the reader of the layout, or the first that finds cases; RCAEval's, which asks least, is last."""
    refusals = []
    anyone = sorted(Layout, key=lambda layout: layout is Layout.RCAEVAL)
    for layout in [source.layout] if source.layout else anyone:
        try:
            found = reader(layout)(directory, Overrides())
        except DatasetError as error:
            refusals.append(str(error).replace(f"{directory}: ", ""))
            continue
        if found.cases:
            return found
        refusals += found.skipped
    raise DatasetError(
        f"{source.name}: {source.path}: neither cases nor a layout that can be read: {'; '.join(refusals)}"
    )


def _cases_below(directory: Path) -> Path | None:
    """``directory`` or its folder ``cases``, whichever holds finished cases."""
    for place in (directory / "cases", directory):
        if place.is_dir() and any(is_finished(path) for path in place.iterdir() if path.is_dir()):
            return place
    return None


def _copy(case: Path, to: Path) -> None:
    staging = to.with_name(f".{to.name}.partial")
    shutil.rmtree(staging, ignore_errors=True)
    shutil.copytree(case, staging)
    publish_directory(staging, to)


@dataclass(frozen=True)
class _Marker:
    """What an earlier call left: ``done`` once it had every case."""

    identity: str
    done: bool
    problems: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()


def _read_marker(place: Path) -> _Marker | None:
    try:
        return _Marker(**json.loads((place / _MARKER).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _write_marker(place: Path, marker: _Marker) -> None:
    write_durably(place / _MARKER, (json.dumps(asdict(marker)) + "\n").encode())


def _identity(source: Source) -> str:
    """Return a digest of the files of the source (names, sizes, times) and of the code that reads them."""
    digest = hashlib.sha256(f"{source.layout} {code_digest(*_READING_CODE)}".encode())
    for file in _files(source.path):
        state = file.stat()
        digest.update(f"{file.relative_to(source.path)}|{state.st_size}|{state.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from (file for file in sorted(path.rglob("*")) if file.is_file())
    elif path.exists():
        yield path
