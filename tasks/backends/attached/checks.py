"""Checks that an attached stack can be read, each with one line that says what to do."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from tasks import metrics
from tasks.case import Stack
from tasks.export.base import ExportContext, ExportError, TelemetrySources
from tasks.export.exporter import read_metrics
from tasks.export.queries.labelled import IDENTIFYING
from tasks.export.sources.http import NO_ACCESS, SourceError
from tasks.export.sources.labelled import names_of
from tasks.export.sources.loki import LokiClient
from tasks.export.sources.otlp import SpanFilter
from tasks.export.sources.placement import LabelMatch
from tasks.params import ExportParams

LOOK_BACK_S = 600
WORST_SKEW_S = 2.0
"""A difference of clocks from here on moves what a method sees against what was done."""

Verdict = Literal["ok", "warning", "failed"]


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    verdict: Verdict
    result: str

    def __str__(self) -> str:
        return f"{self.verdict if self.verdict != 'failed' else 'FAILED':<7}  {self.name:<12} {self.result}"


@dataclass(frozen=True)
class Examination:
    """What was seen of a stack. ``matches``: the labels of its services, as they are now."""

    checks: tuple[Check, ...]
    matches: tuple[LabelMatch, ...] = ()

    @property
    def failures(self) -> list[str]:
        return [f"{check.name}: {check.result}" for check in self.checks if check.verdict == "failed"]


def examine(sources: TelemetrySources, stack: Stack, scrape_interval_s: float) -> Examination:
    """Look at every server of ``sources``; an unreachable one is a failed check."""
    try:
        checks, matches = _prometheus(sources, stack, scrape_interval_s)
    except (ExportError, SourceError) as error:
        checks, matches = [Check("prometheus", "failed", str(error).removeprefix("Prometheus: "))], ()
    return Examination((*checks, *_loki(sources), *_traces(sources, matches)), matches)


def _prometheus(
    sources: TelemetrySources, stack: Stack, scrape_interval_s: float
) -> tuple[list[Check], tuple[LabelMatch, ...]]:
    context = context_now(sources, stack, scrape_interval_s)
    with context.prometheus() as client:
        before = time.time()
        skew = client.now() - (before + time.time()) / 2
    checks = [clock_check(skew)]
    if not context.series_names:
        nothing = f"no sample of the last {LOOK_BACK_S // 60} minutes: is it the right server, and does it scrape?"
        return [Check("prometheus", "failed", nothing), *checks], ()
    count = len(context.series_names)
    checks.insert(0, Check("prometheus", "ok", f"{sources.prometheus_url}: {count} names of series"))
    if not context.series_names & frozenset(IDENTIFYING):
        none = "none of the series that RCArena knows: no engine, container or process is scraped"
        return [*checks, Check("series", "failed", none)], ()
    matches = context.placement.matches
    seen = services_seen(context)
    silent = [service.name for service in stack.services if service.name not in seen]
    if len(silent) == len(stack.services):
        labels = "no series has the labels of any service: see deploy.services[].labels"
        return [*checks, Check("services", "failed", labels)], matches
    checks += [Check("services", "warning", problem) for problem in context.placement_assumptions]
    found = f"{len(seen)} of {len(stack.services)} have series"
    if silent:
        found += f"; none of {', '.join(silent[:10])}{' …' * (len(silent) > 10)}"
    return [*checks, Check("services", "warning" if silent else "ok", found)], matches


def clock_check(skew_s: float) -> Check:
    """Judge how far the clock of Prometheus is ahead of ours."""
    if abs(skew_s) < WORST_SKEW_S:
        return Check("clock", "ok", f"{skew_s:+.1f} s against ours")
    where = "ahead of" if skew_s > 0 else "behind"
    text = f"{abs(skew_s):.1f} s {where} this machine's: give times by Prometheus's clock, or synchronise both (NTP)"
    return Check("clock", "warning", text)


def context_now(sources: TelemetrySources, stack: Stack, scrape_interval_s: float) -> ExportContext:
    """Return the last ten minutes, at the pace of the scrapes."""
    now = datetime.now(UTC)
    window = max(1.0, min(3600.0, 4 * scrape_interval_s))
    params = ExportParams(step_s=max(0.5, scrape_interval_s), rate_window_s=window)
    return ExportContext(sources, now - timedelta(seconds=LOOK_BACK_S), now, params, stack)


def services_seen(context: ExportContext) -> set[str]:
    """Return the services with at least one series of those that show which services there are."""
    names = "|".join(sorted(context.series_names & frozenset(IDENTIFYING)))
    seen: set[str] = set()
    with context.prometheus() as client:
        for scope in context.label_scopes:
            selector = ",".join(filter(None, (f'__name__=~"{names}"', scope.matchers)))
            query = f"count by ({', '.join(scope.by)}) (last_over_time({{{selector}}}[{LOOK_BACK_S}s]))"
            for labels, _ in client.instant(query):
                seen |= {holding.service for holding in context.placement.holdings(labels, "labels")}
    return seen


def open_requests(sources: TelemetrySources, stack: Stack, scrape_interval_s: float) -> float:
    """Return how many requests the engines hold, by the last scrape. Raises ExportError."""
    now = datetime.now(UTC)
    window = (now - timedelta(seconds=2 * scrape_interval_s), now)
    params = ExportParams(step_s=max(0.5, scrape_interval_s), rate_window_s=max(1.0, 4 * scrape_interval_s))
    rows = read_metrics(sources, window, params, stack, (metrics.REQUESTS_RUNNING, metrics.REQUESTS_WAITING))
    last = rows.dropna().sort_values("time").groupby(["service", "metric"], observed=True)["value"].last()
    return float(last.sum())


def _loki(sources: TelemetrySources) -> Iterator[Check]:
    if sources.loki_url is None:
        return
    if sources.log_selector is None:
        yield Check("loki", "failed", "deploy.loki.selector: is needed without deploy.kubernetes")
        return
    now = datetime.now(UTC)
    try:
        access = sources.access.get("loki", NO_ACCESS)
        with LokiClient(sources.loki_url, access=access, **sources.patience) as client:
            count = len(list(client.streams(sources.log_selector, now - timedelta(seconds=LOOK_BACK_S), now)))
    except SourceError as error:
        yield Check("loki", "failed", str(error))
        return
    verdict: Verdict = "ok" if count else "warning"
    yield Check("loki", verdict, f"{count} streams of {sources.log_selector} in the last {LOOK_BACK_S // 60} minutes")


def _traces(sources: TelemetrySources, matches: tuple[LabelMatch, ...]) -> Iterator[Check]:
    for path in sources.otlp_files:
        yield Check("traces", "ok" if path.exists() else "failed", f"{path}" if path.exists() else f"{path}: not there")
    try:
        server = sources.open_spans()
        if server is None:
            return
        now = time.time_ns()
        names = {**names_of(matches), **sources.spans_names}
        with server:
            there, text = server.look(SpanFilter(names, now - LOOK_BACK_S * 1_000_000_000, now))
        yield Check("traces", "ok" if there else "warning", f"{server.title}: {text}")
    except SourceError as error:
        yield Check("traces", "failed", str(error))
