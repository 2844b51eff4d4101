"""Eight methods: a causal graph by one of four learners, its columns ranked by one of two walks.

A learner takes (panel, rng) and gives a graph; a walk takes (graph, panel) and gives a score per column. Their
keyword-only arguments are the parameters of the methods made of them.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_type_hints

import numpy as np

from tasks.rca.features.panel import Panel, build_panel
from tasks.rca.graph.causal_graph import CausalGraph
from tasks.rca.graph.fci import learn_fci
from tasks.rca.graph.granger import learn_granger
from tasks.rca.graph.lingam import MAX_COLUMNS, learn_lingam
from tasks.rca.graph.pagerank import rank_by_pagerank
from tasks.rca.graph.pc import learn_pc
from tasks.rca.graph.random_walk import rank_by_walk
from tasks.rca.method import Cost, MethodError, Paper, Ranking, method
from tasks.rca.view import CaseView


@dataclass(frozen=True)
class _Learner:
    """A way to learn a graph. ``title`` to ``deviations`` are its parts of a method's docstring."""

    name: str
    learn: Callable[..., CausalGraph]
    paper: Paper
    title: str
    graph: str
    parameters: str
    complexity: str
    deviations: str
    cost: Cost = "cheap"
    seeded: bool = False


@dataclass(frozen=True)
class _Walk:
    """A way to rank the columns of a graph. ``title`` to ``deviations`` are its parts of a method's docstring."""

    name: str
    rank: Callable[..., np.ndarray]
    needs: frozenset[str]
    title: str
    score: str
    inputs: str
    parameters: str
    complexity: str
    source: str
    deviations: str


def _pc(panel: Panel, rng: np.random.Generator, *, alpha: float = 0.05) -> CausalGraph:
    return learn_pc(panel.values, alpha=alpha)


def _fci(panel: Panel, rng: np.random.Generator, *, alpha: float = 0.05) -> CausalGraph:
    return learn_fci(panel.values, alpha=alpha)


def _granger(panel: Panel, rng: np.random.Generator, *, alpha: float = 0.05, max_lag: int = 3) -> CausalGraph:
    return learn_granger(panel.values, max_lag=max_lag, alpha=alpha, ticks=panel.ticks)


def _lingam(panel: Panel, rng: np.random.Generator, *, alpha: float = 0.05, max_iterations: int = 1000) -> CausalGraph:
    return learn_lingam(panel.values, rng, alpha=alpha, max_iterations=max_iterations)


def _pagerank(graph: CausalGraph, panel: Panel, *, damping: float = 0.85) -> np.ndarray:
    return rank_by_pagerank(graph, damping=damping)


def _random_walk(graph: CausalGraph, panel: Panel, *, rho: float = 0.5, steps: int = 1000) -> np.ndarray:
    if panel.sli is None:
        raise MethodError("the SLI never moves")
    return rank_by_walk(graph, panel.values, panel.sli, rho=rho, steps=steps)


_LEARNERS = (
    _Learner(
        name="pc",
        learn=_pc,
        paper=Paper(
            "Causation, Prediction, and Search (2nd edition), by Spirtes, Glymour, Scheines", "MIT Press", 2000
        ),
        title="a PC graph",
        graph="PC: two metrics stay linked unless some set of others makes their partial correlation insignificant "
        "(Fisher's z); an edge that PC leaves without a direction counts both ways.",
        parameters="``alpha`` 0.05 (of each test)",
        complexity="exponential in the largest number of neighbours at worst; PC ends itself where that is too much",
        deviations="The rows of a time series are taken as independent samples.",
        cost="moderate",
    ),
    _Learner(
        name="fci",
        learn=_fci,
        paper=Paper("Causal Inference in the Presence of Latent Variables and Selection Bias", "UAI", 1995),
        title="an FCI graph",
        graph="FCI, which allows for common causes that nobody measured: i --> j and i o-> j count from effect j to "
        "cause i, any other edge both ways.",
        parameters="``alpha`` 0.05 (of each test of partial correlation, Fisher's z)",
        complexity="exponential in the largest number of neighbours at worst; FCI ends itself where that is too much",
        deviations="The rows of a time series are taken as independent samples.",
        cost="moderate",
    ),
    _Learner(
        name="granger",
        learn=_granger,
        paper=Paper(
            "Investigating Causal Relations by Econometric Models and Cross-spectral Methods", "Econometrica", 1969
        ),
        title="a Granger graph",
        graph="pairwise Granger causality: a metric causes another if its past ``max_lag`` rows help to predict it "
        "beyond its own past, by one F test of all of them.",
        parameters="``alpha`` 0.05 (of each test), ``max_lag`` 3",
        complexity="O(rows x columns^2)",
        deviations="arXiv 2603.02057 averaged the p values of four tests and took the best of three lags, which has no "
        "known error rate. No correction for the number of tests, no differencing, as published.",
    ),
    _Learner(
        name="lingam",
        learn=_lingam,
        paper=Paper("A Linear Non-Gaussian Acyclic Model for Causal Discovery", "JMLR", 2006),
        title="an ICA-LiNGAM graph",
        graph="ICA-LiNGAM: independent component analysis gives the causal order, and an edge stays where the "
        "coefficient of a cause is significant in the regression of a metric on all metrics before it.",
        parameters="``alpha`` 0.05 (of each t test), ``max_iterations`` 1000 (of FastICA)",
        complexity=f"O(iterations x columns^2 x (rows + columns)); it ends itself above {MAX_COLUMNS} metrics",
        deviations="The model needs more rows than metrics: an error where there are not, not a guess. A metric that "
        "is a linear combination of others gets no edge. A widely used implementation drops edges by adaptive lasso; "
        "here it is the paper's test of the coefficients.",
        cost="moderate",
        seeded=True,
    ),
)

_WALKS = (
    _Walk(
        name="pagerank",
        rank=_pagerank,
        needs=frozenset({"metrics"}),
        title="PageRank",
        score="PageRank of a surfer who goes from effects to causes. Metrics that cause nothing have the lowest score "
        "and tie, those without an edge among them.",
        inputs="metrics",
        parameters="``damping`` 0.85",
        complexity="O(columns^3) for the PageRank",
        source='Page et al., "The PageRank Citation Ranking: Bringing Order to the Web", 1999',
        deviations="The PageRank is exact, not ten iterations, and no metric without an edge is lost.",
    ),
    _Walk(
        name="randomwalk",
        rank=_random_walk,
        needs=frozenset({"metrics", "sli"}),
        title="a random walk",
        score="share of its time that a random walk spends in the metric. A step to a cause weighs the cause's "
        "absolute correlation with the SLI, a step back to an effect ``rho`` times the effect's, staying the excess of "
        "the metric's own over its best cause's. The walk starts in any metric alike and takes ``steps`` steps. A "
        "metric without an edge keeps the walks that start in it.",
        inputs="metrics, the front end's latency (SLI)",
        parameters="``rho`` 0.5, ``steps`` 1000",
        complexity="O(steps x edges) for the walk",
        source='Wang et al., "CloudRanger: Root Cause Identification for Cloud Native Systems", CCGRID 2018 (its walk '
        "of first order)",
        deviations="The visits are not drawn but computed: what the share of a growing number of walks tends to. The "
        "paper starts in the front end; a graph of metrics has no such node and may fall apart, so every metric is a "
        "start, as in arXiv 2603.02057 (where, by a slip, the graph did not count).",
    ),
)


def _combine(learner: _Learner, walk: _Walk) -> None:
    """Register the method that ranks the learner's graph by the walk."""
    of_learner, of_walk = _parameters(learner.learn), _parameters(walk.rank)

    def run(view: CaseView, rng: np.random.Generator, **parameters: Any) -> Ranking:
        panel = build_panel(view)
        for_learner = {name: parameters.pop(name) for name in of_learner if name in parameters}
        graph = learner.learn(panel, rng, **for_learner)
        return Ranking.of_metrics(panel.scores(walk.rank(graph, panel, **parameters)))

    name = f"{learner.name}_{walk.name}"
    run.__name__ = run.__qualname__ = name
    run.__doc__ = _docstring(learner, walk)
    signature = inspect.signature(run)
    fixed = list(signature.parameters.values())[:2]
    own = [*of_learner.values(), *of_walk.values()]
    run.__signature__ = signature.replace(parameters=[*fixed, *own])  # type: ignore[attr-defined]  # what inspect reads
    run.__annotations__ |= {parameter.name: parameter.annotation for parameter in own}
    method(
        name=name,
        family="metric",
        needs=set(walk.needs),
        paper=learner.paper,
        cost=learner.cost,
        seeded=learner.seeded,
    )(run)


def _parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Keyword-only arguments with their annotations resolved."""
    annotations = get_type_hints(function)
    return {
        name: parameter.replace(annotation=annotations[name])
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }


def _docstring(learner: _Learner, walk: _Walk) -> str:
    paper = learner.paper
    paragraphs = (
        f"Metrics of {learner.title}, by {walk.title} from effects to causes.",
        f"Graph: {learner.graph} Score: {walk.score}",
        f"Ranks metrics; a service scores as its worst one. Inputs: {walk.inputs}; the inject time is not used, as "
        f"published: the graph is learned over both windows. Parameters: {learner.parameters}, {walk.parameters}. "
        f"Complexity: {learner.complexity}; {walk.complexity}. "
        f"Randomness: {'the start of FastICA' if learner.seeded else 'none'}. "
        f'Source: "{paper.title}", {paper.venue} {paper.year}, for the graph; {walk.source}, for the walk; together in '
        'Pham et al., "Root Cause Analysis for Microservice System based on Causal Inference: How Far Are We?", ASE '
        f"2024. Deviations: columns are standardised. {learner.deviations} {walk.deviations}",
    )
    return "\n\n".join(textwrap.fill(paragraph, 110) for paragraph in paragraphs)


for _learner in _LEARNERS:
    for _walk in _WALKS:
        _combine(_learner, _walk)
