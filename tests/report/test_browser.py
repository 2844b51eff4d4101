"""The script of the page, run by a real browser where one is installed."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tasks.report.page import write_report
from tests.report.html import Page
from tests.report.scores import fails, truth_at, write_scores
from tests.synthetic import synthetic_case

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = (
    *(
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
    ),
    *(
        "--disable-component-update",
        "--disable-sync",
        "--virtual-time-budget=20000",
        "--window-size=1400,4000",
        "--dump-dom",
    ),
)


def dom_of(page: Path, fragment: str, profile: Path) -> str:
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}", f"{page.as_uri()}{fragment}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=110, check=True).stdout


needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
PROBE = """
const results = {};
const column = (table, i) => [...table.tBodies[0].rows].map((row) => row.cells[i].textContent.trim());
const change = (id, text) => {
  const select = document.getElementById(id);
  select.value = [...select.options].find((option) => option.text === text).value;
  select.dispatchEvent(new Event("change"));
};

const scores = document.querySelector("#scores table.scores");
const head = (text) => [...scores.tHead.querySelectorAll("th")].find((th) => th.textContent === text);
results.before = column(scores, 1);
head("Avg@5").click();
results.worstFirst = column(scores, 1);
head("Peak MiB").click();
results.chanceLast = column(scores, 1).at(-1);
head("Method").dispatchEvent(new KeyboardEvent("keydown", { key: "Enter" }));
results.byName = column(scores, 1);

results.shownTables = [...document.querySelectorAll("#scores .choices")].map(
  (box) => [...box.children].filter((part) => part.matches(".choice") && !part.hidden).length);

const pairs = document.querySelector("table.pairs");
pairs.closest("details").open = true;
const cell = pairs.tBodies[0].rows[0].cells[2];
cell.focus();
cell.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight", bubbles: true }));
results.reading = [document.activeElement.title, pairs.closest("details").querySelector(".reading").textContent];

change("blame-method", "broken");
change("blame-fault", "memory-stress");
results.caption = document.querySelector("#blame-matrix figcaption").textContent;
results.blamed = [...document.querySelectorAll("#blame-matrix td")].map((td) => td.textContent).join("");
results.nameless = document.getElementById("blame-nameless").textContent;
change("blame-method", "all methods");
results.bars = column(document.getElementById("blamed"), 2);

const filter = document.getElementById("case-filter");
filter.value = "memory";
filter.dispatchEvent(new Event("input"));
results.kept = [...document.querySelectorAll("table.ranks tbody tr")].filter((row) => !row.hidden).length;
results.overflows = document.documentElement.scrollWidth > innerWidth;
document.body.dataset.results = JSON.stringify(results);
"""


@needs_chromium
def test_tables_sort_selectors_select_and_arrow_keys_move(tmp_path: Path) -> None:
    synthetic_case(tmp_path / "cases", "one")
    synthetic_case(tmp_path / "cases", "two", kind="memory-stress", target="ray-head")
    methods = {"broken": fails(), "good": truth_at(1), "fair": truth_at(3)}
    write_scores(tmp_path / "cases", tmp_path / "scores", methods)
    page = write_report(tmp_path / "cases", tmp_path / "scores", tmp_path / "report", title="t")
    page.write_text(page.read_text().replace("</body>", f"<script>{PROBE}</script></body>"))
    dom = Page(dom_of(page, "", tmp_path / "profile"))
    (body,) = [attributes for tag, attributes in dom.tags if tag == "body"]
    found = json.loads(body["data-results"] or "")
    assert found["before"] == ["good", "role prior", "fair", "chance", "chance per column", "broken"]
    assert found["worstFirst"] == ["broken", "fair", "chance", "chance per column", "role prior", "good"]
    assert found["chanceLast"] == "chance"
    assert found["byName"] == ["broken", "chance", "chance per column", "fair", "good", "role prior"]
    assert found["shownTables"] == [1, 1]
    assert found["reading"][0] == found["reading"][1]
    assert found["reading"][0].startswith("good − broken: +1.00; 2 won, 0 tied, 0 lost")
    assert (found["caption"], found["blamed"], found["nameless"]) == ("broken, memory-stress", "1", "1")
    assert found["bars"] == ["50 %", "50 %", "0 %"]
    assert found["kept"] == 1
    assert not found["overflows"]


@needs_chromium
def test_opening_a_case_draws_its_figure(tmp_path: Path) -> None:
    synthetic_case(tmp_path / "cases", "one")
    synthetic_case(tmp_path / "cases", "two", kind=None)
    write_scores(tmp_path / "cases", tmp_path / "scores", {"good": truth_at(1)})
    page = write_report(tmp_path / "cases", tmp_path / "scores", tmp_path / "report", title="t")
    dom = dom_of(page, "#one", tmp_path / "profile")
    assert dom.count('data-drawn="done"') == 1
    assert "ray-replicas-1 (target)" in dom
    assert "Front-end latency per request" in dom
    assert dom.count("needs JavaScript") == 1  # the case that was not opened
    assert 'data-sortable=""' in dom
