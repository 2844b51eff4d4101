"""Reads CSV, Parquet and JSON files of data sets as they are found in the wild.

A file that cannot be read at all comes out as a :class:`DatasetError`. A line, a cell or a column that cannot be used
is left out and counted in a :class:`LeftOut`: one damaged line never costs a file.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from tasks.datasets.dataset import NANOSECONDS, DatasetError
from tasks.left_out import LeftOut

NO_VALUE = ("", "na", "n/a", "#n/a", "<na>", "null", "none", "nil", "nan", "-nan", "+nan", "-", "undefined")
"""Cells that say there is no number, in any case of letters."""
GZIP_SUFFIX = ".gz"
_HIDDEN_FOLDER = "__MACOSX"
_DELIMITERS = (",", ";", "\t")
_MAX_BLOCK = 2**31 - 1
_MAX_NS = np.iinfo(np.int64).max
_DECIMAL = r"^(?P<sign>[+-]?)(?P<whole>\d{1,18}|[1-8]\d{18}|9[01]\d{17})(?:\.(?P<part>\d{0,9})\d*)?$"
_UNITS = ((10**17, 1), (10**14, 1_000), (10**11, 1_000_000), (0, NANOSECONDS))
"""Pairs of a size and a unit in ns: a time since 1970 of at least that size is in that unit (ns, us, ms, s)."""
EPOCH_LIKE = 10**8 * NANOSECONDS
"""Times beyond 1973 count from 1970; smaller ones count from a start of their own, and may be 0."""
_STRAY = 30 * 24 * 3600 * NANOSECONDS


def is_hidden(path: Path, root: Path) -> bool:
    """True for files below ``root`` that belong to no data set: ``.name``, and ``._name`` and ``__MACOSX`` of macOS."""
    return any(part.startswith(".") or part == _HIDDEN_FOLDER for part in path.relative_to(root).parts)


def visible_files(root: Path, pattern: str) -> list[Path]:
    """List the files that match, sorted, without hidden ones, broken links and directories."""
    return sorted(path for path in root.glob(pattern) if not is_hidden(path, root) and path.is_file())


class Table:
    """A file of rows. Columns may have one name twice: a name means the first, a position means that very one.

    What cannot be used as the asked type is counted in ``left_out``.
    """

    def __init__(
        self, file: Path, names: Sequence[str], columns: Sequence[pa.ChunkedArray], left_out: LeftOut, rows: int
    ) -> None:
        self.file = file
        self.names = list(names)
        self.rows = rows
        self.left_out = left_out
        self._columns = list(columns)

    def slice(self, start: int) -> Table:
        """Return the table without its first ``start`` rows."""
        columns = [column.slice(start) for column in self._columns]
        return Table(self.file, self.names, columns, self.left_out, max(self.rows - start, 0))

    def require(self, *names: str) -> None:
        """Raise :class:`DatasetError` if a column is missing."""
        missing = [name for name in names if name not in self.names]
        if missing:
            raise DatasetError(f"{self.file}: no column {', '.join(map(repr, missing))}; expected {', '.join(names)}")

    def text(self, column: str | int) -> np.ndarray:
        """Strings, None where empty. Shape (rows,), dtype object."""
        array = self._column(column)
        if not pa.types.is_string(array.type):
            array = pc.cast(array, pa.string(), safe=False)
        return array.to_numpy(zero_copy_only=False).astype(object)

    def numbers(self, column: str | int) -> np.ndarray:
        """float64, NaN where there is none. Shape (rows,)."""
        array = self._column(column)
        values = self._text_numbers(array) if pa.types.is_string(array.type) else _as_float(array)
        if values is None:
            raise DatasetError(f"{self.file}: column '{self._name(column)}' must hold numbers")
        infinite = np.isinf(values)
        self.left_out.count(self.file, "a cell that is infinite", int(infinite.sum()))
        return np.where(infinite, np.nan, values)

    def micros(self, column: str | int) -> np.ndarray:
        """Durations in microseconds as float64 seconds, each the float next to what is written; NaN where none is."""
        array = self._column(column)
        if pa.types.is_string(array.type):
            plain = pc.match_substring_regex(array, r"^\s*[+-]?\d+(\.\d*)?\s*$")
            shifted = pc.binary_join_element_wise(pc.utf8_trim_whitespace(array), "e-6", "")
            array = pc.if_else(pc.fill_null(plain, False), shifted, pa.scalar(None, pa.string()))
            exact = pc.cast(array, pa.float64()).to_numpy().astype(float)
            if not np.isnan(exact).any():
                return exact
            found = self.numbers_if_any(column)
            return exact if found is None else np.where(np.isnan(exact), found / 1e6, exact)
        found = self.numbers_if_any(column)
        return np.full(self.rows, np.nan) if found is None else found / 1e6

    def integers(self, column: str | int, low: int, high: int) -> np.ndarray:
        """float64 that holds whole numbers of [low, high] and NaN; words are no number and not counted."""
        array = self._column(column)
        if pa.types.is_string(array.type):
            values = pd.to_numeric(pd.Series(self.text(column), dtype=object), errors="coerce").to_numpy(dtype=float)
        else:
            values = np.full(self.rows, np.nan) if (found := _as_float(array)) is None else found
        with np.errstate(invalid="ignore"):
            good = (values >= low) & (values <= high) & (values == np.floor(values))
        odd = ~good & ~np.isnan(values)
        name = self._name(column)
        self.left_out.count(self.file, f"a cell of {name} out of range or with a fraction", int(odd.sum()))
        return np.where(good, values, np.nan)

    def numbers_if_any(self, column: str | int) -> np.ndarray | None:
        """Return :meth:`numbers`. Count a column without any number as left out and return None."""
        try:
            return self.numbers(column)
        except DatasetError:
            self.left_out.count(self.file, "a column without a number")
            return None

    def times(self, column: str | int, unit_ns: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Times since 1970 as ns, exactly, and where they are known: int64 and bool, shape (rows,).

        A number is in units of ``unit_ns``, else in the unit that its size tells (s, ms, us, ns), cell by cell; text is
        ISO 8601, in UTC unless it says otherwise. What does not fit into 64 bits is not known.
        """
        array = self._column(column)
        if pa.types.is_string(array.type):
            return _text_times(array, unit_ns)
        if pa.types.is_timestamp(array.type):
            moments = pd.to_datetime(array.to_pandas(), utc=True, errors="coerce").reset_index(drop=True)
            return _ns(moments)
        if pa.types.is_uint64(array.type):
            return _text_times(pc.cast(array, pa.string()), unit_ns)
        if pa.types.is_integer(array.type):
            whole = pc.fill_null(pc.cast(array, pa.int64(), safe=False), 0).to_numpy()
            return _scaled(whole, np.zeros_like(whole), unit_ns, np.asarray(pc.is_valid(array)))
        values = _as_float(array)
        return _float_times(np.full(self.rows, np.nan) if values is None else values, unit_ns)

    def _column(self, column: str | int) -> pa.ChunkedArray:
        return self._columns[self.names.index(column) if isinstance(column, str) else column]

    def _text_numbers(self, array: pa.ChunkedArray) -> np.ndarray | None:
        """Read numbers from text; None if the column has values and none is a number."""
        try:
            return pc.cast(pc.utf8_trim_whitespace(array), pa.float64()).to_numpy().astype(float)
        except pa.ArrowInvalid:
            words = pd.Series(array.to_numpy(zero_copy_only=False), dtype=object)
        values = pd.to_numeric(words, errors="coerce").to_numpy(dtype=float)
        odd = np.isnan(values) & _said(array)
        if odd.any() and np.isnan(values).all():
            return None
        self.left_out.count(self.file, "a cell that is no number", int(odd.sum()))
        return values

    def _name(self, column: str | int) -> str:
        return self.names[column] if isinstance(column, int) else column


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _as_float(array: pa.ChunkedArray) -> np.ndarray | None:
    if pa.types.is_null(array.type) or pa.types.is_boolean(array.type) or _is_number(array.type):
        return pc.cast(array, pa.float64(), safe=False).to_numpy().astype(float)
    return None


def _said(array: pa.ChunkedArray) -> np.ndarray:
    """Mark the cells that hold a value, be it a number or not."""
    words = pc.utf8_lower(pc.utf8_trim_whitespace(array))
    return ~np.asarray(pc.is_in(words, value_set=pa.array([*NO_VALUE, None], pa.string())), dtype=bool)


def _text_times(array: pa.ChunkedArray, unit_ns: int | None) -> tuple[np.ndarray, np.ndarray]:
    text = pc.utf8_trim_whitespace(array).combine_chunks()
    try:
        whole = pc.fill_null(pc.cast(text, pa.int64()), 0).to_numpy(zero_copy_only=False)
        return _scaled(whole, np.zeros_like(whole), unit_ns, pc.is_valid(text).to_numpy(zero_copy_only=False))
    except pa.ArrowInvalid:
        pass  # fractions, dates, or something else
    found = pc.extract_regex(text, _DECIMAL)
    plain = pc.is_valid(found)

    def digits(name: str, width: int = 0) -> np.ndarray:
        cells = pc.if_else(plain, pc.struct_field(found, name), "0")
        cells = pc.utf8_rpad(cells, width, "0") if width else cells
        return pc.cast(cells, pa.int64()).to_numpy(zero_copy_only=False)

    known = plain.to_numpy(zero_copy_only=False)
    times, known = _scaled(digits("whole"), digits("part", 9), unit_ns, known)
    minus = pc.equal(pc.if_else(plain, pc.struct_field(found, "sign"), ""), "-").to_numpy(zero_copy_only=False)
    times = np.where(minus, -times, times)
    rest = pc.and_(pc.invert(plain), pc.is_valid(text)).to_numpy(zero_copy_only=False)
    if rest.any():
        words = pd.Series(text.to_numpy(zero_copy_only=False)[rest], dtype=object)
        numeric = pd.to_numeric(words, errors="coerce").to_numpy(dtype=float)
        moments = pd.to_datetime(words.where(np.isnan(numeric)), format="ISO8601", utc=True, errors="coerce")
        by_number, by_text = _float_times(numeric, unit_ns), _ns(moments)
        times[rest] = np.where(by_number[1], by_number[0], by_text[0])
        known[rest] = by_number[1] | by_text[1]
    return times, known


def _scaled(
    whole: np.ndarray, billionths: np.ndarray, unit_ns: int | None, known: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """``whole`` and ``billionths`` of a unit as ns; not known where that is beyond 64 bits."""
    size = np.abs(whole)
    unit = (
        np.select([size >= limit for limit, _ in _UNITS], [ns for _, ns in _UNITS], 1) if unit_ns is None else unit_ns
    )
    fits = known & (size >= 0) & (size <= _MAX_NS // unit - 1)
    safe = np.where(fits, whole, 0)
    return safe * unit + np.where(fits, billionths, 0) * unit // NANOSECONDS, fits


def _float_times(values: np.ndarray, unit_ns: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Return times as exact as floats are."""
    known = np.isfinite(values) & (np.abs(values) < 9e18)
    floor = np.floor(np.where(known, values, 0.0))
    part = np.rint((np.where(known, values, 0.0) - floor) * NANOSECONDS)
    return _scaled(floor.astype(np.int64), part.astype(np.int64), unit_ns, known)


def _ns(moments: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    known = moments.notna().to_numpy()
    plain = moments.dt.tz_convert(None).to_numpy()
    bounded = known & (plain > np.datetime64("1678-01-01")) & (plain < np.datetime64("2262-01-01"))
    times = np.where(bounded, plain, np.datetime64(0, "ns")).astype("datetime64[ns]").astype(np.int64)
    return times, bounded


def plausible(times: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Mark the times that belong to the recording: known, and within a month of the median.

    Programs that do not know the time write zero or the year 1. Where at least half of the times count from 1970, the
    others are therefore not times; else all count from a start of their own, and 0 is a time like any other.
    """
    real = known & (times >= EPOCH_LIKE)
    if not known.any():
        return known
    group = real if 2 * real.sum() >= known.sum() else known & ~real
    among = times[group]
    middle = int(np.partition(among, len(among) // 2)[len(among) // 2])
    return group & (np.abs(times.astype(float) - middle) <= _STRAY)


def moment_ns(text: str) -> int | None:
    """Read one time like :meth:`Table.times`; None if it is no time, or beyond 64 bits."""
    times, known = _text_times(pa.chunked_array([[text]], pa.string()), None)
    return int(times[0]) if known[0] else None


def in_order(
    times: np.ndarray, values: np.ndarray, left_out: LeftOut, file: Path, kept: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the ``kept`` rows in order of time. Rows of the same time become one with the first value of each column.

    Args:
        times: (rows,) int64. values: (rows, columns) float64. kept: (rows,) bool.
    """
    left_out.count(file, "a row without a usable time", int((~kept).sum()))
    times, values = times[kept], values[kept]
    if (np.diff(times) > 0).all():
        return times, values
    order = np.argsort(times, kind="stable")
    times, values = times[order], values[order]
    distinct = np.unique(times)
    if len(distinct) < len(times):
        left_out.count(file, "a row of a time that was there already", len(times) - len(distinct))
        values = pd.DataFrame(values).groupby(times).first().to_numpy(dtype=float)
    return distinct, values


# CSV


def read_csv(file: Path, left_out: LeftOut | None = None, *, header_lines: int = 1) -> Table:
    """Read a CSV file (``,``, ``;`` or tab; also packed with gzip) whose names are in the first of ``header_lines``.

    Lines with another number of cells are left out.

    Raises:
        DatasetError: missing, empty, or not text.
    """
    counted = LeftOut() if left_out is None else left_out
    content = _content(file, counted)
    names = _header(file, content, header_lines)[0]
    delimiter = _delimiter(content)
    data, damaged = _parsed_csv(file, content, len(names), header_lines, delimiter)
    if data.num_rows + damaged < content.count(b"\n") - header_lines:
        # Cells may hold line ends. A quote that is never closed looks the same, and hides all lines after it.
        lines = _closed_lines(content, header_lines)
        if lines is not None:
            by_line, odd = _parsed_csv(file, lines[0], len(names), header_lines, delimiter)
            if by_line.num_rows > data.num_rows:
                data, damaged = by_line, odd + lines[1]
    counted.count(file, "a line with another number of cells", damaged)
    return Table(file, names, data.columns, counted, data.num_rows)


def read_header(file: Path, lines: int) -> list[list[str]]:
    """Return the cells of the first ``lines`` lines."""
    return _header(file, _content(file, LeftOut()), lines)


def _content(file: Path, left_out: LeftOut) -> bytes:
    """Read a file and return its text as UTF-8, whatever its encoding."""
    try:
        content = file.read_bytes()
        if file.suffix == GZIP_SUFFIX:
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DatasetError(f"{file}: cannot be read: {reason}") from error
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16", errors="replace").encode()
    content = content.removeprefix(codecs.BOM_UTF8)
    try:
        content.decode()
    except UnicodeDecodeError:
        text = content.decode(errors="replace")
        left_out.count(file, "a byte that is no UTF-8, replaced", max(1, text.count("\ufffd")))
        content = text.encode()
    return content


def _header(file: Path, content: bytes, lines: int) -> list[list[str]]:
    stream = io.TextIOWrapper(io.BytesIO(content), "utf-8", newline=None)
    rows = [row for row in (stream.readline().rstrip("\n") for _ in range(lines)) if row]
    try:
        found = list(csv.reader(rows, delimiter=_delimiter(content)))
    except csv.Error as error:
        raise DatasetError(f"{file}: not readable as CSV: {error}") from error
    if len(found) < lines or not all(found):
        raise DatasetError(f"{file}: empty; expected {lines} header line{'s' if lines > 1 else ''}")
    return [[cell.strip() for cell in row] for row in found]


def _delimiter(content: bytes) -> str:
    """Return the first of ``_DELIMITERS`` that occurs in the first line."""
    first = content.partition(b"\n")[0]
    return next((each for each in _DELIMITERS if each.encode() in first), ",")


def _closed_lines(content: bytes, header_lines: int) -> tuple[bytes, int] | None:
    """Return ``content`` without the lines that leave a quote open, and their number; None if there are none."""
    lines = content.split(b"\n")
    quotes = np.fromiter((line.count(b'"') for line in lines), dtype=np.int64, count=len(lines))
    odd = quotes % 2 == 1
    odd[:header_lines] = False
    if not odd.any():
        return None
    return b"\n".join(line for line, drop in zip(lines, odd.tolist(), strict=True) if not drop), int(odd.sum())


def _parsed_csv(file: Path, content: bytes, width: int, skip: int, delimiter: str) -> tuple[pa.Table, int]:
    """Parse every cell as a string, null if empty. Return the table and the number of lines of another width."""
    names = [str(i) for i in range(width)]
    damaged = 0

    def leave_out(row: pa_csv.InvalidRow) -> str:
        nonlocal damaged
        damaged += 1
        return "skip"

    try:
        data = pa_csv.read_csv(
            pa.BufferReader(content),
            read_options=pa_csv.ReadOptions(
                column_names=names, skip_rows=skip, use_threads=False, block_size=min(len(content) + 1, _MAX_BLOCK)
            ),
            parse_options=pa_csv.ParseOptions(
                delimiter=delimiter, newlines_in_values=True, invalid_row_handler=leave_out
            ),
            convert_options=pa_csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()),
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=True,
            ),
        )
    except pa.ArrowInvalid as error:
        if "Empty CSV" not in str(error):
            raise DatasetError(f"{file}: not readable as CSV: {str(error).splitlines()[0]}") from error
        data = pa.table([pa.array([], pa.string()) for _ in names], names=names)
    return data, damaged


# Parquet and JSON


def read_parquet(file: Path, left_out: LeftOut | None = None) -> Table:
    """Read a Parquet file. Raises :class:`DatasetError` if it is missing or none."""
    try:
        data = pq.ParquetFile(file).read()
    except OSError as error:
        raise DatasetError(f"{file}: cannot be read: {error.strerror or error}") from error
    except pa.ArrowException as error:
        raise DatasetError(f"{file}: not readable as Parquet: {str(error).splitlines()[0]}") from error
    columns = [_flat(data.column(i)) for i in range(data.num_columns)]
    return Table(file, data.column_names, columns, LeftOut() if left_out is None else left_out, data.num_rows)


def _flat(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Text as plain strings, null if empty."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_large_string(column.type) or pa.types.is_string_view(column.type):
        column = column.cast(pa.string())
    if pa.types.is_string(column.type):
        column = pc.if_else(pc.equal(column, ""), pa.scalar(None, pa.string()), column)
    return column


def read_series(file: Path, left_out: LeftOut) -> Table:
    """Read ``{"<column>": [[<time>, <value>], …], …}`` as a table with a column ``time``, in s.

    A series without samples is left out without a word, one that cannot be read is counted.
    """
    document = read_json(file)
    if not isinstance(document, Mapping):
        raise DatasetError(f'{file}: expected {{"<service>_<metric>": [[<time>, <value>], …], …}}')
    series: dict[str, pd.Series] = {}
    for name, pairs in document.items():
        if not pairs:
            continue
        samples = _samples(pairs)
        if samples is None:
            left_out.count(file, "a series that is no list of [time, value]")
            continue
        known = np.isfinite(samples[:, 0])
        left_out.count(file, "a sample without a usable time", int((~known).sum()))
        frame = pd.Series(samples[known, 1], index=samples[known, 0])
        twice = frame.index.duplicated()
        left_out.count(file, "a sample of a time that was there already", int(twice.sum()))
        series[str(name)] = frame[~twice]
    wide = pd.DataFrame(series).sort_index()
    columns = [pa.chunked_array([pa.array(wide.index.to_numpy(dtype=float))])]
    columns += [pa.chunked_array([pa.array(wide[name].to_numpy(dtype=float), from_pandas=True)]) for name in wide]
    return Table(file, ["time", *wide], columns, left_out, len(wide))


def _samples(pairs: Any) -> np.ndarray | None:
    """(samples, 2) float64; None if it is something else."""
    try:
        samples = np.array(pairs, dtype=float)
    except (TypeError, ValueError):
        return None
    return samples if samples.ndim == 2 and samples.shape[1] == 2 else None


def read_json(file: Path) -> Any:
    """Read a JSON file. Raises :class:`DatasetError` if it is missing or not JSON."""
    content = _content(file, LeftOut())
    try:
        return orjson.loads(content)
    except ValueError:
        pass
    try:
        return json.loads(content)  # knows NaN, which orjson does not
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{file}: not valid JSON: {error}") from error


def first_of(folder: Path, names: Iterable[str]) -> Path | None:
    """Return the first of ``names`` that is a file of ``folder``, plain or packed with gzip."""
    files = (folder / f"{name}{suffix}" for name in names for suffix in ("", GZIP_SUFFIX))
    return next((file for file in files if file.is_file()), None)
