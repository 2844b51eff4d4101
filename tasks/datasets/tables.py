"""Reads CSV and JSON files of data sets; whatever is wrong with one comes out as a :class:`DatasetError`."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from tasks.datasets.dataset import NANOSECONDS, DatasetError

_EXACT_SECONDS = pa.decimal128(27, 9)


class Table:
    """A CSV file, every cell a string (null if empty) until a column is asked for as something else."""

    def __init__(self, file: Path, data: pa.Table) -> None:
        self.file = file
        self.data = data
        self.names: list[str] = data.column_names

    @property
    def rows(self) -> int:
        return int(self.data.num_rows)

    def require(self, *names: str) -> None:
        """Raise :class:`DatasetError` if a column is missing."""
        missing = [name for name in names if name not in self.names]
        if missing:
            raise DatasetError(f"{self.file}: no column {', '.join(map(repr, missing))}; expected {', '.join(names)}")

    def text(self, column: str | int) -> np.ndarray:
        """Strings, None where empty. Shape (rows,), dtype object."""
        return self._column(column).to_numpy()

    def numbers(self, column: str | int) -> np.ndarray:
        """float64, NaN where empty."""
        found = self._numbers(column)
        if found is None:
            raise DatasetError(f"{self.file}: column '{self._name(column)}' must hold numbers")
        return found

    def is_numeric(self, column: str | int) -> bool:
        return self._numbers(column) is not None

    def integers(self, column: str | int) -> np.ndarray:
        """int64, exactly; no cell may be empty."""
        try:
            return pc.cast(self._filled(column), pa.int64()).to_numpy()
        except pa.ArrowInvalid:
            raise DatasetError(f"{self.file}: column '{self._name(column)}' must hold whole numbers") from None

    def seconds(self, column: str | int, unit_ns: int = NANOSECONDS) -> np.ndarray:
        """Times or durations in units of ``unit_ns`` as int64 nanoseconds, exactly; no cell may be empty."""
        if unit_ns == 1:
            return self.integers(column)
        try:
            exact = pc.cast(self._filled(column), _EXACT_SECONDS)
            scaled = pc.multiply(exact, pa.scalar(Decimal(unit_ns), pa.decimal128(10, 0)))
            return pc.cast(scaled, pa.int64(), safe=False).to_numpy()
        except pa.ArrowInvalid:
            raise DatasetError(f"{self.file}: column '{self._name(column)}' must hold seconds since 1970") from None

    def _column(self, column: str | int) -> pa.ChunkedArray:
        return self.data.column(column)

    def _filled(self, column: str | int) -> pa.ChunkedArray:
        found = self._column(column)
        if found.null_count:
            raise DatasetError(f"{self.file}: column '{self._name(column)}' has empty cells")
        return pc.utf8_trim_whitespace(found)

    def _numbers(self, column: str | int) -> np.ndarray | None:
        try:
            return pc.cast(pc.utf8_trim_whitespace(self._column(column)), pa.float64()).to_numpy().astype(float)
        except pa.ArrowInvalid:
            return None

    def _name(self, column: str | int) -> str:
        return self.names[column] if isinstance(column, int) else column


def read_csv(file: Path, *, skip_lines: int = 0, names: Sequence[str] | None = None) -> Table:
    """Read a CSV file with a header line, or with the given ``names`` after ``skip_lines`` lines.

    Raises:
        DatasetError: missing, empty, not text, or a row with another number of cells.
    """
    header = list(names) if names is not None else read_header(file, 1)[0]
    positions = [str(i) for i in range(len(header))]  # names may occur twice
    try:
        data = pa_csv.read_csv(
            file,
            read_options=pa_csv.ReadOptions(
                column_names=positions, skip_rows=skip_lines if names is not None else 1, use_threads=False
            ),
            parse_options=pa_csv.ParseOptions(newlines_in_values=True),
            convert_options=pa_csv.ConvertOptions(
                column_types=dict.fromkeys(positions, pa.string()),
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=True,
            ),
        )
    except OSError as error:
        raise DatasetError(f"{file}: cannot be read: {error.strerror}") from error
    except pa.ArrowInvalid as error:
        if "Empty CSV" not in str(error):
            raise DatasetError(f"{file}: not readable as CSV: {str(error).splitlines()[0]}") from error
        data = pa.table([pa.array([], pa.string()) for _ in positions], names=positions)
    return Table(file, data.rename_columns(header))


def read_header(file: Path, lines: int) -> list[list[str]]:
    """The cells of the first ``lines`` lines."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            found = [row for row, _ in zip(csv.reader(stream), range(lines), strict=False)]
    except OSError as error:
        raise DatasetError(f"{file}: cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{file}: not readable as CSV: {error}") from error
    if len(found) < lines or not all(found):
        raise DatasetError(f"{file}: empty; expected {lines} header line{'s' if lines > 1 else ''}")
    return found


def read_json(file: Path) -> Any:
    """Raises :class:`DatasetError` if the file is missing or not JSON."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise DatasetError(f"{file}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise DatasetError(f"{file}: not valid JSON: {error}") from error
