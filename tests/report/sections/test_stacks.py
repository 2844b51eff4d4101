from __future__ import annotations

from pathlib import Path

import pandas as pd

from tasks.report.data import CaseSummary, report_data, summarise_case
from tasks.report.page import write_report
from tasks.report.sections.stacks import compared
from tests.copies import copied
from tests.synthetic import synthetic_case


def on_stack(cases_dir: Path, number: int, index: int | None, late_s: float = 0.0) -> CaseSummary:
    """A case on a stack whose answers come ``late_s`` later than usual."""
    case = synthetic_case(cases_dir, f"case-{number:04d}", seed=number)
    services = tuple(each.model_copy(update={"node": f"node-{index}"}) for each in case.record.stack.services)
    stack = case.record.stack.model_copy(update={"index": index, "services": services})
    requests = case.requests.assign(last_token=case.requests["last_token"] + pd.Timedelta(seconds=late_s))
    slower = copied(case, case.record.model_copy(update={"stack": stack}), {"requests": requests})
    return summarise_case(slower, None)


def test_a_slow_stack_shows(tmp_path: Path) -> None:
    cases = [on_stack(tmp_path, number, number % 2, late_s=2.0 * (number % 2)) for number in range(4)]
    fast, slow = compared(cases)
    assert (fast.index, fast.nodes, fast.cases, fast.slower) == (0, ("node-0",), 2, 1.0)
    assert (slow.index, slow.nodes, slow.cases) == (1, ("node-1",), 2)
    assert fast.p50 is not None
    assert slow.p50 is not None
    assert 1.8 < slow.p50 - fast.p50 < 2.2
    assert slow.slower == slow.p50 / fast.p50


def test_one_stack_is_compared_with_nothing(tmp_path: Path) -> None:
    assert compared([on_stack(tmp_path, number, 0) for number in range(2)]) == ()
    assert compared([on_stack(tmp_path, number, None) for number in range(2, 4)]) == ()


def test_the_section_is_there_when_there_were_several(tmp_path: Path) -> None:
    for number in range(2):
        on_stack(tmp_path / "cases", number, number)
    page = write_report(tmp_path / "cases", tmp_path / "scores", tmp_path / "report", title="two", params=None)
    assert "Stacks side by side" in page.read_text(encoding="utf-8")
    assert [case.stack for case in report_data(tmp_path / "cases", tmp_path / "scores", title="two").cases] == [0, 1]
