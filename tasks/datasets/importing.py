"""Writes the cases that a reader found; what is finished already stays as it is."""

from __future__ import annotations

import contextlib
import logging
import lzma
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from tasks.case import CaseError, CaseWriter, is_finished
from tasks.datasets.dataset import DatasetError, Draft, Found
from tasks.system.file_lock import FileLock
from tasks.system.scratch import scratch_directory

Progress = Callable[[int], None]

_LOG = logging.getLogger(__name__)
_CONTENT_ERRORS = (
    DatasetError,
    ValueError,
    TypeError,
    AttributeError,
    ArithmeticError,
    LookupError,
    StopIteration,
    RecursionError,
    pa.ArrowException,
    OSError,
)
"""All that the content of a file can cause, seen and unseen: it costs that case, never the next one."""
_ARCHIVE_ERRORS = (
    tarfile.TarError,
    zipfile.BadZipFile,
    lzma.LZMAError,
    zlib.error,
    EOFError,
    OSError,
    NotImplementedError,  # a method of compression that zipfile does not know
    RuntimeError,  # a zip with a password
    ValueError,
)


@dataclass(frozen=True)
class ImportResult:
    """Ids of the cases that were written and that were there; ``failed``: one line per case that could not be read.

    ``left_out``: one line per written case that lacks something of its files.
    """

    imported: tuple[str, ...]
    kept: tuple[str, ...]
    failed: tuple[str, ...]
    left_out: tuple[str, ...] = ()


def import_cases(found: Found, cases_dir: Path, progress: Progress = lambda steps: None) -> ImportResult:
    """Write each case of ``found`` below ``cases_dir`` unless it is there; a broken one does not stop the others.

    Raises:
        DatasetError: another import is writing there.
    """
    imported, kept, failed, left_out = [], [], [], []
    with FileLock(cases_dir / ".import.lock", DatasetError(f"{cases_dir}: another import is writing there")):
        for each in found.cases:
            try:
                case_id = each.case_id()
                if is_finished(cases_dir / case_id):
                    kept.append(case_id)
                else:
                    draft = each.read()
                    _write(draft, case_id, cases_dir)
                    imported.append(case_id)
                    if draft.left_out:
                        left_out.append(_one_line(f"{each.origin}: left out: {draft.left_out}"))
            except CaseError as error:
                failed.append(_one_line(f"{each.origin}: {'; '.join(error.problems)}"))
            except _CONTENT_ERRORS as error:
                _LOG.debug("%s", each.origin, exc_info=True)
                failed.append(_one_line(f"{each.origin}: {_said_by(error)}"))
            progress(1)
    return ImportResult(tuple(imported), tuple(kept), tuple(failed), tuple(left_out))


def _write(draft: Draft, case_id: str, cases_dir: Path) -> None:
    with CaseWriter(cases_dir, case_id) as writer:
        for signal, table in draft.tables.items():
            writer.write(signal, table)
        writer.finish(draft.record)


def _said_by(error: Exception) -> str:
    """Return the message of ``error``, after the name of its class unless a reader wrote the message."""
    text = str(error)
    return text if isinstance(error, DatasetError | ValueError | OSError) and text else f"{type(error).__name__} {text}"


def _one_line(text: str) -> str:
    return " ".join(text.split())


@contextlib.contextmanager
def unpacked(source: Path) -> Iterator[Path]:
    """Yield ``source`` if it is a directory, else a temporary directory with the content of the tar or zip archive.

    Raises:
        DatasetError: neither of the two, or an archive that is cut off, locked, or reaches outside.
    """
    if source.is_dir():
        yield source
        return
    if not source.is_file():
        raise DatasetError(f"{source}: no such directory")
    with scratch_directory("import", Path(tempfile.gettempdir())) as directory:
        try:
            if zipfile.is_zipfile(source) and not tarfile.is_tarfile(source):
                with zipfile.ZipFile(source) as archive:
                    _refuse_outside(archive)
                    archive.extractall(directory)  # noqa: S202  (refused above; links are written as plain files)
            else:
                with tarfile.open(source) as archive_file:
                    _extract(archive_file, directory)
        except _ARCHIVE_ERRORS as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise DatasetError(f"{source}: expected a directory, or a whole tar or zip archive: {reason}") from error
        yield directory


def _extract(archive: tarfile.TarFile, directory: Path) -> None:
    """Unpack ``archive`` into ``directory``, nothing outside. Python before 3.11.4 (Debian 12) has no filter for that.

    Raises:
        ValueError, tarfile.TarError: a member would be written, or a link would lead, outside; or it is no file.
    """
    if hasattr(tarfile, "data_filter"):
        archive.extractall(directory, filter="data")
        return
    for member in archive:
        for name in (member.name, *([member.linkname] if member.issym() or member.islnk() else [])):
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise ValueError(f"'{member.name}' would lead outside: '{name}'")
        if not (member.isfile() or member.isdir() or member.issym() or member.islnk()):
            raise ValueError(f"'{member.name}' is neither a file nor a directory")
        member.mode = 0o700 if member.isdir() else 0o600
        archive.extract(member, directory, set_attrs=not member.issym())


def _refuse_outside(archive: zipfile.ZipFile) -> None:
    for name in archive.namelist():
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ValueError(f"'{name}' would be written outside")
