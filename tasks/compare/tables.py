"""Renders a comparison as terminal tables and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.markup import escape
from rich.table import Table

from tasks.compare.compare import (
    ABSENT,
    GROUPS,
    Comparison,
    EffectChange,
    LatencyChange,
    ScoreChange,
    SetChange,
    ValueChange,
)
from tasks.compare.recovery import RecoveryChange
from tasks.compare.regression import Verdict, line
from tasks.compare.side import FALSE_ALARMS, SAID_SCORES, Estimate, Side
from tasks.compare.statistics import Difference, Dominance
from tasks.console import table_console
from tasks.html.formatting import difference as signed
from tasks.html.formatting import quantity, score
from tasks.score.accuracy import COMPARED_SCORES, SCORE_LABELS
from tasks.text import short_p

NO_CHANGE = "nothing changed"


@dataclass(frozen=True)
class Block:
    """A table: ``marks`` has one entry per row, ``worse``, ``better`` or empty."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    marks: tuple[str, ...]
    note: str = ""


def blocks(comparison: Comparison) -> Iterator[Block]:
    """Yield every table, in reading order."""
    yield _scores(comparison)
    yield _latency(comparison)
    if comparison.sets:
        yield _sets(comparison.sets)
    if comparison.recovery:
        yield _recovery(comparison.recovery)
    yield _effects(comparison.effects)
    yield _values("Failures of methods", "method", comparison.failures)
    yield _values("Versions", "what", comparison.versions)
    yield _values("Parameters", "key", comparison.parameters)


def heading(side: Side) -> str:
    return f"{side.label}: {len(side.cases)} cases, {side.scored} scored; {side.stack}"


def pairing(comparison: Comparison) -> str:
    """Return a note on the cases that the differences are taken over."""
    common = [case for case in comparison.a.cases if case in set(comparison.b.cases)]
    share = f"{len(common)} cases are in both"
    changes = [change.difference for change in comparison.scores if change.difference]
    if any(change.paired for change in changes):
        return f"{share}: differences are paired by case"
    return f"{share}: differences are of two separate samples"


def _scores(comparison: Comparison) -> Block:
    methods = list(dict.fromkeys(change.method for change in comparison.scores))
    shown = COMPARED_SCORES[:2]
    rows, marks = [], []
    for method in methods:
        changes = [comparison.score(method, name) for name in shown]
        rows.append((method, *(cell for change in changes for cell in _score_cells(change))))
        marks.append(_mark(changes[0].difference if changes[0] else None, more_is_worse=False))
    columns = ("method", *(f"{SCORE_LABELS[name]}{what}" for name in shown for what in (" A", " B", " B − A", " p")))
    return Block("Scores", columns, tuple(rows), tuple(marks), pairing(comparison))


def _sets(changes: Sequence[SetChange]) -> Block:
    rows = []
    for change in changes:
        f1, kinds, alarms = (
            tuple(_estimate(side.get(score)) for side in (change.a, change.b)) for score in (*SAID_SCORES, FALSE_ALARMS)
        )
        rows.append((change.method, *f1, *_difference(change.difference), *kinds, *alarms))
    sides = ("A", "B")
    columns = (
        *("method", *(f"set F1 {side}" for side in sides), "set F1 B − A", "p"),
        *(f"{what} {side}" for what in ("kind accuracy", "false alarms") for side in sides),
    )
    marks = tuple(_mark(change.difference, more_is_worse=False) for change in changes)
    note = "only methods that say how many roots there are; false alarms: share of the negatives with a root named"
    return Block("Sets, kinds and false alarms", columns, tuple(rows), marks, note)


def _score_cells(change: ScoreChange | None) -> tuple[str, str, str, str]:
    if change is None:
        return ABSENT, ABSENT, ABSENT, ABSENT
    return (_estimate(change.a), _estimate(change.b), *_difference(change.difference))


def _estimate(estimate: Estimate | None) -> str:
    if estimate is None:
        return ABSENT
    if estimate.low is None or estimate.high is None:
        return score(estimate.value)
    return f"{score(estimate.value)} [{estimate.low:.2f}, {estimate.high:.2f}]"


def _difference(change: Difference | None) -> tuple[str, str]:
    if change is None:
        return ABSENT, ABSENT
    interval = "" if change.low is None or change.high is None else f" [{signed(change.low)}, {signed(change.high)}]"
    return f"{signed(change.value)}{interval}", _p(change)


def _p(change: Difference) -> str:
    """Return the p value; a dash for a single case."""
    return ABSENT if change.p is None or change.cases_a < 2 else short_p(change.p)


def _mark(change: Difference | None, *, more_is_worse: bool) -> str:
    """Return ``worse`` or ``better``; empty where the interval contains zero."""
    if change is None or change.low is None or change.high is None or change.low <= 0 <= change.high:
        return ""
    return "worse" if (change.value > 0) == more_is_worse else "better"


def _latency(comparison: Comparison) -> Block:
    deltas = {(change.figure, change.group): change.delta for change in comparison.dominance}
    rows: list[tuple[str, ...]] = []
    marks = []
    for group in GROUPS:
        for change in (each for each in comparison.latency if each.group == group):
            delta = deltas.get((change.figure.split()[0], group)) if change.figure.endswith("p50") else None
            values = quantity(change.a, "s"), quantity(change.b, "s"), _ratio(change), _p(change.logarithms)
            rows.append((group, change.figure, *values, _delta(delta) if delta else ""))
            marks.append(_mark(change.logarithms, more_is_worse=True))
        for share in (each for each in comparison.failed_requests if each.group == group):
            rows.append((group, "failed", f"{share.a:.1%}", f"{share.b:.1%}", *_difference(share.difference), ""))
            marks.append(_mark(share.difference, more_is_worse=True))
    columns = ("requests", "figure", "A", "B", "B / A", "p", "Cliff's delta")
    note = "healthy: while no fault was on; fault-free: of fault-free cases only; delta above 0: B is slower"
    return Block("The stack's own latency", columns, tuple(rows), tuple(marks), note)


def _recovery(changes: Sequence[RecoveryChange]) -> Block:
    rows = []
    for change in changes:
        sides = (change.a, change.b)
        rows.append(
            (
                change.policy,
                *(ABSENT if side is None else _number(side.mean_bad_request_s, ".1f") for side in sides),
                _times(*change.ratio) if change.ratio else ABSENT,
                _p(change.logarithms) if change.logarithms else ABSENT,
                *(ABSENT if side is None else _number(side.mttm_s, ".0f") for side in sides),
                _seconds(change.time_s),
                *(ABSENT if side is None else f"{side.wrong} of {side.actions}" for side in sides),
                *(ABSENT if side is None else f"{side.acted} of {side.calm}" for side in sides),
            )
        )
    columns = (
        *("policy", "bad request-s A", "bad request-s B", "B / A", "p", "MTTM A (s)", "MTTM B (s)", "B − A (s)"),
        *("wrong actions A", "wrong actions B", "acted without a fault A", "acted without a fault B"),
    )
    marks = tuple(_mark(change.logarithms, more_is_worse=True) for change in changes)
    note = "faults that set off the alarm where nobody acts; MTTM: until as late as both can see it"
    return Block("Recovery", columns, tuple(rows), marks, note)


def _number(value: float | None, form: str) -> str:
    return ABSENT if value is None else format(value, form)


def _seconds(change: Difference | None) -> str:
    if change is None:
        return ABSENT
    interval = "" if change.low is None or change.high is None else f" [{change.low:+.0f}, {change.high:+.0f}]"
    return f"{change.value:+.0f}{interval}".replace("-", "−")


def _ratio(change: LatencyChange) -> str:
    return _times(*change.ratio)


def _times(ratio: float, low: float | None, high: float | None) -> str:
    return f"× {ratio:.2f}" if low is None or high is None else f"× {ratio:.2f} [{low:.2f}, {high:.2f}]"


def _delta(delta: Dominance) -> str:
    interval = "" if delta.low is None or delta.high is None else f" [{signed(delta.low)}, {signed(delta.high)}]"
    return f"{signed(delta.value)}{interval} {delta.size}"


def _effects(changes: Sequence[EffectChange]) -> Block:
    rows = [
        (
            change.fault,
            f"{change.probe}" + (f" ({change.unit})" if change.unit else ""),
            _levels(change.a, change.unit),
            _levels(change.b, change.unit),
            change.effective_a,
            change.effective_b,
            _effect_difference(change),
        )
        for change in changes
    ]
    columns = ("fault", "probe", "A before → during", "B before → during", "effective A", "effective B", "effect B − A")
    return Block("Effects of the faults", columns, tuple(rows), ("",) * len(rows))


def _levels(levels: tuple[float, float] | None, unit: str) -> str:
    return ABSENT if levels is None else " → ".join(quantity(value, unit) for value in levels)


def _effect_difference(change: EffectChange) -> str:
    if change.difference is None:
        return ABSENT
    values = (change.difference.value, change.difference.low, change.difference.high)
    value, low, high = (None if each is None else quantity(each, change.unit) for each in values)
    return f"{value}" if low is None or high is None else f"{value} [{low}, {high}]"


def _values(title: str, name: str, changes: Sequence[ValueChange]) -> Block:
    rows = tuple((change.name, change.a, change.b) for change in changes)
    return Block(title, (name, "A", "B"), rows, ("",) * len(rows))


def verdict_lines(verdict: Verdict) -> list[str]:
    """Return one line per regression, then the checks with too few cases."""
    lines = [f"REGRESSION {line(check)}" for check in verdict.regressions]
    if verdict.blind:
        names = ", ".join(check.what for check in verdict.blind)
        lines.append(f"too few cases to show a regression, however bad: {names}")
    if not verdict.regressions:
        lines.insert(0, f"no regression against {verdict.previous} in {len(verdict.checks)} figures")
    return lines


def show(comparison: Comparison, verdict: Verdict | None) -> None:
    """Print everything; what has not changed is one line."""
    console = table_console()
    console.print(f"A  {heading(comparison.a)}", markup=False, soft_wrap=True)
    console.print(f"B  {heading(comparison.b)}", markup=False, soft_wrap=True)
    for block in blocks(comparison):
        if not block.rows:
            console.print(f"{block.title}: {NO_CHANGE}", markup=False)
            continue
        console.print(_rich(block))
    for text in verdict_lines(verdict) if verdict else ():
        console.print(text, markup=False, soft_wrap=True)


def _rich(block: Block) -> Table:
    caption = escape(block.note) or None
    table = Table(title=escape(block.title), title_justify="left", caption=caption, caption_justify="left")
    for column in block.columns:
        table.add_column(escape(column))
    styles = {"worse": "red", "better": "green"}
    for row, mark in zip(block.rows, block.marks, strict=True):
        table.add_row(*map(escape, row), style=styles.get(mark))
    return table


def document(comparison: Comparison, verdict: Verdict | None) -> dict[str, Any]:
    """Return everything as plain values; ``regressions`` only where the gate was asked for."""
    return {
        "a": _side(comparison.a),
        "b": _side(comparison.b),
        "confidence": comparison.resampling.confidence,
        "scores": [asdict(change) for change in comparison.scores],
        "sets": [asdict(change) for change in comparison.sets],
        "latency": [{**asdict(change), "ratio": change.ratio} for change in comparison.latency],
        "cliffs_delta": [asdict(change) for change in comparison.dominance],
        "failed_requests": [asdict(change) for change in comparison.failed_requests],
        "effects": [asdict(change) for change in comparison.effects],
        "recovery": [_recovery_document(change) for change in comparison.recovery],
        "failures": [asdict(change) for change in comparison.failures],
        "versions": [asdict(change) for change in comparison.versions],
        "parameters": [asdict(change) for change in comparison.parameters],
    } | ({} if verdict is None else {"gate": _gate(verdict)})


def _recovery_document(change: RecoveryChange) -> dict[str, Any]:
    sides = {
        name: None
        if side is None
        else {
            "cases": len(side.bad_request_s),
            "bad_request_s": side.mean_bad_request_s,
            "mttm_s": side.mttm_s,
            "actions": side.actions,
            "wrong": side.wrong,
            "calm": side.calm,
            "acted": side.acted,
        }
        for name, side in (("a", change.a), ("b", change.b))
    }
    changes = {"logarithms": change.logarithms, "time_s": change.time_s}
    found = {name: asdict(each) if each else None for name, each in changes.items()}
    return {"policy": change.policy, **sides, "ratio": change.ratio, **found}


def _side(side: Side) -> dict[str, Any]:
    return {
        "label": side.label,
        "commit": side.commit,
        "campaign": side.campaign,
        "stack": side.stack,
        "cases": len(side.cases),
        "scored": side.scored,
    }


def _gate(verdict: Verdict) -> dict[str, Any]:
    return {
        "previous": verdict.previous,
        "regressed": bool(verdict.regressions),
        "regressions": [line(check) for check in verdict.regressions],
        "blind": [check.what for check in verdict.blind],
        "checks": [asdict(check) for check in verdict.checks],
    }
