"""The fleet against what queueing theory and arithmetic say."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.backends.simulated.calibration import Calibration, EngineModel, StepLaw, read_calibration
from tasks.backends.simulated.engine import Arrivals, Fleet, Group, Router, States
from tasks.backends.simulated.faults import FAULTS
from tasks.backends.simulated.links import Links
from tasks.backends.simulated.params import FIRST_REPLICA
from tasks.backends.simulated.world import Effect, Timeline, World

FAR = 1e9


def calibration(**step: float) -> Calibration:
    known = read_calibration("local-toy")
    law = StepLaw(**{"fixed_s": 0.01, "sigma": 0, **step})
    engine = known.engine.model_copy(
        update={
            "step": law,
            "before_s": 0.0,
            "request_sigma": 0.0,
            "handover_s": 0.0,
            "max_num_seqs": 4,
            "kv_tokens": 10_000,
        }
    )
    return known.model_copy(update={"engine": engine, "dt_s": 0.01})


def fleet(
    at_s: list[float],
    prompts: int,
    outputs: int,
    *,
    replicas: int = 1,
    effects: tuple[Effect, ...] = (),
    model: Calibration | None = None,
    policy: str = "power-of-two",
    give_up_s: float = FAR,
    engine: EngineModel | None = None,
) -> Fleet:
    model = model or calibration()
    timeline = Timeline(effects, FIRST_REPLICA + replicas, model)
    count = len(at_s)
    arrivals = Arrivals(
        np.array(at_s), np.full(count, prompts), np.full(count, outputs), np.zeros(count, dtype=int),
        np.array(at_s) + give_up_s,
    )  # fmt: skip
    groups = [Group(0, replicas, engine or model.engine)]
    return Fleet(groups, model, timeline, arrivals, Links(timeline, model, 1), policy, 1)


def states_of(run: Fleet, until_s: float) -> States:
    run.advance(until_s)
    return run.states()


def down(start_s: float, end_s: float, replica: int = 0) -> Effect:
    def apply(world: World, service: int, _: Calibration) -> None:
        world.down[service] = True

    return Effect(FIRST_REPLICA + replica, start_s, end_s, apply)


def stalled(start_s: float, end_s: float, replica: int = 0) -> Effect:
    def apply(world: World, service: int, _: Calibration) -> None:
        world.stalled[service] = True

    return Effect(FIRST_REPLICA + replica, start_s, end_s, apply)


def test_one_request_takes_its_steps() -> None:
    """One step of 10 ms takes the prompt and makes the first token, each further token takes one."""
    run = fleet([0.1], prompts=20, outputs=11)
    run.advance(2.0)
    assert run.served.first_s[0] - run.served.admitted_s[0] == pytest.approx(0.01, abs=0.003)
    assert run.served.last_s[0] - run.served.first_s[0] == pytest.approx(0.10, abs=0.011)


def test_a_batch_shares_the_step() -> None:
    """With 5 ms per sequence a batch of four needs 10 + 4 x 5 ms per token, one sequence 15 ms."""
    law = calibration(per_sequence_s=0.005)
    alone, four = fleet([0.0], 10, 40, model=law), fleet([0.0] * 4, 10, 40, model=law)
    alone.advance(5.0)
    four.advance(5.0)
    one = alone.served.last_s[0] - alone.served.first_s[0]
    together = four.served.last_s[0] - four.served.first_s[0]
    assert together / one == pytest.approx(30 / 15, rel=0.05)


def test_requests_beyond_the_seats_wait_in_order() -> None:
    run = fleet([0.0] * 6, prompts=10, outputs=20)
    states = states_of(run, 3.0)
    assert states.gauges["running"].max() == 4
    assert states.gauges["waiting"].max() == 2
    admitted = run.served.admitted_s
    assert (admitted[4:] > admitted[:4].max()).all()
    assert not np.isnan(run.served.last_s).any()


def test_a_full_cache_preempts_the_youngest() -> None:
    model = calibration()
    small = model.engine.model_copy(update={"kv_tokens": 100})
    run = fleet([0.0, 0.001], prompts=30, outputs=60, model=model, engine=small)
    states = states_of(run, 5.0)
    assert states.counters["preemptions"][-1, 0] >= 1
    assert not np.isnan(run.served.last_s).any()
    assert run.served.last_s[0] < run.served.last_s[1]


def test_a_killed_replica_loses_its_requests_and_its_counters() -> None:
    run = fleet([0.0, 3.0], prompts=10, outputs=100, effects=(down(0.5, 2.0),))
    states = states_of(run, 5.0)
    assert run.served.lost.tolist() == [True, False]
    assert np.isnan(run.served.last_s[0])
    assert not np.isnan(run.served.last_s[1])
    generated = states.counters["generated"][:, 0]
    assert (np.diff(generated) < 0).sum() == 1


def test_nobody_is_sent_to_a_replica_that_is_down() -> None:
    run = fleet(np.linspace(0, 4, 200).tolist(), 5, 5, replicas=2, effects=(down(1.0, 3.0),))
    run.advance(6.0)
    meanwhile = (run.served.received_s > 1.0) & (run.served.received_s < 3.0)
    assert (run.served.replica[meanwhile] == 1).all()
    assert set(run.served.replica[~meanwhile]) == {0, 1}


def test_a_stalled_engine_answers_nothing_and_goes_on_afterwards() -> None:
    run = fleet([0.0], prompts=10, outputs=50, effects=(stalled(0.2, 1.2),))
    run.advance(3.0)
    assert run.served.last_s[0] == pytest.approx(0.5 + 1.0, abs=0.05)


def test_requests_wait_while_nobody_answers() -> None:
    run = fleet([1.0], prompts=10, outputs=5, effects=(down(0.5, 2.0),))
    states = states_of(run, 3.0)
    assert states.head_queued.max() == 1
    assert run.served.received_s[0] == pytest.approx(2.0, abs=0.02)


def test_a_client_that_gave_up_is_taken_out() -> None:
    run = fleet([0.0], prompts=10, outputs=50, effects=(stalled(0.1, 8.0),), give_up_s=2.0)
    states = states_of(run, 5.0)
    assert states.gauges["running"][-1, 0] == 0
    assert np.isnan(run.served.last_s[0])


def waits_of_md1(rate: float, service_s: float, count: int) -> float:
    """Return the mean wait of a fleet of one seat with fixed service times."""
    model = calibration()
    one_seat = model.engine.model_copy(update={"max_num_seqs": 1})
    rng = np.random.default_rng(3)
    at_s = np.cumsum(rng.exponential(1 / rate, count)).tolist()
    tokens = round(service_s / 0.01) - 1
    run = fleet(at_s, prompts=1, outputs=tokens + 1, model=model, engine=one_seat)
    run.advance(at_s[-1] + 30)
    return float(np.mean(run.served.admitted_s - run.served.arrived_s))


def test_waits_follow_pollaczek_and_khinchine() -> None:
    """Mean wait of M/D/1: rho s / (2 (1 - rho)) (Pollaczek 1930, Khinchine 1932)."""
    service_s, rho = 0.2, 0.6
    expected = rho * service_s / (2 * (1 - rho))
    assert waits_of_md1(rho / service_s, service_s, 4000) == pytest.approx(expected, rel=0.2)


@given(
    at=st.lists(st.floats(0, 3), min_size=1, max_size=40),
    outputs=st.integers(1, 30),
    replicas=st.integers(1, 4),
    policy=st.sampled_from(["power-of-two", "round-robin", "least-loaded"]),
    killed=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_no_request_is_lost_or_made(at: list[float], outputs: int, replicas: int, policy: str, killed: bool) -> None:
    effects = (down(1.0, 1.5),) if killed else ()
    run = fleet(sorted(at), 8, outputs, replicas=replicas, policy=policy, effects=effects)
    states = states_of(run, 30.0)
    done, lost = ~np.isnan(run.served.last_s), run.served.lost
    assert (done ^ lost).all()
    assert not lost.any() or killed
    order = (run.served.received_s, run.served.arrived_s, run.served.admitted_s, run.served.first_s, run.served.last_s)
    for earlier, later in pairwise(order):
        assert (later[done] >= earlier[done] - 1e-9).all()
    if not killed:
        assert states.counters["generated"][-1].sum() == pytest.approx(outputs * len(at), rel=1e-3)
        assert states.counters["finished"][-1].sum() == len(at)
    assert states.gauges["running"][-1].sum() == 0


def test_power_of_two_balances_better_than_chance() -> None:
    at_s = np.linspace(0, 5, 600).tolist()
    run = fleet(at_s, 5, 30, replicas=4)
    run.advance(10.0)
    counts = np.bincount(run.served.replica, minlength=4)
    assert counts.min() > 0.7 * counts.max()


def test_power_of_two_takes_two_different_replicas_and_passes_over_the_late_one() -> None:
    group = Group(0, 3, read_calibration("local-toy").engine)
    router = Router("power-of-two", [group], np.random.default_rng(1))
    load, reachable, late = np.array([0, 5, 9]), np.ones(3, dtype=bool), np.zeros(3)
    chosen = [router.choose(0, load, reachable, late) for _ in range(600)]
    assert set(chosen) == {0, 1}
    assert np.mean(np.equal(chosen, 0)) == pytest.approx(2 / 3, abs=0.06)
    late[0] = 1.0
    assert 0 not in {router.choose(0, load, reachable, late) for _ in range(200)}


@pytest.mark.parametrize(("most", "least_share", "most_share"), [(1.0, 0.0, 0.01), (0.75, 0.04, 0.3)])
def test_a_replica_that_lacks_cpu_keeps_a_part_of_the_requests(
    most: float, least_share: float, most_share: float
) -> None:
    def starved(world: World, service: int, _: Calibration) -> None:
        world.stall_s[service] = 0.05

    few = {"passed_over_most": most, "probe_deadline_s": 1e-4}
    model = calibration()
    model = model.model_copy(update={"response": model.response.model_copy(update=few)})
    at_s = [0.05 * i for i in range(200)]
    run = fleet(at_s, 10, 5, replicas=3, effects=(Effect(FIRST_REPLICA, -FAR, FAR, starved),), model=model)
    run.advance(10)
    assert least_share <= np.mean(run.served.replica == 0) <= most_share


def test_stressors_leave_a_service_a_part_of_its_quota_and_only_one_fills_its_memory() -> None:
    known = read_calibration("local-toy")
    host = known.host_replica
    assert host.quota_bound
    assert host.cores is not None
    world = World.healthy(FIRST_REPLICA + 2)
    FAULTS["cpu-stress"].effect({"workers": 2, "load_percent": 100})(world, FIRST_REPLICA, known)
    FAULTS["memory-stress"].effect({"workers": 1, "size_mb": 300})(world, FIRST_REPLICA + 1, known)
    assert world.host[FIRST_REPLICA] == pytest.approx(host.cores / 3)
    assert world.filled.tolist() == [False, False, False, True]
    assert world.extra_memory[FIRST_REPLICA] > 0


def test_the_timeline_knows_who_is_silent_since_when_and_who_was_restarted() -> None:
    def freeze(world: World, service: int, _: Calibration) -> None:
        world.frozen[service] = True

    def down(world: World, service: int, _: Calibration) -> None:
        world.down[service] = True

    effects = [Effect(2, 10, 20, freeze), Effect(2, 15, 25, down), Effect(3, 30, 40, down)]
    timeline = Timeline(effects, 4, read_calibration("local-toy"))
    at_s = np.array([5.0, 12.0, 24.0, 26.0, 35.0, 50.0])
    np.testing.assert_allclose(timeline.silent_for(at_s)[:, 2], [0, 2, 14, 0, 0, 0])
    np.testing.assert_allclose(timeline.silent_for(at_s)[:, 3], [0, 0, 0, 0, 5, 0])
    np.testing.assert_array_equal(timeline.restarted(at_s)[:, 2], [False, False, False, True, True, True])
    np.testing.assert_array_equal(timeline.restarted(at_s)[:, 3], [False] * 5 + [True])
