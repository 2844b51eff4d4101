"""Validity: recorded cases beside their simulated twins."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import kendalltau

from tasks.case import read_cases
from tasks.compare.errors import CompareError
from tasks.compare.validity import SILENT, Effect, Scores, _agreements, markdown, validity
from tasks.system.durable import write_durably
from tests.backends.simulated.cases import fault, toy_case


def call_it_recorded(case: Path) -> None:
    """Rewrite ``case.json`` as if a real stack had left it."""
    record = json.loads((case / "case.json").read_text(encoding="utf-8"))
    record["stack"] |= {"simulated": False, "backend": "local"}
    write_durably(case / "case.json", json.dumps(record).encode())


def workspaces(directory: Path, seeds: tuple[int, int] = (1, 2)) -> tuple[Path, Path]:
    recorded, simulated = directory / "recorded", directory / "simulated"
    for folder, seed in zip((recorded, simulated), seeds, strict=True):
        toy_case(folder / "cases", fault("network-delay", "ray-replicas-1"), seed=seed)
    call_it_recorded(next((recorded / "cases").iterdir()))
    return recorded, simulated


def test_a_simulation_agrees_with_itself(tmp_path: Path) -> None:
    recorded, simulated = workspaces(tmp_path)
    found = validity([recorded], simulated)
    assert found.cases == 1
    assert found.verdicts == (1, 1)
    assert found.agreeing >= 0.9 * len(found.effects)
    delay = next(each for each in found.effects if each.metric == "latency_p50")
    assert np.exp(delay.recorded) > 3
    assert np.exp(delay.simulated) > 3
    assert found.tau is None
    band = next(each for each in found.bands if each.metric == "memory_rss")
    assert band.cases == 1
    assert band.low == band.high == pytest.approx(0, abs=0.05)
    assert "| network-delay | latency_p50 | 1 |" in markdown(found)
    assert "| memory_rss | 1 | × 1 |" in markdown(found)


def test_tau_is_that_of_kendall_and_its_interval_holds_it() -> None:
    rng = np.random.default_rng(1)
    recorded = np.round(rng.random((6, 40)), 1)
    simulated = np.clip(recorded + 0.3 * rng.standard_normal((6, 40)), 0, 1)
    found = Scores(tuple("abcdef"), np.stack([recorded, simulated])).tau()
    assert found is not None
    tau, low, high = found
    assert tau == pytest.approx(kendalltau(recorded.mean(axis=1), simulated.mean(axis=1)).statistic)
    assert low <= tau <= high
    assert high - low > 0.1
    assert Scores(("a",), np.zeros((2, 1, 3))).tau() is None


def test_halves_of_equal_sides_agree_alike_and_a_reversed_side_does_not() -> None:
    rng = np.random.default_rng(2)
    recorded = np.linspace(0, 1, 6)[:, None] + 0.1 * rng.standard_normal((6, 40))
    same = Scores(tuple("abcdef"), np.stack([recorded, recorded])).halves()
    assert same is not None
    assert same[0] == pytest.approx(same[1])
    assert same[0] > 0.95
    reversed_side = Scores(tuple("abcdef"), np.stack([recorded, recorded[::-1]])).halves()
    assert reversed_side is not None
    assert reversed_side[1] < -0.95


def test_the_table_leaves_out_each_kind_and_tells_held_out_cases(tmp_path: Path) -> None:
    recorded, simulated = workspaces(tmp_path)
    found = validity([recorded], simulated, ["simulated-tests"])
    assert [each.what for each in found.agreements] == ["all", "fitted to", "held out"]
    cases = {case.record.case_id: case for case in read_cases(recorded / "cases")}
    scores = Scores(("a", "b", "c"), np.zeros((2, 3, 1)), tuple(cases))
    parts = {each.what: each.cases for each in _agreements(scores, cases, ["another"])}
    assert parts == {"all": 1, "fitted to": 0, "held out": 1, "without network-delay": 0}
    with pytest.raises(CompareError, match="no recorded case is of a campaign 'simulated-test'"):
        validity([recorded], simulated, ["simulated-test"])


def test_no_twin_is_an_error(tmp_path: Path) -> None:
    recorded, simulated = workspaces(tmp_path)
    shutil.rmtree(simulated / "cases")
    with pytest.raises(CompareError, match="no twin"):
        validity([recorded], simulated)


def test_sides_in_the_wrong_order_are_an_error(tmp_path: Path) -> None:
    recorded, simulated = workspaces(tmp_path)
    with pytest.raises(CompareError, match="must hold recorded"):
        validity([simulated], recorded)


@pytest.mark.parametrize(
    ("recorded", "simulated", "agrees"),
    [
        (0.0, 0.6, True),
        (0.0, 0.8, False),
        (3.0, 1.6, True),
        (3.0, 1.4, False),
        (-3.0, -1.6, True),
        (1.0, -1.0, False),
        (SILENT, SILENT, True),
        (SILENT, 0.0, False),
        (0.0, SILENT, False),
    ],
)
def test_when_effects_agree(recorded: float, simulated: float, agrees: bool) -> None:
    assert Effect("k", "m", 1, recorded, simulated).agrees is agrees
