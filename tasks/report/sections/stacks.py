"""What the stacks of a campaign do without a fault: a slow node shows here, before it is taken for an effect."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

from markupsafe import Markup

from tasks.report.data import CaseSummary, ReportData
from tasks.report.section import rendered, section


@section(link="Stacks", title="Stacks side by side", order=65)
def render(report: ReportData) -> Markup | None:
    found = compared(report.cases)
    return rendered("stacks.html.j2", report, stacks=found) if found else None


@dataclass(frozen=True)
class StackBaseline:
    """The front end of one stack before the faults.

    ``p50`` and ``p95`` are medians (s) over the baselines of its ``cases``; ``slower`` is its p50 over that of the
    fastest stack; None where nothing was answered.
    """

    index: int
    nodes: tuple[str, ...]
    cases: int
    answered: int
    failed: int
    p50: float | None
    p95: float | None
    slower: float | None = None


def compared(cases: Iterable[CaseSummary]) -> tuple[StackBaseline, ...]:
    """Return the stacks in their order; empty when the cases are of one stack, or do not say."""
    by_stack: dict[int, list[CaseSummary]] = {}
    for case in cases:
        if case.stack is not None:
            by_stack.setdefault(case.stack, []).append(case)
    if len(by_stack) < 2:
        return ()
    figures = {index: _figures(of_stack) for index, of_stack in by_stack.items()}
    fastest = min((p50 for _, _, p50, _ in figures.values() if p50 is not None), default=None)
    return tuple(
        StackBaseline(
            index=index,
            nodes=tuple(sorted({node for case in by_stack[index] for node in case.nodes})),
            cases=len(by_stack[index]),
            answered=answered,
            failed=failed,
            p50=p50,
            p95=p95,
            slower=p50 / fastest if p50 is not None and fastest else None,
        )
        for index, (answered, failed, p50, p95) in sorted(figures.items())
    )


def _figures(cases: list[CaseSummary]) -> tuple[int, int, float | None, float | None]:
    """Return answered and failed requests of the baselines, and the medians of their p50 and p95."""
    baselines = [
        case.requests.phases["baseline"] for case in cases if case.requests and "baseline" in case.requests.phases
    ]
    medians = [
        median(values) if (values := [value for value in quantiles if value is not None]) else None
        for quantiles in ([each.p50 for each in baselines], [each.p95 for each in baselines])
    ]
    return sum(each.answered for each in baselines), sum(each.failed for each in baselines), medians[0], medians[1]
