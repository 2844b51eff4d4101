"""Write and read what the layout of RCAEval has no place for: ``rcarena.json`` and ``rcarena.<signal>.parquet`` beside
the files of an exported case.

The Parquet files are those of the case, byte by byte, so a case comes back number for number: samples of no value, two
samples of one time, empty texts, durations to the last bit, the requests. ``rcarena.json`` says what each file of the
layout was when it was written: a signal whose file somebody changed since is read from there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from tasks.case import SIGNALS, CaseRecord, SignalName, as_signal
from tasks.datasets.dataset import Column, DatasetError
from tasks.datasets.tables import read_json

SIDECAR_FILE = "rcarena.json"


def table_file(signal: SignalName) -> str:
    """Name the file of a signal. Without the prefix RCAEval would read ``metrics.parquet`` instead of the CSV file."""
    return f"rcarena.{signal}.parquet"


@dataclass(frozen=True)
class Sidecar:
    """``columns``: column of the metrics file -> what it is. ``services``: name in the files -> name in the case.
    ``topology``: (relation, source, target).

    ``tables``: signal -> the file of the layout that says the same, or "" if none does. ``digests``: SHA-256 of each
    file at the time of the export. Both are empty in folders of versions that wrote no tables.
    """

    record: CaseRecord
    columns: Mapping[str, Column]
    services: Mapping[str, str]
    topology: Sequence[tuple[str, str, str]]
    tables: Mapping[SignalName, str] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        return {
            "record": self.record.model_dump(mode="json"),
            "columns": {name: list(column) for name, column in self.columns.items()},
            "services": dict(self.services),
            "topology": [list(edge) for edge in self.topology],
            "tables": dict(self.tables),
            "digests": dict(self.digests),
        }

    def is_as_written(self, folder: Path, signal: SignalName) -> bool:
        """True if the table of ``signal`` is there, and the layout's own file is the one that was written beside it."""
        if signal not in self.tables or not (folder / table_file(signal)).is_file():
            return False
        own = self.tables[signal]
        return not own or self.digests.get(own) == digest(folder / own)

    def table(self, folder: Path, signal: SignalName) -> pa.Table:
        """Read the exported table without columns that only a newer version knows.

        Raises:
            DatasetError: it cannot be read.
        """
        file = folder / table_file(signal)
        try:
            stored = pq.ParquetFile(file)
            known = [name for name in stored.schema_arrow.names if name in SIGNALS[signal].names]
            return as_signal(signal, stored.read(columns=known))
        except (OSError, pa.ArrowException, ValueError) as error:
            raise DatasetError(f"{file}: not readable as Parquet: {str(error).splitlines()[0]}") from error

    def table_files(self, folder: Path) -> list[str | Path]:
        """Names and files of the tables that are there, for the case id."""
        files = [folder / table_file(signal) for signal in sorted(self.tables)]
        return [part for file in files if file.is_file() for part in (file.name, file)]

    @classmethod
    def read(cls, file: Path) -> Sidecar | None:
        """Read the sidecar; None if there is none. Raises :class:`DatasetError` if it has another form."""
        if not file.is_file():
            return None
        document: Any = read_json(file)
        try:
            tables = {str(signal): str(own) for signal, own in document.get("tables", {}).items()}
            return cls(
                record=CaseRecord.model_validate(document["record"]),
                columns={str(name): Column(*parts) for name, parts in document["columns"].items()},
                services={str(short): str(name) for short, name in document["services"].items()},
                topology=[(str(relation), str(a), str(b)) for relation, a, b in document["topology"]],
                tables={signal: tables[signal] for signal in get_args(SignalName) if signal in tables},
                digests={str(name): str(value) for name, value in document.get("digests", {}).items()},
            )
        except (KeyError, TypeError, AttributeError, ValidationError, ValueError):
            raise DatasetError(
                f"{file}: expected what `rcarena export rcaeval` writes; remove it to do without"
            ) from None


def digest(file: Path) -> str | None:
    """SHA-256; None if there is no such file."""
    if not file.is_file():
        return None
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
