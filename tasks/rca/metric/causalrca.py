"""CausalRCA: a weighted causal graph learned by gradient descent (DAG-GNN), then PageRank from effects to causes."""

from __future__ import annotations

import math
import os
import resource
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tasks.rca.features.panel import Panel, build_panel, fill_gaps
from tasks.rca.graph.random_walk import stationary_distribution, transition_matrix
from tasks.rca.method import MethodError, Paper, Ranking, method
from tasks.rca.view import CaseView

_ARRAYS_OF_GRAPH = 12
_ARRAYS_OF_SAMPLES = 16
"""Numbers of (columns, columns) and of (rows, columns) arrays in memory during learning."""
Scale = Literal["deviation", "maximum"]
Biases = Literal["zero", "uniform"]

MAX_MULTIPLICATIONS = 10_000_000_000_000
"""Bounds the time: half an hour on one core, 390 metrics with the published schedule."""
USUAL_STEPS = 20_000

_MAX_PENALTY = 1e20
_PENALTY_GROWTH = 10.0
_ENOUGH_PROGRESS = 0.25
_WEIGHT_DECAY = 100.0
_LEARNING_RATES = (1e-4, 1e-2)


@method(
    name="causalrca",
    family="metric",
    needs={"metrics"},
    cost="expensive",
    seeded=True,
    paper=Paper(
        "CausalRCA: Causal inference based precise fine-grained root cause localization for microservice applications",
        "Journal of Systems and Software",
        2023,
    ),
)
def causalrca(
    view: CaseView,
    rng: np.random.Generator,
    *,
    hidden: int = 64,
    epochs: int = 500,
    rounds: int = 100,
    learning_rate: float = 1e-3,
    tolerance: float = 1e-8,
    edge_threshold: float = 0.3,
    damping: float = 0.85,
    scale: Scale = "deviation",
    decoder_biases: Biases = "zero",
    stop_on_worse: bool = False,
) -> Ranking:
    """Metrics by PageRank, from effects to causes, in a weighted causal graph that an autoencoder learns.

    Ranks metrics; a service scores as its worst one; columns that no edge touches tie. Inputs: metrics, the whole
    visible window (as published, the inject time is not used). Parameters: ``hidden`` 64 units per network, ``epochs``
    500 per value of the penalty, at most ``rounds`` 100 of the multiplier, ``learning_rate`` 0.001 (as published, it
    follows the penalty within 1e-4 to 1e-2), ``tolerance`` 1e-8 of acyclicity, ``edge_threshold`` 0.3 (weaker weights
    are no edge), ``damping`` 0.85, ``scale`` of the columns (``deviation``: mean 0 and standard deviation 1;
    ``maximum``: divided by their largest absolute value, as published, which reorders the result), ``decoder_biases``
    at the start (``zero``, as in the authors' code; ``uniform``, as the encoder's), ``stop_on_worse`` (the penalty is
    not raised further in a round at the end of whose epochs the loss exceeds twice the best so far: the authors' script
    and its copy in RCAEval do so; off, as neither paper has it). Complexity: O(steps x (rows x columns x log hidden +
    columns^3 x log columns)) with some 10,000 to 20,000 steps: 200 columns take about a minute, and time grows with the
    third power. It stops before it learns where that would take ``MAX_MULTIPLICATIONS``, or the arrays would exceed the
    memory limit of the process. Randomness: the first weights
    of the two networks. Source: Xin, Chen, Zhao, JSS 203, 2023; the graph learner is DAG-GNN of Yu, Chen, Gao, Yu, ICML
    2019. Deviations: columns are standardised, not divided by their maximum, so that signs and offsets never decide;
    the surfer goes from effects to causes, as the authors' code does (a widely used copy transposes twice and goes the
    other way). Nothing else: the schedule, the loss and the optimiser (Adam) are the published ones; only the
    arithmetic differs, see :func:`learn_weights`.
    """
    panel = build_panel(view)
    schedule = Schedule(hidden, epochs, rounds, learning_rate, tolerance, decoder_biases, stop_on_worse)
    require_time(len(panel.columns), schedule)
    require_memory(len(panel.values), len(panel.columns), memory_limit())
    values = panel.values if scale == "deviation" else _divided_by_maximum(view, panel)
    weights = np.abs(learn_weights(values, rng, schedule))
    weights[weights < edge_threshold] = 0.0
    np.fill_diagonal(weights, 0.0)
    shares = stationary_distribution(
        transition_matrix(weights.T), np.ones(len(weights)), restart_probability=1 - damping
    )
    return Ranking.of_metrics(panel.scores(shares))


def require_time(columns: int, schedule: Schedule) -> None:
    """Raise :class:`MethodError` if acyclicity would take more than ``MAX_MULTIPLICATIONS``. Multiplications are
    counted, not timed, so every machine stops at the same number of columns."""
    steps = min(schedule.rounds * schedule.epochs, USUAL_STEPS)
    needed = steps * columns**3 * max(1, columns.bit_length())
    if needed > MAX_MULTIPLICATIONS:
        raise MethodError(
            f"{columns} metrics need about {needed:.0e} multiplications; CausalRCA stops at {MAX_MULTIPLICATIONS:.0e}"
        )


def require_memory(rows: int, columns: int, limit: float) -> None:
    """Raise :class:`MethodError` if learning from (rows, columns) samples would need more than ``limit`` bytes."""
    needed = 8 * (_ARRAYS_OF_GRAPH * columns**2 + _ARRAYS_OF_SAMPLES * rows * columns)
    if needed > limit:
        raise MethodError(
            f"{columns} metrics in {rows} rows need {needed / 2**20:,.0f} MiB; the limit is {limit / 2**20:,.0f} MiB"
        )


def memory_limit() -> float:
    """Bytes that this process may use: its limit for data, else what the machine has."""
    data, _ = resource.getrlimit(resource.RLIMIT_DATA)
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return machine if data == resource.RLIM_INFINITY else min(data, machine)


def _divided_by_maximum(view: CaseView, panel: Panel) -> np.ndarray:
    """(rows, columns) the samples of the columns of ``panel``, in units of their largest absolute value."""
    values = fill_gaps(view.metrics.loc[:, list(panel.columns)].to_numpy(dtype=float), panel.ticks)
    return values / np.max(np.abs(values), axis=0)


@dataclass(frozen=True)
class Schedule:
    """Parameters of learning; see :func:`causalrca`."""

    hidden: int = 64
    epochs: int = 500
    rounds: int = 100
    learning_rate: float = 1e-3
    tolerance: float = 1e-8
    decoder_biases: Biases = "zero"
    stop_on_worse: bool = False


def learn_weights(values: np.ndarray, rng: np.random.Generator, schedule: Schedule) -> np.ndarray:
    """DAG-GNN: (columns, columns) weights [cause, effect], of a graph that is acyclic up to the tolerance.

    ``values``: (rows, columns), standardised. The loss is reconstruction + size of the latent variables + augmented
    Lagrangian of acyclicity, minimised in full batches. Two facts make a step cheap and change no result. The decoder
    inverts what the encoder did with the graph, (I - B^T)^-1 (I - B^T) u = u, so reconstruction never needs the
    inverse. Each network maps one number to one number, so it is a piecewise linear function of it: with its pieces
    sorted, values and gradients of all hidden units come from sums over the pieces.
    """
    model = _Model(values, schedule.hidden, rng, schedule.decoder_biases)
    optimiser = _Adam(model.parameters, model.gradient)
    multiplier, penalty, last, best = 0.0, 1.0, math.inf, math.inf
    for _ in range(schedule.rounds):
        violation = last
        while penalty < _MAX_PENALTY:
            rate = _learning_rate(schedule.learning_rate, penalty)
            for _ in range(schedule.epochs):
                loss = model.differentiate(multiplier, penalty)
                best = min(best, loss)
                optimiser.step(rate)
            violation = model.violation()
            worse = schedule.stop_on_worse and loss > 2 * best
            if worse or violation <= _ENOUGH_PROGRESS * last:
                break
            penalty *= _PENALTY_GROWTH
        last = violation
        multiplier += penalty * violation
        if violation <= schedule.tolerance or penalty >= _MAX_PENALTY:
            break
    return model.weights()


def _learning_rate(base: float, penalty: float) -> float:
    lowest, highest = _LEARNING_RATES
    return min(max(base / (math.log10(penalty) + 1e-10), lowest), highest)


class _Model:
    """Encoder, decoder and graph. ``parameters`` and ``gradient`` are flat; everything else looks into them."""

    def __init__(self, values: np.ndarray, hidden: int, rng: np.random.Generator, biases: Biases = "zero") -> None:
        self.rows, self.columns = values.shape
        order = np.argsort(values, axis=None, kind="stable")
        self._from_sorted = np.argsort(order, kind="stable")
        self._to_sorted = order
        self._inputs = values.ravel()[order]
        graph = self.columns**2
        size = graph + 1 + 2 * _ScalarNetwork.size(hidden)
        self.parameters, self.gradient = np.zeros(size), np.zeros(size)
        self._graph = self.parameters[:graph].reshape(self.columns, self.columns)
        self._graph_gradient = self.gradient[:graph].reshape(self.columns, self.columns)
        self._shift, self._shift_gradient = self.parameters[graph : graph + 1], self.gradient[graph : graph + 1]
        middle = graph + 1 + _ScalarNetwork.size(hidden)
        self._encoder = _ScalarNetwork(self.parameters[graph + 1 : middle], self.gradient[graph + 1 : middle], rng)
        self._decoder = _ScalarNetwork(self.parameters[middle:], self.gradient[middle:], rng)
        if biases == "zero":
            self._decoder.clear_biases()

    def weights(self) -> np.ndarray:
        return np.sinh(3.0 * self._graph)

    def violation(self) -> float:
        """tr((I + B∘B / n)^n) - n: 0 for a graph without cycles."""
        return self._acyclicity(self.weights())[0]

    def differentiate(self, multiplier: float, penalty: float) -> float:
        """Fill ``gradient`` at ``parameters``; the loss without its terms of the graph (minus the ELBO)."""
        weights = self.weights()
        shape = (self.rows, self.columns)
        encoded = self._encoder.forward(self._inputs)
        decoded = self._decoder.forward(encoded)
        encoded_gradient = self._decoder.backward((decoded - self._inputs) / self.rows)

        shifted = (encoded + self._shift[0])[self._from_sorted].reshape(shape)
        latent = shifted - shifted @ weights - self._shift[0]
        latent_gradient = latent / self.rows
        shifted_gradient = latent_gradient - latent_gradient @ weights.T
        self._shift_gradient[0] = shifted_gradient.sum() - latent_gradient.sum()
        self._encoder.backward(encoded_gradient + shifted_gradient.ravel()[self._to_sorted])

        violation, direction = self._acyclicity(weights)
        gradient = (multiplier + penalty * violation) * direction - shifted.T @ latent_gradient
        np.einsum("ii->i", gradient)[:] += 2.0 * _WEIGHT_DECAY * np.diagonal(weights)
        np.multiply(gradient, 3.0 * np.sqrt(1.0 + weights * weights), out=self._graph_gradient)
        return (float(np.sum((decoded - self._inputs) ** 2)) + float(np.sum(latent**2))) / 2 / self.rows

    def _acyclicity(self, weights: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the violation and its gradient in the weights."""
        base = weights * weights / self.columns
        np.einsum("ii->i", base)[:] += 1.0
        power = np.linalg.matrix_power(base, self.columns - 1).T
        return float(np.sum(power * base)) - self.columns, 2.0 * weights * power


class _ScalarNetwork:
    """y = sum over hidden units of v * relu(w * x + b), plus c, for many numbers x at a time.

    Between the points where a unit switches on or off y is linear in x: ``forward`` looks up the piece of each x, and
    ``backward`` sums the gradient of each unit over the pieces on which it is on.
    """

    @staticmethod
    def size(hidden: int) -> int:
        return 3 * hidden + 1

    def __init__(self, parameters: np.ndarray, gradient: np.ndarray, rng: np.random.Generator) -> None:
        hidden = (len(parameters) - 1) // 3
        cuts = [hidden, 2 * hidden, 3 * hidden]
        self._w, self._b, self._v, self._c = np.split(parameters, cuts)
        self._w_gradient, self._b_gradient, self._v_gradient, self._c_gradient = np.split(gradient, cuts)
        spread = math.sqrt(2.0 / (1 + hidden))
        self._w[:] = rng.normal(0.0, spread, hidden)
        self._b[:] = rng.uniform(-1.0, 1.0, hidden)
        self._v[:] = rng.normal(0.0, spread, hidden)
        self._c[:] = rng.uniform(-1.0, 1.0, 1) / math.sqrt(hidden)

    def clear_biases(self) -> None:
        self._b[:] = 0.0
        self._c[:] = 0.0

    def forward(self, inputs: np.ndarray) -> np.ndarray:
        w, b, v = self._w, self._b, self._v
        flat = w == 0
        switch = np.where(flat, np.where(b > 0, -np.inf, np.inf), -b / np.where(flat, 1.0, w))
        self._order = np.argsort(switch)
        rising = (w >= 0)[self._order]
        slope, offset = (w * v)[self._order], (b * v)[self._order]
        falling = ~rising
        signs = np.where(rising, 1.0, -1.0)
        slopes = np.cumsum(np.concatenate([slope[falling].sum(keepdims=True), signs * slope]))
        offsets = np.cumsum(np.concatenate([offset[falling].sum(keepdims=True) + self._c, signs * offset]))
        self._inputs, self._rising = inputs, rising
        self._piece = np.searchsorted(switch[self._order], inputs)
        self._slope = slopes[self._piece]
        return self._slope * inputs + offsets[self._piece]

    def backward(self, gradient: np.ndarray) -> np.ndarray:
        """Return the gradient in x for the gradient in y; fill in the gradient of the parameters."""
        on, on_inputs = self._sums_where_on(gradient), self._sums_where_on(gradient * self._inputs)
        self._v_gradient[:] = self._w * on_inputs + self._b * on
        self._w_gradient[:] = self._v * on_inputs
        self._b_gradient[:] = self._v * on
        self._c_gradient[0] = gradient.sum()
        return gradient * self._slope

    def _sums_where_on(self, values: np.ndarray) -> np.ndarray:
        """Per hidden unit: the sum of ``values`` over the inputs for which it is on."""
        below = np.cumsum(np.bincount(self._piece, values, len(self._order) + 1))
        sums = np.empty(len(self._order))
        sums[self._order] = np.where(self._rising, below[-1] - below[:-1], below[:-1])
        return sums


class _Adam:
    """Kingma and Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015, with its defaults."""

    def __init__(self, parameters: np.ndarray, gradient: np.ndarray) -> None:
        self._parameters, self._gradient = parameters, gradient
        self._mean, self._square = np.zeros_like(parameters), np.zeros_like(parameters)
        self._steps = 0

    def step(self, rate: float) -> None:
        self._steps += 1
        self._mean += 0.1 * (self._gradient - self._mean)
        self._square += 0.001 * (self._gradient * self._gradient - self._square)
        scale = np.sqrt(self._square / (1.0 - 0.999**self._steps)) + 1e-8
        self._parameters -= rate / (1.0 - 0.9**self._steps) * self._mean / scale
