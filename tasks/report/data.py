"""Derives the report's content from finished cases and their scores, without HTML."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
from pydantic import ValidationError

from tasks.case import NOT_DECLARED, Case, CaseError, CaseRecord, is_finished, read_case
from tasks.html.formatting import score
from tasks.injection import FAULT_FREE, Injection, phrase
from tasks.params import LoadParams, Params
from tasks.report.answers import Answer, answers
from tasks.report.case_choice import LIMITS, Limits, choose
from tasks.report.case_metrics import MAX_LINES, CaseSignals, case_signals
from tasks.report.fleet_map import FLEET_SERVICES
from tasks.report.latency import LatencyScatter, RequestSummary, latency_scatter, summarise_requests
from tasks.report.recovery import Recovery, read_recovery
from tasks.report.scoreboard import MethodResult, Scoreboard, read_scoreboard
from tasks.report.standings import FirstNamed, Standing, first_named, standings
from tasks.score.accuracy import LEADING_SCORE, SCORE_LABELS
from tasks.text import some

log = logging.getLogger(__name__)

BASELINE_FAILURES = 0.01
BEST_NAMED = 3
SEEDS_NAMED = 100
VALUES_NAMED = 30
INEFFECTIVE_NAMED = 30

Verdict = Literal["effective", "partly effective", "ineffective", "fault-free", "labelled"]


@dataclass(frozen=True)
class CaseSummary:
    """One row of the case table and the text of its detail section.

    A case that is only counted (``case_choice.choose``) has no ``scatter``, ``signals`` and ``answers``.
    """

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
    """Content of the report. ``listed``: the cases in the tables of cases, all unless there are very many;
    ``detailed``: those of them with a section of their own. ``roles``: by service; ``level``: significance level, None
    if unknown; ``simulated``: some case is computed and was never run. ``recovery``: the experiment with actions,
    None if there was none."""

    title: str
    campaigns: tuple[str, ...]
    facts: tuple[Fact, ...]
    verdicts: Mapping[str, int]
    notices: tuple[Notice, ...]
    scoreboard: Scoreboard | None
    cases: tuple[CaseSummary, ...]
    listed: tuple[CaseSummary, ...]
    detailed: tuple[CaseSummary, ...]
    best: tuple[Fact, ...]
    provenance: tuple[Fact, ...]
    parameters: str
    interval: str
    roles: Mapping[str, str]
    level: float | None
    simulated: bool = False
    recovery: Recovery | None = None

    @property
    def only_recovery(self) -> bool:
        """There is nothing but the experiment with actions: no case, no scores."""
        return self.recovery is not None and not self.cases and self.scoreboard is None


def report_data(
    cases_dir: Path,
    scores_dir: Path,
    *,
    title: str,
    params: Params | None = None,
    asked_for: Collection[str] = (),
    limits: Limits = LIMITS,
    recovery_dir: Path | None = None,
) -> ReportData:
    """Return the report's content; cases by fault, then target. An unreadable case becomes a notice, not an error.

    ``params``: the resolved parameters of the campaign, if known. ``asked_for``: cases that are shown whatever the
    ``limits`` of the page. ``recovery_dir``: where the results of the experiment with actions may be.

    Raises:
        ScoreError: a file of ``scores_dir`` exists but is not what the score stage writes.
    """
    scoreboard = read_scoreboard(scores_dir)
    recovery = read_recovery(recovery_dir)
    include_ineffective = params is not None and params.score.include_ineffective
    summaries: list[CaseSummary] = []
    facts = _Facts()
    unreadable: list[str] = []
    paths = [path for path in sorted(cases_dir.iterdir()) if path.is_dir()] if cases_dir.is_dir() else []
    unfinished = [path.name for path in paths if not is_finished(path)]
    finished = [path for path in paths if is_finished(path)]
    shown = choose([path.name for path in finished], scoreboard, limits, asked_for)
    for path in finished:
        try:
            case = read_case(path)
            detailed = path.name in shown.detailed
            summary = summarise_case(case, scoreboard, include_ineffective=include_ineffective, detailed=detailed)
        except (CaseError, OSError, pa.ArrowException) as error:
            log.warning("%s cannot be read: %s", path.name, error)
            unreadable.append(f"{path.name}: cannot be read and is left out: {str(error).splitlines()[0]}")
        else:
            summaries.append(summary)
            facts.add(case.record, summary)
    summaries.sort(key=lambda summary: (summary.verdict == FAULT_FREE, summary.fault, summary.targets, summary.case_id))
    return ReportData(
        title=title,
        campaigns=tuple(sorted(facts.campaigns)),
        facts=facts.shown(),
        verdicts=Counter(summary.verdict for summary in summaries),
        notices=()
        if recovery and not (paths or scoreboard)
        else (*_case_notices(summaries, unfinished, unreadable), *_score_notices(summaries, scoreboard)),
        scoreboard=scoreboard,
        cases=tuple(summaries),
        listed=tuple(summary for summary in summaries if summary.case_id in shown.listed),
        detailed=tuple(summary for summary in summaries if summary.case_id in shown.detailed),
        best=tuple(_best(scoreboard)),
        provenance=facts.provenance(params),
        parameters=params.dump() if params else "",
        interval=f"{params.score.confidence:.0%} interval".replace("%", " %") if params else "interval",
        roles=facts.roles,
        level=1 - params.score.confidence if params else None,
        simulated=facts.simulated or (recovery is not None and recovery.simulated),
        recovery=recovery,
    )


def _case_notices(summaries: list[CaseSummary], unfinished: list[str], unreadable: list[str]) -> Iterable[Notice]:
    if not summaries:
        yield Notice("No finished case: nothing to show yet.")
    yield from (Notice(text) for text in unreadable)
    if unfinished:
        yield Notice(
            f"Unfinished and left out: {len(unfinished)} ({', '.join(unfinished[:5])}{', …' * (len(unfinished) > 5)})."
        )
    ineffective: dict[str, list[str]] = {}
    for summary in summaries:
        for injection in summary.injections:
            if injection.verdict == "ineffective":
                text = f"Ineffective injection: {injection.phrase}: {injection.reason}"
                ineffective.setdefault(text, []).append(summary.case_id)
    yield from (Notice(text, tuple(cases)) for text, cases in list(ineffective.items())[:INEFFECTIVE_NAMED])
    if others := [case for cases in list(ineffective.values())[INEFFECTIVE_NAMED:] for case in cases]:
        yield Notice(f"Ineffective injections in {len(others)} more cases.", tuple(others))
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
    failed = {method: {s.case_id for s in summaries if _failed(s, method)} for method in scoreboard.methods}
    if any(failed.values()):
        named = ", ".join(f"{method} ({len(cases)})" for method, cases in failed.items() if cases)
        cases = tuple(s.case_id for s in summaries if any(s.case_id in of_method for of_method in failed.values()))
        yield Notice(f"Failures of methods, which score zero there (cases): {named}. Reasons: under Costs.", cases)
    unscored = tuple(s.case_id for s in summaries if not s.results)
    if unscored:
        yield Notice("No method has seen these cases yet: run the score stage again.", unscored)
    gone = sorted(set(scoreboard.results) - known)
    if gone:
        yield Notice(f"Scored but no longer among the cases: {some(gone, SEEDS_NAMED)}. Run the score stage again.")


def _failed(summary: CaseSummary, method: str) -> bool:
    result = summary.result(method)
    return result is not None and not result.ranked


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
    yield Fact(label + (f" (chance {score(best.chance)})" if best.chance is not None else ""), score(best.value))


class _Facts:
    """What header and footer say of all cases, counted case by case: their records are not kept."""

    def __init__(self) -> None:
        self.campaigns: set[str] = set()
        self.roles: dict[str, str] = {}
        self.simulated = False
        self._header: dict[str, Counter[str]] = {}
        self._footer: dict[str, Counter[str]] = {}
        self._seeds: set[int] = set()
        self._first, self._last = datetime.max.replace(tzinfo=UTC), datetime.min.replace(tzinfo=UTC)

    def add(self, record: CaseRecord, summary: CaseSummary) -> None:
        stack = record.stack
        replicas = sum(service.role == "replica" for service in stack.services)
        header = {
            "Backend": stack.backend,
            "Model": stack.model or "not recorded",
            "Engine": stack.engine or "not recorded",
            "Versions": one_line(stack.versions) or "not recorded",
            "Services": f"{len(stack.services)}, {replicas} of them replicas",
            "Parallelism": one_line(stack.parallelism),
            "Load": record.load.verdict,
        }
        footer = {"Load": one_line(record.load.parameters), "Software": one_line(record.versions)}
        for values, counts in ((header, self._header), (footer, self._footer)):
            for label, value in values.items():
                counts.setdefault(label, Counter())[value] += 1
        self.campaigns.add(record.campaign)
        self.roles |= {service.name: service.role for service in stack.services}
        self.simulated = self.simulated or stack.simulated
        self._seeds.add(record.seed)
        self._first, self._last = min(self._first, summary.start), max(self._last, summary.end)

    def shown(self) -> tuple[Fact, ...]:
        """Return the lines of the header."""
        if not self._header:
            return ()
        when = {"When": f"{self._first:%Y-%m-%d %H:%M} to {self._last:%Y-%m-%d %H:%M} UTC"}
        return _facts(when | {label: _distinct(counts) for label, counts in self._header.items()})

    def provenance(self, params: Params | None) -> tuple[Fact, ...]:
        """Return the lines of the footer."""
        seeds = {
            "Scoring seed": str(params.score.seed) if params else "",
            "Case seeds": some([str(seed) for seed in sorted(self._seeds)], SEEDS_NAMED),
        }
        return _facts(seeds | {label: _distinct(counts) for label, counts in self._footer.items()})


def _facts(values: Mapping[str, str]) -> tuple[Fact, ...]:
    return tuple(Fact(label, value) for label, value in values.items() if value)


def _distinct(counts: Counter[str]) -> str:
    """Return the distinct values, with counts when they differ."""
    if len(counts) == 1:
        return next(iter(counts))
    return some(
        [f"{value or 'not recorded'} ({count})" for value, count in sorted(counts.items())], VALUES_NAMED, by="; "
    )


def summarise_case(
    case: Case, scoreboard: Scoreboard | None, *, include_ineffective: bool = False, detailed: bool = True
) -> CaseSummary:
    """Summarise a case; ``include_ineffective`` must be that of its scoring. Not ``detailed``: only what is counted."""
    record = case.record
    counted = record.counted(include_ineffective=include_ineffective)
    origin = record.injection_time_of(counted)
    results = scoreboard.results.get(record.case_id, ()) if scoreboard else ()
    explained = scoreboard.explained if scoreboard else frozenset()
    found = [(result.method, result.findings) for result in results if result.findings is not None]
    found.sort(key=lambda said: said[0] not in explained)
    coverage = {result.method: result.coverage for result in results if result.coverage is not None}
    suspects = [group.service for group in first_named(results)][:MAX_LINES]
    signals = case_signals(case, origin, suspects) if detailed else None
    is_fleet = len(record.service_names) >= FLEET_SERVICES
    told_apart = record.targets if is_fleet else None
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
        scatter=latency_scatter(case, origin, told_apart) if detailed else None,
        scenario=record.scenario,
        incident=record.kind == "incident",
        load=_load(record.load.parameters),
        load_verdict=record.load.verdict,
        send_lag_p99_ms=record.load.send_lag_p99_ms,
        gaps=_gaps(record),
        signals=signals,
        results=results,
        answers=answers(record, found, include_ineffective=include_ineffective, coverage=coverage) if detailed else (),
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
