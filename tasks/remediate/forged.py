"""Diagnoses that are wrong on purpose, to see what the guards prevent. Most a guard can tell; some none can."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tasks.actions.catalogue import UNKNOWN, WORKLOAD, cures_of
from tasks.inject.catalogue import FAULT_KINDS
from tasks.remediate.guards import Diagnosis, Suspicion
from tasks.stack import Role

Truth = Mapping[str, Sequence[str]]
"""Service -> kinds of its faults."""
Forge = Callable[[Truth, Mapping[str, Role], float, np.random.Generator], Diagnosis]
"""Makes a diagnosis from truth, roles of the services, the time, and random numbers."""

SURE, UNSURE = 1e-6, 0.2
FAR, NEAR = 9.0, 1.02
"""Score of the root; that of all others is 1."""
OLD_S = 600.0
SLOW = "cpu-stress"
"""A kind whose first action takes a replica out."""


@dataclass(frozen=True)
class Forgery:
    summary: str
    make: Forge


def _of(
    roles: Mapping[str, Role],
    roots: Sequence[tuple[str, str]],
    at_s: float,
    significance: float = SURE,
    score: float = FAR,
) -> Diagnosis:
    """Return a diagnosis that names ``roots`` (service, kind)."""
    named = [service for service, _ in roots]
    scores = [(service, score) for service in named] + [(service, 1.0) for service in roles if service not in named]
    return Diagnosis("forged", at_s, tuple(scores), tuple(Suspicion(*root, significance) for root in roots))


def _healthy(truth: Truth, roles: Mapping[str, Role], rng: np.random.Generator) -> str:
    """Return a replica without a fault."""
    return str(rng.choice(sorted(name for name, role in roles.items() if role == "replica" and name not in truth)))


def _kind(truth: Truth) -> str:
    return next((kind for kinds in truth.values() for kind in kinds), SLOW)


def _true(truth: Truth, roles: Mapping[str, Role], rng: np.random.Generator) -> str:
    return next(iter(truth), _healthy(truth, roles, rng))


def _with_role(roles: Mapping[str, Role], wanted: Role) -> str:
    return next(name for name, role in roles.items() if role == wanted)


def _unsure(truth: Truth, roles: Mapping[str, Role], now_s: float, rng: np.random.Generator) -> Diagnosis:
    return _of(roles, [(_healthy(truth, roles, rng), _kind(truth))], now_s, significance=UNSURE)


def _close(truth: Truth, roles: Mapping[str, Role], now_s: float, rng: np.random.Generator) -> Diagnosis:
    return _of(roles, [(_healthy(truth, roles, rng), _kind(truth))], now_s, score=NEAR)


def _gateway(truth: Truth, roles: Mapping[str, Role], now_s: float, rng: np.random.Generator) -> Diagnosis:
    return _of(roles, [(_with_role(roles, "gateway"), "process-freeze")], now_s)


def _head(truth: Truth, roles: Mapping[str, Role], now_s: float, rng: np.random.Generator) -> Diagnosis:
    return _of(roles, [(_with_role(roles, "head"), UNKNOWN)], now_s)


def _all(truth: Truth, roles: Mapping[str, Role], now_s: float, rng: np.random.Generator) -> Diagnosis:
    replicas = sorted(name for name, role in roles.items() if role == "replica" and name not in truth)
    return _of(roles, [(str(name), SLOW) for name in rng.permutation(replicas)], now_s)


def _old(truth: Truth, roles: Mapping[str, Role], now_s: float, rng: np.random.Generator) -> Diagnosis:
    return _of(roles, [(_true(truth, roles, rng), _kind(truth))], now_s - OLD_S)


def _load(truth: Truth, roles: Mapping[str, Role], now_s: float, rng: np.random.Generator) -> Diagnosis:
    return _of(roles, [(_healthy(truth, roles, rng), WORKLOAD)], now_s)


def _wrong_kind(truth: Truth, roles: Mapping[str, Role], now_s: float, rng: np.random.Generator) -> Diagnosis:
    """The true service with a kind whose first action does not cure its fault."""
    kind = _kind(truth)
    useless = [
        other
        for other in sorted(FAULT_KINDS.names())
        if (first := cures_of(other).get(1)) is not None and not first.can_cure(kind)
    ]
    return _of(roles, [(_true(truth, roles, rng), str(rng.choice(useless)))], now_s)


def _sure(truth: Truth, roles: Mapping[str, Role], now_s: float, rng: np.random.Generator) -> Diagnosis:
    return _of(roles, [(_healthy(truth, roles, rng), SLOW)], now_s)


FORGERIES: Mapping[str, Forgery] = {
    "unsure": Forgery("a healthy replica, p = 0.2", _unsure),
    "close": Forgery("a healthy replica, 2 % ahead of all others", _close),
    "gateway": Forgery("the gateway, sure, frozen", _gateway),
    "head": Forgery("the head, without a kind", _head),
    "old": Forgery("the true replica, by telemetry of ten minutes ago", _old),
    "load": Forgery("a healthy replica, of the kind workload", _load),
    "all": Forgery("every healthy replica at once, sure", _all),
    "kind": Forgery("the true replica, sure, of a kind whose action does not cure its fault", _wrong_kind),
    "sure": Forgery("another healthy replica at each look, sure and far ahead", _sure),
}
