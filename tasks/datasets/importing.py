"""Writes the cases that a reader found; what is finished already stays as it is."""

from __future__ import annotations

import contextlib
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from tasks.case import Case, CaseError, CaseWriter, is_finished
from tasks.datasets.dataset import DatasetCase, DatasetError, Found
from tasks.lock import sole
from tasks.scratch import scratch_directory

Progress = Callable[[int], None]


@dataclass(frozen=True)
class ImportResult:
    """Ids of the cases that were written and that were there; ``failed``: one line per case that could not be read."""

    imported: tuple[str, ...]
    kept: tuple[str, ...]
    failed: tuple[str, ...]


def import_cases(found: Found, cases_dir: Path, progress: Progress = lambda steps: None) -> ImportResult:
    """Write each case of ``found`` below ``cases_dir`` unless it is there; a broken one does not stop the others.

    Raises:
        DatasetError: another import is writing there.
    """
    imported, kept, failed = [], [], []
    with sole(cases_dir / ".import.lock", DatasetError(f"{cases_dir}: another import is writing there")):
        for each in found.cases:
            try:
                case_id = each.case_id()
                if is_finished(cases_dir / case_id):
                    kept.append(case_id)
                else:
                    imported.append(_write(each, case_id, cases_dir).record.case_id)
            except CaseError as error:
                failed.append(f"{each.origin}: {'; '.join(error.problems)}")
            except (ValueError, OverflowError, pa.ArrowException, OSError) as error:  # all that odd content can cause
                failed.append(f"{each.origin}: {_one_line(error)}")
            progress(1)
    return ImportResult(tuple(imported), tuple(kept), tuple(failed))


def _write(case: DatasetCase, case_id: str, cases_dir: Path) -> Case:
    draft = case.read()
    with CaseWriter(cases_dir, case_id) as writer:
        for signal, table in draft.tables.items():
            writer.write(signal, table)
        return writer.finish(draft.record)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


@contextlib.contextmanager
def unpacked(source: Path) -> Iterator[Path]:
    """``source`` itself if it is a directory; the content of a tar archive in a temporary directory otherwise.

    Raises:
        DatasetError: neither of the two, or an archive with unsafe members.
    """
    if source.is_dir():
        yield source
        return
    if not source.is_file():
        raise DatasetError(f"{source}: no such directory")
    with scratch_directory("import", Path(tempfile.gettempdir())) as directory:
        try:
            with tarfile.open(source) as archive:
                archive.extractall(directory, filter="data")
        except (tarfile.TarError, EOFError, zlib.error) as error:
            raise DatasetError(f"{source}: expected a directory or a tar archive: {error}") from error
        yield directory
