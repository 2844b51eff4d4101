"""Multi-source CIRCA: CIRCA over metrics and log counts."""

from __future__ import annotations

import numpy as np

from tasks.rca.features.deviation import require_windows
from tasks.rca.features.events import LogLines
from tasks.rca.features.panel import build_panel
from tasks.rca.features.widened import with_events
from tasks.rca.graph.causal_graph import DirectedEdges
from tasks.rca.graph.pc import learn_pc
from tasks.rca.graph.regression import regression_scores, require_normal_rows
from tasks.rca.method import Paper, Ranking, method
from tasks.rca.view import CaseView


@method(
    name="mmcirca",
    family="multi-source",
    needs={"metrics"},
    cost="moderate",
    paper=Paper(
        "RCAEval: A Benchmark for Root Cause Analysis of Microservice Systems with Telemetry Data",
        "WWW Companion",
        2025,
    ),
    beyond=True,
)
def mmcirca(
    view: CaseView,
    rng: np.random.Generator,
    *,
    lags: int = 0,
    threshold: float = 3.0,
    alpha: float = 0.05,
    log_lines: LogLines = "template",
    spans: bool = False,
) -> Ranking:
    """Metrics and log counts by how far they stray from what their causes in a PC graph predict (as ``circa``).

    The columns that ``circa`` ranks are, beside the metrics, log lines per step of each service and template. A service
    scores as its worst column. Ranks services, and of the columns the metrics only. Inputs: metrics, inject time, logs
    where there are any. Parameters: those of ``circa`` but the graph, which is PC's, as log lines have no place in
    CIRCA's structural graph; ``log_lines`` (``template``, as in RCAEval's data; ``service``: one column per service);
    ``spans`` (off, as in RCAEval; on: also error spans and mean span duration of each operation). Complexity: that of
    PC. Randomness: none. Source: multi-source CIRCA of RCAEval 1.8 (Pham et al., WWW Companion 2025); CIRCA: Li et al.,
    KDD 2022.
    Deviations: those of ``circa``. RCAEval joins every 15th row of the metrics with log counts per 15 s by position;
    here lines are counted on the rows of the metrics. It drops the later of two columns that correlate above 0.99,
    to save time; here all stay, as the later may be the root's. Its PC knows both windows, here the normal one.
    """
    require_windows(*view.split())
    panel = build_panel(with_events(view, log_lines=log_lines, spans=spans))
    require_normal_rows(panel, lags)
    graph = DirectedEdges.of(learn_pc(panel.values[~panel.abnormal], alpha=alpha))
    return Ranking.of_metrics(panel.scores(regression_scores(panel, graph, lags=lags, threshold=threshold)))
