from __future__ import annotations

from pathlib import Path

import pytest

from tasks.campaign.claims import Claims
from tasks.workspace import Workspace
from tests.synthetic import synthetic_case

CASE = "case-0001"


@pytest.fixture
def places(tmp_path: Path) -> tuple[Workspace, Workspace]:
    return Workspace(tmp_path, 0), Workspace(tmp_path, 1)


def test_a_case_is_claimed_by_one_stack_at_a_time(places: tuple[Workspace, Workspace]) -> None:
    one, other = map(Claims, places)
    one.reset()
    with one.claim(CASE) as held:
        assert held is not None
        with other.claim(CASE) as refused, other.claim("case-0002") as free:
            assert refused is None
            assert free is not None
    with other.claim(CASE) as held:
        assert held is not None


def test_what_is_settled_is_not_claimed(places: tuple[Workspace, Workspace]) -> None:
    one, other = map(Claims, places)
    one.reset()
    one.fail("case-0002")
    synthetic_case(places[0].cases, CASE)
    for case_id in (CASE, "case-0002"):
        assert other.is_settled(case_id)
        with other.claim(case_id) as held:
            assert held is None
    other.reset()
    assert not one.is_settled("case-0002")
    assert one.is_settled(CASE)


def test_a_case_that_costs_two_stacks_is_given_up(places: tuple[Workspace, Workspace]) -> None:
    one, other = map(Claims, places)
    one.reset()
    one.give_back(CASE)
    assert not other.is_settled(CASE)
    other.give_back(CASE)
    assert one.has_failed(CASE)


def test_lost_stacks_say_why(places: tuple[Workspace, Workspace]) -> None:
    one, other = map(Claims, places)
    one.reset()
    assert one.lost() == {}
    one.lose("stack 0", "no engine")
    assert other.lost() == {"stack 0": "no engine"}
