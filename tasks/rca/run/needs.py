"""Explains in one line which needs of a method a case does not meet, and what the user can do."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.rca.features.sli import latency_rank
from tasks.rca.view import METRIC_NEED, CaseView, column_names

_MOST_NAMES = 5


def lacking(view: CaseView, missing: Sequence[str]) -> str:
    """Explain ``missing``, the result of :meth:`tasks.rca.view.CaseView.missing`."""
    signals = [name for name in missing if not name.startswith(METRIC_NEED)]
    metrics = [name.removeprefix(METRIC_NEED) for name in missing if name.startswith(METRIC_NEED)]
    parts = []
    if signals:
        parts.append(f"needs {', '.join(signals)}: the case has none{_about_the_sli(view) if 'sli' in signals else ''}")
    if metrics:
        which = "metric" if len(metrics) == 1 else "metrics"
        parts.append(f"needs the {which} {', '.join(metrics)}: no service has a sample in what the profile shows")
    return "; ".join(parts)


def _about_the_sli(view: CaseView) -> str:
    ranked = [service for service, metric in column_names(view.metrics) if latency_rank(metric) is not None]
    traced = view.spans["service"].astype(str).unique().tolist() if len(view.spans) else []
    others = [service for service in view.services if service in {*ranked, *traced} and service != view.front_end]
    if not others:
        return " (no requests, and no service has spans or a latency metric)"
    names = ", ".join(others[:_MOST_NAMES]) + (", …" if len(others) > _MOST_NAMES else "")
    return (
        f" (no requests, and neither '{view.front_end}' nor what it is known to call has spans or a latency metric; "
        f"with --front-end give one that has: {names})"
    )
