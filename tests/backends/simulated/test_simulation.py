"""A case in the making: time passes in steps, the past stays, and what is done to the world acts from then on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tasks.backends.simulated.calibration import Calibration, read_calibration
from tasks.backends.simulated.maker import publish_until_now
from tasks.backends.simulated.params import FIRST_REPLICA
from tasks.backends.simulated.simulation import Outcome, Simulation, simulate
from tasks.backends.simulated.world import Effect, World
from tasks.case import validate_case
from tasks.injection import InjectionSpec
from tests.backends.simulated.cases import deploy, fault, order

FAULT_S = 27.0
"""Begin of the fault: warm-up and baseline."""


def simulation(*injections: InjectionSpec) -> Simulation:
    return Simulation(deploy(), read_calibration("local-toy"), order(*injections))


def ejected(start_s: float, replica: int) -> Effect:
    def apply(world: World, service: int, _: Calibration) -> None:
        world.ejected[service] = True

    return Effect(FIRST_REPLICA + replica, start_s, np.inf, apply)


def same(one: Outcome, other: Outcome, until_s: float) -> None:
    for a, b in zip(vars(one.paths).values(), vars(other.paths).values(), strict=True):
        before = np.isnan(a) | (a <= until_s)
        np.testing.assert_array_equal(a[before & (b <= until_s)], b[before & (b <= until_s)])
    assert np.count_nonzero(one.paths.last_token <= until_s) == np.count_nonzero(other.paths.last_token <= until_s)


def test_steps_come_to_the_same_as_one_run() -> None:
    wanted = simulate(deploy(), read_calibration("local-toy"), order(fault("network-loss", "ray-replicas-1")))
    stepped = simulation(fault("network-loss", "ray-replicas-1"))
    for until_s in (10, 29.995, 40, 1e9):
        stepped.advance(until_s)
    np.testing.assert_array_equal(stepped.outcome().paths.last_token, wanted.paths.last_token)


@pytest.mark.parametrize("kind", ["process-freeze", "network-delay", "cpu-stress"])
def test_what_is_done_later_leaves_the_past_as_it_was(kind: str) -> None:
    free, cured = (simulation(fault(kind, "ray-replicas-1", offset_s=1)) for _ in range(2))
    cured.advance(FAULT_S + 8)
    assert cured.cure("ray-replicas-1") == [kind]
    cured.add(ejected(cured.now, 1))
    for each in (free, cured):
        each.advance(1e9)
    same(free.outcome(), cured.outcome(), FAULT_S + 8)
    later = free.outcome().paths.last_token > FAULT_S + 9
    assert (free.outcome().paths.last_token[later] != cured.outcome().paths.last_token[later]).any()


def test_a_cure_ends_a_fault_early_and_the_record_says_when(tmp_path: Path) -> None:
    cured = simulation(fault("process-freeze", "ray-head"))
    cured.advance(FAULT_S + 5)
    assert cured.cure("ray-head", {"cpu-stress"}) == []
    assert cured.cure("ray-head", {"process-freeze"}) == ["process-freeze"]
    cured.advance(1e9)
    case = publish_until_now(cured, tmp_path)
    (injection,) = case.record.injections
    assert injection.observed is not None
    assert (injection.observed.end - injection.observed.start).total_seconds() == pytest.approx(5)
    served = cured.outcome().paths.last_token
    assert np.count_nonzero((served > FAULT_S + 5) & (served < FAULT_S + 20)) > 10


def test_an_ejected_replica_gets_nothing_and_still_finishes_what_it_has() -> None:
    run = simulation()
    run.advance(FAULT_S)
    effect = ejected(run.now, 1)
    run.add(effect)
    run.advance(FAULT_S + 10)
    received = run.outcome().served
    assert not ((received.replica == 1) & (received.received_s > FAULT_S + 0.1)).any()
    assert not received.lost.any()
    run.withdraw(effect)
    run.advance(FAULT_S + 20)
    received = run.outcome().served
    assert ((received.replica == 1) & (received.received_s > FAULT_S + 10)).any()


def test_the_case_so_far_is_a_case_of_what_was_known(tmp_path: Path) -> None:
    run = simulation(fault("network-delay", "ray-replicas-1"))
    run.advance(FAULT_S + 8)
    so_far = publish_until_now(run, tmp_path / "so-far")
    run.advance(1e9)
    whole = publish_until_now(run, tmp_path / "whole")
    assert validate_case(so_far.path) == []
    assert [phase.name for phase in so_far.record.phases] == ["baseline", "fault"]
    keys = ["metric", "service", "time"]
    a, b = (case.metrics[[*keys, "value"]].dropna().set_index(keys)["value"] for case in (so_far, whole))
    assert set(a.index) <= set(b.index)
    assert (a == b.reindex(a.index)).all()
    assert set(so_far.requests["request_id"]) < set(whole.requests["request_id"])
    assert so_far.spans["span_id"].isin(whole.spans["span_id"]).all()


def test_the_past_cannot_be_changed() -> None:
    run = simulation()
    run.advance(10)
    with pytest.raises(ValueError, match="cannot change what was before 10 s"):
        run.add(ejected(5, 1))
