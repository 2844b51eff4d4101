"""What the details of a case show of the findings of methods."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tasks.case import CaseRecord
from tasks.rca.method import Coverage, Evidence, Finding
from tasks.rca.run.pair import PairResult
from tasks.report.page import write_report
from tasks.report.sections.details import EVIDENCE_SHOWN, FINDINGS_SHOWN
from tests.report.html import Page
from tests.report.scores import ranked, truth_at, write_scores
from tests.synthetic import synthetic_case

SENTENCE = "A step takes <5> times as long as the siblings'"
EVIDENCE = Evidence("step_time", SENTENCE, "s", 0.02, 0.1, 0.021)


def finds(*findings: Finding) -> PairResult:
    return replace(ranked(["ray-head", "ray-replicas-1"]), findings=findings)


def explains(record: CaseRecord) -> PairResult:
    if not record.injections:
        return finds()
    many = (EVIDENCE, replace(EVIDENCE, signal="bare", before=None, during=None, siblings=None, unit="")) * 5
    found = finds(Finding("ray-replicas-1", "cpu-stress", 1e-6, "root", 2.5, many), Finding("ray-head", "unknown", 0.5))
    return replace(found, coverage=Coverage(("CPU",), ("GPU <clocks>", "spans")))


def names_many(record: CaseRecord) -> PairResult:
    return finds(*(Finding("ray-head", f"kind {i}", 0.03) for i in range(FINDINGS_SHOWN + 2)))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Page]:
    root = tmp_path_factory.mktemp("campaign")
    synthetic_case(root / "cases", "faulty", kind="cpu-stress", target="ray-replicas-1")
    synthetic_case(root / "cases", "quiet", kind=None)
    write_scores(root / "cases", root / "scores", {"best": truth_at(1), "names_many": names_many, "explains": explains})
    html = write_report(root / "cases", root / "scores", root / "report", title="t").read_text()
    return html, Page(html)


def words(page: Page) -> str:
    return " ".join("".join(page.text).split())


def test_the_answer_with_evidence_is_open_and_comes_first(page: tuple[str, Page]) -> None:
    html, read = page
    assert html.index("explains</b> finds") < html.index("names_many</b> finds")
    assert "✓ ray-replicas-1: cpu-stress; p < 0.0001, since +2.5 s" in words(read)
    assert "✕ ray-head: unknown; p = 0.5 (not at fault)" in words(read)
    assert "◐ explains finds cpu-stress on ray-replicas-1, unknown on ray-head" in words(read)
    assert "best finds" not in words(read), "it does not say how many there are"


def test_evidence_is_a_table_of_so_many_rows(page: tuple[str, Page]) -> None:
    html, read = page
    (table,) = [table for table in read.tables.values() if table.rows[0][0] == "Evidence"]
    assert table.rows[0] == ["Evidence", "Before", "During", "Siblings", "Signal"]
    assert table.rows[1] == [SENTENCE, "20 ms", "100 ms", "21 ms", "step_time"]
    assert table.rows[2] == [SENTENCE, "–", "–", "–", "bare"]
    assert len(table.rows) == 1 + EVIDENCE_SHOWN
    assert "evidence.parquet" in words(read)
    assert "<5>" not in html


def test_missing_evidence_is_said(page: tuple[str, Page]) -> None:
    html, read = page
    assert words(read).count("not seen: GPU <clocks>, spans") == 1
    assert "GPU <clocks>" not in html


def test_no_fault_is_said(page: tuple[str, Page]) -> None:
    _, read = page
    assert words(read).count("explains says: no fault") == 1
    assert "✓ explains says: no fault" in words(read)


def test_other_answers_are_folded_and_counted(page: tuple[str, Page]) -> None:
    _, read = page
    assert read.count("details", **{"class": "answer"}) == 2
    assert (
        "✕ names_many finds kind 0 on ray-head, kind 1 on ray-head, kind 2 on ray-head, kind 3 on ray-head and 2 more"
        in words(read)
    )
    assert "not named: cpu-stress on ray-replicas-1" in words(read)


def test_without_findings_there_is_nothing(tmp_path: Path) -> None:
    synthetic_case(tmp_path / "cases", "faulty")
    write_scores(tmp_path / "cases", tmp_path / "scores", {"best": truth_at(1)})
    html = write_report(tmp_path / "cases", tmp_path / "scores", tmp_path / "report", title="t").read_text()
    assert 'class="answers"' not in html
