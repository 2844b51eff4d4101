"""Every action says what it is; the table of what cures what holds together."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.actions import catalogue
from tasks.actions.catalogue import ACTIONS, WORKLOAD, ActionKind, cures_of, find_action, list_actions, table
from tasks.backends import BACKENDS, actions_on
from tasks.inject.catalogue import list_fault_kinds

ROOT = Path(__file__).resolve().parents[2]
NAMES = [each.name for each in list_actions()]
NO_ACTION = {"telemetry-loss"}
"""Kinds that no action is for: users see nothing of them."""


def test_every_file_registers_one_action():
    files = {file.stem.replace("_", "-") for file in (ROOT / "tasks/actions/kinds").glob("[a-z]*.py")}
    assert set(NAMES) == files


@pytest.mark.parametrize("name", NAMES)
def test_each_action_says_what_it_is(name: str):
    assert catalogue.action_problems(find_action(name)) == []


def test_no_two_actions_are_the_same_choice_of_a_kind():
    assert catalogue.clashes(list_actions()) == []


def test_every_kind_has_a_treatment():
    groups = {kind.group for kind in list_fault_kinds()} | {WORKLOAD}
    assert {kind for kind in groups if not cures_of(kind)} == NO_ACTION


def test_a_restart_never_cures_a_throttle_or_a_link():
    never = {kind for kind, (_, names) in table().items() if "restart" in names}
    assert {"accelerator-throttle", "network-delay", "network-loss", "network-partition", WORKLOAD} <= never


def test_a_kind_of_a_group_is_treated_as_the_group():
    assert cures_of("gpu-clock-lock") == cures_of("accelerator-throttle")
    assert cures_of("pod-kill") == cures_of("process-kill")


def test_what_is_not_understood_is_only_ejected():
    assert {place: action.name for place, action in cures_of("unknown").items()} == {1: "eject"}


def test_the_first_choice_after_a_kill_is_to_wait():
    assert 1 not in cures_of("process-kill")


def test_what_a_backend_refuses_it_cannot_do():
    for name in BACKENDS.all():
        refused = actions_on(name).refused
        assert set(refused) <= set(NAMES)
        assert [action for action in refused if find_action(action).executor(name) is not None] == []


def test_problems_are_named():
    broken = ActionKind(
        name="pray",
        summary="hopes",
        undo="",
        needs="nothing",
        cures={"cpu-strss": 1, "cpu-stress": 1},
        never=frozenset({"cpu-stress"}),
        executors={},
    )
    problems = catalogue.action_problems(broken)
    assert problems[0] == "it must say its undo"
    assert problems[1].startswith("unknown kind 'cpu-strss'; did you mean 'cpu-stress'?")
    assert problems[2:] == ["it cannot both cure cpu-stress and never cure it"]


def test_an_unknown_action_names_the_known_ones():
    assert "did you mean 'restart'?" in ACTIONS.problem("restrt")
