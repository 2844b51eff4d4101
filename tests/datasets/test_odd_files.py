"""What real files hold: every reader takes what can be used and says what it left out; an odd case ends no other."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.case import Case
from tasks.datasets.dataset import DatasetError, Overrides
from tasks.datasets.importing import unpacked
from tasks.datasets.nezha import find as find_nezha
from tasks.datasets.tables import moment_ns, plausible, read_csv
from tasks.left_out import LeftOut
from tests.command import rcarena_here
from tests.datasets.layouts import (
    NEZHA_PODS,
    PETSHOP_INJECT,
    RCAEVAL_INJECT,
    imported,
    imported_cases,
    nezha,
    petshop,
    rcaeval,
)

T = RCAEVAL_INJECT


def utc(seconds: float) -> pd.Timestamp:
    return pd.Timestamp(seconds, unit="s", tz="UTC")


# CSV


def table_of(tmp_path: Path, content: bytes | str) -> tuple[list[list[str | None]], str]:
    """The rows of a CSV file, and what was left out."""
    file = tmp_path / "some.csv"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    left_out = LeftOut()
    table = read_csv(file, left_out)
    columns = [table.text(i).tolist() for i in range(len(table.names))]
    return [list(row) for row in zip(*columns, strict=True)], str(left_out)


@pytest.mark.parametrize(
    ("content", "rows", "left_out"),
    [
        ("a,b\n1,2\n3,4\n", [["1", "2"], ["3", "4"]], ""),
        ("\ufeffa,b\r\n1,2\r\n3,4\r\n", [["1", "2"], ["3", "4"]], ""),
        ("a;b\n1;2\n3;4\n", [["1", "2"], ["3", "4"]], ""),
        ("a\tb\n1\t2\n", [["1", "2"]], ""),
        ("a,b\n1,2\n3,4", [["1", "2"], ["3", "4"]], ""),
        ("a,b\n1,2\n3\n5,6,7\n8,9\n", [["1", "2"], ["8", "9"]], "some.csv: 2 lines with another number of cells"),
        ('a,b\n1,2\n3,"x\n4,5\n6,7\n', [["1", "2"], ["4", "5"], ["6", "7"]],
         "some.csv: 1 line with another number of cells"),
        ('a,b\n1,"x\n2,2\n3,3\n4,4\n5,"y\n6,6\n', [["2", "2"], ["3", "3"], ["4", "4"], ["6", "6"]],
         "some.csv: 2 lines with another number of cells"),
        ('a,b\n1,"two\nlines"\n3,4\n', [["1", "two\nlines"], ["3", "4"]], ""),
        (b"a,b\n1,\xff\n", [["1", "\ufffd"]], "some.csv: 1 byte that is no UTF-8, replaced"),
        ("a,b\n1,2\n".encode("utf-16"), [["1", "2"]], ""),
        ("a,b\n", [], ""),
        (f"a,b\n1,{'x' * 3_000_000}\n2,y\n", [["1", "x" * 3_000_000], ["2", "y"]], ""),
    ],
    ids=str,
)  # fmt: skip
def test_lines_that_cannot_be_used_cost_themselves_only(
    tmp_path: Path, content: bytes | str, rows: list[list[str]], left_out: str
) -> None:
    assert table_of(tmp_path, content) == (rows, left_out)


def test_cells_without_a_number_are_no_sample_and_odd_ones_are_counted(tmp_path: Path) -> None:
    words = [
        "1.5",
        "NA",
        "null",
        "None",
        "nan",
        "NaN",
        "",
        "-",
        "n/a",
        "inf",
        "-Infinity",
        "what",
        "1,5",
        " 2 ",
        "-1e3",
    ]
    (tmp_path / "x.csv").write_text("a;b\n" + "".join(f"{word};1\n" for word in words))
    left_out = LeftOut()
    values = read_csv(tmp_path / "x.csv", left_out).numbers("a")
    expected = [1.5, *[np.nan] * 12, 2.0, -1000.0]
    np.testing.assert_array_equal(values, expected)
    assert str(left_out) == "x.csv: 2 cells that is no number, 2 cells that is infinite".replace(
        "cells that is", "cells that is"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1705354566", T * 10**9),
        ("1705354566.123456789", T * 10**9 + 123_456_789),
        ("1705354566123", T * 10**9 + 123_000_000),
        ("1705354566123456", T * 10**9 + 123_456_000),
        ("1705354566123456.7", T * 10**9 + 123_456_700),
        ("1705354566123456789", T * 10**9 + 123_456_789),
        ("1.705354566e9", T * 10**9),
        (" 12.5 ", 12_500_000_000),
        ("-3", -3_000_000_000),
        ("2024-01-15T21:36:06Z", T * 10**9),
        ("2024-01-15 21:36:06", T * 10**9),
        ("2024-01-15T22:36:06.000000001+01:00", T * 10**9 + 1),
        ("0001-01-01T00:00:00Z", None),
        ("9999999999", None),
        ("99999999999999999999999999", None),
        ("-9223372036854775808", None),
        ("NaN", None),
        ("", None),
        ("soon", None),
    ],
)
def test_times_in_every_unit_are_exact_or_not_known(text: str, expected: int | None) -> None:
    assert moment_ns(text) == expected


@given(st.integers(10**17, 2**63 - 10**10))
def test_a_time_in_ns_is_taken_to_the_last_digit(ns: int) -> None:
    assert moment_ns(str(ns)) == ns


@pytest.mark.parametrize(
    ("seconds", "kept"),
    [
        ([T, T + 1, T + 2], [1, 1, 1]),
        ([0, T, T + 1], [0, 1, 1]),
        ([0, T], [0, 1]),
        ([T, T + 1, T + 40 * 86400], [1, 1, 0]),
        ([T, T + 20 * 86400], [1, 1]),
        ([0, 1, 2], [1, 1, 1]),
        ([-2, -1, 0, 1], [1, 1, 1, 1]),
        ([0, 1, 2, T], [1, 1, 1, 0]),
    ],
)
def test_times_that_do_not_belong_to_the_others(seconds: list[int], kept: list[int]) -> None:
    times = np.array(seconds, dtype=np.int64) * 10**9
    unknown = np.zeros(len(times), dtype=bool)
    assert plausible(times, ~unknown).astype(int).tolist() == kept
    assert not plausible(times, unknown).any()


# RCAEval


def odd_and_plain(root: Path, odd: Callable[[Path], None]) -> tuple[Case | None, tuple[str, ...], tuple[str, ...]]:
    """Import an odd folder beside a plain one. The odd case if it came through; what failed; what was left out."""
    folder = rcaeval(root / "set/checkoutservice_cpu/1", events=True)
    spans = (folder / "traces.csv").read_text().splitlines(keepends=True)
    (folder / "traces.csv").write_text("".join(spans[:3]))  # without the row that is no span
    odd(folder)
    rcaeval(root / "set/frontend_mem/1")
    found = imported("rcaeval", root / "set", root / "cases")
    cases = {c.record.versions["origin"]: c for c in _read(root / "cases")}
    assert "frontend_mem/1" in cases, "the plain case is imported whatever the odd one is"
    return cases.get("checkoutservice_cpu/1"), found.failed, found.left_out


def _read(cases_dir: Path) -> list[Case]:
    from tasks.case import read_cases

    return read_cases(cases_dir)


def edited(file: str, change: Callable[[list[str]], list[str]]) -> Callable[[Path], None]:
    def odd(folder: Path) -> None:
        lines = (folder / file).read_text().splitlines()
        (folder / file).write_text("\n".join(change(lines)) + "\n")

    return odd


def with_time(row: int, text: str) -> Callable[[list[str]], list[str]]:
    def change(lines: list[str]) -> list[str]:
        lines[row] = ",".join([text, *lines[row].split(",")[1:]])
        return lines

    return change


def column_twice(name: str) -> Callable[[list[str]], list[str]]:
    return lambda lines: [f"{line},{name if i == 0 else '99'}" for i, line in enumerate(lines)]


@pytest.mark.parametrize(
    ("change", "left_out", "rows"),
    [
        (with_time(1, ""), "data.csv: 1 row without a usable time", 59),
        (with_time(7, "soon"), "data.csv: 1 row without a usable time", 59),
        (with_time(7, "0"), "data.csv: 1 row without a usable time", 59),
        (with_time(7, "17053545"), "data.csv: 1 row without a usable time", 59),
        (with_time(7, "9" * 30), "data.csv: 1 row without a usable time", 59),
        (with_time(7, "92233720368547758080"), "data.csv: 1 row without a usable time", 59),
        (with_time(7, str(T - 25)), "data.csv: 1 row of a time that was there already", 59),
        (with_time(7, str((T - 24) * 1000)), "", 60),
        (with_time(7, "2024-01-15T21:35:42Z"), "", 60),
        (lambda lines: [lines[0], *reversed(lines[1:])], "", 60),
        (column_twice("time"), "data.csv: 1 column 'time' too many", 60),
        (column_twice("frontend_cpu_x"), "", 60),
        (column_twice("_cpu"), "data.csv: 1 column that is no <service>_<metric>", 60),
        (column_twice(""), "data.csv: 1 column that is no <service>_<metric>", 60),
        (lambda lines: [*lines[:-1], lines[-1][:9]], "data.csv: 1 line with another number of cells", 59),
    ],
)
def test_odd_rows_and_columns_of_metrics(
    tmp_path: Path, change: Callable[[list[str]], list[str]], left_out: str, rows: int
) -> None:
    case, failed, said = odd_and_plain(tmp_path, edited("data.csv", change))
    assert failed == ()
    assert case is not None
    assert said == ((f"checkoutservice_cpu/1: left out: {left_out}",) if left_out else ())
    completeness = case.record.completeness["metrics"]
    assert completeness.reason == (f"left out: {left_out}" if left_out else "")
    assert completeness.status == ("partial" if left_out else "complete")
    cpu = case.metrics[(case.metrics["service"] == "frontend") & (case.metrics["metric"] == "cpu_usage")]
    assert len(cpu) == rows
    assert cpu["time"].is_monotonic_increasing
    assert cpu["time"].between(utc(T - 30), utc(T + 30)).all()
    assert (cpu["value"] < 3).all(), "the first of two columns counts"


def test_the_first_of_two_columns_of_one_metric_counts(tmp_path: Path) -> None:
    def change(lines: list[str]) -> list[str]:
        return [f"{line},{'frontend_cpu,frontend_cpu' if i == 0 else '98,99'}" for i, line in enumerate(lines)]

    case, _, said = odd_and_plain(tmp_path, edited("data.csv", change))
    assert case is not None
    assert said == ("checkoutservice_cpu/1: left out: data.csv: 1 column of a metric that was there already",)
    frontend = case.metrics[case.metrics["service"] == "frontend"].groupby("metric", observed=True)["value"]
    assert frontend.max()["cpu_usage"] < 3
    assert frontend.unique()["cpu"].tolist() == [98.0]


SPANS = "time,traceID,spanID,serviceName,operationName,startTime,duration,statusCode,parentSpanID\n"


def spans_of(tmp_path: Path, *lines: str) -> tuple[pd.DataFrame, tuple[str, ...]]:
    def odd(folder: Path) -> None:
        (folder / "traces.csv").write_text(SPANS + "\n".join(lines) + "\n")

    case, failed, left_out = odd_and_plain(tmp_path, odd)
    assert failed == ()
    assert case is not None
    return case.spans, left_out


@pytest.mark.parametrize(
    ("status", "expected"),
    [("200", 200), ("200.0", 200), ("503.5", None), ("4294967295", None), ("-2147483649", None), ("1e3", 1000),
     ("Unset", None), ("", None), ("inf", None), ("nan", None), ("-1", -1)],
)  # fmt: skip
def test_a_status_that_is_no_whole_number_of_32_bits_is_none(tmp_path: Path, status: str, expected: int | None) -> None:
    spans, _ = spans_of(
        tmp_path, f"x,t,s,frontend,op,{T * 10**6},1500,{status},", f"x,t,u,frontend,op,{T * 10**6},1,7,s"
    )
    found = spans.set_index("span_id")["status_code"]
    assert found["u"] == 7
    assert (None if pd.isna(found["s"]) else found["s"]) == expected


@pytest.mark.parametrize(
    ("line", "spans", "left_out"),
    [
        (f"x,t,s,frontend,op,{T * 10**6},-5,0,", 2, "1 span of a negative duration, taken as 0 s"),
        ("x,t,s,frontend,op,0,5,0,", 1, "1 span without ids, a service or a usable time"),
        ("x,t,s,frontend,op,,5,0,", 1, "1 span without ids, a service or a usable time"),
        (f"x,t,s,frontend,op,{'9' * 22},5,0,", 1, "1 span without ids, a service or a usable time"),
        (f"x,,s,frontend,op,{T * 10**6},5,0,", 1, "1 span without ids, a service or a usable time"),
        (f"x,t,u,frontend,op,{T * 10**6},5,0,", 1, "1 span that was there already"),
        (f"x,t,s,frontend,op,{T * 10**6},5,0", 1, "1 line with another number of cells"),
    ],
)
def test_odd_spans(tmp_path: Path, line: str, spans: int, left_out: str) -> None:
    found, said = spans_of(tmp_path, f"x,t,u,frontend,op,{T * 10**6},1,7,", line)
    assert len(found) == spans
    assert found["duration"].tolist() == [1e-6] if spans == 1 else sorted(found["duration"]) == [0.0, 1e-6]
    assert said == (f"checkoutservice_cpu/1: left out: traces.csv: {left_out}",)


def test_log_lines_without_a_time_or_a_container_are_left_out(tmp_path: Path) -> None:
    ns = T * 10**9
    lines = [
        f"x,,a,no time\nx,{ns + 1},a,kept\nx,{ns + 2},,no container",
        "2024-01-15T21:36:07Z,,a,by the other column\n",
    ]

    def odd(folder: Path) -> None:
        (folder / "logs.csv").write_text("time,timestamp,container_name,message\n" + "\n".join(lines))

    case, failed, left_out = odd_and_plain(tmp_path, odd)
    assert failed == ()
    assert case is not None
    assert case.logs["message"].tolist() == ["kept", "by the other column"]
    assert left_out == ("checkoutservice_cpu/1: left out: logs.csv: 2 lines without a container or a usable time",)


@pytest.mark.parametrize("file", ["logs.csv", "traces.csv"])
@pytest.mark.parametrize("content", [b"", b"\0\0\0", b"what,is,this\n1,2,3\n"])
def test_a_file_of_events_that_is_none_costs_that_signal_only(tmp_path: Path, file: str, content: bytes) -> None:
    def odd(folder: Path) -> None:
        (folder / file).write_bytes(content)

    case, failed, left_out = odd_and_plain(tmp_path, odd)
    assert failed == ()
    assert case is not None
    signal = "logs" if file == "logs.csv" else "spans"
    assert case.record.completeness[signal].status == "missing"  # type: ignore[index]
    assert f"{file}: 1 file not used" in left_out[0]


def test_hidden_files_and_links_to_nowhere_are_passed_over(tmp_path: Path) -> None:
    def odd(folder: Path) -> None:
        for place in (folder, folder.parent / ".1.partial", folder.parent.parent / "__MACOSX/checkoutservice_cpu/1"):
            place.mkdir(parents=True, exist_ok=True)
            (place / "._data.csv").write_bytes(b"\0\5\x16\7\0\2")
            (place / ".DS_Store").write_bytes(b"\0")
        (folder.parent / ".1.partial/data.csv").write_text("half")
        (folder.parent / "2").mkdir()
        (folder.parent / "2/data.csv").symlink_to(tmp_path / "nowhere")

    case, failed, left_out = odd_and_plain(tmp_path, odd)
    assert case is not None
    assert failed == left_out == ()
    assert len(_read(tmp_path / "cases")) == 2


def test_files_packed_with_gzip_are_read(tmp_path: Path) -> None:
    def odd(folder: Path) -> None:
        for name in ("data.csv", "logs.csv", "traces.csv"):
            (folder / f"{name}.gz").write_bytes(gzip.compress((folder / name).read_bytes()))
            (folder / name).unlink()

    case, failed, _ = odd_and_plain(tmp_path, odd)
    assert failed == ()
    assert case is not None
    assert case.metrics["time"].nunique() == 60
    assert (len(case.logs), len(case.spans)) == (2, 2)


def test_a_gzip_that_is_cut_off_fails_its_case_only(tmp_path: Path) -> None:
    def odd(folder: Path) -> None:
        (folder / "data.csv.gz").write_bytes(gzip.compress((folder / "data.csv").read_bytes())[:-40])
        (folder / "data.csv").unlink()

    case, (failed,), _ = odd_and_plain(tmp_path, odd)
    assert case is None
    assert "data.csv.gz: cannot be read" in failed


@pytest.mark.parametrize("text", [f"{T}", f"{T}.0\r\n", f"{T}000", f"\ufeff{T}", "2024-01-15 21:36:06", f"{T * 10**9}"])
def test_an_inject_time_in_any_unit(tmp_path: Path, text: str) -> None:
    case, failed, _ = odd_and_plain(tmp_path, lambda folder: (folder / "inject_time.txt").write_text(text) and None)
    assert failed == ()
    assert case is not None
    assert case.record.injection_time.timestamp() == T


# PetShop


def test_petshop_in_milliseconds_and_in_any_order(tmp_path: Path) -> None:
    root = petshop(tmp_path / "set", issues=1)
    file = root / "dataset/low_traffic/train/issue_0/metrics.csv"
    *head, a, b, c = file.read_text().splitlines()
    moved = [line.replace(".0,", "000,", 1) for line in (c, a, b)]
    file.write_text("\n".join([*head, *moved]) + "\n")
    (case,) = imported_cases("petshop", root, tmp_path / "cases")
    assert case.record.injection_time.timestamp() == PETSHOP_INJECT
    assert case.record.phases[1].end.timestamp() == PETSHOP_INJECT + 900


@pytest.mark.parametrize("baseline", [12, 1])
def test_an_issue_of_one_row_has_the_step_of_the_others(tmp_path: Path, baseline: int) -> None:
    root = petshop(tmp_path / "set", issues=1)
    for file, rows in (("train/issue_0/metrics.csv", 1), ("noissue/metrics.csv", baseline)):
        path = root / "dataset/low_traffic" / file
        path.write_text("\n".join(path.read_text().splitlines()[: 4 + rows]) + "\n")
    (case,) = imported_cases("petshop", root, tmp_path / "cases")
    rates = case.metrics[case.metrics["metric"] == "request_rate"]
    assert "requests_sum" not in set(case.metrics["metric"])
    assert rates["value"].between(1.8, 2.1).all(), "600 requests in 300 s"
    times = np.sort(case.metrics["time"].unique())
    assert len(times) == baseline + 1
    assert set(np.diff(times)) == {np.timedelta64(300, "s")}
    assert times[-1] == pd.Timestamp(case.record.injection_time)


@pytest.mark.parametrize("cell", [("", "latency", "p50"), ("PetSite", "", "p50"), ("PetSite", "latency", "")])
def test_a_petshop_column_without_a_name_is_left_out(tmp_path: Path, cell: tuple[str, str, str]) -> None:
    root = petshop(tmp_path / "set")
    file = root / "dataset/low_traffic/train/issue_0/metrics.csv"
    lines = file.read_text().splitlines()
    file.write_text("\n".join(f"{line},{part}" for line, part in zip(lines, [*cell, "", "1", "2", "3"], strict=True)))
    result = imported("petshop", root, tmp_path / "cases")
    assert result.failed == ()
    assert len(result.imported) == 2
    assert result.left_out == (
        "low_traffic/train/issue_0: left out: metrics.csv: 1 column without a node, a metric or a statistic",
    )


def test_a_petshop_column_given_twice_counts_once(tmp_path: Path) -> None:
    root = petshop(tmp_path / "set", issues=1)
    file = root / "dataset/low_traffic/train/issue_0/metrics.csv"
    lines = file.read_text().splitlines()
    more = ["PetSite", "latency", "p50", "", "99", "99", "99"]
    file.write_text("\n".join(f"{line},{part}" for line, part in zip(lines, more, strict=True)))
    result = imported("petshop", root, tmp_path / "cases")
    (case,) = _read(tmp_path / "cases")
    assert result.left_out == ("low_traffic/train/issue_0: left out: metrics.csv: 1 column that is there twice",)
    assert case.metrics[case.metrics["metric"] == "latency_p50"]["value"].max() < 5


@pytest.mark.parametrize(
    "target",
    [
        {"target": {"node": "PetSite", "metric": None}, "root_cause": {"node": "PetSite"}},
        {"target": {"node": "PetSite", "metric": "latency"}, "root_cause": {"node": 7}},
        {"target": "PetSite", "root_cause": {"node": "PetSite"}},
        {"target": {"node": "PetSite", "metric": "latency"}, "root_cause": None},
    ],
)
def test_a_petshop_target_that_is_none_is_named(tmp_path: Path, target: object) -> None:
    root = petshop(tmp_path / "set")
    (root / "dataset/low_traffic/train/issue_0/target.json").write_text(json.dumps(target))
    result = imported("petshop", root, tmp_path / "cases")
    assert len(result.imported) == 1
    assert "expected target.node, target.metric and root_cause.node" in result.failed[0]


# Nezha


def nezha_logs(root: Path) -> Path:
    return root / "rca_data/2023-01-30/log/11_52_log.csv"


def nezha_line(timestamp: str, nano: str, text: str) -> str:
    wrapped = json.dumps({"log": f"19:52:10.100 {text}\n"}).replace('"', '""')
    return f'{timestamp},{nano},33.33.33.80,{NEZHA_PODS[1]},server,t,s,"{wrapped}"\n'


NANO = "1675079530100000000"
"""2023-01-30T11:52:10.1Z"""


@pytest.mark.parametrize(
    ("timestamp", "nano"),
    [
        ("2023-01-30T11:52:10.1Z", NANO),
        ("x", NANO),
        ("2023-01-30T11:52:10.100", "-6795364578871345152"),
        ("2023-01-30T11:52:10.1Z", "-62135596800000000000"),
        ("2023-01-30T11:52:10.1Z", "0"),
        ("2023-01-30T11:52:10.1Z", ""),
        ("2023-01-30T11:52:10.1Z", "now"),
        ("0001-01-01T00:00:00Z", NANO),
    ],
)
def test_a_line_has_the_time_that_fits_its_file(tmp_path: Path, timestamp: str, nano: str) -> None:
    root = nezha(tmp_path / "set")
    with nezha_logs(root).open("a") as stream:
        stream.write(nezha_line(timestamp, nano, "ERROR boom"))
    cases = imported_cases("nezha", root, tmp_path / "cases")
    (line,) = [row for case in cases for row in case.logs[case.logs["level"] == "error"].itertuples()]
    assert (line.message, line.time) == ("boom", pd.Timestamp("2023-01-30T11:52:10.1Z"))


@pytest.mark.parametrize(
    ("text", "left_out"),
    [
        (nezha_line("x", "0", "ERROR boom"), "11_52_log.csv: 1 line without a pod or a time"),
        (nezha_line("2023-01-30T11:52:10Z", NANO, "INFO x")[:-1] + 'rest, of, another line"\n',
         "11_52_log.csv: 1 line with another number of cells"),
        ('x,1,33.33.33.80,"never closed,server\n', "11_52_log.csv: 1 line with another number of cells"),
        ("cut,off\n", "11_52_log.csv: 1 line with another number of cells"),
    ],
)  # fmt: skip
def test_a_damaged_line_costs_itself_only(tmp_path: Path, text: str, left_out: str) -> None:
    root = nezha(tmp_path / "set")
    title, *lines = nezha_logs(root).read_text().splitlines(keepends=True)
    nezha_logs(root).write_text("".join([title, *lines[:2], text, *lines[2:]]))
    result = imported("nezha", root, tmp_path / "cases")
    assert result.failed == ()
    assert len(result.imported) == 2
    first = min(_read(tmp_path / "cases"), key=lambda case: case.record.injection_time)
    assert len(first.logs) == 16
    assert left_out in first.record.completeness["logs"].reason
    assert any(left_out in line for line in result.left_out)


def test_spans_of_time_zero_and_metrics_files_that_are_none(tmp_path: Path) -> None:
    root = nezha(tmp_path / "set")
    day = root / "rca_data/2023-01-30"
    with (day / "trace/11_52_trace.csv").open("a") as stream:
        stream.write(f"t,z,root,{NEZHA_PODS[0]},get,0,5,1\nt,y,root,{NEZHA_PODS[0]},get,{NANO},0,1\n")
    (day / "metric/empty-5477b965f-lwprp_metric.csv").write_text("")
    (day / "metric" / f"._{NEZHA_PODS[0]}_metric.csv").write_bytes(b"\0\5\x16\7\0\2")
    (day / "._2023-01-30-fault_list.json").write_bytes(b"\0\5\x16\7\0\2")
    (root / "construct_data/root_cause_other.json").write_text("{")
    result = imported("nezha", root, tmp_path / "cases")
    assert result.failed == ()
    first = min(_read(tmp_path / "cases"), key=lambda case: case.record.injection_time)
    spans = first.spans.set_index("span_id")
    assert "z" not in spans.index
    assert spans.loc["y", "duration"] == 0
    assert "1 span without ids, a pod or a start" in first.record.completeness["spans"].reason
    assert "1 span that ends before it starts" in first.record.completeness["spans"].reason
    assert first.record.completeness["metrics"].reason == (
        "left out: empty-5477b965f-lwprp_metric.csv: 1 file that is no table of metrics; "
        "root_cause_other.json: 1 file that is no JSON"
    )


def test_a_nezha_column_given_twice_counts_once(tmp_path: Path) -> None:
    root = nezha(tmp_path / "set", events=False)
    file = root / "rca_data/2023-01-30/metric" / f"{NEZHA_PODS[1]}_metric.csv"
    lines = file.read_text().splitlines()
    file.write_text("\n".join(f"{line},{'CpuUsage(m)' if i == 0 else '9e9'}" for i, line in enumerate(lines)) + "\n")
    (first, _) = imported_cases("nezha", root, tmp_path / "cases")
    assert first.metrics[first.metrics["metric"] == "cpu_usage"]["value"].max() < 1
    assert "1 column that is there twice" in first.record.completeness["metrics"].reason


def test_a_row_of_another_day_and_one_without_a_time_are_left_out(tmp_path: Path) -> None:
    root = nezha(tmp_path / "set", events=False)
    file = root / "rca_data/2023-01-30/metric" / f"{NEZHA_PODS[1]}_metric.csv"
    lines = file.read_text().splitlines()
    lines[1] = lines[1].replace("2023-01-30", "0001-01-01")
    lines[2] = lines[2].replace("2023-01-30", "2022-08-22")
    file.write_text("\n".join(lines) + "\n")
    cases = imported_cases("nezha", root, tmp_path / "cases")
    assert {case.metrics["time"].max().year for case in cases} == {2023}
    assert all("2 rows without a usable Time" in case.record.completeness["metrics"].reason for case in cases)


def test_a_list_or_an_entry_that_is_none_is_named_and_the_others_are_imported(tmp_path: Path) -> None:
    root = nezha(tmp_path / "set", events=False)
    file = root / "rca_data/2023-01-30/2023-01-30-fault_list.json"
    document = json.loads(file.read_text())
    document["12"] = ["what"]
    file.write_text(json.dumps(document))
    (root / "rca_data/2023-01-31").mkdir()
    (root / "rca_data/2023-01-31/2023-01-31-fault_list.json").write_text("[]")
    assert len(find_nezha(root, Overrides()).cases) == 4
    result = imported("nezha", root, tmp_path / "cases")
    assert len(result.imported) == 2
    assert [line.split(":")[0] for line in result.failed] == ["2023-01-30 entry 3", "2023-01-31"]


# Archives


def archive_of(tmp_path: Path, kind: str) -> Path:
    rcaeval(tmp_path / "set/checkoutservice_cpu/1")
    rcaeval(tmp_path / "set/frontend_mem/1")
    if kind == "zip":
        with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
            for file in (tmp_path / "set").rglob("*.*"):
                archive.write(file, file.relative_to(tmp_path))
            archive.writestr("__MACOSX/set/checkoutservice_cpu/1/._data.csv", b"\0")
        return tmp_path / "set.zip"
    with tarfile.open(tmp_path / f"set.{kind}", f"w:{kind.partition('.')[2]}") as packed:
        packed.add(tmp_path / "set", "set")
    return tmp_path / f"set.{kind}"


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tar.xz"])
def test_archives_are_imported(tmp_path: Path, kind: str) -> None:
    with unpacked(archive_of(tmp_path, kind)) as directory:
        assert len(imported("rcaeval", directory, tmp_path / "cases").imported) == 2


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tar.xz"])
@pytest.mark.parametrize("keep", [0, 40, -700])
def test_an_archive_that_is_cut_off_is_one_line(tmp_path: Path, kind: str, keep: int) -> None:
    archive = archive_of(tmp_path, kind)
    archive.write_bytes(archive.read_bytes()[:keep])
    done = rcarena_here("import", "rcaeval", str(archive), "--workspace", str(tmp_path / "w"))
    if kind == "tar" and keep == -700:  # only the padding at the end is missing
        assert done.exit_code == 0
        return
    assert done.exit_code == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "Traceback" not in done.output


@pytest.mark.parametrize("name", ["../evil.txt", "a/../../evil.txt", "/evil.txt"])
def test_a_zip_that_reaches_outside_is_refused(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr(name, "evil")
    with pytest.raises(DatasetError, match="would be written outside"), unpacked(tmp_path / "evil.zip"):
        pass


def test_a_link_out_of_a_tar_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "evil.tar", "w") as archive:
        link = tarfile.TarInfo("set/data.csv")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        member = tarfile.TarInfo("set/a.txt")
        member.size = 1
        archive.addfile(member, io.BytesIO(b"a"))
    with pytest.raises(DatasetError, match="whole tar or zip archive"), unpacked(tmp_path / "evil.tar"):
        pass


# The command


def test_the_command_says_what_was_left_out_and_ends_with_0(tmp_path: Path) -> None:
    edited("data.csv", with_time(3, ""))(rcaeval(tmp_path / "set/checkoutservice_cpu/1"))
    done = rcarena_here("import", "rcaeval", str(tmp_path / "set"), "--workspace", str(tmp_path / "w"))
    assert done.exit_code == 0, done.stderr
    assert "checkoutservice_cpu/1: left out: data.csv: 1 row without a usable time" in done.output
    assert "1 cases imported, 0 kept, 0 failed" in done.output
    assert max(len(line) for line in done.output.splitlines()) < 300
    assert os.listdir(tmp_path / "w/cases") != []  # noqa: PTH208
