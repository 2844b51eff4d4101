"""What the page shows of sets, kinds, negatives, classes, strata and the errors of the first place."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tasks.case import CaseRecord
from tasks.rca.method import Finding
from tasks.rca.run.pair import PairResult
from tasks.report.page import write_report
from tests.copies import copied
from tests.report.html import Page
from tests.report.scores import Ranker, as_an_older_stage_wrote, fails, ranked, truth_at, write_scores
from tests.synthetic import synthetic_case


def says(record: CaseRecord) -> PairResult:
    """Names the root, as CPU stress whatever it is; where there is none it names the head as often as not."""
    if record.counted():
        target = record.counted()[0].target
        return replace(ranked([target]), findings=(Finding(target, "cpu-stress", 0.001),))
    found = (Finding("ray-head", "unknown", 0.04),) if record.case_id.endswith("1") else ()
    return replace(ranked(["ray-head"]), findings=found)


def blames_the_disturbance(record: CaseRecord) -> PairResult:
    return ranked([each.target for each in record.disturbances()] or ["nginx-proxy"])


METHODS: dict[str, Ranker] = {"says": says, "ranks": truth_at(1), "noise": blames_the_disturbance, "broken": fails()}


def campaign(root: Path) -> None:
    """Two faults of different kinds and strata, one of them disturbed; three cases without a root, one by name."""
    synthetic_case(root / "cases", "cpu-0", target="ray-replicas-0")
    memory = synthetic_case(root / "cases", "memory-1", kind="memory-stress", seen_on="ray-replicas-0", seed=1)
    (root_cause,) = memory.record.injections
    noise = root_cause.model_copy(update={"target": "ray-head", "role": "disturbance"})
    copied(memory, memory.record.model_copy(update={"injections": (root_cause, noise)}))
    for name in ("quiet-0", "quiet-1"):
        synthetic_case(root / "cases", name, kind=None, seed=len(name))
    surge = synthetic_case(root / "cases", "quiet-2", kind=None, seed=9)
    copied(surge, surge.record.model_copy(update={"scenario": "surge"}))
    write_scores(root / "cases", root / "scores", METHODS)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("campaign")
    campaign(root)
    return root


def page_of(root: Path) -> Page:
    return Page(write_report(root / "cases", root / "scores", root / "report", title="t").read_text())


@pytest.fixture(scope="module")
def page(written: Path) -> Page:
    return page_of(written)


def rows_of(page: Page, table: str) -> dict[str, dict[str, str]]:
    head, *rows = page.tables[table].rows
    return {row[0]: dict(zip(head, row, strict=False)) for row in rows}


def test_sets_are_those_of_the_methods_that_say(page: Page) -> None:
    rows = rows_of(page, "sets")
    assert rows.keys() == {"says"}
    assert rows["says"]["Set F1"].endswith("0.50")
    assert rows["says"]["Services F1"].endswith("1.00")
    assert rows["says"]["Kind accuracy"].endswith("0.50")
    assert "3 others rank and do not say" in page.words
    kinds = next(table for table in page.tables.values() if table.rows[0][0] == "True kind")
    assert [row[0] for row in kinds.rows[1:]] == ["cpu-stress", "memory-stress"]
    assert kinds.rows[2][2] == "cpu-stress 1"


def test_the_figure_has_a_dot_per_score(page: Page) -> None:
    described = [found["aria-label"] for tag, found in page.tags if tag == "svg" and found.get("class") == "dots"]
    assert any((each or "").startswith("Scores of sets, kinds and order") for each in described)
    assert "says: Set F1 0.50" in page.words


def test_negatives_count_alarms_of_those_alone(page: Page) -> None:
    rows = rows_of(page, "negatives")
    assert rows.keys() == {"says"}
    assert rows["says"]["Negatives judged"] == "3"
    assert rows["says"]["With a false root"].endswith("1: 33 %")
    assert rows["says"]["False roots"] == "1"
    assert "3 cases have no root cause" in page.words
    assert rows_of(page, "negatives/2")["says"]["With a false root"].endswith("0: 0 %"), "scenario surge"


def test_cases_have_class_and_stratum_with_reasons(page: Page) -> None:
    rows = rows_of(page, "cases")
    shown = {case: (row["Class"], row["Stratum"]) for case, row in rows.items() if case in ("cpu-0", "quiet-0")}
    assert shown == {"cpu-0": ("attributed", "I"), "quiet-0": ("negative", "–")}
    assert (rows["memory-1"]["Class"], rows["memory-1"]["Stratum"]) == ("contaminated", "III")
    titles = [cell.get("title") or "" for row in page.tables["cases"].attributes for cell in row]
    assert any(
        title.startswith("ray-replicas-1 ") and "σ" in title and " against ray-replicas-0 " in title for title in titles
    )
    assert any("memory-stress → ray-head (disturbance)" in title for title in titles)


def test_errors_of_the_first_place_are_split(page: Page) -> None:
    rows = rows_of(page, "misattribution/3")
    assert rows["noise"]["the disturbance"] == "50 %"
    assert rows["noise"]["the gateway"] == "50 %"
    assert rows["broken"]["nothing"] == "100 %"
    assert rows["says"]["a root"] == "100 %"


def test_strata_stand_beside_their_mean(page: Page) -> None:
    heads = [table.rows[0] for name, table in page.tables.items() if name.startswith("scores")]
    assert ["Method", "all (2)", "I (1)", "III (1)", "mean of strata (2)"] in heads
    rows = {row[1]: row[-1] for row in page.tables["scores"].rows}
    assert (rows["Method"], rows["ranks"], rows["noise"], rows["chance"]) == ("AC@1 macro", "1.00", "0.00", "")


def test_the_same_scores_give_the_same_page(page: Page, tmp_path: Path) -> None:
    campaign(tmp_path)
    assert page_of(tmp_path).words == page.words


def test_nobody_says(tmp_path: Path) -> None:
    synthetic_case(tmp_path / "cases", "one")
    synthetic_case(tmp_path / "cases", "quiet", kind=None)
    write_scores(tmp_path / "cases", tmp_path / "scores", {"ranks": truth_at(1)})
    page = page_of(tmp_path)
    assert "No method here says how many roots there are: they rank" in page.words
    assert "A ranking always has a first place" in page.words
    assert "negatives" not in page.tables
    assert "sets" not in page.tables


def test_scores_of_an_older_stage_have_none_of_it(tmp_path: Path) -> None:
    campaign(tmp_path)
    as_an_older_stage_wrote(tmp_path / "scores")
    page = page_of(tmp_path)
    assert page.count("section", id="sets") == page.count("section", id="negatives") == 0
    assert "Class" not in page.tables["cases"].rows[0]
    assert "Named first, share of the scored cases" not in page.words
    assert page.count("section", id="scores") == 1
