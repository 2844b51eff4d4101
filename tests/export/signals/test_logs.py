from __future__ import annotations

import json
import os
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.case import as_signal
from tasks.export.sources import log_lines
from tasks.export.sources.log_lines import (
    LEVELS,
    LogWindow,
    log_files,
    mask_message,
    parse_lines,
    read_log,
    template_ids,
)

AT = datetime(2026, 11, 22, 10, 57, 1, tzinfo=UTC)
WINDOW = LogWindow(AT - timedelta(hours=1), AT + timedelta(hours=1), 0.0)


def _parse(text: str, window: LogWindow = WINDOW) -> pd.DataFrame:
    rows, _ = parse_lines(pa.array(text.split("\n"), pa.large_string()), window)
    return rows.assign(time=pd.to_datetime(rows["time_ns"].astype("int64"), unit="ns", utc=True))


@pytest.mark.parametrize(
    ("line", "milliseconds", "level", "message"),
    [
        ("2026/11/22 10:57:01 [error] 12#12: *3 timed out", 0, "error", "12#12: *3 timed out"),
        ("2026/11/22 10:57:01 [notice] 1#1: start", 0, "info", "1#1: start"),
        ("2026/11/22 10:57:01 [emerg] 1#1: bind()", 0, "critical", "1#1: bind()"),
        ("2026-11-22 10:57:01,123\tINFO worker.py:12 -- up", 123, "info", "worker.py:12 -- up"),
        ("2026-11-22 10:57:01,123 WARNING a.py:1 -- hm", 123, "warning", "a.py:1 -- hm"),
        ("INFO 2026-11-22 10:57:01,500 proxy 10.0.0.1 -- GET / 200", 500, "info", "proxy 10.0.0.1 -- GET / 200"),
        ("INFO 11-22 10:57:01 [core.py:1] ready", 0, "info", "[core.py:1] ready"),
        ("(EngineCore_DP0 pid=12) ERROR 11-22 10:57:01 [core.py:1] bad", 0, "error", "[core.py:1] bad"),
        ("[2026-11-22 10:57:01,999 W 123 456] (raylet) node.cc:1: slow", 999, "warning", "(raylet) node.cc:1: slow"),
        ("[2026-11-22 10:57:01,999 C 123 456] (gcs) a.cc:1: dead", 999, "critical", "(gcs) a.cc:1: dead"),
        ("2026-11-22T10:57:01.25Z something", 250, None, "something"),
        ("2026-11-22T12:57:01+02:00 zoned", 0, None, "zoned"),
    ],
)
def test_known_formats(line: str, milliseconds: int, level: str | None, message: str) -> None:
    row = _parse(line).iloc[0]
    assert row["time"] == AT + timedelta(milliseconds=milliseconds)
    assert (None if pd.isna(row["level"]) else row["level"]) == level
    assert row["message"] == message


def test_access_log_lines_become_short_messages() -> None:
    entry = {"time": AT.timestamp() + 0.25, "method": "POST", "uri": "/v1/chat?a=1", "status": 502}
    row = _parse(json.dumps(entry, separators=(",", ":"))).iloc[0]
    assert (row["message"], row["level"]) == ("POST /v1/chat 502", "error")
    assert row["time"] == AT + timedelta(milliseconds=250)


def test_traceback_is_one_message_and_bare_levels_take_the_time_before_them() -> None:
    rows = _parse(
        "2026-11-22 10:57:01,123\tERROR a.py:1 -- failed\n"
        "Traceback (most recent call last):\n"
        '  File "a.py", line 1, in f\n'
        "ValueError: no\n"
        "\n"
        "INFO:     10.0.0.1 - GET /\n"
        "2026-11-22 10:57:02,000\tINFO a.py:2 -- next"
    )
    assert rows["message"].str.split("\n").str[0].tolist() == ["a.py:1 -- failed", "10.0.0.1 - GET /", "a.py:2 -- next"]
    assert "ValueError: no" in rows["message"][0]
    assert rows["time"][1] == rows["time"][0]
    assert rows["level"].tolist() == ["error", "info", "info"]


def test_lines_before_the_first_time_take_it_and_a_file_without_times_has_no_rows() -> None:
    rows = _parse(":actor_name:Replica\nprinted\n2026-11-22 10:57:01,000\tINFO a -- b")
    assert rows["time"].nunique() == 1
    assert rows["message"].tolist() == [":actor_name:Replica", "printed", "a -- b"]
    assert _parse("no\ntime\nanywhere").empty


def test_time_is_carried_from_block_to_block() -> None:
    _, last = parse_lines(pa.array(["2026-11-22 10:57:01,000\tINFO a -- b"]), WINDOW)
    rows, _ = parse_lines(pa.array(["INFO:     later"]), WINDOW, last)
    assert rows["time_ns"].tolist() == [last]


@pytest.mark.parametrize(("zone", "hours"), [("UTC", 0), ("Asia/Tokyo", -9), ("America/New_York", 5)])
def test_local_times_become_utc(zone: str, hours: int) -> None:
    window = LogWindow.of(AT - timedelta(days=1), AT + timedelta(days=1), zone)
    local = _parse("2026-11-22 10:57:01,000\tINFO a -- b\nINFO 11-22 10:57:01 [a:1] b", window)
    assert local["time"].tolist() == [AT + timedelta(hours=hours)] * 2
    assert _parse("2026-11-22T10:57:01Z b", window)["time"].tolist() == [AT]


def test_year_of_a_vllm_time_is_the_one_nearest_to_the_window() -> None:
    new_year = datetime(2027, 1, 1, tzinfo=UTC)
    window = LogWindow(new_year - timedelta(minutes=5), new_year + timedelta(minutes=5), 0.0)
    rows = _parse("INFO 12-31 23:59:59 [a:1] old\nINFO 01-01 00:00:01 [a:1] new", window)
    assert rows["time"].tolist() == [new_year - timedelta(seconds=1), new_year + timedelta(seconds=1)]


@pytest.mark.parametrize(
    "line", ["2026-13-45 10:57:01,000\tINFO a -- b", "INFO 02-30 10:57:01 [a:1] b", "{", "\x1b[31m"]
)
def test_impossible_times_are_no_times(line: str) -> None:
    rows = _parse(line + "\n2026-11-22 10:57:01,000\tINFO a -- b")
    assert rows["time"].eq(AT).all()


@settings(deadline=None, max_examples=40)
@given(text=st.text(max_size=300))
def test_any_text_is_parsed_without_error_and_rows_fit_the_contract(text: str) -> None:
    rows = _parse(text + "\n2026-11-22 10:57:01,000\tINFO a -- b\n" + text)
    assert rows["time_ns"].notna().all()
    assert set(rows["level"].dropna()) <= set(LEVELS)
    assert rows["message"].str.len().between(1, log_lines.MAX_MESSAGE_CHARACTERS).all()
    assert template_ids(rows["message"]).notna().all()


@settings(deadline=None, max_examples=40)
@given(
    when=st.datetimes(datetime(2026, 11, 22, 10), datetime(2026, 11, 22, 11, 50)),
    level=st.sampled_from(["INFO", "WARNING", "ERROR", "DEBUG", "CRITICAL"]),
    message=st.from_regex(r"[A-Za-z][ -~]{0,60}", fullmatch=True),
    style=st.integers(0, 3),
)
def test_what_is_written_is_read_back(when: datetime, level: str, message: str, style: int) -> None:
    when = when.replace(microsecond=0 if style in (2, 3) else when.microsecond // 1000 * 1000, tzinfo=UTC)
    fraction = f"{when.microsecond // 1000:03d}"
    line = (
        f"{when:%Y-%m-%d %H:%M:%S},{fraction}\t{level} {message}",
        f"[{when:%Y-%m-%d %H:%M:%S},{fraction} {level[0]} 12 34] {message}",
        f"{level} {when:%m-%d %H:%M:%S} [a.py:1] {message}",
        f"{when:%Y/%m/%d %H:%M:%S} [{level.lower()}] {message}",
    )[style]
    row = _parse(line).iloc[0]
    assert row["time"] == when
    assert row["level"] == level.lower()
    assert row["message"].removeprefix("[a.py:1] ") == message.strip()


@settings(deadline=None, max_examples=40)
@given(numbers=st.lists(st.integers(0, 10**9), min_size=2, max_size=2, unique=True))
def test_messages_of_one_statement_share_a_template(numbers: list[int]) -> None:
    first, second = (f'took {n} ms for 10.0.{n % 255}.1:{n % 65535} in /tmp/run/{n} "{n}" id 0x{n:x}' for n in numbers)
    assert template_ids(pd.Series([first, second])).nunique() == 1
    assert template_ids(pd.Series([first, first + " failed"])).nunique() == 2


def test_templates_do_not_depend_on_the_run() -> None:
    assert mask_message(pd.Series(["request 12 took 3.5s"])).tolist() == ["request <n> took <n>s"]
    assert template_ids(pd.Series(["request 12 took 3.5s"]).set_axis([7])).tolist() == ["8878f86be5c7"]


def test_files_are_found_once_and_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "serve").mkdir()
    for name in ("a.log", "serve/b.err", "c.out", "d.txt"):
        (tmp_path / name).write_text("x\n")
    os.link(tmp_path / "a.log", tmp_path / "z.log")
    (tmp_path / "latest.log").symlink_to(tmp_path / "a.log")
    assert [file.name for file in log_files(tmp_path)] == ["a.log", "c.out", "b.err"]
    assert log_files(tmp_path / "absent") == []


def test_only_the_window_is_read_whatever_the_block_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.log"
    times = [AT + timedelta(seconds=i - 50) for i in range(100)]
    file.write_bytes(
        b"".join(f"{t:%Y-%m-%d %H:%M:%S},000\tINFO a.py:1 -- n\xff{i}\n".encode("latin-1") for i, t in enumerate(times))
        + b"2026-11-22 10:57:"
    )
    window = LogWindow(AT, AT + timedelta(seconds=9), 0.0)
    whole = pd.concat(read_log(file, "ray-head", window))
    assert whole["time"].tolist() == [AT + timedelta(seconds=i) for i in range(10)]
    assert whole["message"].iloc[0] == "a.py:1 -- n�50"
    as_signal("logs", whole)
    monkeypatch.setattr(log_lines, "BLOCK_BYTES", 64)
    blocks = pd.concat(read_log(file, "ray-head", window))
    pd.testing.assert_frame_equal(blocks.reset_index(drop=True), whole.reset_index(drop=True))


def test_file_that_ended_before_the_window_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "a.log"
    file.write_text("2026-11-22 10:57:01,000\tINFO a -- b\n")
    os.utime(file, (0, 0))
    assert list(read_log(file, "ray-head", WINDOW)) == []


def test_no_log_pattern_has_a_lookaround() -> None:
    assert all(not re.search(r"\(\?[=!<][^P]", pattern) for pattern in log_lines.HEADERS)
