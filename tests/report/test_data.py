from datetime import timedelta
from pathlib import Path

import pytest

from tasks.case import Case, Completeness, LoadRecord
from tasks.injection import Interval
from tasks.report.data import ReportData, report_data, summarise_case
from tests.copies import copied
from tests.report.scores import fails, truth_at, write_scores
from tests.synthetic import synthetic_case


def rewritten(case: Case, **record: object) -> Case:
    """The case with other values in its record; signals declared missing are dropped."""
    return copied(case, case.record.model_copy(update=record))


def notices(data: ReportData) -> dict[str, tuple[str, ...]]:
    return {notice.text: notice.cases for notice in data.notices}


def test_a_clean_campaign_has_no_notice(tmp_path: Path) -> None:
    synthetic_case(tmp_path / "cases", "one")
    synthetic_case(tmp_path / "cases", "quiet", kind=None)
    write_scores(tmp_path / "cases", tmp_path / "scores", {"good": truth_at(1), "fair": truth_at(2)})
    data = report_data(tmp_path / "cases", tmp_path / "scores", title="t")
    assert data.notices == ()
    assert data.verdicts == {"effective": 1, "fault-free": 1}
    assert data.campaigns == ("synthetic",)
    assert [(fact.label, fact.value) for fact in data.best] == [("best Avg@5: good (chance 0.60)", "1.00")]


def test_a_case_of_a_scenario_says_its_load_and_names_no_target_without_a_root(tmp_path: Path) -> None:
    case = synthetic_case(tmp_path / "cases")
    shapes = [{"kind": "surge", "start_s": 2, "duration_s": 5, "factor": 2}]
    load = LoadRecord(parameters={"arrival": "poisson", "rate": 3, "shapes": shapes})
    (injection,) = case.record.injections
    disturbance = injection.model_copy(update={"role": "disturbance"})
    summary = summarise_case(rewritten(case, load=load, scenario="busy", injections=(disturbance,)), None)
    assert (summary.scenario, summary.load) == ("busy", "3 requests/s; surge ×2 from +2 s for 5 s")
    assert (summary.verdict, summary.targets, summary.title) == ("fault-free", (), "no fault")
    assert summarise_case(case, None).load == ""


def test_what_a_reader_must_know_first(tmp_path: Path) -> None:
    cases = tmp_path / "cases"
    synthetic_case(cases, "weak", verdict="ineffective")
    late = synthetic_case(cases, "late")
    missing = {
        "spans": Completeness(status="missing", reason="collector down"),
        "logs": late.record.completeness["logs"],
    }
    rewritten(
        late,
        load=LoadRecord(requests=1, verdict="fell-behind", send_lag_p99_ms=900),
        completeness=late.record.completeness | missing,
    )
    (cases / "half-done").mkdir()
    write_scores(cases, tmp_path / "scores", {"good": truth_at(1), "broken": fails()})
    synthetic_case(cases, "unscored")
    found = notices(report_data(cases, tmp_path / "scores", title="t"))
    assert found["Ineffective injection: cpu-stress on ray-replicas-1: planted"] == ("weak",)
    assert found["The load generator fell behind its schedule: latencies include its own delay."] == ("late",)
    assert found["Signal missing: spans (collector down)"] == ("late",)
    assert found["Unfinished and left out: 1 (half-done)."] == ()
    failed = "Failures of methods, which score zero there (cases): broken (2). Reasons: under Costs."
    assert found[failed] == ("late", "weak")
    assert found["No method has seen these cases yet: run the score stage again."] == ("unscored",)
    assert len(found) == 6


def test_times_count_from_the_first_injection_that_counts(tmp_path: Path) -> None:
    case = synthetic_case(tmp_path, "half")
    (effective,) = case.record.injections
    before = Interval(start=effective.begin - timedelta(seconds=7), end=effective.begin)
    failed = effective.model_copy(
        update={"kind": "odd", "planned": before, "observed": before, "verdict": "ineffective"}
    )
    case = rewritten(case, injections=(failed, effective))
    summary = summarise_case(case, None)
    assert (summary.fault, summary.injection_time) == ("cpu-stress+(odd)", effective.begin)
    assert [summary.seconds(injection.planned.start) for injection in summary.injections] == [-7, 0]
    everything = summarise_case(case, None, include_ineffective=True)
    assert (everything.fault, everything.injection_time) == ("cpu-stress+odd", failed.begin)
    assert summary.scatter is not None
    assert everything.scatter is not None
    assert everything.scatter.seconds - summary.scatter.seconds == pytest.approx(7)
    assert summary.signals is not None
    assert everything.signals is not None
    assert everything.signals.grid.start_s - summary.signals.grid.start_s == pytest.approx(7)


def test_a_shared_first_place_names_few(tmp_path: Path) -> None:
    synthetic_case(tmp_path / "cases", "one")
    write_scores(tmp_path / "cases", tmp_path / "scores", {f"m{i}": truth_at(1) for i in range(5)})
    (best,) = report_data(tmp_path / "cases", tmp_path / "scores", title="t").best
    assert best.label == "best Avg@5: m0, m1, m2 and 2 more (chance 0.60)"


def test_roles_of_services(tmp_path: Path) -> None:
    synthetic_case(tmp_path / "cases", "one", replicas=2)
    roles = report_data(tmp_path / "cases", tmp_path / "scores", title="t").roles
    assert roles == {
        "nginx-proxy": "gateway",
        "ray-head": "head",
        "ray-replicas-0": "replica",
        "ray-replicas-1": "replica",
    }


def test_scoring_has_not_run(tmp_path: Path) -> None:
    synthetic_case(tmp_path / "cases", "one")
    data = report_data(tmp_path / "cases", tmp_path / "scores", title="t")
    assert data.scoreboard is None
    assert [text for text in notices(data) if text.startswith("Scoring has not run")]


def test_no_case_at_all(tmp_path: Path) -> None:
    data = report_data(tmp_path / "absent", tmp_path / "scores", title="t")
    assert data.cases == ()
    assert "No finished case: nothing to show yet." in notices(data)


def test_an_unreadable_case_is_left_out_and_named(tmp_path: Path) -> None:
    synthetic_case(tmp_path / "cases", "fine")
    for name, file in (("bad-record", "case.json"), ("bad-metrics", "metrics.parquet")):
        (synthetic_case(tmp_path / "cases", name).path / file).write_text("{not")
    data = report_data(tmp_path / "cases", tmp_path / "scores", title="t")
    assert [case.case_id for case in data.cases] == ["fine"]
    named = [text.split(":")[0] for text in notices(data) if "cannot be read and is left out" in text]
    assert named == ["bad-metrics", "bad-record"]


def test_scores_of_cases_that_are_gone(tmp_path: Path) -> None:
    cases = tmp_path / "cases"
    synthetic_case(cases, "one")
    synthetic_case(cases, "two")
    write_scores(cases, tmp_path / "scores", {"good": truth_at(1)})
    (cases / "two").rename(tmp_path / "elsewhere")
    assert any(
        "no longer among the cases: two" in text for text in notices(report_data(cases, tmp_path / "scores", title="t"))
    )


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        (("effective", "effective"), "effective"),
        (("effective", "ineffective"), "partly effective"),
        (("ineffective", "ineffective"), "ineffective"),
    ],
)
def test_verdict_of_several_injections(tmp_path: Path, verdicts: tuple[str, str], expected: str) -> None:
    case = synthetic_case(tmp_path / "cases", "one")
    (injection,) = case.record.injections
    both = tuple(injection.model_copy(update={"verdict": verdict}) for verdict in verdicts)
    rewritten(case, injections=both)
    (summary,) = report_data(tmp_path / "cases", tmp_path / "scores", title="t").cases
    assert summary.verdict == expected
    assert summary.targets == ("ray-replicas-1",)


def test_times_are_seconds_since_the_observed_begin(tmp_path: Path) -> None:
    case = synthetic_case(tmp_path / "cases", "one")
    (injection,) = case.record.injections
    start, end = injection.planned.start, injection.planned.end
    observed = Interval(start=start + timedelta(seconds=0.5), end=end + timedelta(seconds=1))
    rewritten(case, injections=(injection.model_copy(update={"observed": observed, "verified": None}),))
    (summary,) = report_data(tmp_path / "cases", tmp_path / "scores", title="t").cases
    (shown,) = summary.injections
    assert [summary.seconds(moment) for moment in (shown.planned.start, shown.planned.end)] == [-0.5, 24.5]
    assert shown.observed is not None
    assert [summary.seconds(moment) for moment in (shown.observed.start, shown.observed.end)] == [0.0, 25.5]
    assert shown.verified is None
    assert (summary.end - summary.start).total_seconds() == 60


def test_failures_before_the_fault_are_a_notice(tmp_path: Path) -> None:
    case = synthetic_case(tmp_path / "cases", "one")
    requests = case.requests
    requests["status"] = requests["status"].where(requests.index % 5 != 0, 503)
    copied(case, tables={"requests": requests})
    found = notices(report_data(tmp_path / "cases", tmp_path / "scores", title="t"))
    assert found["More than 1% of the requests failed before the fault."] == ("one",)
