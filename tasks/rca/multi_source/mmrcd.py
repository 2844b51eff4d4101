"""Multi-source RCD: RCD over metrics, logs and spans."""

from __future__ import annotations

import numpy as np

from tasks.rca.features.deviation import require_windows
from tasks.rca.features.events import LogLines
from tasks.rca.features.panel import build_panel
from tasks.rca.features.widened import with_events
from tasks.rca.graph.psi_pc import Order, fault_node_scores
from tasks.rca.method import Paper, Ranking, method
from tasks.rca.view import CaseView


@method(
    name="mmrcd",
    family="multi-source",
    needs={"metrics"},
    seeded=True,
    paper=Paper(
        "RCAEval: A Benchmark for Root Cause Analysis of Microservice Systems with Telemetry Data",
        "WWW Companion",
        2025,
    ),
    beyond=True,
)
def mmrcd(
    view: CaseView,
    rng: np.random.Generator,
    *,
    bins: int = 5,
    gamma: int = 5,
    alpha: float = 0.01,
    final_alpha: float = 0.001,
    order: Order = "random",
    log_lines: LogLines = "template",
) -> Ranking:
    """Metrics, log counts, span errors and span latency by how hard it is to separate them from the fault (as ``rcd``).

    The columns that ``rcd`` ranks are, beside the metrics: log lines per step of each service and template, error spans
    per step and mean duration of the spans of each operation. A service scores as its worst column. Ranks services, and
    of the columns the metrics only. Inputs: metrics, inject time, logs and spans where there are any. Parameters: those
    of ``rcd``; ``log_lines`` (``template``, as in RCAEval's data; ``service``: one column per service). Complexity:
    O(columns x rows x 2^gamma + events). Randomness: that of ``rcd``. Source: multi-source RCD of RCAEval 1.8 (Pham et
    al., WWW Companion 2025); RCD: Ikram et al., NeurIPS 2022.
    Deviations: those of ``rcd``. RCAEval counts logs and spans in steps of 15 s and gives each row of the metrics the
    last count before it; here they are counted on the rows themselves. Its latency series counts the calls that
    succeeded; here it is a latency.
    """
    require_windows(*view.split())
    panel = build_panel(with_events(view, log_lines=log_lines, spans=True))
    scores = fault_node_scores(panel, rng, bins=bins, gamma=gamma, alpha=alpha, final_alpha=final_alpha, order=order)
    return Ranking.of_metrics(panel.scores(scores))
