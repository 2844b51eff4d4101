"""A section of the report is one module that registers itself, also in another package."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from markupsafe import Markup

import tasks.report.sections as ours
from tasks.html.shell import figure
from tasks.report.data import ReportData
from tasks.report.page import write_report
from tasks.report.section import SECTIONS, Section, sections
from tests.report.html import Page
from tests.synthetic import synthetic_case

FIRST = ["scores", "metrics", "comparison", "misattribution"]


@pytest.fixture
def lengths() -> Iterator[None]:
    """A section between two of ours, which shows how long each case took."""

    def render(report: ReportData) -> Markup | None:
        if not report.cases:
            return None
        seconds = [(case.end - case.start).total_seconds() for case in report.cases]
        bars = {"type": "bar", "x": [case.case_id for case in report.cases], "y": seconds}
        return Markup("<p>{}</p>").format("how <long>") + figure([bars], {"height": 200})

    SECTIONS.register("of-a-test", Section("of-a-test", "Lengths", "How long?", 55, render, __name__), __name__)
    yield
    del SECTIONS.registered["of-a-test"]


def test_every_section_is_registered_by_its_module_and_has_a_place_of_its_own() -> None:
    found = sections()
    modules = {module.name for module in pkgutil.iter_modules(ours.__path__)}
    assert {each.name for each in found} == modules
    assert [each.name for each in found if each.name in FIRST] == FIRST
    assert len({each.order for each in found}) == len(found)
    assert {"comparison", "misattribution", "cases", "details"} <= {each.name for each in found if each.script}


@pytest.mark.usefixtures("lengths")
def test_a_new_section_is_on_the_page_and_in_the_navigation(tmp_path: Path) -> None:
    synthetic_case(tmp_path / "cases", "one")
    report = write_report(tmp_path / "cases", tmp_path / "scores", tmp_path / "report", title="t").read_text()
    page = Page(report)
    assert page.count("section", id="of-a-test") == page.count("a", href="#of-a-test") == 1
    assert report.index('id="scores"') < report.index('id="of-a-test"') < report.index('id="cases"')
    assert "how <long>" in page.words
    section = report.split('id="of-a-test"')[1].split("</section>")[0]
    assert section.count("data-figure") == 1


@pytest.mark.usefixtures("lengths")
def test_a_section_that_does_not_apply_is_left_out(tmp_path: Path) -> None:
    page = Page(write_report(tmp_path / "cases", tmp_path / "scores", tmp_path / "report", title="t").read_text())
    assert page.count("section", id="of-a-test") == page.count("a", href="#of-a-test") == 0
    assert page.count("script", id="plotting-library") == 0
