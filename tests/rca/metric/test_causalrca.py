from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tasks.rca.method import MethodError
from tasks.rca.metric import causalrca as module
from tasks.rca.metric.causalrca import Schedule, _Model, _ScalarNetwork, causalrca, learn_weights, require_memory
from tests.rca.views import view_of

QUICK = Schedule(hidden=16, epochs=40, rounds=4)


def network(hidden: int, seed: int) -> tuple[_ScalarNetwork, np.ndarray, np.ndarray]:
    size = _ScalarNetwork.size(hidden)
    parameters, gradient = np.zeros(size), np.zeros(size)
    return _ScalarNetwork(parameters, gradient, np.random.default_rng(seed)), parameters, gradient


@pytest.mark.parametrize("seed", range(5))
def test_a_scalar_network_is_the_sum_over_its_hidden_units(seed: int) -> None:
    net, parameters, _ = network(8, seed)
    parameters[2] = 0.0  # a unit that does not depend on its input
    w, b, v, c = np.split(parameters, [8, 16, 24])
    x = np.random.default_rng(seed).normal(size=200) * 3
    expected = np.maximum(x[:, None] * w + b, 0) @ v + c
    np.testing.assert_allclose(net.forward(x), expected, atol=1e-12)


def loss(model: _Model, values: np.ndarray, multiplier: float, penalty: float) -> float:
    """The loss of DAG-GNN as the papers write it: with the inverse in the decoder."""
    rows, columns = values.shape
    weights, shift = model.weights(), model._shift[0]
    mixing = np.eye(columns) - weights.T
    encoded = model._encoder.forward(values.ravel()).reshape(rows, columns)
    latent = (encoded + shift) @ mixing.T - shift
    unmixed = (latent + shift) @ np.linalg.inv(mixing).T - shift
    decoded = model._decoder.forward(unmixed.ravel()).reshape(rows, columns)
    size = np.linalg.matrix_power(np.eye(columns) + weights * weights / columns, columns)
    violation = np.trace(size) - columns
    return (
        np.sum((decoded - values) ** 2) / 2 / rows
        + np.sum(latent**2) / 2 / rows
        + multiplier * violation
        + penalty / 2 * violation**2
        + 100 * np.sum(np.diagonal(weights) ** 2)
    )


def test_the_gradient_is_that_of_the_published_loss() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(size=(11, 4))
    model = _Model(values, 6, rng)
    model.parameters[:17] = rng.normal(size=17) * 0.1
    model.differentiate(multiplier=0.7, penalty=3.0)
    gradient = model.gradient.copy()
    for i in range(len(model.parameters)):
        kept, figures = model.parameters[i], []
        for step in (1e-6, -1e-6):
            model.parameters[i] = kept + step
            figures.append(loss(model, values, 0.7, 3.0))
        model.parameters[i] = kept
        assert gradient[i] == pytest.approx((figures[0] - figures[1]) / 2e-6, rel=1e-4, abs=1e-6), i


def test_what_is_learned_has_no_cycle() -> None:
    rng = np.random.default_rng(0)
    cause = rng.normal(size=60)
    values = np.column_stack([cause, cause + 0.3 * rng.normal(size=60), rng.normal(size=60)])
    weights = learn_weights(values, rng, Schedule(hidden=16, epochs=300))
    cycles = np.linalg.matrix_power(np.eye(3) + weights**2 / 3, 3).trace() - 3
    assert cycles < 1e-6
    assert np.abs(weights[[0, 1], [1, 0]]).max() > 10 * np.abs(weights[2]).max()


def test_the_walk_goes_from_effects_to_causes(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    view = view_of({(name, "x"): rng.normal(size=20).tolist() for name in "abc"}, normal_rows=10)
    names = [service for service, _ in module.build_panel(view).columns]

    def learned(values: np.ndarray, rng: np.random.Generator, schedule: Schedule) -> np.ndarray:
        weights = np.zeros((3, 3))
        weights[names.index("b"), names.index("a")] = -0.9  # b causes a
        weights[names.index("c"), names.index("a")] = 0.2  # too weak to be an edge
        return weights

    monkeypatch.setattr(module, "learn_weights", learned)
    scores = dict(causalrca(view, rng).services)
    assert scores["b"] > scores["a"] == pytest.approx(scores["c"])


def test_the_seed_decides() -> None:
    values = np.random.default_rng(3).normal(size=(30, 5))
    first, again, other = (learn_weights(values, np.random.default_rng(seed), QUICK) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_memory_alone_limits_the_number_of_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    """150 was the most once; 206 metrics of PetShop take 10 MiB."""
    require_memory(600, 500, 128 * 2**20)
    with pytest.raises(MethodError, match=r"5000 metrics in 600 rows need [0-9,]+ MiB; the limit is 1,000 MiB"):
        require_memory(600, 5000, 1000 * 2**20)
    rng = np.random.default_rng(0)
    columns = {("a", f"m{i}"): rng.normal(size=8).tolist() for i in range(160)}
    view = view_of(columns, normal_rows=4)
    assert len(causalrca(view, rng, epochs=1, rounds=1).metrics) == 160
    monkeypatch.setattr(module, "memory_limit", lambda: 1e5)
    with pytest.raises(MethodError, match="160 metrics in 8 rows need"):
        causalrca(view, rng)


def test_the_decoder_starts_without_biases_as_the_authors_code_does() -> None:
    values = np.random.default_rng(0).normal(size=(20, 3))
    kinds: tuple[module.Biases, ...] = ("zero", "uniform")
    first, other = (_Model(values, 8, np.random.default_rng(1), kind) for kind in kinds)
    assert not first._decoder._b.any()
    assert not first._decoder._c.any()
    assert first._encoder._b.all()
    assert other._decoder._b.all()
    np.testing.assert_array_equal(first._decoder._w, other._decoder._w)


def test_the_published_scale_divides_by_the_largest_value(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[np.ndarray] = []
    monkeypatch.setattr(module, "learn_weights", lambda values, rng, schedule: seen.append(values) or np.zeros((2, 2)))
    view = view_of({("a", "x"): [1, 2, 4, 3], ("b", "y"): [-10, 5, 5, 0]}, normal_rows=2)
    causalrca(view, np.random.default_rng(0), scale="maximum")
    causalrca(view, np.random.default_rng(0), scale="deviation")
    assert sorted(seen[0].max(axis=0).tolist()) == [0.5, 1]
    assert np.abs(seen[0]).max(axis=0).tolist() == [1, 1]
    assert seen[1].std(axis=0) == pytest.approx([1, 1])


def test_the_loss_that_decides_when_to_stop_is_reconstruction_and_latent_size() -> None:
    rng = np.random.default_rng(2)
    values = rng.normal(size=(9, 3))
    model = _Model(values, 5, rng)
    model.parameters[:9] = rng.normal(size=9) * 0.1
    own_terms = loss(model, values, 0.0, 0.0) - 100 * np.sum(np.diagonal(model.weights()) ** 2)
    assert model.differentiate(multiplier=3.0, penalty=2.0) == pytest.approx(own_terms)


def test_a_much_worse_loss_ends_the_growth_of_the_penalty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_learning_rate", lambda base, penalty: 0.5)  # far too large: the loss grows
    values = np.random.default_rng(3).normal(size=(40, 4))
    values[:, 1] += 2 * values[:, 0]
    schedule = Schedule(hidden=8, epochs=5, rounds=6)
    plain, stopped = (
        learn_weights(values, np.random.default_rng(0), replace(schedule, stop_on_worse=stop)) for stop in (False, True)
    )
    assert np.isfinite(stopped).all()
    assert not np.array_equal(plain, stopped)
