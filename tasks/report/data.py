"""Derives the report's content from finished cases and their scores, without HTML."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
from pydantic import ValidationError

from tasks.case import NOT_DECLARED, Case, CaseError, CaseRecord, is_finished, read_case
from tasks.injection import FAULT_FREE, Injection, phrase
from tasks.params import LoadParams, Params
from tasks.report.answers import Answer, answers
from tasks.report.case_metrics import MAX_LINES, CaseSignals, case_signals
from tasks.report.fleet_map import FLEET_SERVICES
from tasks.report.latency import LatencyScatter, RequestSummary, latency_scatter, summarise_requests
from tasks.report.scoreboard import MethodResult, Scoreboard, read_scoreboard
from tasks.report.standings import FirstNamed, Standing, first_named, standings
from tasks.score.accuracy import LEADING_SCORE, SCORE_LABELS

log = logging.getLogger(__name__)

BASELINE_FAILURES = 0.01
BEST_NAMED = 3

Verdict = Literal["effective", "partly effective", "ineffective", "fault-free", "labelled"]


@dataclass(frozen=True)
class CaseSummary:
    """One row of the case table and the text of its detail section."""

    case_id: str
    fault: str
    targets: tuple[str, ...]
    verdict: Verdict
    injections: tuple[Injection, ...]
    front_end: str
    injection_time: datetime
    start: datetime
    end: datetime
    requests: RequestSummary | None
    scatter: LatencyScatter | None
    scenario: str | None
    load: str
    load_verdict: str
    send_lag_p99_ms: float | None
    gaps: tuple[str, ...]
    signals: CaseSignals | None
    results: tuple[MethodResult, ...]
    answers: tuple[Answer, ...]
    services: tuple[str, ...]
    seed: int
    stack: int | None
    nodes: tuple[str, ...]
    incident: bool = False

    @property
    def title(self) -> str:
        return phrase(self.fault, ", ".join(self.targets)) if self.targets else "no fault"

    def seconds(self, moment: datetime) -> float:
        """Seconds from the injection time to ``moment``."""
        return (moment - self.injection_time).total_seconds()

    def result(self, method: str) -> MethodResult | None:
        return next((result for result in self.results if result.method == method), None)

    @property
    def scored(self) -> bool:
        return bool(self.results) and not self.results[0].excluded

    @property
    def standings(self) -> tuple[Standing, ...]:
        return standings(self.results)

    @property
    def first_named(self) -> tuple[FirstNamed, ...]:
        return first_named(self.results)

    @property
    def named_first(self) -> int:
        """Number of methods that ranked a true service first."""
        return sum(1 in result.truth_ranks for result in self.results)


@dataclass(frozen=True)
class Notice:
    """A remark shown before the scores, with links to ``cases``."""

    text: str
    cases: tuple[str, ...] = ()


@dataclass(frozen=True)
class Fact:
    """A labelled line of the header or the footer."""

    label: str
    value: str


@dataclass(frozen=True)
class ReportData:
    """Content of the report. ``roles``: by service; ``level``: significance level, None if unknown; ``simulated``: some
    case is computed and was never run."""

    title: str
    campaigns: tuple[str, ...]
    facts: tuple[Fact, ...]
    verdicts: Mapping[str, int]
    notices: tuple[Notice, ...]
    scoreboard: Scoreboard | None
    cases: tuple[CaseSummary, ...]
    best: tuple[Fact, ...]
    provenance: tuple[Fact, ...]
    parameters: str
    interval: str
    roles: Mapping[str, str]
    level: float | None
    simulated: bool = False


def report_data(cases_dir: Path, scores_dir: Path, *, title: str, params: Params | None = None) -> ReportData:
    """Return the report's content; cases by fault, then target. An unreadable case becomes a notice, not an error.

    ``params``: the resolved parameters of the campaign, if known.

    Raises:
        ScoreError: a file of ``scores_dir`` exists but is not what the score stage writes.
    """
    scoreboard = read_scoreboard(scores_dir)
    include_ineffective = params is not None and params.score.include_ineffective
    summaries: list[CaseSummary] = []
    records: list[CaseRecord] = []
    unreadable: list[str] = []
    unfinished: list[str] = []
    for path in sorted(cases_dir.iterdir()) if cases_dir.is_dir() else []:
        if not path.is_dir():
            continue
        if not is_finished(path):
            unfinished.append(path.name)
            continue
        try:
            case = read_case(path)
            summaries.append(summarise_case(case, scoreboard, include_ineffective=include_ineffective))
            records.append(case.record)
        except (CaseError, OSError, pa.ArrowException) as error:
            log.warning("%s cannot be read: %s", path.name, error)
            unreadable.append(f"{path.name}: cannot be read and is left out: {str(error).splitlines()[0]}")
    summaries.sort(key=lambda summary: (summary.verdict == FAULT_FREE, summary.fault, summary.targets, summary.case_id))
    return ReportData(
        title=title,
        campaigns=tuple(sorted({record.campaign for record in records})),
        facts=_facts(records, summaries),
        verdicts=Counter(summary.verdict for summary in summaries),
        notices=(*_case_notices(summaries, unfinished, unreadable), *_score_notices(summaries, scoreboard)),
        scoreboard=scoreboard,
        cases=tuple(summaries),
        best=tuple(_best(scoreboard)),
        provenance=_provenance(records, params),
        parameters=params.dump() if params else "",
        interval=f"{params.score.confidence:.0%} interval".replace("%", " %") if params else "interval",
        roles={service.name: service.role for record in records for service in record.stack.services},
        level=1 - params.score.confidence if params else None,
        simulated=any(record.stack.simulated for record in records),
    )


def _case_notices(summaries: list[CaseSummary], unfinished: list[str], unreadable: list[str]) -> Iterable[Notice]:
    if not summaries:
        yield Notice("No finished case: nothing to show yet.")
    yield from (Notice(text) for text in unreadable)
    if unfinished:
        yield Notice(
            f"Unfinished and left out: {len(unfinished)} ({', '.join(unfinished[:5])}{', …' * (len(unfinished) > 5)})."
        )
    for summary in summaries:
        for injection in summary.injections:
            if injection.verdict == "ineffective":
                text = f"Ineffective injection: {injection.phrase}: {injection.reason}"
                yield Notice(text, (summary.case_id,))
    if incidents := tuple(summary.case_id for summary in summaries if summary.incident):
        yield Notice("Incidents among the cases: people labelled them, no probe confirmed it.", incidents)
    late = tuple(summary.case_id for summary in summaries if summary.load_verdict == "fell-behind")
    if late:
        yield Notice("The load generator fell behind its schedule: latencies include its own delay.", late)
    failing = tuple(summary.case_id for summary in summaries if _fails_before_fault(summary))
    if failing:
        yield Notice(f"More than {BASELINE_FAILURES:.0%} of the requests failed before the fault.", failing)
    missing: dict[str, list[str]] = {}
    for summary in summaries:
        for gap in summary.gaps:
            missing.setdefault(gap, []).append(summary.case_id)
    yield from (Notice(gap, tuple(cases)) for gap, cases in missing.items())


def _fails_before_fault(summary: CaseSummary) -> bool:
    before = summary.requests.phases.get("baseline") if summary.requests else None
    return before is not None and before.failed > BASELINE_FAILURES * (before.failed + before.answered)


def _score_notices(summaries: list[CaseSummary], scoreboard: Scoreboard | None) -> Iterable[Notice]:
    if scoreboard is None:
        yield Notice("Scoring has not run for this campaign: there are no rankings and no scores below.")
        return
    known = {summary.case_id for summary in summaries}
    failed = {method: [s.case_id for s in summaries if _failed(s, method)] for method in scoreboard.methods}
    if any(failed.values()):
        named = ", ".join(f"{method} ({len(cases)})" for method, cases in failed.items() if cases)
        cases = tuple(s.case_id for s in summaries if any(s.case_id in of_method for of_method in failed.values()))
        yield Notice(f"Failures of methods, which score zero there (cases): {named}. Reasons: under Costs.", cases)
    unscored = tuple(s.case_id for s in summaries if not s.results)
    if unscored:
        yield Notice("No method has seen these cases yet: run the score stage again.", unscored)
    gone = sorted(set(scoreboard.results) - known)
    if gone:
        yield Notice(f"Scored but no longer among the cases: {', '.join(gone)}. Run the score stage again.")


def _failed(summary: CaseSummary, method: str) -> bool:
    result = summary.result(method)
    return result is not None and not result.ranked


def _facts(records: list[CaseRecord], summaries: list[CaseSummary]) -> tuple[Fact, ...]:
    if not records:
        return ()
    stacks = [record.stack for record in records]
    replicas = [sum(service.role == "replica" for service in stack.services) for stack in stacks]
    first, last = min(summary.start for summary in summaries), max(summary.end for summary in summaries)
    values = {
        "When": f"{first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC",
        "Backend": _distinct(stack.backend for stack in stacks),
        "Model": _distinct(stack.model or "not recorded" for stack in stacks),
        "Engine": _distinct(stack.engine or "not recorded" for stack in stacks),
        "Versions": _distinct(one_line(stack.versions) or "not recorded" for stack in stacks),
        "Services": _distinct(
            f"{len(s.services)}, {n} of them replicas" for s, n in zip(stacks, replicas, strict=True)
        ),
        "Parallelism": _distinct(one_line(stack.parallelism) for stack in stacks),
        "Load": _distinct(record.load.verdict for record in records),
    }
    return tuple(Fact(label, value) for label, value in values.items() if value)


def _best(scoreboard: Scoreboard | None) -> Iterable[Fact]:
    """Yield the best method by the leading score over all cases, or those that share the first place."""
    overall = scoreboard.services.overall if scoreboard else None
    if overall is None:
        return
    names = [row.name for row in overall.rows if row.place == 1]
    best = overall.rows[0].estimates[LEADING_SCORE]
    label = f"best {SCORE_LABELS[LEADING_SCORE]}: {', '.join(names[:BEST_NAMED])}"
    if len(names) > BEST_NAMED:
        label += f" and {len(names) - BEST_NAMED} more"
    yield Fact(label + (f" (chance {best.chance:.2f})" if best.chance is not None else ""), f"{best.value:.2f}")


def _provenance(records: list[CaseRecord], params: Params | None) -> tuple[Fact, ...]:
    values = {
        "Scoring seed": str(params.score.seed) if params else "",
        "Case seeds": ", ".join(str(seed) for seed in sorted({record.seed for record in records})),
        "Load": _distinct(one_line(record.load.parameters) for record in records),
        "Software": _distinct(one_line(record.versions) for record in records),
    }
    return tuple(Fact(label, value) for label, value in values.items() if value)


def _distinct(values: Iterable[str]) -> str:
    """Return the distinct values, with counts when they differ."""
    counts = Counter(values)
    if len(counts) == 1:
        return next(iter(counts))
    return "; ".join(f"{value or 'not recorded'} ({count})" for value, count in sorted(counts.items()))


def summarise_case(case: Case, scoreboard: Scoreboard | None, *, include_ineffective: bool = False) -> CaseSummary:
    """Summarise a case; ``include_ineffective`` must be that of its scoring."""
    record = case.record
    counted = record.counted(include_ineffective=include_ineffective)
    origin = record.injection_time_of(counted)
    results = scoreboard.results.get(record.case_id, ()) if scoreboard else ()
    explained = scoreboard.explained if scoreboard else frozenset()
    found = [(result.method, result.findings) for result in results if result.findings is not None]
    found.sort(key=lambda said: said[0] not in explained)
    coverage = {result.method: result.coverage for result in results if result.coverage is not None}
    suspects = [group.service for group in first_named(results)][:MAX_LINES]
    signals = case_signals(case, origin, suspects)
    is_fleet = len(record.service_names) >= FLEET_SERVICES
    told_apart = (signals.drawn if signals else record.targets) if is_fleet else None
    return CaseSummary(
        case_id=record.case_id,
        fault=record.labels_of(counted).fault,
        targets=record.targets,
        verdict=_verdict(record),
        injections=record.injections,
        front_end=record.front_end,
        injection_time=origin.astimezone(UTC),
        start=min(phase.start for phase in record.phases).astimezone(UTC),
        end=max(phase.end for phase in record.phases).astimezone(UTC),
        requests=summarise_requests(case),
        scatter=latency_scatter(case, origin, told_apart),
        scenario=record.scenario,
        incident=record.kind == "incident",
        load=_load(record.load.parameters),
        load_verdict=record.load.verdict,
        send_lag_p99_ms=record.load.send_lag_p99_ms,
        gaps=_gaps(record),
        signals=signals,
        results=results,
        answers=answers(record, found, include_ineffective=include_ineffective, coverage=coverage),
        services=record.service_names,
        seed=record.seed,
        stack=record.stack.index,
        nodes=tuple(sorted({node for each in record.stack.services for node in (each.node or "").split(",") if node})),
    )


def _load(parameters: Mapping[str, Any]) -> str:
    """Return the load in words; empty where the record does not say, or a newer version wrote it."""
    try:
        return LoadParams.model_validate(parameters).summary
    except ValidationError:
        return ""


def _verdict(record: CaseRecord) -> Verdict:
    verdicts = {injection.verdict for injection in record.roots}
    if not verdicts:
        return FAULT_FREE
    return verdicts.pop() if len(verdicts) == 1 else "partly effective"


def _gaps(record: CaseRecord) -> tuple[str, ...]:
    """Return one line per status and reason, naming its signals. A signal that the case does not declare (it did not
    exist when the case was recorded) is not named."""
    signals: dict[tuple[str, str], list[str]] = {}
    for signal, completeness in record.completeness.items():
        if completeness.status != "complete" and completeness.reason != NOT_DECLARED:
            signals.setdefault((completeness.status, completeness.reason), []).append(signal)
    return tuple(
        f"Signal {status}: {', '.join(names)}" + (f" ({reason})" if reason else "")
        for (status, reason), names in signals.items()
    )


def one_line(values: Mapping[str, Any]) -> str:
    """Return ``a=1, b.c=2``, with nested mappings flattened."""
    return ", ".join(f"{key}={value}" for key, value in _flat(values))


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value, sort_keys=True)
