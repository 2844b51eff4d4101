from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.case import (
    METRICS,
    SIGNALS,
    Case,
    CaseError,
    CaseRecord,
    CaseWriter,
    Completeness,
    as_signal,
    is_finished,
    read_case,
    read_cases,
    validate_case,
)
from tasks.injection import Interval
from tests.synthetic import synthetic_case


def test_a_written_case_keeps_the_contract_and_reads_back(tmp_path: Path) -> None:
    case = synthetic_case(tmp_path)
    assert validate_case(case.path) == []
    again = read_case(case.path)
    assert again.record == case.record
    written = [signal for signal, declared in case.record.completeness.items() if declared.recorded]
    for signal in written:
        assert len(again.table(signal)) > 0
    assert {path.name for path in case.path.iterdir()} == {
        "case.json",
        "manifest.json",
        *(f"{s}.parquet" for s in written),
    }
    assert str(again.metrics["time"].dt.tz) == "UTC"


def test_a_fault_began_when_it_was_observed_else_verified_else_planned(tmp_path: Path) -> None:
    record = synthetic_case(tmp_path).record
    (injection,) = record.injections
    planned = injection.planned
    verified, observed = (
        Interval(start=planned.start + timedelta(seconds=late), end=planned.end) for late in (4.0, 2.5)
    )
    changed = injection
    for known, late in (({"verified": verified, "observed": observed}, 2.5), ({"verified": verified}, 4.0), ({}, 0.0)):
        changed = injection.model_copy(update={"observed": None, "verified": None, **known})
        times = record.model_copy(update={"injections": (changed,)})
        assert times.injection_time == planned.start + timedelta(seconds=late)
    no_effect = record.model_copy(update={"injections": (changed.model_copy(update={"verdict": "ineffective"}),)})
    assert no_effect.injection_time == planned.start
    quiet = record.model_copy(update={"injections": ()})
    assert (quiet.injection_time, quiet.fault_label) == (record.phases[1].start, "none")


def played(case: Case, *parts: tuple[str, str, str, float]) -> CaseRecord:
    """The record with injections (role, target, verdict, seconds after the start of the fault phase)."""
    (template,) = case.record.injections
    begin = case.record.phases[1].start
    made = []
    for role, target, verdict, late in parts:
        when = Interval(start=begin + timedelta(seconds=late), end=template.planned.end)
        changes = {"role": role, "target": target, "verdict": verdict, "observed": when, "kind": f"of-{role}"}
        made.append(template.model_copy(update=changes))
    return case.record.model_copy(update={"injections": tuple(made)})


def test_only_roots_are_the_truth_of_a_case(tmp_path: Path) -> None:
    record = played(
        synthetic_case(tmp_path),
        ("victim", "ray-replicas-1", "effective", 9),
        ("disturbance", "ray-replicas-2", "effective", 1),
        ("root", "ray-head", "effective", 3),
        ("victim", "ray-replicas-2", "effective", 6),
        ("victim", "nginx-proxy", "ineffective", 7),
        ("disturbance", "nginx-proxy", "ineffective", 0),
    )
    assert [i.target for i in record.counted()] == ["ray-head"]
    assert record.counted(include_ineffective=True) == record.counted()
    assert [i.target for i in record.victims()] == ["ray-replicas-2", "ray-replicas-1"]
    assert [i.target for i in record.disturbances()] == ["ray-replicas-2"]
    assert record.targets == ("ray-head",)
    assert record.injection_time == record.phases[1].start + timedelta(seconds=3)
    assert record.labels_of(record.counted()) == ("of-root", "ray-head")
    again = CaseRecord.model_validate_json(record.model_dump_json())
    assert again == record


def test_a_case_without_a_root_is_a_negative_whose_inject_time_says_nothing(tmp_path: Path) -> None:
    record = played(synthetic_case(tmp_path), ("disturbance", "ray-head", "effective", 4))
    assert record.counted() == record.counted(include_ineffective=True) == record.roots == record.targets == ()
    assert record.injection_time == record.phases[1].start
    assert (record.fault_label, record.labels_of(()).target) == ("none", "none")
    assert not record.undisturbed


def test_an_ineffective_root_is_no_negative(tmp_path: Path) -> None:
    parts = ("disturbance", "ray-replicas-1", "effective", 0), ("root", "ray-head", "ineffective", 4)
    record = played(synthetic_case(tmp_path), *parts)
    assert (record.counted(), record.fault_label) == ((), "of-root")
    assert record.injection_time == record.phases[1].start + timedelta(seconds=4)


def test_only_a_case_to_which_nothing_was_done_is_undisturbed(tmp_path: Path) -> None:
    record = synthetic_case(tmp_path).record
    quiet = record.model_copy(update={"injections": ()})
    assert (record.undisturbed, quiet.undisturbed) == (False, True)
    assert not quiet.model_copy(update={"scenario": "surge"}).undisturbed


def test_nan_stays_nan_in_storage() -> None:
    row = {"time": pd.Timestamp("2026-01-01", tz="UTC"), "service": "a", "metric": "m", "value": np.nan}
    table = as_signal("metrics", pd.DataFrame([row]))
    assert table.column("value").null_count == 0
    assert np.isnan(table.column("value").to_numpy()[0])


def test_an_unknown_or_a_missing_column_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown columns"):
        as_signal("metrics", pd.DataFrame({"time": [], "valu": []}))
    with pytest.raises(ValueError, match="'value' is missing"):
        as_signal("metrics", pd.DataFrame({"time": pd.to_datetime([], utc=True), "service": [], "metric": []}))


@pytest.mark.parametrize("file", ["metrics.parquet", "case.json", "requests.parquet"])
def test_a_changed_file_is_found(tmp_path: Path, file: str) -> None:
    case = synthetic_case(tmp_path)
    content = bytearray((case.path / file).read_bytes())
    content[len(content) // 2] ^= 1
    (case.path / file).write_bytes(content)
    assert any(problem.startswith(file) for problem in validate_case(case.path))


def test_a_missing_and_a_stray_file_are_found(tmp_path: Path) -> None:
    case = synthetic_case(tmp_path)
    (case.path / "logs.parquet").unlink()
    (case.path / "notes.txt").write_text("x")
    problems = validate_case(case.path)
    assert any("logs.parquet: listed in manifest.json but missing" in problem for problem in problems)
    assert any("notes.txt: not listed" in problem for problem in problems)


def test_without_a_manifest_a_case_is_unfinished(tmp_path: Path) -> None:
    case = synthetic_case(tmp_path)
    (case.path / "manifest.json").unlink()
    assert not is_finished(case.path)
    assert read_cases(tmp_path) == []
    with pytest.raises(CaseError, match="unfinished"):
        read_case(case.path)


def write_badly(cases_dir: Path, case_id: str) -> None:
    with CaseWriter(cases_dir, case_id) as writer:
        writer.write("metrics", METRICS.empty_table())
        writer.write("logs", pd.DataFrame({"nonsense": [1]}))


def finish_empty(cases_dir: Path, record: CaseRecord) -> None:
    with CaseWriter(cases_dir, "case-x") as writer:
        writer.finish(record)


def test_a_failing_writer_leaves_nothing_and_keeps_the_case_before(tmp_path: Path) -> None:
    case = synthetic_case(tmp_path)
    with pytest.raises(ValueError, match="unknown columns"):
        write_badly(tmp_path, case.record.case_id)
    assert [path.name for path in tmp_path.iterdir()] == [case.record.case_id]
    assert validate_case(case.path) == []


def test_a_case_that_breaks_the_contract_is_not_published(tmp_path: Path) -> None:
    record = synthetic_case(tmp_path / "other").record
    with pytest.raises(CaseError, match=r"declared complete but metrics\.parquet does not exist"):
        finish_empty(tmp_path, record)
    assert not (tmp_path / "case-x").exists()


def test_a_service_that_the_stack_does_not_name_is_refused(tmp_path: Path) -> None:
    case = synthetic_case(tmp_path)
    table = pq.read_table(case.path / "metrics.parquet")
    renamed = pa.array(["stranger"] * table.num_rows).dictionary_encode()
    table = table.set_column(table.schema.get_field_index("service"), table.schema.field("service"), renamed)
    pq.write_table(table, case.path / "metrics.parquet")
    assert any("service 'stranger' is not one of stack.services" in problem for problem in validate_case(case.path))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"front_end": "nobody"}, "front_end: 'nobody'"),
        ({"schema_version": 99}, "schema_version: a newer version of rcarena wrote this case; this one reads up to 1"),
        ({"schema_version": "1"}, "schema_version"),
        ({"completeness": ["metrics"]}, "completeness"),
        ({"completeness": {"metrics": {"status": "whole"}}}, "completeness.metrics.status"),
        ({"phases": []}, "phases"),
    ],
)
def test_a_wrong_record_is_named(tmp_path: Path, change: dict[str, object], expected: str) -> None:
    case = synthetic_case(tmp_path)
    document = json.loads((case.path / "case.json").read_text()) | change
    (case.path / "case.json").write_text(json.dumps(document))
    with pytest.raises(CaseError) as caught:
        read_case(case.path)
    assert expected in str(caught.value)


@given(data=st.binary(max_size=200))
def test_garbage_is_a_problem_and_not_a_crash(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    directory = tmp_path_factory.mktemp("garbage")
    for name in ("manifest.json", "case.json", "metrics.parquet"):
        (directory / name).write_bytes(data)
    assert validate_case(directory)


@pytest.mark.parametrize("delay_ms", [0, 15, 40, 80, 160])
def test_kill_9_of_the_writer_never_leaves_a_half_written_case(tmp_path: Path, delay_ms: int) -> None:
    script = f"""
        from pathlib import Path
        from tasks.case import (
    METRICS,
    SIGNALS,
    Case,
    CaseError,
    CaseRecord,
    CaseWriter,
    as_signal,
    is_finished,
    read_case,
    read_cases,
    validate_case,
)
from tests.synthetic import synthetic_case
        print("ready", flush=True)
        for number in range(1000):
            synthetic_case(Path({str(tmp_path)!r}), f"case-{{number % 3}}", seed=number)
    """
    root = Path(__file__).parents[1]
    command = [sys.executable, "-c", textwrap.dedent(script)]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(0.25 + delay_ms / 1000)
        writer.kill()
    for case in read_cases(tmp_path):
        assert validate_case(case.path) == []


def rewritten(case: Case, record: dict[str, Any] | None = None, tables: dict[str, pa.Table] | None = None) -> Path:
    """The case as another version might have written it: the manifest fits."""
    if record is not None:
        (case.path / "case.json").write_text(json.dumps(record))
    for signal, table in (tables or {}).items():
        pq.write_table(table, case.path / f"{signal}.parquet")
    manifest = json.loads((case.path / "manifest.json").read_text())
    files = [file for file in case.path.iterdir() if file.name != "manifest.json"]
    manifest["files"] = {
        file.name: {
            "size": file.stat().st_size,
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
            **({"rows": pq.read_metadata(file).num_rows} if file.suffix == ".parquet" else {}),
            "of_tomorrow": "x",
        }
        for file in files
    }
    (case.path / "manifest.json").write_text(json.dumps(manifest))
    return case.path


def test_a_signal_that_is_not_declared_is_missing(tmp_path: Path) -> None:
    case = synthetic_case(tmp_path)
    record = json.loads((case.path / "case.json").read_text())
    del record["completeness"]["spans"]
    (case.path / "spans.parquet").unlink()
    path = rewritten(case, record)
    assert validate_case(path) == []
    again = read_case(path)
    assert again.record.completeness["spans"] == Completeness(status="missing", reason="not declared")
    assert list(again.spans.columns) == SIGNALS["spans"].names
    assert again.spans.empty


def test_a_table_that_is_not_declared_is_told(tmp_path: Path) -> None:
    case = synthetic_case(tmp_path)
    record = json.loads((case.path / "case.json").read_text())
    del record["completeness"]["logs"]
    assert validate_case(rewritten(case, record)) == ["logs: not declared but logs.parquet has rows"]


def test_what_a_newer_version_has_added_is_left_out(tmp_path: Path) -> None:
    case = synthetic_case(tmp_path)
    before = {signal: case.table(signal) for signal in SIGNALS}
    record = json.loads((case.path / "case.json").read_text())
    record["of_tomorrow"] = {"a": 1}
    record["stack"]["gpus"] = [1, 2]
    record["stack"]["services"][0]["zone"] = "b"
    record["injections"][0]["probe"]["unit_of_tomorrow"] = "x"
    record["completeness"]["signal_of_tomorrow"] = {"status": "complete", "source": "k8s"}
    record["completeness"]["metrics"]["rows"] = 3
    pq.write_table(pa.table({"time": [1]}), case.path / "signal_of_tomorrow.parquet")
    tables = {}
    for signal in (name for name, declared in case.record.completeness.items() if declared.recorded):
        table = pq.read_table(case.path / f"{signal}.parquet")
        tables[signal] = table.append_column("of_tomorrow", pa.array([1] * table.num_rows))
    path = rewritten(case, record, tables)
    assert validate_case(path) == []
    again = read_case(path)
    assert again.record == case.record
    for signal in SIGNALS:
        pd.testing.assert_frame_equal(again.table(signal), before[signal])


def test_a_column_that_an_older_version_did_not_write_is_null(tmp_path: Path) -> None:
    case = synthetic_case(tmp_path)
    tables = {
        signal: pq.read_table(case.path / f"{signal}.parquet").drop_columns([column])
        for signal, column in (("metrics", "unit"), ("requests", "tokens_out"), ("logs", "template_id"))
    }
    path = rewritten(case, tables=tables)
    assert validate_case(path) == []
    again = read_case(path)
    assert again.metrics["unit"].isna().all()
    assert again.requests["tokens_out"].isna().all()
    assert list(again.logs.columns) == SIGNALS["logs"].names


def test_words_may_be_written_out(tmp_path: Path) -> None:
    case = synthetic_case(tmp_path)
    before = case.table("logs")
    table = pq.read_table(case.path / "logs.parquet")
    plain = pa.Table.from_arrays(
        [column.cast(pa.string()) if pa.types.is_dictionary(column.type) else column for column in table.columns],
        names=table.column_names,
    )
    path = rewritten(case, tables={"logs": plain})
    assert validate_case(path) == []
    pd.testing.assert_frame_equal(read_case(path).logs, before)


@pytest.mark.parametrize("entry", [None, [], {}, {"size": 1}])
def test_a_manifest_that_says_less_of_a_file_does_not_fit(tmp_path: Path, entry: object) -> None:
    case = synthetic_case(tmp_path)
    manifest = json.loads((case.path / "manifest.json").read_text())
    manifest["files"]["logs.parquet"] = entry
    (case.path / "manifest.json").write_text(json.dumps(manifest))
    assert validate_case(case.path) == ["logs.parquet: differs from manifest.json (size, rows or sha256)"]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda table: table.drop_columns(["value"]), "metrics.parquet: column 'value' is missing"),
        (
            lambda table: table.set_column(3, "value", pa.array(["x"] * table.num_rows)),
            "metrics.parquet: column 'value' is string, not double",
        ),
        (lambda table: table.append_column("value", table["value"]), "metrics.parquet: column 'value' is there twice"),
    ],
)
def test_a_column_that_cannot_be_used_is_named(
    tmp_path: Path, change: Callable[[pa.Table], pa.Table], problem: str
) -> None:
    case = synthetic_case(tmp_path)
    table = change(pq.read_table(case.path / "metrics.parquet"))
    assert validate_case(rewritten(case, tables={"metrics": table})) == [problem]
