from __future__ import annotations

import pytest

from tasks.inject.catalogue import fault_kind
from tasks.rca.features.evidence import BY_NAME
from tasks.rca.features.kinds import EVERYTHING, RULES, kinds_of

SHAPES = {"every_call", "capped"}
"""Signals that say how a link is slow, beside those that are judged."""


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.kind)
def test_rules_name_kinds_and_signals_that_there_are(rule: object) -> None:
    assert fault_kind(rule.kind).name == rule.kind or rule.kind == fault_kind(rule.kind).group  # type: ignore[attr-defined]
    named = {name for either in rule.must for name in either} | set(rule.never)  # type: ignore[attr-defined]
    named |= set() if rule.explains == EVERYTHING else set(rule.explains)  # type: ignore[attr-defined]
    assert named <= BY_NAME.keys() | SHAPES


@pytest.mark.parametrize(
    ("signals", "kinds"),
    [
        ({"step": 9, "quota": 12}, ["accelerator-throttle"]),
        ({"step": 9, "clock": 5}, ["accelerator-throttle"]),
        ({"step": 9, "gpu_memory": 8}, ["gpu-contention"]),
        ({"step": 9, "cpu": 5, "cpu_throttled": 8}, ["cpu-stress"]),
        ({"memory": 9, "cpu": 4}, ["memory-stress"]),
        ({"memory": 9, "quota": 12, "step": 9}, ["memory-stress"]),
        ({"link": 9, "every_call": 3}, ["network-delay"]),
        ({"link": 9}, ["network-loss"]),
        ({"link": 9, "capped": 3, "every_call": 3}, ["network-bandwidth"]),
        ({"link": 9, "every_call": 3, "cpu": 2.9}, ["network-delay"]),
        ({"resent": 5}, ["network-loss"]),
        ({"resent": 5, "silent": 4, "capped": 3}, ["network-bandwidth"]),
        ({"resent": 5, "step": 9, "cpu": 5}, ["cpu-stress"]),
        ({"unheard": 6, "silent": 6}, ["process-freeze"]),
        ({"unheard": 6, "vanished": 6}, ["process-kill"]),
        ({"silent": 6}, ["engine-stall"]),
        ({"silent": 6, "stopped": 9, "cpu": 4}, ["process-freeze"]),
        ({"silent": 6, "mute": 9}, ["network-partition"]),
        ({"vanished": 9, "silent": 5, "cpu": 5}, ["process-kill"]),
        ({"memory": 5, "clock": 4}, ["memory-stress"]),
        ({"step": 9}, []),
        ({}, []),
    ],
)
def test_known_answers(signals: dict[str, float], kinds: list[str]) -> None:
    assert [kind.name for kind in kinds_of(signals)] == kinds


def test_what_a_kind_does_not_explain_is_a_second_one() -> None:
    assert [kind.name for kind in kinds_of({"cpu": 8, "vanished": 2, "memory": 1})] == ["cpu-stress"]
    assert [kind.name for kind in kinds_of({"link": 9, "memory": 9})] == ["memory-stress"]
    assert len(kinds_of({"cpu": 9, "silent": 9, "link": 9, "step": 9})) == 1
