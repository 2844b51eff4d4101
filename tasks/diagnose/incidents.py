"""The folder of incidents: names, and what is kept how long.

An incident is a case (a folder), a page and the answers (a file each) of one name. A labelled one moves to the cases of
its campaign and is never removed.
"""

from __future__ import annotations

import itertools
import logging
import shutil
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from tasks.case import CaseError, finished_cases, read_case
from tasks.diagnose.diagnosis import Diagnosis
from tasks.system.durable import write_durably

log = logging.getLogger(__name__)


def name_of(change: datetime, folders: Sequence[Path] = ()) -> str:
    """Return the name of an incident: when it began, to the second; with a number if it is taken in ``folders``."""
    name = f"incident-{change.astimezone(UTC):%Y%m%d-%H%M%S}"
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    return next(each for each in names if not any(_is_taken(folder, each) for folder in folders))


def _is_taken(folder: Path, incident: str) -> bool:
    return any(
        path.exists() for path in (folder / incident, page_file(folder, incident), answers_file(folder, incident))
    )


def answers_file(folder: Path, incident: str) -> Path:
    return folder / f"{incident}.json"


def page_file(folder: Path, incident: str) -> Path:
    return folder / f"{incident}.html"


def keep(diagnosis: Diagnosis, folder: Path) -> None:
    """Write the answers beside the case."""
    text = diagnosis.model_dump_json(indent=1) + "\n"
    write_durably(answers_file(folder, diagnosis.incident), text.encode())


def read(folder: Path, incident: str) -> Diagnosis | None:
    """Return the answers to an incident; None if there are none that can be read."""
    try:
        return Diagnosis.model_validate_json(answers_file(folder, incident).read_bytes())
    except (OSError, ValidationError):
        return None


def read_all(folder: Path) -> Iterator[Diagnosis]:
    """Yield the answers to every incident that can be read, oldest first."""
    for file in sorted(folder.glob("incident-*.json")):
        if diagnosis := read(folder, file.stem):
            yield diagnosis


def remove(folder: Path, incident: str) -> None:
    """Remove the case, the page and the answers of an incident, as far as they are there."""
    shutil.rmtree(folder / incident, ignore_errors=True)
    for file in (page_file(folder, incident), answers_file(folder, incident)):
        file.unlink(missing_ok=True)


def prune(folder: Path, keep_count: int, keep_days: float) -> list[str]:
    """Remove incidents beyond ``keep_count``, oldest first, and older than ``keep_days``; return their names.

    One that carries a label stays, whatever its age.
    """
    now = time.time()
    found: list[tuple[float, str]] = []
    for path in finished_cases(folder):
        try:
            if read_case(path).record.labels:
                continue
        except CaseError as error:
            log.warning("%s", error)
        found.append((path.stat().st_mtime, path.name))
    found.sort(reverse=True)
    old = [name for i, (written, name) in enumerate(found) if i >= keep_count or now - written > 86_400 * keep_days]
    for name in old:
        remove(folder, name)
    names = {path.name for path in finished_cases(folder)}
    for file in [*folder.glob("incident-*.json"), *folder.glob("incident-*.html")]:
        if file.stem not in names and now - file.stat().st_mtime > 86_400 * keep_days:
            file.unlink(missing_ok=True)
    return old
