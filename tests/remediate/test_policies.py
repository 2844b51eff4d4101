"""What each policy proposes, and that a wrong diagnosis does no harm where guards can see it."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.live_params import GuardParams
from tasks.remediate.guards import Diagnosis, Proposal, StackState, Suspicion, Taken, refusals
from tasks.remediate.policies import Situation, find_policy, policy_problem
from tasks.stack import Role

REPLICAS = [f"ray-replicas-{i}" for i in range(4)]
ROLES: dict[str, Role] = {"nginx-proxy": "gateway", "ray-head": "head", **dict.fromkeys(REPLICAS, "replica")}


def situation(kind: str = "cpu-stress", service: str = REPLICAS[1], *, alarm: bool = True, **more) -> Situation:
    taken = more.pop("taken", ())
    return Situation(
        alarm=alarm,
        state=StackState(100, ROLES, frozenset(), 0.2, taken),
        diagnosis=Diagnosis("m", 100, ((service, 9.0), (REPLICAS[0], 1.0)), (Suspicion(service, kind, 1e-5),)),
        silent_s=more.pop("silent_s", {}),
        truth={service: (kind,)},
        rng=np.random.default_rng(3),
    )


def proposed(policy: str, **given) -> Proposal | None:
    return find_policy(policy).propose(situation(**given))


@pytest.mark.parametrize("policy", ["none", "restart-random", "restart:nsigma", "table:peerwise", "oracle", "platform"])
def test_nobody_acts_without_an_alarm(policy: str):
    assert proposed(policy, alarm=False) is None


@pytest.mark.parametrize(
    ("kind", "action"),
    [
        ("cpu-stress", "eject"),
        ("gpu-clock-lock", "restore"),
        ("gpu-contention", "evict"),
        ("engine-stall", "restart"),
        ("network-delay", "eject"),
        ("unknown", "eject"),
        ("process-kill", None),
        ("gpu-memory", "evict"),
    ],
)
@pytest.mark.parametrize("policy", ["table:peerwise", "oracle"])
def test_the_table_decides(policy: str, kind: str, action: str | None):
    found = proposed(policy, kind=kind)
    assert (None if found is None else found.action) == action


def test_the_second_attempt_is_the_second_choice():
    first = Taken(Proposal("eject", REPLICAS[1], "cpu-stress"), 0, 1)
    assert proposed("table:peerwise", taken=(first,)) == Proposal("restart", REPLICAS[1], "cpu-stress")


def test_the_platform_restarts_what_is_silent_for_its_time_out():
    assert proposed("platform", silent_s={REPLICAS[2]: 39}) is None
    assert proposed("platform", silent_s={REPLICAS[2]: 41}) == Proposal("restart", REPLICAS[2])
    busy = Taken(Proposal("restart", REPLICAS[2]), 90, 180)
    assert proposed("platform", silent_s={REPLICAS[2]: 41}, taken=(busy,)) is None


def test_the_first_of_a_ranking_is_restarted_whatever_its_kind():
    assert proposed("restart:nsigma", kind="network-delay") == Proposal("restart", REPLICAS[1])


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("tabel:peerwise", "did you mean 'table:METHOD'"),
        ("oracel", "did you mean 'oracle'"),
        ("table:peerwize", "did you mean 'peerwise'"),
    ],
)
def test_an_unknown_policy_names_the_known_ones(name: str, says: str):
    assert says in policy_problem(name)
    with pytest.raises(KeyError):
        find_policy(name)


WRONG = {
    "a healthy replica, not sure": (Suspicion(REPLICAS[0], "cpu-stress", 0.3), "significant"),
    "gateway instead of the replica": (Suspicion("nginx-proxy", "unknown", 1e-6), "own-evidence"),
    "head instead of the replica": (Suspicion("ray-head", "unknown", 1e-6), "own-evidence"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_diagnosis_is_stopped(case: str):
    """Forced on purpose; what no guard can see is one that is sure, ahead and of a kind that can be cured."""
    suspicion, guard = WRONG[case]
    assert suspicion.service is not None
    forced = Diagnosis("forced", 100, ((suspicion.service, 2.0), (REPLICAS[1], 1.9)), (suspicion,))
    state = StackState(100, ROLES, frozenset(), 0.2)
    found = refusals(Proposal("restart", suspicion.service, suspicion.kind), forced, state, GuardParams())
    assert guard in [each.guard for each in found]
