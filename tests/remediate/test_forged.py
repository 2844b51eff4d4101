"""What guards make of diagnoses that are wrong on purpose."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.actions.catalogue import find_action
from tasks.live_params import GuardParams
from tasks.remediate.forged import FORGERIES
from tasks.remediate.guards import StackState, refusals
from tasks.remediate.names import is_variant
from tasks.remediate.policies import by_table, find_policy
from tasks.stack import Role

REPLICAS = [f"ray-replicas-{i}" for i in range(8)]
ROLES: dict[str, Role] = {"nginx-proxy": "gateway", "ray-head": "head", **dict.fromkeys(REPLICAS, "replica")}
TRUTH = {REPLICAS[2]: ("network-delay",)}
STATE = StackState(1000.0, ROLES, frozenset(), 0.3, bad_share=0.02)


def stopped_by(name: str, state: StackState = STATE) -> set[str] | None:
    """Return the guards that refuse what the table proposes; None: it proposes nothing."""
    forged = FORGERIES[name].make(TRUTH, ROLES, state.now_s, np.random.default_rng(4))
    proposal = by_table(forged, state)
    return None if proposal is None else {each.guard for each in refusals(proposal, forged, state, GuardParams())}


@pytest.mark.parametrize(
    ("name", "guards"),
    [
        ("unsure", {"significant"}),
        ("close", {"ahead"}),
        ("gateway", {"own-evidence"}),
        ("head", None),  # the table has no action for an unknown kind there
        ("old", {"fresh"}),
        ("load", set()),
        ("all", set()),
        ("kind", set()),
        ("sure", set()),
    ],
)
def test_what_each_forgery_meets(name: str, guards: set[str] | None):
    assert stopped_by(name) == guards


def test_every_forgery_is_a_policy():
    names = [find_policy(f"forged:{name}").name for name in FORGERIES]
    assert names
    assert all(is_variant(name) for name in names)


def test_a_gateway_may_be_acted_on_when_all_users_suffer():
    worse = StackState(1000.0, ROLES, frozenset(), 0.3, bad_share=0.9)
    assert stopped_by("gateway", worse) == set()


def test_forgeries_are_wrong():
    for name in ("unsure", "close", "load", "all", "sure"):
        made = FORGERIES[name].make(TRUTH, ROLES, 0.0, np.random.default_rng(1))
        assert made.roots
        assert not {root.service for root in made.roots} & set(TRUTH)
    for seed in range(20):
        (root,) = FORGERIES["kind"].make(TRUTH, ROLES, 0.0, np.random.default_rng(seed)).roots or ()
        assert root.service in TRUTH
        first = by_table(FORGERIES["kind"].make(TRUTH, ROLES, 0.0, np.random.default_rng(seed)), STATE)
        assert first is not None
        assert not find_action(first.action).can_cure("network-delay")
