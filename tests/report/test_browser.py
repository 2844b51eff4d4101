"""The script of the page, run by a real browser where one is installed."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tasks.report.page import write_report
from tests.report.scores import truth_at, write_scores
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


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
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
