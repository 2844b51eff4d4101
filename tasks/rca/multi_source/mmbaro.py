"""Multi-source BARO: BARO's RobustScorer over metrics, logs and spans."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from tasks.rca.features.deviation import Direction, change_scores
from tasks.rca.features.events import LogLines, log_counts, log_times, span_columns
from tasks.rca.features.spans import span_table
from tasks.rca.features.steps import steps_of
from tasks.rca.method import MethodError, Paper, Ranking, method
from tasks.rca.view import CaseView


@method(
    name="mmbaro",
    family="multi-source",
    needs=set(),
    paper=Paper(
        "RCAEval: A Benchmark for Root Cause Analysis of Microservice Systems with Telemetry Data",
        "WWW Companion",
        2025,
    ),
)
def mmbaro(
    view: CaseView,
    rng: np.random.Generator,
    *,
    direction: Direction = "both",
    log_lines: LogLines = "service",
    traffic: bool = False,
) -> Ranking:
    """Metrics, log counts, span errors and span latency by their distance from the normal median, in normal IQRs.

    Scores columns: each metric; log lines per step of each service; error spans per step and mean duration of the spans
    of each operation. A service scores as its worst column. Ranks services, and of the columns the metrics only: what
    is counted in logs and spans is no metric of the case. Inputs: inject time, and of metrics, logs and spans what
    there is (at least one). Parameters: ``direction`` (``both``; ``up``: only rises, as the authors' code),
    ``log_lines`` (``service``; ``template``: one column per template too, as in RCAEval's own data, and per level where
    lines have no template), ``traffic`` (also spans per step of each operation; off). Steps are those of the metrics
    (5 s without metrics), with a boundary at the inject time; a span counts in the step in which it ended. Complexity:
    O(columns x rows log rows + events). Randomness: none. Source: Pham et al., WWW Companion 2025; RobustScorer: Pham,
    Ha, Zhang (BARO), FSE 2024.
    Deviations: as in :mod:`tasks.rca.metric.baro` (no score depends on units, an interquartile range of 0 included). A
    step without an event counts 0, and has no duration; where metrics or durations stop or begin at the fault, see
    :mod:`tasks.rca.features.silence`. Logs, or spans, that are there on one side of the inject time
    only were not recorded on the other, and are left out. Against a widely used implementation: latency is latency, not
    the number of successful requests; no step mixes before and after; a step without events is not lost; all normal
    steps of the error counts are used.
    """
    scores = [
        change_scores(normal, abnormal, centre="median", direction=direction)
        for normal, abnormal in _sources(view, log_lines, traffic)
        if normal.notna().to_numpy().any() and abnormal.notna().to_numpy().any()
    ]
    if not scores:
        raise MethodError("no metric, log or span on both sides of the inject time")
    known = pd.concat(scores)
    return Ranking.of_metrics(known[known.index.get_level_values(0).isin(view.services)])


def _sources(view: CaseView, log_lines: LogLines, traffic: bool) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
    """(normal, abnormal) of each source: one row per step, one column per (service, what is measured)."""
    yield view.split()
    table = span_table(view)
    steps = steps_of(view, np.concatenate([log_times(view), table.end]))
    if steps.before and steps.after:
        for columns in (*log_counts(view, steps, log_lines), *span_columns(table, steps, traffic=traffic)):
            yield columns.iloc[: steps.before], columns.iloc[steps.before :]
