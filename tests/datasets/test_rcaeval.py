"""RCAEval: names that say everything, and our own cases there and back."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import tasks.metrics
from tasks.case import Case, Completeness, SignalName, read_cases
from tasks.datasets.dataset import DatasetError, Overrides
from tasks.datasets.rcaeval import METRICS, find, split_column
from tasks.datasets.rcaeval_export import export_cases
from tests.copies import copied
from tests.datasets.layouts import RCAEVAL_INJECT, as_json, as_parquet, imported, imported_cases, rcaeval
from tests.score.cases import with_injections
from tests.synthetic import synthetic_case

KNOWN = sorted({*METRICS, *tasks.metrics.METRICS})
names = st.text("abcz019-_.", min_size=1, max_size=20)


@given(names, st.sampled_from(KNOWN))
@example("x_ctn", "cpu")
@example("_", "latency-90")
def test_a_column_is_split_before_its_longest_known_metric(service: str, metric: str) -> None:
    found = split_column(f"{service}_{metric}")
    assert found is not None
    assert "_".join(found) == f"{service}_{metric}"
    assert found[1] in KNOWN
    assert len(found[1]) >= len(metric)
    if "_" not in service:
        assert found == (service, metric)


@given(names)
def test_no_column_name_breaks_the_split(column: str) -> None:
    found = split_column(column)
    assert found is None or ("_".join(found) == column and all(found))


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        ("cart-service_v2_latency-90", ("cart-service_v2", "latency-90")),
        ("ray-replicas-0_ctn_memory", ("ray-replicas-0", "ctn_memory")),
        ("front-end_lat_90", ("front-end", "lat_90")),
        ("my_svc_unheard-of", ("my_svc", "unheard-of")),
        ("time", None),
        ("_cpu", None),
        ("cpu", None),
    ],
)
def test_columns_as_they_occur(column: str, expected: tuple[str, str] | None) -> None:
    assert split_column(column) == expected


@pytest.mark.parametrize("place", ["checkoutservice_cpu/3", "checkoutservice_cpu_3", "RE2-OB/checkoutservice_cpu"])
@pytest.mark.parametrize("file", ["data.csv", "simple_metrics.csv"])
def test_the_truth_is_in_the_name_of_the_folder(tmp_path: Path, place: str, file: str) -> None:
    rcaeval(tmp_path / "set" / place, file=file)
    (case,) = imported_cases("rcaeval", tmp_path / "set", tmp_path / "cases")
    (injection,) = case.record.injections
    assert (injection.kind, injection.target, injection.metrics) == ("cpu", "checkoutservice", ("cpu_usage",))
    assert case.record.injection_time.timestamp() == RCAEVAL_INJECT
    assert case.record.front_end == "frontend"
    assert set(case.record.service_names) == {"frontend", "cart-service_v2", "checkoutservice"}
    assert set(case.metrics["metric"]) == {
        "cpu_usage", "memory_working_set", "latency_p50", "latency_p90", "request_rate",
    }  # fmt: skip
    assert (case.metrics["time"] < pd.Timestamp(RCAEVAL_INJECT, unit="s", tz="UTC")).mean() == 0.5


def test_logs_and_traces(tmp_path: Path) -> None:
    rcaeval(tmp_path / "set/checkoutservice_delay/1", events=True)
    (case,) = imported_cases("rcaeval", tmp_path / "set", tmp_path / "cases")
    assert case.record.injections[0].metrics == ("latency_p50", "latency_p90")
    spans = case.spans.set_index("span_id")
    assert len(spans) == 2, "the row without ids is no span"
    assert spans.loc["s1", "service"] == "frontend"
    assert spans.loc["s1", "operation"] == "GET /"
    assert spans.loc["s1", "duration"] == pytest.approx(0.0025)
    assert spans.loc["s1", "status_code"] == 200
    assert spans.loc["s2", "operation"] == "PlaceOrder"
    assert spans.loc["s2", "start"] - spans.loc["s1", "start"] == pd.Timedelta("10us")
    assert case.logs["message"].tolist() == ['said "no", twice\nand again', "started"]
    assert "redis" in case.record.service_names
    assert set(case.topology.astype(str).itertuples(index=False, name=None)) == {
        ("calls", "frontend", "checkoutservice")
    }


def test_columns_that_say_where_a_pod_runs(tmp_path: Path) -> None:
    folder = tmp_path / "set/ray-head_cpu/1"
    folder.mkdir(parents=True)
    (folder / "data.csv").write_text(
        "time,ray-head_ctn_cpu,ray-head_ctn_memory,ray-head_node_name,ray-head_node_cpu,nginx-proxy_ctn_cpu\n"
        "10,1,2,node-a,3,4\n15,1.5,2,node-a,3,4\n20,9,2,node-a,3,4\n"
    )
    (folder / "inject_time.txt").write_text("20")
    (case,) = imported_cases("rcaeval", tmp_path / "set", tmp_path / "cases")
    assert set(case.metrics["metric"]) == {"cpu_usage", "ctn_memory", "node_cpu"}
    assert {service.name: service.node for service in case.record.stack.services} == {
        "ray-head": "node-a", "nginx-proxy": None,
    }  # fmt: skip
    assert case.record.front_end == "nginx-proxy"


def test_a_single_folder_that_does_not_say_its_truth(tmp_path: Path) -> None:
    folder = rcaeval(tmp_path / "set/lone")
    (folder / "inject_time.txt").unlink()
    (line,) = imported("rcaeval", folder, tmp_path / "cases").failed
    assert line == "lone: the folder's name is not <service>_<fault>; give --service and --fault"
    given_truth = {"service": "checkoutservice", "fault": "cpu"}
    (line,) = imported("rcaeval", folder, tmp_path / "cases", **given_truth).failed
    assert "inject_time.txt: cannot be read" in line
    assert "--inject-time" in line
    (case,) = imported_cases("rcaeval", folder, tmp_path / "cases", **given_truth, inject_time=RCAEVAL_INJECT)
    assert case.record.injections[0].target == "checkoutservice"


def test_a_truth_for_many_folders_is_refused(tmp_path: Path) -> None:
    rcaeval(tmp_path / "checkoutservice_cpu/1")
    rcaeval(tmp_path / "checkoutservice_cpu/2")
    with pytest.raises(DatasetError, match="2 cases; --service"):
        find(tmp_path, Overrides(service="x"))


# The copy on Hugging Face, and the original files of RCAEval 1.8


@pytest.mark.parametrize(
    "name", ["re2ob_checkoutservice_cpu_1", "RE3-OB_checkoutservice_cpu_2", "mine_checkoutservice_cpu_1"]
)
@pytest.mark.parametrize("convert", [as_parquet, as_json])
def test_the_layouts_of_rcaeval_1_8(tmp_path: Path, name: str, convert: Callable[[Path], None]) -> None:
    folder = rcaeval(tmp_path / "set" / name)
    (plain_case,) = imported_cases("rcaeval", folder, tmp_path / "plain", service="checkoutservice", fault="cpu")
    convert(folder)
    (case,) = imported_cases("rcaeval", tmp_path / "set", tmp_path / "cases")
    (injection,) = case.record.injections
    assert (injection.kind, injection.target, injection.metrics) == ("cpu", "checkoutservice", ("cpu_usage",))
    assert case.record.injection_time.timestamp() == RCAEVAL_INJECT
    pd.testing.assert_frame_equal(
        *(plain(each.metrics, ["time", "service", "metric"]) for each in (plain_case, case)), check_exact=True
    )


def test_events_in_parquet_are_those_in_csv(tmp_path: Path) -> None:
    as_parquet(rcaeval(tmp_path / "set/re2ob_checkoutservice_delay_1", events=True))
    (case,) = imported_cases("rcaeval", tmp_path / "set", tmp_path / "cases")
    spans = case.spans.set_index("span_id")
    assert spans.loc["s1", "duration"] == 0.0025
    assert spans.loc["s1", "status_code"] == 200
    assert spans.loc["s2", "parent_span_id"] == "s1"
    assert spans.loc["s2", "start"] - spans.loc["s1", "start"] == pd.Timedelta("10us")
    assert case.logs["message"].tolist() == ['said "no", twice\nand again', "started"]
    assert set(case.logs["time"]) == {pd.Timestamp(RCAEVAL_INJECT, unit="s", tz="UTC")}
    assert case.record.completeness["spans"].status == "complete"


def test_the_index_says_the_truth_where_the_names_do_not(tmp_path: Path) -> None:
    rcaeval(tmp_path / "set/a1")
    (rcaeval(tmp_path / "set/a2") / "inject_time.txt").unlink()
    index = pd.DataFrame(
        {
            "case": ["a1", "a2", "elsewhere"],
            "root_cause_service": ["checkoutservice", "cart-service_v2", "x"],
            "fault": ["mem", "cpu", "f1"],
            "inject_time": [1, RCAEVAL_INJECT + 3, 1],
        }
    )
    index.to_parquet(tmp_path / "set/cases.parquet")
    found = find(tmp_path / "set", Overrides())
    assert found.skipped == ("cases.parquet: 1 of 3 cases are not here",)
    cases = imported_cases("rcaeval", tmp_path / "set", tmp_path / "cases")
    assert {(c.record.injections[0].target, c.record.injections[0].kind, c.record.injection_time.timestamp())
            for c in cases} == {
        ("checkoutservice", "mem", RCAEVAL_INJECT), ("cart-service_v2", "cpu", RCAEVAL_INJECT + 3),
    }  # fmt: skip


def test_an_index_that_cannot_be_read_is_said_and_the_names_count(tmp_path: Path) -> None:
    rcaeval(tmp_path / "set/re1ob_checkoutservice_cpu_1")
    (tmp_path / "set/cases.parquet").write_text("no parquet")
    (line,) = find(tmp_path / "set", Overrides()).skipped
    assert "cases.parquet: not readable as Parquet" in line
    assert line.endswith("going by the names of the folders")
    (case,) = imported_cases("rcaeval", tmp_path / "set", tmp_path / "cases")
    assert case.record.injections[0].target == "checkoutservice"


# The front end


def with_spans(folder: Path, *edges: tuple[str, str]) -> None:
    """One trace per (caller, callee); a caller ``""``: the callee alone."""
    us = RCAEVAL_INJECT * 10**6
    lines = ["time,traceID,spanID,serviceName,operationName,startTime,duration,parentSpanID"]
    for i, (caller, callee) in enumerate(edges):
        lines += [f"x,t{i},a,{caller},get,{us + i},100,"] if caller else []
        lines.append(f"x,t{i},b,{callee},get,{us + i + 1},50,{'a' if caller else '0000000000000000'}")
    (folder / "traces.csv").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("edges", "overrides", "expected"),
    [
        ([], {}, "frontend"),
        ([("frontend", "checkoutservice")], {}, "frontend"),
        ([("edge", "frontend"), ("edge", "checkoutservice"), ("frontend", "checkoutservice")], {}, "edge"),
        ([("edge", "checkoutservice")], {}, "edge"),
        ([("edge", "checkoutservice")], {"front_end": "frontend"}, "frontend"),
        ([("", "checkoutservice"), ("", "checkoutservice"), ("edge", "checkoutservice")], {}, "edge"),
        ([("", "checkoutservice"), ("", "checkoutservice")], {}, "frontend"),
        ([("edge", "checkoutservice"), ("frontend", "checkoutservice")], {}, "frontend"),
    ],
)
def test_the_front_end_is_where_traces_begin_then_a_known_name(
    tmp_path: Path, edges: list[tuple[str, str]], overrides: dict[str, str], expected: str
) -> None:
    with_spans(rcaeval(tmp_path / "set/checkoutservice_cpu/1"), *edges)
    (case,) = imported_cases("rcaeval", tmp_path / "set", tmp_path / "cases", **overrides)
    assert case.record.front_end == expected
    assert ("front end" in case.record.versions) == (expected == "edge")


@pytest.mark.parametrize(
    ("file", "content", "expected"),
    [
        ("inject_time.txt", "", "expected seconds since 1970"),
        ("inject_time.txt", "9000000000", "no row after the inject time 9000000000"),
        ("inject_time.txt", "9999999999", "expected seconds since 1970, of 64 bits in ns"),
        ("inject_time.txt", "5", "no row before the inject time 5"),
        ("data.csv", "a,b\n1,2\n", "no column 'time'"),
        ("data.csv", "time,frontend_cpu\n1,2\n", "1 rows of metrics"),
        ("data.csv", "time,alone\n1,2\n2,3\n", "no column <service>_<metric>"),
        ("data.csv", "time,frontend_cpu\n1,x\n2,y\n", "no column <service>_<metric>"),
        ("data.csv", "time,frontend_cpu\nx,1\n,3\n", "column 'time' must hold seconds since 1970"),
        ("data.csv", "time,frontend_cpu\n1,\n,3\n", "1 rows with a time of their own; expected two or more"),
        (
            "data.csv",
            f"time,frontend_cpu\n{RCAEVAL_INJECT - 1},1\n{RCAEVAL_INJECT},1\n",
            "root cause 'checkoutservice'",
        ),
        ("rcarena.json", "{}", "remove it to do without"),
    ],
)
def test_a_broken_folder_is_named_and_the_others_are_imported(
    tmp_path: Path, file: str, content: str, expected: str
) -> None:
    rcaeval(tmp_path / "set/checkoutservice_cpu/1")
    rcaeval(tmp_path / "set/checkoutservice_cpu/2", events=True)
    (tmp_path / "set/checkoutservice_cpu/1" / file).write_text(content)
    result = imported("rcaeval", tmp_path / "set", tmp_path / "cases")
    assert len(result.imported) == 1
    (line,) = result.failed
    assert line.startswith("checkoutservice_cpu/1: ")
    assert expected in line


def test_the_id_depends_on_the_truth_but_does_not_tell_it(tmp_path: Path) -> None:
    rcaeval(tmp_path / "a/checkoutservice_cpu/1")
    shutil.copytree(tmp_path / "a", tmp_path / "moved")
    shutil.copytree(tmp_path / "a/checkoutservice_cpu", tmp_path / "b/frontend_mem")
    ids = [imported("rcaeval", tmp_path / x, tmp_path / f"cases-{x}").imported for x in ("a", "moved", "b")]
    assert ids[0] == ids[1] != ids[2]
    assert ids[0][0].startswith("rcaeval-")
    assert int(ids[0][0].removeprefix("rcaeval-"), 16)


# There and back


def exported(cases: list[Case], tmp_path: Path) -> list[Case]:
    result = export_cases(cases, tmp_path / "out")
    assert len(result.written) == len(cases)
    return imported_cases("rcaeval", tmp_path / "out", tmp_path / "back")


def plain(table: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    texts = {column: object for column in table if isinstance(table[column].dtype, pd.CategoricalDtype)}
    return table.astype(texts).sort_values(keys, ignore_index=True)


def assert_same(case: Case, back: Case) -> None:
    """Every table, row by row and bit by bit, and the whole record."""
    files, found = ({file.name for file in each.path.glob("*.parquet")} for each in (case, back))
    assert files == found
    for name in files:
        ours, theirs = (pq.ParquetFile(each.path / name).read() for each in (case, back))
        assert ours.schema == theirs.schema
        pd.testing.assert_frame_equal(ours.to_pandas(), theirs.to_pandas(), check_exact=True)
    assert back.record.model_dump(exclude={"case_id"}) == case.record.model_dump(exclude={"case_id"})


def test_our_case_comes_back_as_it_was(tmp_path: Path) -> None:
    case = synthetic_case(tmp_path / "cases", target="ray-replicas-1")
    (back,) = exported([case], tmp_path)
    assert_same(case, back)
    assert len(back.requests) > 0
    folder = tmp_path / "out/ray-replicas-1_cpu/1"
    data = pd.read_csv(folder / "data.csv")
    assert {"time", "ray-head_latency-90", "ray-replicas-1_cpu", "ray-replicas-2_requests-running"} <= set(data.columns)
    assert all(len(column.split("_")) == 2 for column in data.columns if column != "time")
    assert data["time"].dtype.kind == "i"
    assert int((folder / "inject_time.txt").read_text()) == case.record.injection_time.timestamp()
    cpu = case.metrics[(case.metrics["service"] == "ray-replicas-1") & (case.metrics["metric"] == "cpu_usage")]
    assert data["ray-replicas-1_cpu"].tolist() == cpu.sort_values("time")["value"].tolist()


def odd_numbers(case: Case, cases_dir: Path) -> Case:
    """All that a CSV file loses: disorder, two samples of one time, no value, empty texts, all bits of a float."""
    rng = np.random.default_rng(4)
    metrics = case.metrics.sample(frac=1, random_state=1, ignore_index=True)
    metrics["value"] = rng.uniform(0, 1, len(metrics)) / 3
    metrics.loc[:4, "value"] = [np.nan, np.inf, -np.inf, -0.0, 5e-324]
    metrics = pd.concat([metrics, metrics.iloc[:3].assign(value=7.0)], ignore_index=True)
    logs = case.logs.assign(message="", template_id="")
    logs["time"] += pd.to_timedelta(rng.integers(0, 10**9, len(logs)), unit="ns")
    spans = case.spans.assign(duration=rng.uniform(0, 1, len(case.spans)) / 7, attributes="")
    requests = case.requests.assign(error="")
    tables: dict[SignalName, pd.DataFrame] = {"metrics": metrics, "logs": logs, "spans": spans, "requests": requests}
    return copied(case, case.record, tables | {"topology": case.topology}, cases_dir)


def test_a_case_comes_back_bit_by_bit(tmp_path: Path) -> None:
    case = odd_numbers(synthetic_case(tmp_path / "cases"), tmp_path / "odd")
    (back,) = exported([case], tmp_path)
    assert_same(case, back)


def test_a_changed_file_counts_and_the_rest_comes_back_as_it_was(tmp_path: Path) -> None:
    case = synthetic_case(tmp_path / "cases")
    (folder,) = export_cases([case], tmp_path / "out").written
    logs = (folder / "logs.csv").read_text().splitlines()
    (folder / "logs.csv").write_text("\n".join(logs[:3]) + "\n")
    (back,) = imported_cases("rcaeval", tmp_path / "out", tmp_path / "back")
    assert len(back.logs) == 2
    assert len(back.spans) == len(case.spans)
    pd.testing.assert_frame_equal(back.requests, case.requests, check_exact=True)


def test_durations_of_whole_nanoseconds_come_back_exactly_from_the_files_alone(tmp_path: Path) -> None:
    case = synthetic_case(tmp_path / "cases")
    duration = np.random.default_rng(5).integers(0, 10**10, len(case.spans)) / 1e9
    tables: dict[SignalName, pd.DataFrame] = {
        "metrics": case.metrics, "logs": case.logs, "topology": case.topology, "requests": case.requests,
        "spans": case.spans.assign(duration=duration),
    }  # fmt: skip
    odd = copied(case, case.record, tables, tmp_path / "odd")
    export_cases([odd], tmp_path / "out")
    for file in (tmp_path / "out").rglob("rcarena*"):
        file.unlink()
    (back,) = imported_cases("rcaeval", tmp_path / "out", tmp_path / "back")
    ours, theirs = (plain(each.spans, ["trace_id", "span_id"])["duration"] for each in (odd, back))
    pd.testing.assert_series_equal(ours, theirs, check_exact=True)


def test_a_folder_of_a_newer_version_is_read(tmp_path: Path) -> None:
    """With a column and a signal that this one does not know."""
    case = synthetic_case(tmp_path / "cases")
    (folder,) = export_cases([case], tmp_path / "out").written
    document = json.loads((folder / "rcarena.json").read_text())
    document["tables"]["profiles"] = ""
    (folder / "rcarena.json").write_text(json.dumps(document))
    file = folder / "rcarena.requests.parquet"
    requests = pq.ParquetFile(file).read()
    pq.write_table(requests.append_column("colour", pa.array(["red"] * len(requests))), file)
    (back,) = imported_cases("rcaeval", tmp_path / "out", tmp_path / "back")
    assert_same(case, back)


def test_a_folder_of_the_version_before_is_read(tmp_path: Path) -> None:
    """It has ``rcarena.json`` without ``tables`` and ``digests``, and no Parquet files."""
    case = synthetic_case(tmp_path / "cases")
    (folder,) = export_cases([case], tmp_path / "out").written
    document = json.loads((folder / "rcarena.json").read_text())
    del document["tables"], document["digests"]
    (folder / "rcarena.json").write_text(json.dumps(document))
    for file in folder.glob("rcarena.*.parquet"):
        file.unlink()
    (back,) = imported_cases("rcaeval", tmp_path / "out", tmp_path / "back")
    ours, theirs = (plain(each.metrics, ["time", "service", "metric"]) for each in (case, back))
    pd.testing.assert_frame_equal(ours, theirs, check_exact=True)
    assert back.record.completeness["requests"] == Completeness(status="missing", reason="the layout has none")


def test_without_the_sidecar_the_numbers_are_still_there(tmp_path: Path) -> None:
    case = synthetic_case(tmp_path / "cases")
    export_cases([case], tmp_path / "out")
    for file in (tmp_path / "out/ray-replicas-1_cpu/1").glob("rcarena*"):
        file.unlink()
    (back,) = imported_cases("rcaeval", tmp_path / "out", tmp_path / "back")
    ours, theirs = (plain(each.metrics, ["time", "service", "metric"]) for each in (case, back))
    columns = ["time", "service", "metric", "value"]
    pd.testing.assert_frame_equal(ours[columns], theirs[columns], check_exact=True)
    assert back.record.front_end == case.record.front_end
    assert back.record.injections[0].target == "ray-replicas-1"


def test_odd_names_times_and_numbers_survive(tmp_path: Path) -> None:
    case = synthetic_case(tmp_path / "cases", recovery_s=1)
    odd = {
        "nginx-proxy": "a_b",
        "ray-head": "a-b",
        "ray-replicas-0": "x/y_AWS::Z",
        "ray-replicas-1": 't,"q"',
        "ray-replicas-2": "é",
    }
    text = case.record.model_dump_json()
    for name, other in odd.items():
        text = text.replace(f'"{name}"', f'"{other}"' if '"' not in other else '"t,\\"q\\""')
    record = type(case.record).model_validate_json(text)
    metrics = case.metrics.astype({"service": object, "metric": object}).replace({"service": odd})
    metrics["time"] += pd.Timedelta("123456789ns")
    metrics.loc[:3, "value"] = [1e-300, 1.7976931348623157e308, 0.1 + 0.2, -0.0]
    metrics.loc[4, "unit"] = None
    missing = Completeness(status="missing")
    record = record.model_copy(
        update={"completeness": record.completeness | {"requests": missing, "topology": missing}}
    )
    logs, spans = (table.astype({"service": object}).replace({"service": odd}) for table in (case.logs, case.spans))
    odd_case = copied(case, record, {"metrics": metrics, "logs": logs, "spans": spans}, tmp_path / "odd")
    (back,) = exported([odd_case], tmp_path)
    ours, theirs = (
        plain(each.metrics, ["time", "service", "metric"])[["time", "service", "metric", "value"]]
        for each in (odd_case, back)
    )
    pd.testing.assert_frame_equal(ours, theirs, check_exact=True)
    assert back.record.service_names == odd_case.record.service_names
    assert set(back.spans["service"]) == set(odd_case.spans["service"])


def test_what_the_layout_cannot_hold_is_skipped_and_said(tmp_path: Path) -> None:
    synthetic_case(tmp_path / "cases", "fault-free", kind=None)
    synthetic_case(tmp_path / "cases", "weak", verdict="ineffective")
    half = synthetic_case(tmp_path / "cases", "half")
    (effective,) = half.record.injections
    other = effective.model_copy(update={"kind": "network-delay", "target": "ray-head", "verdict": "ineffective"})
    with_injections(half, (other, effective))
    synthetic_case(tmp_path / "cases", "good-1")
    synthetic_case(tmp_path / "cases", "good-2", seed=1)
    result = export_cases(read_cases(tmp_path / "cases"), tmp_path / "out")
    assert [path.relative_to(tmp_path / "out").as_posix() for path in result.written] == [
        "ray-replicas-1_cpu/1", "ray-replicas-1_cpu/2",
    ]  # fmt: skip
    assert [line.split(":")[0] for line in result.skipped] == ["fault-free", "half", "weak"]
    assert "cpu-stress+(network-delay): not one effective root" in result.skipped[1]


def test_a_disturbance_and_a_victim_come_back_and_name_no_folder(tmp_path: Path) -> None:
    case = synthetic_case(tmp_path / "cases")
    (root,) = case.record.injections
    roles = {"disturbance": "ray-head", "victim": "nginx-proxy"}
    others = [root.model_copy(update={"role": role, "target": target}) for role, target in roles.items()]
    case = with_injections(case, (others[0], root, others[1]))
    (back,) = exported([case], tmp_path)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["ray-replicas-1_cpu"]
    assert_same(case, back)


def test_exporting_again_gives_the_same_bytes(tmp_path: Path) -> None:
    case = synthetic_case(tmp_path / "cases")
    (folder,) = export_cases([case], tmp_path / "out").written
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    export_cases([case], tmp_path / "out")
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert sorted(before) == [
        "data.csv", "inject_time.txt", "logs.csv", "rcarena.json", "rcarena.logs.parquet", "rcarena.metrics.parquet",
        "rcarena.requests.parquet", "rcarena.spans.parquet", "rcarena.topology.parquet", "traces.csv",
    ]  # fmt: skip
