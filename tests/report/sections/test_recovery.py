"""The chapter on recovery: only where there was an experiment, every policy, every kind, what happened when."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tasks.remediate.stage import SLI
from tasks.report.page import write_report
from tasks.report.recovery import Recovery, read_recovery, styles, survival_plot, timelines
from tasks.report.sections.recovery import other_tables, policies_of, policy_figure, policy_tables, statement
from tests.remediate.campaign import params
from tests.remediate.runs import experiment, run, written
from tests.report.html import Page
from tests.synthetic import synthetic_case

POLICIES = ("none", "table:peerwise", "oracle")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(experiment(), tmp_path_factory.mktemp("recovery"))


@pytest.fixture(scope="module")
def recovery(place: Path) -> Recovery:
    found = read_recovery(place)
    assert found is not None
    return found


def page(cases: Path, recovery_dir: Path | None, out: Path) -> Page:
    asked = params()
    made = write_report(cases, cases / "none", out, title="t", params=asked, recovery_dir=recovery_dir)
    return Page(made.read_text())


def test_the_chapter_is_there_where_an_experiment_was(place: Path, tmp_path: Path) -> None:
    synthetic_case(tmp_path / "cases", "one")
    without = page(tmp_path / "cases", tmp_path / "absent", tmp_path / "a")
    assert without.count("section", id="recovery") == 0
    found = page(tmp_path / "cases", place, tmp_path / "b")
    assert found.count("section", id="recovery") == 1
    for word in ("table:peerwise", "restart-random", "Harm: who acts where nothing is broken", "few-out"):
        assert word in found.words


def test_a_page_of_an_experiment_alone(place: Path, tmp_path: Path) -> None:
    found = page(tmp_path / "cases", place, tmp_path / "out")
    assert "nothing to show yet" not in found.words
    assert "Simulated: these cases were computed" in found.words
    assert found.count("section") == 1


def test_policies_by_what_they_leave_the_oracle_last(recovery: Recovery) -> None:
    assert policies_of(recovery) == ("none", "table:peerwise", "restart-random", "oracle")
    overall, *kinds = policy_tables(recovery, policies_of(recovery))
    assert [row["policy"] for row in overall.rows] == list(policies_of(recovery))
    assert [table.title for table in kinds] == ["cpu-stress", "network-delay"]
    assert "in 4 of the 5 with a fault the alarm sounded" in statement(recovery)
    assert "table:peerwise leaves" in statement(recovery)
    figure = policy_figure(recovery, policies_of(recovery))
    assert figure is not None
    assert figure.facets[0].title == "bad request-s, ratio to none"
    assert all(0 <= mark.x <= figure.axis_width for facet in figure.facets for mark in facet.marks)


def test_curves_fall_where_cases_are_mitigated(recovery: Recovery) -> None:
    plot = survival_plot(recovery, POLICIES)
    assert plot is not None
    overall = plot.facets[0]
    assert overall.title == "all faults (4 cases)"
    assert len(plot.facets) == 3
    texts = {curve.policy: curve.text for curve in overall.curves}
    assert texts["none"] == "none: 100% not mitigated after 100 s"
    assert texts["table:peerwise"] == "table:peerwise: 0% not mitigated after 100 s; half are after 40 s"
    drops = next(curve.path for curve in overall.curves if curve.policy == "table:peerwise")
    assert drops.startswith("M0 0H92V32.5H92V65H92V97.5H92V130H230")


def test_a_timeline_says_what_happened_in_marks_and_words(recovery: Recovery) -> None:
    drawn = timelines(recovery, policies_of(recovery))
    first = drawn[0]
    assert first.title == "cpu-stress of ray-replicas-1"
    lane = next(lane for lane in first.lanes if lane.policy == "table:peerwise")
    assert [event.kind for event in lane.events] == ["alarm", "diagnosis", "action"]
    assert lane.text == (
        "table:peerwise: alarm after 10 s; diagnosis after 20 s names ray-replicas-1; eject ray-replicas-1 after 20 s; "
        "mitigated after 40 s; 5.0 bad request-seconds"
    )
    random = next(lane for lane in first.lanes if lane.policy == "restart-random")
    assert [event.kind for event in random.events] == ["alarm", "wrong"]
    assert "(wrong)" in random.text
    assert random.calm_x is None
    assert [level for level, _ in random.bad] == [4]
    assert random.bad[0][1].count("z") == 1, "equal bins are one rectangle"
    assert {each.title for each in drawn} >= {"no fault (surge)"}, "somebody acted there"
    assert "no fault" not in {each.title for each in drawn}
    assert len(timelines(recovery, POLICIES, most=2)) == 2


def test_a_page_with_many_runs_stays_small(tmp_path: Path) -> None:
    runs = [
        run(f"case-{case:03d}", f"kind-{case % 6}", policy)
        for case in range(60)
        for policy in ("none", *(f"table:m{i}" for i in range(7)), "oracle")
    ]
    place = written(runs, tmp_path / "remediation")
    synthetic_case(tmp_path / "cases", "one")
    sizes = [
        write_report(tmp_path / "cases", tmp_path, tmp_path / "out", title="t", recovery_dir=each).stat().st_size
        for each in (None, place)
    ]
    assert sizes[1] - sizes[0] < 400_000


def test_what_else_the_experiment_wrote_is_a_table(recovery: Recovery) -> None:
    tables: dict[str, list[dict[str, Any]]] = {"prevented": [{"guard": "ahead", "stopped": 3, "share": 0.5}], "odd": []}
    counted, found = other_tables(Recovery({**recovery.tables, **tables}, recovery.runs))
    assert counted.columns == ("kind", "pairs", "compared", "unseen")
    assert found.title == "What the guards stopped when the diagnosis was wrong on purpose"
    assert (found.columns, found.rows) == (("guard", "stopped", "share"), (("ahead", "3", "0.5"),))


def test_every_policy_has_a_style() -> None:
    names = ("none", *(f"p{i}" for i in range(9)), "oracle")
    found = styles(names)
    assert (found["none"], found["oracle"], found["p0"]) == ("curve-none", "curve-oracle", "curve-0")
    assert found["p8"] == "curve-0"


def test_results_without_a_kept_sli_have_no_shade(place: Path, tmp_path: Path) -> None:
    for name in ("tables.json", "timelines.json"):
        (tmp_path / name).write_bytes((place / name).read_bytes())
    assert not (tmp_path / SLI).exists()
    found = read_recovery(tmp_path)
    assert found is not None
    assert all(not lane.bad for each in timelines(found, POLICIES) for lane in each.lanes)
    assert json.loads((place / "tables.json").read_text())["harm"]
    assert len(pd.read_parquet(place / SLI)) > 0
