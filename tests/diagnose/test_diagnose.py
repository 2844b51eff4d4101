"""The diagnosis of cases that are on disk."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest

from tasks.case import Case, read_case, validate_case
from tasks.commands.diagnose import moment, seconds
from tasks.diagnose import incidents
from tasks.diagnose.diagnose import NoChange, Question, _around, _given, diagnose
from tasks.diagnose.diagnosis import Diagnosis, MethodAnswer
from tasks.diagnose.errors import DiagnoseError
from tasks.diagnose.recording import CaseRecording, Window
from tasks.errors import ParamsError
from tasks.params import Params
from tasks.rca.features.change_point import Detection
from tasks.rca.method import Finding
from tasks.rca.run.pair import Suspect
from tests.command import ROOT, rcarena_here
from tests.copies import copied
from tests.diagnose.conftest import TWO_ROOTS
from tests.score.processes import InThisProcess
from tests.synthetic import T0, synthetic_case


def test_the_roots_are_named_at_the_change_before_the_recovery(diagnosis: Diagnosis) -> None:
    truth = read_case(TWO_ROOTS).record
    assert {(root.service, root.kind) for root in diagnosis.roots} >= {("ray-head", "network-delay")}
    assert {root.service for root in diagnosis.roots} <= set(truth.targets) | {"ray-replicas-0"}
    assert abs((diagnosis.change - truth.injection_time).total_seconds()) < 5
    assert diagnosis.named
    assert diagnosis.detected


def test_the_incident_is_a_case_without_truth(diagnosis: Diagnosis) -> None:
    assert validate_case(diagnosis.case) == []
    record = read_case(diagnosis.case).record
    assert (record.kind, record.injections, record.scenario, record.labels) == ("incident", (), None, ())
    assert [phase.name for phase in record.phases] == ["baseline", "fault"]
    assert record.phases[1].start == diagnosis.change
    text = (diagnosis.case / "case.json").read_text()
    assert "network-delay" not in text


def test_one_incident_is_kept_with_its_page_and_answers(diagnosis: Diagnosis, incidents_folder: Path) -> None:
    assert sorted(path.name for path in incidents_folder.iterdir()) == [
        diagnosis.incident,
        f"{diagnosis.incident}.html",
        f"{diagnosis.incident}.json",
    ]
    assert incidents.read(incidents_folder, diagnosis.incident) == diagnosis


def test_the_page_shows_sentences_plots_and_rankings(diagnosis: Diagnosis) -> None:
    assert diagnosis.page is not None
    html = diagnosis.page.read_text()
    for finding in diagnosis.roots:
        assert f"{finding.service}: {finding.kind}" in html
    assert diagnosis.roots[0].evidence[0].sentence.split(":")[1].strip() in html
    assert html.count('class="own"') >= 6
    assert 'class="band"' in html
    assert "nsigma" in html


def test_the_text_names_what_a_person_needs(diagnosis: Diagnosis) -> None:
    text = diagnosis.text()
    assert "ROOT  ray-head: network-delay" in text
    assert "calls over its link are late" in text
    assert text.index("ROOT") < text.index("rank  peerwise") < text.index("page: ")


def test_an_incident_of_somebody_else_is_never_touched(tmp_path: Path, params: Params) -> None:
    """It is diagnosed again, from its own folder too: every answer gets a name of its own."""
    folder, labelled = tmp_path / "incidents", tmp_path / "cases"
    at = T0 + timedelta(seconds=25)

    def again(recording: CaseRecording) -> Diagnosis:
        question = Question(("nsigma",), at=at)
        found = diagnose(recording, question, params, folder, open_pool=InThisProcess, also=(labelled,))
        assert isinstance(found, Diagnosis)
        return found

    first = again(CaseRecording(synthetic_case(tmp_path / "elsewhere")))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    second = again(CaseRecording(read_case(first.case)))
    assert (first.incident, second.incident) == (incidents.name_of(at), f"{incidents.name_of(at)}-2")
    (labelled / f"{incidents.name_of(at)}-3").mkdir(parents=True)
    assert again(CaseRecording(read_case(first.case))).incident == f"{incidents.name_of(at)}-4"
    incidents.remove(folder, second.incident)
    assert {path: path.read_bytes() for path in before} == before
    assert validate_case(first.case) == []


def test_a_fault_free_case_has_nothing_significant(tmp_path: Path, params: Params) -> None:
    case = synthetic_case(tmp_path / "cases", kind=None, baseline_s=60)
    found = diagnose(CaseRecording(case), Question(("nsigma",)), params, tmp_path / "incidents")
    assert isinstance(found, NoChange)
    assert "no change from 2026-01-02 03:04:05 UTC" in found.text
    assert not (tmp_path / "incidents").exists()


def test_a_time_after_the_end_is_refused(params: Params, tmp_path: Path) -> None:
    question = Question(("nsigma",), at=T0 + timedelta(days=1))
    with pytest.raises(ParamsError, match=r"--at: 2026-01-03 .* is not before 2026-01-02"):
        diagnose(CaseRecording(synthetic_case(tmp_path)), question, params, tmp_path)


def test_a_case_without_samples_says_so(params: Params, tmp_path: Path) -> None:
    case = synthetic_case(tmp_path)
    empty = copied(case, tables={"metrics": case.metrics.assign(value=float("nan"))})
    with pytest.raises(DiagnoseError, match="no sample of any metric from 2026-01-02 03:04:05 UTC to"):
        diagnose(CaseRecording(empty), Question(("nsigma",)), params, tmp_path / "incidents")


def test_a_window_reaches_into_no_other_change(params: Params) -> None:
    start, end = T0, T0 + timedelta(seconds=1000)
    changes = tuple(pd.Timestamp(T0) + pd.Timedelta(seconds=each) for each in (100, 500, 600))
    windows = _around(Detection(changes[0], 1.0, changes), start, end, None, params)
    assert [(w.start - T0, w.change - T0, w.end - T0) for w in windows] == [
        (timedelta(seconds=510), timedelta(seconds=600), timedelta(seconds=780)),
        (timedelta(seconds=200), timedelta(seconds=500), timedelta(seconds=600)),
        (timedelta(0), timedelta(seconds=100), timedelta(seconds=280)),
    ]
    young = _around(Detection(changes[0], 1.0, changes), start, T0 + timedelta(seconds=603), None, params)
    assert [(w.change - T0).total_seconds() for w in young] == [500, 100, 600]
    later = _around(Detection(changes[0], 1.0, changes), start, end, T0 + timedelta(seconds=500), params)
    assert [w.change - T0 for w in later] == [timedelta(seconds=600)]
    first = tuple(pd.Timestamp(T0) + pd.Timedelta(seconds=each) for each in (-4, 2, 500))
    within = _around(Detection(first[0], 1.0, first), start, end, None, params)
    assert [w.change - T0 for w in within] == [timedelta(seconds=500)]


def _answered(*answers: MethodAnswer) -> Diagnosis:
    return Diagnosis(
        incident="i", backend="b", services=2, metrics=3, start=T0, change=T0, end=T0, detected=True, answers=answers,
        case=Path("i"),
    )  # fmt: skip


RANKS = MethodAnswer(method="nsigma", status="ok", suspects=(Suspect(1, "a", 2.0, False, "cpu_usage"),))


def _says(*findings: Finding) -> MethodAnswer:
    return MethodAnswer(method="p", status="ok", findings=findings)


@pytest.mark.parametrize(
    ("answers", "named", "headline"),
    [
        ((RANKS,), True, "a is the first suspect of nsigma"),
        ((RANKS, _says()), False, "nothing significant"),
        ((_says(Finding("a", "cpu-stress", 0.01)),), True, "a: cpu-stress"),
        ((_says(Finding(None, "workload", 0.01)),), True, "no service: workload"),
        ((_says(Finding("a", "x", 0.01, "victim")),), False, "nothing significant"),
        ((MethodAnswer(method="p", status="timeout"),), False, "no method could rank"),
    ],
)
def test_what_counts_as_named(answers: tuple[MethodAnswer, ...], named: bool, headline: str) -> None:
    diagnosis = _answered(*answers)
    assert (diagnosis.named, diagnosis.headline) == (named, headline)


def test_old_incidents_are_removed_and_labelled_ones_kept(tmp_path: Path) -> None:
    recording = CaseRecording(synthetic_case(tmp_path / "cases"))
    folder = tmp_path / "incidents"
    names = [f"incident-{i}" for i in range(4)]
    for i, name in enumerate(names):
        window = Window(T0, T0 + timedelta(seconds=25), T0 + timedelta(seconds=50))
        recording.record(name, window, folder)
        incidents.page_file(folder, name).write_text("")
        os.utime(folder / name, (1e9 + i, 1e9 + i))
    now = datetime.now(UTC).timestamp()
    os.utime(folder / names[3], (now, now))
    assert sorted(incidents.prune(folder, 3, 1e6)) == ["incident-0"]
    assert not incidents.page_file(folder, "incident-0").exists()
    assert sorted(incidents.prune(folder, 3, 90)) == ["incident-1", "incident-2"]
    assert (folder / "incident-3").is_dir()


def test_times_and_durations_of_the_command() -> None:
    assert moment("2026-11-29T10:00:00", "--at") == datetime(2026, 11, 29, 10, tzinfo=UTC)
    assert moment("2026-11-29T10:00:00+02:00", "--at") == datetime(2026, 11, 29, 8, tzinfo=UTC)
    assert (seconds("90", "--since"), seconds("30m", "--since"), seconds("2h", "--since")) == (90, 1800, 7200)
    for wrong in ("soon", "3d", "1s", "100h"):
        with pytest.raises(ParamsError, match="--since: "):
            seconds(wrong, "--since")
    with pytest.raises(ParamsError, match="--at: 'yesterday' is no time"):
        moment("yesterday", "--at")


def test_the_command_ends_with_4_where_nothing_changed(tmp_path: Path) -> None:
    case: Case = synthetic_case(tmp_path / "cases", kind=None, baseline_s=60)
    result = rcarena_here("diagnose", case.record.case_id, "--workspace", str(tmp_path), "--json")
    assert result.exit_code == 4
    assert json.loads(result.output)["named"] is False


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["nowhere"], "nowhere: no such folder, and no case of that id in"),
        (["--at", "2026-11-29T10:00:00", "--since", "5m"], "--at and --since: give one of them"),
        ([str(TWO_ROOTS), "--method", "peerwize"], "unknown method 'peerwize'; did you mean 'peerwise'?"),
        ([], "no stack runs in"),
        ([str(TWO_ROOTS), "--at", "0001-01-01"], "--at: 0001-01-01T00:00:00+00:00 is not after"),
        (["--at", "0001-01-01T00:00:00+09:00"], "--at: '0001-01-01T00:00:00+09:00' is no time"),
        ([str(TWO_ROOTS), "--at", "2020-01-01"], "the start of the case"),
        (["--json", "--remediate"], "--remediate: not with --json"),
        (["--watch", "--method", "pearwise"], "unknown method 'pearwise'"),
        (["--alerts", "0", "--method", "pearwise"], "unknown method 'pearwise'"),
    ],
)
def test_wrong_usage_is_one_line(arguments: list[str], problem: str, tmp_path: Path) -> None:
    result = rcarena_here("diagnose", *arguments, "--workspace", str(tmp_path / "w"))
    assert result.exit_code in (1, 2)
    assert problem in result.output
    assert len(result.output.strip().splitlines()) == 1


def test_params_of_the_section_are_checked(tmp_path: Path) -> None:
    text = (ROOT / "params.yaml").read_text()
    file = tmp_path / "params.yaml"
    file.write_text(text + "\ndiagnose:\n  methods: [peerwize]\n  notify: [{kind: slack, path: x}]\n")
    result = rcarena_here("params", "check", "--params", str(file))
    assert "diagnose.notify[0]: slack needs url or url_file" in result.output
    file.write_text(
        text.replace("rate_window_s: 5\n", "rate_window_s: 5\n  mask: ['(?=x)']\n")
        + "\ndiagnose: {methods: [peerwize]}\n"
    )
    result = rcarena_here("params", "check", "--params", str(file))
    assert "diagnose.methods[0]: unknown method 'peerwize'" in result.output
    assert "export.mask[0]: Invalid regular expression" in result.output


def test_a_time_without_a_baseline_is_refused(params: Params) -> None:
    with pytest.raises(ParamsError, match="--at: 0001-01-01T00:00:00\\+00:00 is too early"):
        _given(datetime(1, 1, 1, tzinfo=UTC), datetime.now(UTC), params)
