"""Log files of nginx, Ray, Ray Serve and vLLM as rows with time, level and template.

Formats known by their header: nginx's error log (``2026/11/22 10:57:01 [error]``), nginx's JSON access log, Ray and
Ray Serve (``2026-11-22 10:57:01,123 INFO`` or ``INFO 2026-11-22 10:57:01,123``), vLLM
(``INFO 11-22 10:57:01 [file.py:1]``, a year is supplied), Ray's C++ processes
(``[2026-11-22 10:57:01,123 I 123 456]``) and ISO 8601. Times without a zone are in the zone of the machine that wrote
them.

A line without a header continues the message before it (a traceback, a dump), unless it starts with a level of its own
(``INFO:     ...``): then it is a row that takes the time of the row before it.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

log = logging.getLogger(__name__)

LOG_SUFFIXES = (".log", ".out", ".err")
BLOCK_BYTES = 4 * 2**20
MAX_MESSAGE_CHARACTERS = 8192
READ_DELAY_NS = 30 * 10**9
"""A collector reads a line at most this long after it was written; a time further off is in another zone."""
TEMPLATE_CHARACTERS = 512
"""A template is made from this much of the first line of a message."""

LEVELS = {
    "debug": ("debug", "trace", "verbose", "d", "v"),
    "info": ("info", "notice", "i"),
    "warning": ("warning", "warn", "w"),
    "error": ("error", "err", "e"),
    "critical": ("critical", "crit", "fatal", "alert", "emerg", "panic", "f", "c"),
}
_LEVEL_OF = {word: level for level, words in LEVELS.items() for word in words}

_WORD = r"(?i:debug|trace|verbose|info|notice|warn|warning|error|err|critical|crit|fatal|alert|emerg|panic)"
_DATE = r"(?P<year>\d{4})[-/](?P<month>\d\d)[-/](?P<day>\d\d)"
_CLOCK = r"(?P<clock>\d\d:\d\d:\d\d)(?:[.,](?P<fraction>\d{1,9}))?"
_PROCESS = r"(?:\([^()]{1,60}\) )?"
HEADERS = (
    rf"^{_DATE} {_CLOCK} \[(?P<level>\w+)\] (?P<message>.*)$",
    rf"^\[{_DATE} {_CLOCK} (?P<level>[A-Z]) [^\]]*\] (?P<message>.*)$",
    rf"^{_PROCESS}{_DATE} {_CLOCK}[ \t]+\[?(?P<level>{_WORD})\]?:?[ \t]+(?P<message>.*)$",
    rf"^{_PROCESS}(?P<level>{_WORD}):?[ \t]+{_DATE} {_CLOCK} (?P<message>.*)$",
    rf"^{_PROCESS}(?P<level>{_WORD}) (?P<month>\d\d)-(?P<day>\d\d) {_CLOCK} (?P<message>.*)$",
    rf"^\[?{_DATE}[T ]{_CLOCK}(?P<zone>Z|[+-]\d\d:?\d\d)?\]?[ \t]*[-:]?[ \t]*(?P<message>.*)$",
)
"""Regular expressions (RE2), tried in order, with named groups for their fields."""

_ACCESS_ENTRY = r'^\{.*"(?:time|msec)":\s*"?(?P<time>\d{9,11}(?:\.\d+)?)"?.*\}$'
_BARE_LEVEL = rf"^{_PROCESS}(?P<level>{_WORD}):?[ \t]+(?P<message>.*)$"
_COLOUR = r"\x1b\[[0-9;]*[A-Za-z]"

_MASKS = (
    (r"\x00", ""),
    (r'"[^"]*"|\'[^\']*\'', "<str>"),
    (r"(?i)\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", "<id>"),
    (r"\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b", "<ip>"),
    (r"(?:/[\w.@%+~-]+){2,}/?", "<path>"),
    (r"(?i)\b0x[0-9a-f]+\b", "<hex>"),
    (r"[-+]?\b\d+\b", "<n>"),
    (r"(?i)\b[0-9a-f]{8,}\b", "<id>"),
    (r"[-+]?\d+(?:e[-+]?\d+)?", "<n>"),
    (r"<n>(?:[.,:]<n>)+", "<n>"),
    (r"\s+", " "),
)
"""Patterns of the variable parts of messages and their replacements, in masking order."""


@dataclass(frozen=True)
class LogWindow:
    """The requested time span, and the UTC offset of times without a zone."""

    start: datetime
    end: datetime
    utc_offset_s: float

    @classmethod
    def of(cls, start: datetime, end: datetime, timezone: str | None) -> LogWindow:
        """Return the window; ``timezone`` is an IANA name, or None for this machine's zone."""
        local = start.astimezone(ZoneInfo(timezone) if timezone else None)
        offset = local.utcoffset()
        return cls(start, end, offset.total_seconds() if offset else 0.0)

    @property
    def start_ns(self) -> int:
        return int(self.start.timestamp() * 1e9)

    @property
    def end_ns(self) -> int:
        return int(self.end.timestamp() * 1e9)


def log_files(directory: Path) -> list[Path]:
    """Return the log files below ``directory``, each once whatever links to it, in order of path."""
    found: dict[tuple[int, int], Path] = {}
    for path in sorted(directory.rglob("*")):
        if path.suffix not in LOG_SUFFIXES or path.is_symlink() or not path.is_file():
            continue
        status = path.stat()
        found.setdefault((status.st_dev, status.st_ino), path)
    return sorted(found.values())


def read_log(path: Path, service: str, window: LogWindow) -> Iterator[pd.DataFrame]:
    """Yield rows of the logs signal from one file, in blocks; only those in the window.

    A file last written before the window is not read. Lines without a time take the last time before them in the file,
    else the first one after them.
    """
    if path.stat().st_mtime < window.start.timestamp():
        return
    with path.open("rb") as stream:
        last_ns: int | None = None
        for lines in _blocks(stream):
            rows, last_ns = parse_lines(lines, window, last_ns)
            table = _signal_rows(rows, service, window)
            if not table.empty:
                yield table


def timed_rows(times_ns: Sequence[int], lines: Sequence[str], service: str, window: LogWindow) -> pd.DataFrame:
    """Return rows of the logs signal from consecutive lines of one stream, only those in the window. ``times_ns`` are
    the times at which they were read; a line's own time counts if it is near."""
    text = _cleaned(pa.array(lines, pa.large_string()))
    rows, _ = parse_lines(text, window, times_ns=np.array(times_ns, dtype=np.int64))
    return _signal_rows(rows, service, window)


def _signal_rows(rows: pd.DataFrame, service: str, window: LogWindow) -> pd.DataFrame:
    rows = rows[(rows["time_ns"] >= window.start_ns) & (rows["time_ns"] <= window.end_ns)]
    return pd.DataFrame(
        {
            "time": pd.to_datetime(rows["time_ns"].astype("int64"), unit="ns", utc=True),
            "service": service,
            "level": rows["level"],
            "message": rows["message"],
            "template_id": template_ids(rows["message"]),
        }
    )


def _blocks(stream: IO[bytes]) -> Iterator[pa.Array]:
    """Yield whole lines as strings, about ``BLOCK_BYTES`` at a time."""
    rest = b""
    while block := stream.read(BLOCK_BYTES):
        block = rest + block
        cut = block.rfind(b"\n") + 1
        if cut == 0 and len(block) < 4 * BLOCK_BYTES:
            rest = block
            continue
        whole, rest = (block[:cut], block[cut:]) if cut else (block, b"")
        yield _lines(whole)
    if rest:
        yield _lines(rest)


def _lines(block: bytes) -> pa.Array:
    text = block.decode("utf-8", "replace").replace("\x00", "")
    return _cleaned(pc.split_pattern(pa.scalar(text.removesuffix("\n"), pa.large_string()), "\n").values)


def _cleaned(lines: pa.Array) -> pa.Array:
    lines = pc.utf8_slice_codeunits(pc.utf8_rtrim(lines, "\r"), 0, MAX_MESSAGE_CHARACTERS)
    return pc.replace_substring_regex(lines, _COLOUR, "")


def parse_lines(
    lines: pa.Array, window: LogWindow, last_ns: int | None = None, times_ns: np.ndarray | None = None
) -> tuple[pd.DataFrame, int | None]:
    """Return rows from consecutive lines of a file.

    Args:
        lines: text, one element per line.
        last_ns: time of the row before the first line, if one is known.
        times_ns: time at which each line was read or received; used unless the line's own time is near it.

    Returns:
        Columns ``time_ns``, ``level`` (null where unknown), ``message``; and the time of the last row.
    """
    table = pd.DataFrame(
        {"time_ns": pd.array([pd.NA] * len(lines), dtype="Int64"), "level": None, "message": lines.to_pandas()}
    ).astype({"level": "string", "message": "string"})
    for pattern in HEADERS:
        _apply_header(table, lines, pattern, window)
    _apply_access_entries(table, lines)
    headed = table["time_ns"].notna()
    levelled = _apply_bare_levels(table, lines, ~headed)
    if times_ns is not None:
        stated, read = table["time_ns"], pd.Series(times_ns, dtype="Int64")
        table["time_ns"] = stated.where((stated - read).abs() <= READ_DELAY_NS, read)
    table["time_ns"] = table["time_ns"].ffill()
    table["time_ns"] = table["time_ns"].fillna(last_ns) if last_ns is not None else table["time_ns"].bfill()
    continuation = ~headed & ~levelled & headed.cummax()
    joined = _join_continuations(table, continuation)
    joined = joined[joined["time_ns"].notna()]
    joined["message"] = joined["message"].str.strip().str.slice(0, MAX_MESSAGE_CHARACTERS)
    joined = joined[joined["message"].str.len() > 0].reset_index(drop=True)
    last = table["time_ns"].iloc[-1] if len(table) else pd.NA
    return joined, last_ns if pd.isna(last) else int(last)


def _join_continuations(table: pd.DataFrame, continuation: pd.Series) -> pd.DataFrame:
    """Return the rows that begin a message, with the lines that continue it appended."""
    row = (~continuation).cumsum()
    long_rows = row[continuation].unique()
    in_long_row = row.isin(long_rows)
    texts = table["message"][in_long_row].groupby(row[in_long_row]).agg("\n".join)
    first = table.groupby(row).head(1).set_axis(row.drop_duplicates(), axis=0)
    first.loc[texts.index, "message"] = texts
    return first


def _apply_header(table: pd.DataFrame, lines: pa.Array, pattern: str, window: LogWindow) -> None:
    """Fill time, level and message of the lines that match ``pattern`` and have no time yet."""
    found = pc.extract_regex(lines, pattern)
    rows = np.flatnonzero(pc.is_valid(found).to_numpy(zero_copy_only=False) & table["time_ns"].isna().to_numpy())
    if not len(rows):
        return
    fields = found.take(pa.array(rows))
    names = [field.name for field in fields.type]
    columns = {name: fields.field(i).to_pandas().astype("string") for i, name in enumerate(names)}
    times = _times_ns(columns, window)
    usable = times.notna().to_numpy()
    rows = rows[usable]
    table.loc[rows, "time_ns"] = times[usable].to_numpy()
    table.loc[rows, "message"] = columns["message"][usable].to_numpy()
    if "level" in columns:
        table.loc[rows, "level"] = columns["level"].str.lower().map(_LEVEL_OF)[usable].to_numpy()


def _times_ns(columns: dict[str, pd.Series], window: LogWindow) -> pd.Series:
    """Return nanoseconds since the epoch; null where the digits are no date."""
    if "year" in columns:
        times = _utc_ns(columns["year"], columns, window.utc_offset_s)
    else:
        years = [str(window.start.year + delta) for delta in (0, -1, 1)]
        middle = (window.start_ns + window.end_ns) / 2
        candidates = [
            _utc_ns(pd.Series(year, index=columns["month"].index), columns, window.utc_offset_s) for year in years
        ]
        distances = np.stack([(c.astype("Float64") - middle).abs().fillna(np.inf).to_numpy() for c in candidates])
        choice = distances.argmin(axis=0)
        times = candidates[0].where(choice == 0, candidates[1].where(choice == 1, candidates[2]))
    return times


def _utc_ns(year: pd.Series, columns: dict[str, pd.Series], utc_offset_s: float) -> pd.Series:
    text = year + "-" + columns["month"] + "-" + columns["day"] + " " + columns["clock"]
    parsed = pd.to_datetime(text, format="%Y-%m-%d %H:%M:%S", errors="coerce").dt.as_unit("ns")
    whole = parsed.astype("int64").astype("Int64").where(parsed.notna())
    fraction = columns["fraction"].replace("", pd.NA).str.ljust(9, "0").fillna("0").astype("Int64")
    return whole + fraction - _offsets_ns(columns, utc_offset_s)


def _offsets_ns(columns: dict[str, pd.Series], utc_offset_s: float) -> pd.Series:
    default = round(utc_offset_s * 1e9)
    if "zone" not in columns:
        return pd.Series(default, index=columns["clock"].index, dtype="Int64")
    zone = columns["zone"]
    digits = zone.str.replace(":", "").str.extract(r"^([+-])(\d\d)(\d\d)$")
    minutes = pd.to_numeric(digits[1]).fillna(0) * 60 + pd.to_numeric(digits[2]).fillna(0)
    signed = minutes.where(digits[0] != "-", -minutes) * 60_000_000_000
    return signed.where(zone.notna() & (zone != ""), default).astype("int64").astype("Int64")


def _apply_access_entries(table: pd.DataFrame, lines: pa.Array) -> None:
    """Fill the lines of nginx's JSON access log: ``METHOD path status``, level by status."""
    found = pc.extract_regex(lines, _ACCESS_ENTRY)
    rows = np.flatnonzero(pc.is_valid(found).to_numpy(zero_copy_only=False) & table["time_ns"].isna().to_numpy())
    if not len(rows):
        return
    entries = lines.take(pa.array(rows))
    seconds = found.take(pa.array(rows)).field(0).to_pandas().astype("float64")
    table.loc[rows, "time_ns"] = (seconds * 1e3).round().astype("int64").to_numpy() * 1_000_000
    method, uri, status = (_json_text(entries, key) for key in ("method", "uri", "status"))
    message = method + " " + uri.str.split("?", n=1).str[0] + " " + status
    code = pd.to_numeric(status, errors="coerce").fillna(0)
    level = pd.Series("info", index=status.index, dtype="string")
    level = level.mask(code >= 400, "warning").mask(code >= 500, "error")
    table.loc[rows, "message"] = message.to_numpy()
    table.loc[rows, "level"] = level.to_numpy()


def _json_text(entries: pa.Array, key: str) -> pd.Series:
    """Return the value of a flat key that holds a plain string or number; empty if absent."""
    found = pc.extract_regex(entries, rf'"{key}":\s*(?:"(?P<text>[^"\\]*)"|(?P<number>[-\d.]+))')
    text, number = (found.field(i).to_pandas().astype("string").fillna("") for i in (0, 1))
    return text.where(text != "", number)


def _apply_bare_levels(table: pd.DataFrame, lines: pa.Array, candidates: pd.Series) -> pd.Series:
    """Fill lines such as uvicorn's ``INFO:     message``, with a level but no time, and return which they are."""
    found = pc.extract_regex(lines, _BARE_LEVEL)
    levelled = candidates & pd.Series(pc.is_valid(found).to_pandas(), index=table.index)
    rows = np.flatnonzero(levelled)
    fields = found.take(pa.array(rows, pa.int64()))
    table.loc[rows, "level"] = fields.field(0).to_pandas().astype("string").str.lower().map(_LEVEL_OF).to_numpy()
    table.loc[rows, "message"] = fields.field(1).to_pandas().astype("string").to_numpy()
    return levelled


def mask_message(messages: pd.Series) -> pd.Series:
    """Return templates: the first line with figures, identifiers, addresses, paths and quoted text masked."""
    text = pa.array(messages.astype("string"), pa.string(), from_pandas=True)
    text = pc.list_element(pc.split_pattern(text, "\n", max_splits=1), 0)
    text = pc.utf8_slice_codeunits(text, 0, TEMPLATE_CHARACTERS)
    for pattern, replacement in _MASKS:
        text = pc.replace_substring_regex(text, pattern, replacement)
    return pc.utf8_trim_whitespace(text).to_pandas().astype("string").set_axis(messages.index)


def template_ids(messages: pd.Series) -> pd.Series:
    """Return twelve hexadecimal digits that are equal for messages of one template, on every machine."""
    codes, templates = pd.factorize(mask_message(messages))
    digests = np.array([hashlib.sha256(template.encode()).hexdigest()[:12] for template in templates], dtype=object)
    return pd.Series(digests[codes], index=messages.index, dtype="string")
