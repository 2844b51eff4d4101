"""Reads the gateway's access log, one JSON object per request, and turns requests into spans."""

from __future__ import annotations

import mmap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pandas as pd

from tasks.export.sources.otlp import span_frame, status_codes
from tasks.export.values import LARGEST_INT64, finite_number
from tasks.left_out import LeftOut

LONGEST_REQUEST_S = 1e7
"""A longer duration is an error in the log."""


def read_access_log(path: Path, from_ns: int, to_ns: int, left_out: LeftOut | None = None) -> pd.DataFrame:
    """Return the requests logged from ``from_ns`` on and begun before ``to_ns``.

    Lines that are not JSON objects (the torn last one, for example) are skipped. nginx writes a line when a request
    ends, so the file is ordered by ``time``, and the part before the window is not read.
    """
    with path.open("rb") as stream:
        if not stream.seek(0, 2):
            return pd.DataFrame(columns=["time"])
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            content.seek(_first_line_at(content, from_ns / 1e9))
            lines = content.read().split(b"\n")
    return access_entries(lines, from_ns, to_ns, left_out, path.name)


def access_entries(
    lines: Iterable[bytes | str],
    from_ns: int,
    to_ns: int,
    left_out: LeftOut | None = None,
    place: str = "the gateway's access log",
) -> pd.DataFrame:
    """Return access-log lines as a table, one row per request that was served between the two times. An entry whose
    time or duration is no number is counted in ``left_out``; other lines than entries are skipped."""
    left_out = LeftOut() if left_out is None else left_out
    found = [entry for entry in map(_json_object, lines) if "time" in entry]
    entries = [entry for entry in found if _is_time(entry["time"])]
    left_out.count(place, "an entry without a time", len(found) - len(entries))
    frame = pd.DataFrame.from_records(entries) if entries else pd.DataFrame(columns=["time"])
    times = pd.to_numeric(frame["time"], errors="coerce")
    spent = _seconds(frame, "request_time")
    odd = spent.lt(0) | spent.gt(LONGEST_REQUEST_S)
    left_out.count(place, "an entry whose duration cannot be", int(odd.sum()))
    spent = spent.fillna(0)
    return frame[~odd & (times >= from_ns / 1e9) & (times - spent <= to_ns / 1e9)].reset_index(drop=True)


def _first_line_at(content: mmap.mmap, time_s: float) -> int:
    """Return the offset of a line start with no line of ``time_s`` or later before it, found by bisection."""
    low, high = 0, len(content)
    while high - low > 65_536:
        middle = content.find(b"\n", (low + high) // 2, high) + 1
        following = content.find(b"\n", middle, high)
        if middle == 0 or following < 0:
            break
        entry = _json_object(content[middle:following])
        time = finite_number(entry.get("time"))
        if time is None or not 0 <= time_s - time <= LONGEST_REQUEST_S or time == time_s:
            high = middle
        else:
            low = middle
    return low


def _is_time(value: object) -> bool:
    """Return whether the value may be seconds since the epoch."""
    seconds = finite_number(value)
    return seconds is not None and 0 < seconds < LARGEST_INT64 / 1e9


def _json_object(line: bytes | str) -> dict[str, Any]:
    try:
        entry = orjson.loads(line)
    except orjson.JSONDecodeError:
        return {}
    return entry if isinstance(entry, dict) else {}


def _seconds(frame: pd.DataFrame, column: str) -> pd.Series:
    """Read nginx's seconds: a number, ``-`` or, after retries, several joined by commas or colons (summed)."""
    if column not in frame:
        return pd.Series(np.nan, index=frame.index, dtype="float64")
    parts = frame[column].astype("string").str.split(r"[,:]", expand=True, regex=True)
    numbers = parts.apply(lambda part: pd.to_numeric(part.str.strip(), errors="coerce"))
    return numbers.astype("float64").sum(axis=1, min_count=1)


def gateway_spans(requests: pd.DataFrame, gateway: str) -> pd.DataFrame:
    """Return one server span per line of the access log. Its span id comes from nginx's tracer, else from the end of
    nginx's request id."""
    if requests.empty:
        return span_frame([])
    request_id = _text(requests, "request_id")
    usable = request_id.str.fullmatch(r"[0-9a-f]{32}")
    request_id = request_id.where(usable, _hashed_ids(requests))
    traceparent = _text(requests, "traceparent").str.extract(r"^[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-")
    own_span_id = _text(requests, "span_id")
    duration = _seconds(requests, "request_time").fillna(0.0)
    waited = _seconds(requests, "upstream_response_time")
    ended = pd.to_numeric(requests["time"]).mul(1000).round().astype("int64") * 1_000_000
    keys = [
        key
        for key in (
            "upstream_addr",
            "upstream_connect_time",
            "upstream_header_time",
            "upstream_response_time",
            "body_bytes_sent",
            "request_length",
            "request_id",
        )
        if key in requests
    ]
    attributes = requests[keys].rename(columns=lambda key: f"nginx.{key}").assign(**{"span.kind": "server"})
    return pd.DataFrame(
        {
            "trace_id": traceparent[0].fillna(request_id),
            "span_id": own_span_id.where(own_span_id.str.fullmatch(r"[0-9a-f]{16}"), request_id.str[-16:]),
            "parent_span_id": traceparent[1],
            "service": pd.Series(gateway, index=requests.index, dtype="string"),
            "operation": (_text(requests, "method") + " " + _path(requests)).str.strip(),
            "start": pd.to_datetime(ended - (duration * 1e9).round().astype("int64"), unit="ns", utc=True),
            "duration": duration,
            "status_code": status_codes(_text(requests, "status")),
            "attributes": attributes.to_json(orient="records", lines=True, double_precision=6).splitlines(),
            "upstream_s": waited.where(waited.between(0, LONGEST_REQUEST_S)),
        }
    ).astype({"attributes": "string"})


def _hashed_ids(requests: pd.DataFrame) -> pd.Series:
    """Return 32 hexadecimal digits per request, from its content and its place in the log."""
    halves = [pd.util.hash_pandas_object(requests.astype("string"), hash_key=key * 16) for key in ("a", "b")]
    digits = [half.astype("string").str.zfill(20).str[-16:] for half in halves]
    return digits[0] + digits[1]


def _text(frame: pd.DataFrame, column: str) -> pd.Series:
    if column not in frame:
        return pd.Series("", index=frame.index, dtype="string")
    return frame[column].astype("string").fillna("")


def _path(requests: pd.DataFrame) -> pd.Series:
    return _text(requests, "uri").str.split("?", n=1).str[0]
