"""Services whose spans stop at the fault, for methods that read traces and see only the spans that are there."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from tasks.rca.features.silence import SIGNIFICANT, Silence, silence_of
from tasks.rca.features.spans import SpanTable, of_candidates
from tasks.rca.method import MethodError, Ranking
from tasks.rca.view import CaseView
from tasks.spans import Traces

LEAST_SHARE = 0.5
_LEAST_STEP_NS = 1_000_000_000
_STEPS_BEFORE = 60
_STEPS_AFTER = 600


def span_silence(view: CaseView, table: SpanTable) -> Silence:
    """Tell per service of ``table`` whether its spans stopped, or began, at the inject time.

    :mod:`tasks.rca.features.silence` judges in which steps a span of the service ended, among the steps in which any
    span ended: steps of one second or more, at most 60 before and 600 after the inject time.
    """
    inject = view.inject_time.value
    first, last = int(table.end.min(initial=inject)), int(table.end.max(initial=inject))
    step = max(_LEAST_STEP_NS, -(-(inject - first) // _STEPS_BEFORE), -(-(last - inject) // _STEPS_AFTER))
    before, after = (inject - first) // step, (last - inject) // step
    rows, services = before + after, len(table.services)
    row = (table.end - inject) // step + before
    inside = (row >= 0) & (row < rows)
    count = np.bincount(row[inside] * services + table.service[inside], minlength=rows * services)
    seen = count.reshape(rows, services) > 0
    traffic = np.flatnonzero(seen.any(axis=1))
    normal = int(np.count_nonzero(traffic < before))
    columns = pd.MultiIndex.from_arrays([np.arange(services), np.zeros(services)])
    return silence_of(seen[traffic], columns, normal)


def rank_with_silence(
    view: CaseView, table: SpanTable, traces: Traces, rank: Callable[[], Mapping[str, float]], *, silence: bool
) -> Ranking:
    """Rank the spans that are there by ``rank``, and put the services without any more spans at the head.

    A service whose spans stop (:func:`span_silence`: ``SIGNIFICANT`` or more, and at least half of what was to be
    expected is missing, so that less traffic is no silence) comes before all others, the surest first, unless only
    services that stopped, too, had called it: then it shares the last place. If there is such a service, an error of
    ``rank`` says only that nothing else is suspicious. Without ``silence`` the ranking is ``rank``'s alone.
    """
    if not silence:
        return Ranking.of_services(rank())
    found = span_silence(view, table)
    stopped = found.stopped
    is_silent = (stopped >= SIGNIFICANT) & (found.share >= LEAST_SHARE)
    silent = of_candidates(((table.services[i], stopped[i]) for i in np.flatnonzero(is_silent)), view)
    if not silent:
        return Ranking.of_services(rank())
    try:
        scores = dict(rank())
    except MethodError:
        scores = {}
    lowest, highest = min(scores.values(), default=0.0), max(scores.values(), default=0.0)
    explained = _called_by_silent_only(table, traces, is_silent)
    for service, score in silent.items():
        if service in explained:
            scores.setdefault(service, lowest)
        else:
            scores[service] = highest + score
    return Ranking.of_services(scores)


def _called_by_silent_only(table: SpanTable, traces: Traces, is_silent: np.ndarray) -> set[str]:
    """Return silent services whose callers are all silent; none if that would explain every silent service."""
    caller, callee = traces.callers(table.service), table.service
    across = (caller >= 0) & (caller != callee) & ~table.after
    by_silent, by_others = np.zeros((2, len(table.services)), dtype=bool)
    by_silent[callee[across & is_silent[caller]]] = True
    by_others[callee[across & ~is_silent[caller]]] = True
    by_others[callee[(caller < 0) & ~table.after]] = True
    explained = is_silent & by_silent & ~by_others
    return set() if (explained == is_silent).all() else {table.services[i] for i in np.flatnonzero(explained)}
