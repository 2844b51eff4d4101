"""Reads recorded loads: when requests came, and with how many tokens. The files are other people's data.

* ``azure-2023``: the CSV of the Azure LLM inference traces (Patel et al., Splitwise, ISCA 2024), columns ``TIMESTAMP``
  (date and time), ``ContextTokens``, ``GeneratedTokens``.
* ``mooncake``: JSON lines (Qin et al., Mooncake, FAST 2025), keys ``timestamp`` (milliseconds), ``input_length``,
  ``output_length``; others are skipped.
* ``csv``: columns ``arrival_s`` (seconds), ``prompt_tokens``, ``output_tokens``.
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import orjson

from tasks.errors import ParamsError
from tasks.traffic import TraceFile

MAX_REQUESTS = 1_000_000
"""The longest trace: the generator reads it as a whole before its first request."""

_Row = tuple[float, int, int]
_Reader = Callable[[io.StringIO], Iterator[_Row]]


@dataclass(frozen=True)
class Trace:
    """Equally long columns, one entry per request. ``arrival_s``: seconds after the first, not decreasing."""

    arrival_s: npt.NDArray[np.float64]
    prompt_tokens: npt.NDArray[np.int64]
    output_tokens: npt.NDArray[np.int64]

    @property
    def mean_rate(self) -> float:
        """Requests per second over the whole trace."""
        return (len(self.arrival_s) - 1) / float(self.arrival_s[-1])


def read_trace(trace: TraceFile) -> Trace:
    """Read the file.

    Raises:
        ParamsError: it cannot be read, has changed, lacks a column, has a value that cannot be used, is not sorted by
            time, or has no two requests at different times. Rows are named by their line.
    """
    try:
        content = Path(trace.file).read_bytes()
    except (OSError, ValueError) as error:
        raise _problem(trace, f"cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if hashlib.sha256(content).hexdigest() != trace.sha256:
        raise _problem(trace, "has changed since the parameters were read")
    try:
        text = io.StringIO(content.decode("utf-8-sig"), newline="")
    except UnicodeDecodeError as error:
        raise _problem(trace, f"is not UTF-8: {error.reason}") from error
    try:
        rows = list(islice(_READERS[trace.format](text), MAX_REQUESTS + 1))
    except (_BadRowError, csv.Error) as error:
        raise _problem(trace, str(error)) from error
    if len(rows) > MAX_REQUESTS:
        raise _problem(trace, f"has more than {MAX_REQUESTS} requests: cut it")
    if not rows:
        raise _problem(trace, "has no request")
    arrival = np.array([row[0] for row in rows])
    backwards = np.flatnonzero(np.diff(arrival) < 0)
    if len(backwards):
        raise _problem(trace, f"is not sorted by time: request {backwards[0] + 2} comes before the one above it")
    if arrival[-1] == arrival[0]:
        raise _problem(trace, "has all its requests at one time: it has no rate")
    tokens = np.array([row[1:] for row in rows], dtype=np.int64)
    return Trace(arrival - arrival[0], tokens[:, 0], tokens[:, 1])


class _BadRowError(ValueError):
    """What is wrong, and on which line."""


def _problem(trace: TraceFile, text: str) -> ParamsError:
    return ParamsError([f"load.trace.file: {trace.file}: {text}"])


def _csv_reader(
    names: tuple[str, str, str], seconds: Callable[[str], float]
) -> Callable[[io.StringIO], Iterator[_Row]]:
    def read(text: io.StringIO) -> Iterator[_Row]:
        lines = csv.reader(text)
        header = [name.strip() for name in next(lines, [])]
        missing = [name for name in names if name not in header]
        if header and missing:
            raise _BadRowError(f"has no column {', '.join(missing)}; it has {', '.join(header)}")
        columns = [header.index(name) for name in names if header]
        for row in lines:
            if row:
                yield _row(
                    [row[column] if column < len(row) else "" for column in columns], names, seconds, lines.line_num
                )

    return read


def _mooncake(text: io.StringIO) -> Iterator[_Row]:
    names = ("timestamp", "input_length", "output_length")
    for number, line in enumerate(text, start=1):
        if not line.strip():
            continue
        try:
            document = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise _BadRowError(f"line {number}: not valid JSON: {error}") from error
        if not isinstance(document, dict) or any(name not in document for name in names):
            raise _BadRowError(f"line {number}: must be a mapping with {', '.join(names)}")
        yield _row([document[name] for name in names], names, lambda value: float(value) / 1000, number)


def _row(values: Sequence[object], names: tuple[str, ...], seconds: Callable[[str], float], line: int) -> _Row:
    def use(index: int, as_number: Callable[[str], float], what: str) -> float:
        try:
            number = as_number(str(values[index]).strip())
        except (ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number):
            raise _BadRowError(f"line {line}: {names[index]} must be {what} (got {str(values[index])[:40]!r})")
        return number

    when = use(0, seconds, "a time")
    prompt, output = (use(index, _count, "a number of tokens") for index in (1, 2))
    return when, int(prompt), int(output)


def _count(text: str) -> float:
    number = float(text)
    return number if number >= 0 and number.is_integer() and number < 2**31 else math.nan


def _date(text: str) -> float:
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


_READERS: dict[str, _Reader] = {
    "azure-2023": _csv_reader(("TIMESTAMP", "ContextTokens", "GeneratedTokens"), _date),
    "mooncake": _mooncake,
    "csv": _csv_reader(("arrival_s", "prompt_tokens", "output_tokens"), float),
}
