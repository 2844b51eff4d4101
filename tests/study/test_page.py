from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from tasks.cli import app
from tasks.study.data import StudyData
from tasks.study.drawing import case_svg
from tasks.study.page import PageError, write_page


def test_the_page_has_the_words_the_tables_and_the_figures(data: StudyData, root: Path) -> None:
    page = write_page(data)
    text = page.read_text()
    assert page == root / "out" / "page.md"
    assert text.startswith("<!-- made by `rcarena study` from page.md.j2")
    assert "5 cases; `nsigma`: .80 [.38, .96] (4 of 5)." in text
    links = re.findall(r"!\[.*?\]\((.*?)\)", text)
    assert links == ["img/unseen-1.svg", "img/unseen-2.svg"]
    before = [page.read_bytes(), *((page.parent / link).read_bytes() for link in links)]
    write_page(data)
    assert before == [page.read_bytes(), *((page.parent / link).read_bytes() for link in links)]
    assert len(list((root / "out" / "img").iterdir())) == 2


@pytest.mark.parametrize("wrong", ["{{ t.nothing() }}", "{{ t.kinds( }}", "{{ t.ac1() }}"])
def test_a_wrong_template_is_named(data: StudyData, root: Path, wrong: str) -> None:
    template = root / "page.md.j2"
    before = template.read_text()
    template.write_text(wrong)
    try:
        with pytest.raises(PageError, match=r"page\.md\.j2"):
            write_page(data)
    finally:
        template.write_text(before)


def test_a_drawing_is_small_and_shows_the_root_and_who_was_blamed(data: StudyData) -> None:
    case = next(case for case in data.cases if case.case_id == "a-single" and case.split == "unseen")
    svg = case_svg(case, ["nginx-proxy"])
    assert svg is not None
    drawn = ElementTree.fromstring(svg)
    colours = [path.get("stroke") for path in drawn.iter("{http://www.w3.org/2000/svg}path")]
    assert colours.count("#c2410c") == 6
    assert "#1d4ed8" in colours
    assert "cpu-stress on ray-replicas-0" in "".join(drawn.itertext())
    assert len(svg) < 20_000
    assert case_svg(case, ["nginx-proxy"]) == svg


def test_the_command_makes_the_page_of_kept_scores(root: Path) -> None:
    (root / "out" / "page.md").unlink(missing_ok=True)
    command = ["study", str(root / "study.yaml"), "--workspace", str(root / "place"), "--as-is"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert (root / "out" / "page.md").read_text().count("`nsigma`") > 1
