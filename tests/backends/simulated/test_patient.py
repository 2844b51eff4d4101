"""What each action does to a simulated world: it agrees with the table of cures, and users are served better or not."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from tasks.actions.catalogue import WORKLOAD, find_action, group_of, list_actions
from tasks.backends.simulated.calibration import read_calibration
from tasks.backends.simulated.faults import FAULTS
from tasks.backends.simulated.params import FIRST_REPLICA
from tasks.backends.simulated.patient import LIVES_IN, RENEWS, SimulatedPatient
from tasks.backends.simulated.simulation import Simulation
from tasks.backends.simulated.world import World
from tasks.case import validate_case
from tasks.errors import RCArenaError
from tasks.injection import InjectionSpec
from tasks.live_params import SloParams
from tasks.params import Windows
from tasks.remediate.slo import Slo, judge, promised
from tests.backends.simulated.cases import LOAD, deploy, fault, order

TARGET, SPARE = "ray-replicas-1", "ray-replicas-3"
WINDOWS = Windows(warmup_s=2, baseline_s=20, fault_s=40, recovery_s=0)
RESTART_S = 8.0
SURGE = {**LOAD, "shapes": [{"kind": "surge", "start_s": 0, "duration_s": 40, "factor": 12}]}


def patient(
    *injections: InjectionSpec, calibration: str = "local-toy", load: Any = LOAD, spare_replicas: int = 1
) -> SimulatedPatient:
    """Three replicas and a spare one, at the begin of the fault; a replica is loaded within ``RESTART_S``."""
    known = read_calibration(calibration)
    quick = known.model_copy(update={"engine": known.engine.model_copy(update={"restart_s": RESTART_S})})
    asked = order(*injections, windows=WINDOWS, load=load)
    found = SimulatedPatient(Simulation(deploy(calibration=calibration, spare_replicas=spare_replicas), quick, asked))
    found.advance(found.fault_s)
    return found


@cache
def with_fault(kind: str) -> SimulatedPatient:
    """Replicas with GPUs a second after a fault of one of them began."""
    found = patient(fault(kind, TARGET), calibration="h100-7b")
    found.advance(found.fault_s + 1)
    return found


def is_harmed(world: World) -> bool:
    """Whether the target gets requests and is not as it was before the fault."""
    state = {name: value[FIRST_REPLICA + 1] for name, value in vars(world).items()}
    healthy = {name: value[0] for name, value in vars(World.healthy(1)).items()}
    return not state["ejected"] and state != healthy


@pytest.mark.parametrize("action", list_actions(), ids=lambda each: each.name)
@pytest.mark.parametrize("kind", sorted(LIVES_IN))
def test_the_table_of_cures_agrees_with_the_world(kind: str, action: Any) -> None:
    acted = with_fault(kind).another()
    assert isinstance(acted, SimulatedPatient)
    assert is_harmed(acted._simulation.world)
    try:
        out_s = acted.act(action.name, TARGET)
    except RCArenaError:
        cured = False
    else:
        after_s = acted.now_s + (out_s if np.isfinite(out_s) else 0) + 0.01
        cured = not is_harmed(acted._simulation._timeline.at(after_s))
    if kind == "node-loss":  # of the group of kills, whose first choice is to wait
        assert cured == (action.name in ("reschedule", "eject"))
        return
    assert cured == action.can_cure(kind)
    assert not (cured and group_of(kind) in action.never)


def test_what_lives_nowhere_ends_by_itself_or_harms_nobody() -> None:
    ends = {kind for kind, found in FAULTS.items() if found.lasts_s is not None}
    assert set(FAULTS) - set(LIVES_IN) - ends == {"pod-failure", "telemetry-loss"}
    assert set(RENEWS) == {each.name for each in list_actions()}


def bad_request_s(found: SimulatedPatient, slo: Slo) -> float:
    """Of the fault window."""
    timeout_s = found._simulation.order.load.request_timeout_s
    found.advance(found.end_s + timeout_s)
    judged = judge(found.requests(), slo, found.end_s + timeout_s, timeout_s)
    return float(judged.excess_s[judged.scheduled >= found.fault_s].sum())


def outcomes(begun: SimulatedPatient, *actions: str) -> dict[str, float]:
    """Return the bad request-seconds after each action, and after none ("")."""
    slo = promised(begun.requests(), SloParams(), begun.now_s)
    begun.advance(begun.fault_s + 5)
    found = {}
    for action in ("", *actions):
        way = begun.another()
        if action:
            way.act(action, TARGET)
        found[action] = bad_request_s(way, slo)
    return found


def test_a_roll_back_cures_a_bad_rollout_and_a_restart_does_not() -> None:
    found = outcomes(patient(fault("bad-rollout", TARGET, parameters={"step_factor": 8})), "roll-back", "restart")
    assert found["roll-back"] < 0.7 * found[""]
    assert found["restart"] > found["roll-back"]


def test_one_more_replica_spares_users_a_part_of_a_surge() -> None:
    assert find_action("scale-out").can_cure(WORKLOAD)
    found = outcomes(patient(load=SURGE), "scale-out", "eject")
    assert found["scale-out"] < 0.7 * found[""]
    assert found["eject"] > found[""]


def test_a_replica_that_is_added_is_part_of_the_case_from_when_it_serves(tmp_path: Path) -> None:
    found = patient()
    found.act("scale-out", TARGET)
    added_s = found.now_s + RESTART_S
    assert SPARE not in found.unresponsive()
    before_share = found.load_share()
    before = found.recording(tmp_path / "before").record
    found.advance(added_s + 12)
    assert found.load_share() < before_share
    case = found.recording(tmp_path / "after")
    assert validate_case(case.path) == []
    assert SPARE not in before.service_names
    assert case.record.service_names[-1] == SPARE
    samples = case.metrics[case.metrics["service"] == SPARE].dropna(subset="value")
    begun = case.record.phases[0].start
    first_s = (samples["time"].min() - begun).total_seconds() + found.begin_s
    assert added_s <= first_s < added_s + 5
    assert set(samples["metric"]) >= {"cpu_usage", "requests_running", "latency_p90"}
    assert (case.spans["service"] == SPARE).any()
    assert case.logs["message"].eq(f"Replica {SPARE} was added.").any()
    assert not case.metrics["service"].isin(["ray-replicas-4"]).any()


def test_a_replica_that_is_removed_again_loses_no_request() -> None:
    found = patient()
    found.act("scale-out", TARGET)
    with pytest.raises(RCArenaError, match=f"scale-out of {TARGET} lasts already"):
        found.act("scale-out", TARGET)
    with pytest.raises(RCArenaError, match=r"no spare replica; deploy\.spare_replicas says"):
        found.act("scale-out", "ray-head")
    found.advance(found.now_s + 15)
    found.undo("scale-out", TARGET)
    undone_s = found.now_s
    found.advance(found.end_s + 30)
    _, served = found._simulation.known()
    on_it = served.received_s[served.replica == 3]
    assert len(on_it) > 0
    assert on_it.max() < undone_s + 0.1
    assert not served.lost.any()


def test_an_undo_readmits_and_rolls_out_again() -> None:
    found = patient(fault("bad-rollout", TARGET))
    found.advance(found.fault_s + 1)
    with pytest.raises(RCArenaError, match=f"there is no eject of {TARGET} to take back"):
        found.undo("eject", TARGET)
    for action in ("roll-back", "eject"):
        found.act(action, TARGET)
    other = found.another()
    assert isinstance(other, SimulatedPatient)
    for each in (found, other):
        each.undo("eject", TARGET)
    found.undo("roll-back", TARGET)
    at_s = found.now_s + RESTART_S + 0.01
    versions = [each._simulation._timeline.at(at_s).step_factor[FIRST_REPLICA + 1] for each in (found, other)]
    assert versions == [3, 1]
    assert not found._simulation.world.ejected.any()


def test_a_roll_back_needs_a_rollout() -> None:
    found = with_fault("cpu-stress").another()
    with pytest.raises(RCArenaError, match=f"no rollout of {TARGET} ended shortly before"):
        found.act("roll-back", TARGET)


def test_spare_replicas_are_of_no_model_where_there_are_several() -> None:
    with pytest.raises(ValidationError, match="spare_replicas: must be 0 with groups"):
        deploy(spare_replicas=1, groups=[{"name": "a", "replicas": 1}, {"name": "b", "replicas": 2}])
