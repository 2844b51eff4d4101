from __future__ import annotations

import numpy as np
import pytest

from tasks.rca.features.surprise import sample_scores
from tasks.rca.metric.score_ordering import score_ordering
from tests.rca.views import view_of

RNG = np.random.default_rng(0)


def test_known_answer() -> None:
    """Normal 1 … 5 (median 3): 9 is further than all, 5 as far as two, 3 as far as all."""
    columns = {
        ("a", "x"): [1, 2, 3, 4, 5, 5.0],
        ("a", "y"): [10, 20, 30, 40, 50, 30.0],
        ("b", "x"): [1, 2, 3, 4, 5, -9.0],
    }
    ranking = score_ordering(view_of(columns, normal_rows=5), RNG)
    assert {(s, m): score for s, m, score in ranking.metrics} == pytest.approx(
        {("a", "x"): np.log(2), ("a", "y"): 0, ("b", "x"): np.log(6)}
    )
    assert dict(ranking.services) == pytest.approx({"a": np.log(2), "b": np.log(6)})


def test_an_outlier_rarely_causes_a_more_surprising_one() -> None:
    """The paper's lemma behind the method: if the cause scores s, its effect scores s + d with probability at most
    exp(-d), whatever the mechanism between them."""
    rng = np.random.default_rng(1)
    cause, noise = rng.standard_normal((2, 200_000))
    for effect in (2 * cause + noise, cause**3 + noise, np.exp(cause) * np.sign(noise)):
        of_cause, of_effect = (sample_scores(values[:2000], values) for values in (cause, effect))
        for s, d in ((2.0, 0.5), (2.0, 1.0), (3.0, 1.0), (3.0, 2.0)):
            outliers = of_cause >= s
            assert np.mean(of_effect[outliers] >= s + d) <= np.exp(-d) + 0.05


def test_the_root_of_a_polytree_is_on_top() -> None:
    """A linear polytree r -> a -> b, c -> b with independent noise as large as the signal. A change in r, at the edge
    of what 1000 normal rows can tell, fades on its way; in a change of b nothing else takes part."""
    for root in ("r", "b"):
        found = 0
        for seed in range(20):
            rng = np.random.default_rng(seed)
            noise = {name: rng.standard_normal(1002) for name in "rabc"}
            noise[root][1000:] += 3.2
            r, c = noise["r"], noise["c"]
            a = 0.7 * r + noise["a"]
            b = 0.7 * a + 0.7 * c + noise["b"]
            view = view_of({(n, "x"): v.tolist() for n, v in zip("rabc", (r, a, b, c), strict=True)}, normal_rows=1000)
            scores = dict(score_ordering(view, RNG).services)
            found += max(scores, key=scores.__getitem__) == root
        assert found >= 17


def test_few_normal_samples_bound_the_score() -> None:
    """The saturation that arXiv 2601.21359 warns of: 100 and 1e6 deviations are alike after five samples."""
    columns = {("a", "x"): [1, 2, 3, 4, 5, 1e2], ("b", "x"): [1, 2, 3, 4, 5, 1e6]}
    assert dict(score_ordering(view_of(columns, normal_rows=5), RNG).services) == pytest.approx(
        dict.fromkeys("ab", np.log(6))
    )
