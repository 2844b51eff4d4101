"""MicroCause: a random walk from the front end's SLI to its causes, over the links that PCMCI finds."""

from __future__ import annotations

import numpy as np
import pandas as pd

from tasks.rca.features.deviation import deviation_scores
from tasks.rca.features.panel import Panel, build_panel
from tasks.rca.features.rows import too_few_rows
from tasks.rca.graph.causal_graph import CausalGraph
from tasks.rca.graph.partial_correlation import correlation_matrix
from tasks.rca.graph.pcmci import MAX_LAGGED_COLUMNS, correlations_given, learn_pcmci
from tasks.rca.graph.random_walk import cause_walk_weights, transition_matrix, visit_frequencies
from tasks.rca.method import MethodError, Paper, Ranking, method
from tasks.rca.view import CaseView

STEPS = 1000
SPREADS = 3.0

_COPY = 1 - 1e-9
_LEAST_ROWS = 6


@method(
    name="microcause",
    family="metric",
    needs={"metrics", "sli"},
    paper=Paper("Localizing Failure Root Causes in a Microservice through Causality Inference", "IWQoS", 2020),
)
def microcause(
    view: CaseView,
    rng: np.random.Generator,
    *,
    max_lag: int = 5,
    condition_alpha: float = 0.1,
    alpha: float = 0.01,
    same_step: bool = True,
    rho: float = 0.2,
    walk_share: float = 0.5,
) -> Ranking:
    """Metrics by how often a walk from the front end's SLI back along causes visits them, and how anomalous they are.

    The SLI (latency that users saw) joins the metrics as one more node. PCMCI finds the links between them. A walk of
    1000 steps starts at the SLI: to a cause with a weight of that cause's relevance, back to an effect with ``rho``
    times the effect's, or it stays if no cause is as relevant as the node itself. Relevance is the absolute partial
    correlation with the SLI given the causes of both. Score: ``walk_share`` x visits + (1 - ``walk_share``) x anomaly
    degree, each as a share of its largest value.

    Ranks metrics; a service scores as its worst one; the SLI itself is not ranked. Inputs: metrics, SLI, inject time.
    Parameters: ``max_lag`` 5 rows, as many as there are rows for in a short recording (each test gives up twice that
    many and needs four more: min(``max_lag``, (rows - 4) // 2) where there is no hole; arXiv 2603.02057 ran 10, which
    leaves little of a minute at one sample a second), ``condition_alpha`` 0.1, ``alpha`` 0.01 (level of a link),
    ``same_step`` (links within one sampling step, which have no direction, may be walked both ways), ``rho`` 0.2,
    ``walk_share`` 0.5. Complexity: O(metrics^2 x lags x parents^3); :mod:`tasks.rca.graph.pcmci` has its limits.
    Randomness: none, as the expected visits are computed. Source: Meng et al., IWQoS 2020 (PCTS, TCORW); Runge et al.,
    Science Advances 2019. Deviations: the anomaly degree is the largest share by which a metric exceeds a threshold, as
    in the paper, but of three normal standard deviations from the normal mean: the paper's SPOT fits a tail to the few
    largest of thousands of samples, and a case has some dozens. The paper's last step, which ranks metrics by levels
    and onset that operators of that one system set, has no equal here. Metrics that are copies of each other are one
    node; one that is a copy of the SLI is that node, so it scores by its anomaly degree only. If nothing is linked to
    the SLI, nothing is visited and the anomaly degree decides. The walk does not return to the SLI.
    """
    panel = build_panel(view, min_rows=_LEAST_ROWS)
    lag = feasible_lag(panel.ticks, max_lag)
    if panel.sli is None:
        raise MethodError("the front end's latency never moves: no node to start from")
    if len(panel.columns) > MAX_LAGGED_COLUMNS:
        raise MethodError(f"{len(panel.columns)} metrics; PCMCI stops at {MAX_LAGGED_COLUMNS} lagged ones")
    anomaly = anomaly_degrees(panel)
    nodes = np.column_stack([panel.sli, panel.values])
    of_node = _first_copies(nodes)
    kept, position = np.unique(of_node, return_inverse=True)
    graph = learn_pcmci(
        nodes[:, kept],
        max_lag=lag,
        condition_alpha=condition_alpha,
        alpha=alpha,
        same_step=same_step,
        ticks=panel.ticks,
    )
    visits = visits_from_first(graph, nodes[:, kept], rho=rho)[position[1:]]
    return Ranking.of_metrics(panel.scores(walk_share * _share(visits) + (1 - walk_share) * _share(anomaly)))


def feasible_lag(ticks: np.ndarray, most: int) -> int:
    """Return the largest lag from 1 to ``most`` that leaves PCMCI four rows; (rows - 4) // 2 without holes.

    ``ticks``: (rows,) as of :class:`tasks.rca.features.panel.Panel`. 1 if none does: PCMCI then says what is missing.
    """
    lags = range(min(most, (len(ticks) - _LEAST_ROWS) // 2 + 1), 1, -1)
    return next((lag for lag in lags if not too_few_rows(ticks, 2 * lag, 4, "")), 1)


def visits_from_first(graph: CausalGraph, values: np.ndarray, *, rho: float) -> np.ndarray:
    """(nodes,) expected share of the walk spent in each node of ``values`` (rows, nodes); node 0, the SLI, is 0."""
    weights = cause_walk_weights(graph.causes(), relevance_to_first(graph, values), rho=rho)
    visits = visit_frequencies(transition_matrix(weights), np.eye(len(graph))[0], steps=STEPS)
    visits[0] = 0.0
    return visits


def relevance_to_first(graph: CausalGraph, values: np.ndarray) -> np.ndarray:
    """(nodes,) |partial correlation| with node 0 given the causes of both; 0 for node 0 and where nothing is left.

    A cause is one that leads, so links within a step do not count here.
    """
    nodes = np.arange(1, len(graph))
    parents = [graph.parents(node) for node in range(len(graph))]
    most = max(map(len, parents))
    table = np.array([np.pad(of_node, (0, most - len(of_node)), constant_values=-1) for of_node in parents])
    given = np.hstack([np.broadcast_to(table[0], (len(nodes), most)), table[1:]])
    given = np.where((given == 0) | (given == nodes[:, None]), -1, given)
    found, size = correlations_given(correlation_matrix(values), np.zeros_like(nodes), nodes, given)
    found[size > len(values) - 3] = np.nan
    return np.concatenate([[0.0], np.nan_to_num(np.abs(found))])


def anomaly_degrees(panel: Panel) -> np.ndarray:
    """(columns,) largest share by which each column exceeds its threshold after the fault; 0 if it never does.

    Raises:
        MethodError: no row before, or none after the inject time.
    """
    normal, abnormal = (pd.DataFrame(panel.values[rows]) for rows in (~panel.abnormal, panel.abnormal))
    spreads = deviation_scores(normal, abnormal, centre="mean").to_numpy()
    return np.maximum(spreads / SPREADS - 1, 0.0)


def _first_copies(values: np.ndarray) -> np.ndarray:
    """(columns,) index of the first column that each column of (rows, columns) copies, its own if none."""
    return np.argmax(np.abs(correlation_matrix(values)) >= _COPY, axis=0)


def _share(values: np.ndarray) -> np.ndarray:
    """``values`` as shares of the largest; all 0 if that is 0."""
    largest = values.max(initial=0.0)
    return values / largest if largest > 0 else values
