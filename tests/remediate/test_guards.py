"""Guards hold for whatever is diagnosed and whatever the state: properties, and each guard by an example."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.actions.catalogue import find_action, list_actions, table
from tasks.live_params import GuardParams
from tasks.remediate.guards import (
    GUARDS,
    Diagnosis,
    Proposal,
    StackState,
    Suspicion,
    Taken,
    refusals,
)
from tasks.stack import Role

REPLICAS = [f"ray-replicas-{i}" for i in range(4)]
ROLES: dict[str, Role] = {"nginx-proxy": "gateway", "ray-head": "head", **dict.fromkeys(REPLICAS, "replica")}
TARGET = REPLICAS[0]
SURE = Diagnosis("peerwise", 60, ((TARGET, 8.0), (REPLICAS[1], 1.0)), (Suspicion(TARGET, "cpu-stress", 1e-6),))
CALM = StackState(60, ROLES, frozenset(), 0.3)
EJECT = Proposal("eject", TARGET, "cpu-stress")
PARAMS = GuardParams()
OTHER = Taken(Proposal("eject", REPLICAS[3]), 59.0, 60.0)
KINDS = [*table(), "unknown", ""]

proposals = st.builds(
    Proposal,
    st.sampled_from([each.name for each in list_actions()]),
    st.sampled_from(list(ROLES)),
    st.sampled_from(KINDS),
)
suspicions = st.builds(
    Suspicion,
    st.one_of(st.none(), st.sampled_from(list(ROLES))),
    st.sampled_from(KINDS),
    st.one_of(st.none(), st.floats(0, 1)),
)
diagnoses = st.one_of(
    st.none(),
    st.builds(
        Diagnosis,
        st.just("any"),
        st.floats(0, 1000),
        st.dictionaries(st.sampled_from(list(ROLES)), st.floats(-10, 10), max_size=6).map(lambda d: tuple(d.items())),
        st.one_of(st.none(), st.lists(suspicions, max_size=3).map(tuple)),
    ),
)
takens = st.builds(Taken, proposals, st.floats(0, 1000), st.floats(0, 1000))
states = st.builds(
    StackState,
    st.floats(0, 1000),
    st.just(ROLES),
    st.frozensets(st.sampled_from(REPLICAS)),
    st.floats(0, 1.5),
    st.lists(takens, max_size=3).map(tuple),
    st.lists(takens, max_size=6).map(tuple),
)
params = st.builds(
    GuardParams,
    significance=st.floats(1e-6, 1),
    max_out=st.integers(1, 4),
    max_out_share=st.floats(0.01, 1),
    attempts=st.integers(1, 3),
    breaker=st.integers(1, 6),
)


def names(proposal: Proposal = EJECT, diagnosis: Diagnosis | None = SURE, state: StackState = CALM) -> list[str]:
    return [each.guard for each in refusals(proposal, diagnosis, state, PARAMS)]


@settings(max_examples=300)
@given(proposals, diagnoses, states, params)
def test_what_is_allowed_is_safe(
    proposal: Proposal, diagnosis: Diagnosis | None, state: StackState, params: GuardParams
):
    if refusals(proposal, diagnosis, state, params):
        return
    assert diagnosis is not None
    assert find_action(proposal.action).can_cure(proposal.kind)
    assert proposal.kind not in find_action(proposal.action).never
    root = next(each for each in diagnosis.roots or () if each.service == proposal.target)
    assert root.significance is not None
    assert root.significance <= params.significance
    if ROLES[proposal.target] == "replica" and find_action(proposal.action).capacity:
        out = state.out | {proposal.target}
        assert len(out) <= params.max_out
        assert len(out) <= params.max_out_share * len(REPLICAS) + 1e-6
        assert 1 - len(out) / len(REPLICAS) >= state.load_share
    assert len(state.taken) < params.attempts
    on_target = [each for each in (*state.taken, *state.earlier) if each.proposal.target == proposal.target]
    for each in on_target:
        assert state.now_s - each.at_s >= (135 if find_action(each.proposal.action).restarts else 30)
    assert state.now_s - diagnosis.at_s <= params.max_age_s


@settings(max_examples=100)
@given(proposals, diagnoses, states, params)
def test_more_out_or_more_done_never_allows_more(
    proposal: Proposal, diagnosis: Diagnosis | None, state: StackState, params: GuardParams
):
    before = {each.guard for each in refusals(proposal, diagnosis, state, params)}
    worse = dataclasses.replace(
        state,
        out=state.out | {REPLICAS[3]},
        load_share=state.load_share + 0.2,
        taken=(*state.taken, Taken(Proposal("eject", REPLICAS[2]), state.now_s, state.now_s)),
    )
    assert before <= {each.guard for each in refusals(proposal, diagnosis, worse, params)}


def test_a_sure_root_in_a_calm_stack_may_be_acted_on():
    assert names() == []


@pytest.mark.parametrize(
    ("guard", "change"),
    [
        ("significant", {"diagnosis": None}),
        ("significant", {"diagnosis": dataclasses.replace(SURE, roots=())}),
        ("significant", {"diagnosis": dataclasses.replace(SURE, roots=(Suspicion(TARGET, "cpu-stress", 0.2),))}),
        ("ahead", {"diagnosis": dataclasses.replace(SURE, scores=((TARGET, 8.0), (REPLICAS[1], 7.9)))}),
        ("own-evidence", {"proposal": Proposal("restart", "nginx-proxy", "cpu-stress")}),
        ("curable", {"proposal": Proposal("restart", TARGET, "network-delay")}),
        ("curable", {"proposal": Proposal("restart", TARGET, "gpu-clock-lock")}),
        ("curable", {"proposal": Proposal("restart", TARGET, "unknown")}),
        ("few-out", {"state": dataclasses.replace(CALM, out=frozenset({REPLICAS[1]}))}),
        ("capacity", {"state": dataclasses.replace(CALM, load_share=0.7)}),
        ("cool-down", {"state": dataclasses.replace(CALM, taken=(Taken(EJECT, 40, 50),))}),
        ("cool-down", {"state": dataclasses.replace(CALM, taken=(Taken(Proposal("restart", TARGET), 10, 20),))}),
        ("attempts", {"state": dataclasses.replace(CALM, taken=(Taken(Proposal("eject", REPLICAS[1]), 10, 20),) * 2)}),
        ("cool-down", {"state": dataclasses.replace(CALM, earlier=(Taken(EJECT, 40, 50),))}),
        ("attempts", {"state": dataclasses.replace(CALM, earlier=(Taken(EJECT, 10, 20),) * 2)}),
        ("fresh", {"state": dataclasses.replace(CALM, now_s=SURE.at_s + PARAMS.max_age_s + 1)}),
        ("breaker", {"state": dataclasses.replace(CALM, earlier=(OTHER,) * 4)}),
    ],
)
def test_each_guard_refuses(guard: str, change: dict):
    assert guard in names(**change)


def test_half_of_two_replicas_is_more_than_a_third():
    roles: dict[str, Role] = dict.fromkeys(REPLICAS[:2], "replica")
    assert "few-out" in names(state=dataclasses.replace(CALM, roles=roles))


def test_a_restore_takes_nothing_out():
    throttled = dataclasses.replace(SURE, roots=(Suspicion(TARGET, "gpu-power-limit", 1e-6),))
    full = dataclasses.replace(CALM, out=frozenset(REPLICAS[1:]), load_share=1.0)
    assert names(Proposal("restore", TARGET, "gpu-power-limit"), throttled, full) == []


def test_every_refusal_says_why():
    nothing = dataclasses.replace(CALM, out=frozenset(REPLICAS), load_share=2.0, earlier=(OTHER,) * 9)
    found = refusals(Proposal("restart", "ray-head", "workload"), None, nothing, PARAMS)
    assert {each.guard for each in found} <= set(GUARDS)
    assert all(each.reason for each in found)
