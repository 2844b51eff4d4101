from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from tasks.campaign import holders
from tasks.campaign.errors import AttemptError
from tasks.campaign.holders import (
    HOLD_S,
    SET_ASIDE_S,
    claim_stack,
    forget,
    give_back,
    held_by,
    holder_of,
    place_of,
    renewing,
    set_aside,
    take_free,
)
from tasks.deploy.errors import DeployError
from tasks.params import DEFAULT_PARAMS_FILE, Params, load_params
from tasks.workspace import Workspace
from tests.command import ROOT
from tests.waiting import until

PARAMS = load_params(ROOT / DEFAULT_PARAMS_FILE)
ONE, OTHER, THIRD = "case-0001", "case-0002", "case-0003"


@pytest.fixture
def places(tmp_path: Path) -> tuple[Workspace, ...]:
    return Workspace(tmp_path, 0), Workspace(tmp_path, 1)


def grow_old(place: Workspace, seconds: float) -> None:
    """As if the hold had last been renewed ``seconds`` ago."""
    (file,) = place.holders.glob("*.json")
    moment = time.time() - seconds
    os.utime(file, (moment, moment))


def test_each_attempt_has_a_stack_of_its_own_until_it_gives_it_back(places: tuple[Workspace, ...]) -> None:
    mine, theirs = take_free(places, ONE, "a"), take_free(places, OTHER, "a")
    assert {mine, theirs} == set(places)
    assert take_free(places, THIRD, "a") is None
    assert take_free(places, ONE, "a") == held_by(places, ONE, "a") == place_of(places, ONE, "a") == mine
    assert mine is not None
    give_back(mine, OTHER, "a")  # not theirs to give
    assert holder_of(mine) is not None
    give_back(mine, ONE, "a")
    assert holder_of(mine) is None
    with pytest.raises(AttemptError, match=r"attempt a at case-0001 has none of the 2 stacks"):
        place_of(places, ONE, "a")
    assert take_free(places, THIRD, "a") == mine


def test_the_stack_that_was_free_the_longest_is_next(places: tuple[Workspace, ...]) -> None:
    first = take_free(places, ONE, "a")
    assert first is not None
    give_back(first, ONE, "a")
    second = take_free(places, ONE, "b")
    assert second not in (None, first)


def test_a_later_attempt_at_the_case_takes_over_and_the_earlier_one_has_nothing(places: tuple[Workspace, ...]) -> None:
    first = take_free(places, ONE, "a")
    assert take_free(places, OTHER, "a") is not None
    assert first is not None
    assert take_free(places, ONE, "b") == first
    assert held_by(places, ONE, "a") is None
    give_back(first, ONE, "a")
    assert held_by(places, ONE, "b") == first


def test_a_hold_ends_unless_it_is_renewed(places: tuple[Workspace, ...]) -> None:
    (place,) = places[:1]
    assert take_free([place], ONE, "a") == place
    grow_old(place, HOLD_S - 60)
    assert take_free([place], OTHER, "a") is None
    grow_old(place, HOLD_S + 1)
    assert take_free([place], OTHER, "a") == place
    assert held_by([place], ONE, "a") is None


def test_an_attempt_that_comes_late_goes_on_if_nobody_took_its_stack(places: tuple[Workspace, ...]) -> None:
    (place,) = places[:1]
    assert take_free([place], ONE, "a") == place
    grow_old(place, HOLD_S + 1)
    assert holder_of(place) is None
    assert held_by([place], ONE, "a") == place
    assert holder_of(place) is not None


def test_a_process_of_the_attempt_renews_its_hold(
    places: tuple[Workspace, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holders, "RENEWAL_S", 0.02)
    (place,) = places[:1]
    assert take_free([place], ONE, "a") == place
    with renewing(place, ONE, "a"):
        grow_old(place, HOLD_S + 1)
        until(lambda: holder_of(place) is not None)
    with renewing(place, ONE, "b"):  # who has nothing to renew
        grow_old(place, HOLD_S + 1)
        time.sleep(0.1)
        assert holder_of(place) is None


def test_of_many_that_come_at_once_one_takes_the_stack(places: tuple[Workspace, ...]) -> None:
    """Again and again, also while the hold before is running out."""
    (place,) = places[:1]
    for number in range(20):
        start = threading.Barrier(8)
        won: list[str] = []

        def take(case_id: str, start: threading.Barrier = start, won: list[str] = won) -> None:
            start.wait()
            if take_free([place], case_id, "a") is not None:
                won.append(case_id)

        threads = [threading.Thread(target=take, args=(f"case-{number}-{each}",)) for each in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        grow_old(place, HOLD_S + 1)


def test_what_cannot_be_read_keeps_nobody_out(places: tuple[Workspace, ...]) -> None:
    (place,) = places[:1]
    place.holders.mkdir(parents=True)
    (place.holders / "7.json").write_text("{")
    assert take_free([place], ONE, "a") == place
    assert [file.name for file in place.holders.iterdir()] == ["8.json"]


def test_a_stack_that_is_set_aside_is_nobodys_for_a_while(places: tuple[Workspace, ...]) -> None:
    (place,) = places[:1]
    assert take_free([place], ONE, "a") == place
    set_aside(place, ONE, "a", "it did not come up")
    assert take_free([place], ONE, "a") is None
    assert str(holder_of(place)) == "it did not come up"
    grow_old(place, SET_ASIDE_S + 1)
    assert take_free([place], ONE, "a") == place
    forget(place)
    assert holder_of(place) is None


def test_the_only_stack_needs_no_claim_but_is_kept_from_others(tmp_path: Path) -> None:
    only = Workspace(tmp_path)
    assert place_of([only], ONE, "local") == only
    assert take_free([only], OTHER, "a") == only
    with pytest.raises(AttemptError, match="the stack is not this attempt's: attempt a at case-0002"):
        place_of([only], ONE, "local")


def bring_up(monkeypatch: pytest.MonkeyPatch, down: set[int | None]) -> list[int | None]:
    """Stacks of which those of ``down`` do not come up; the list says which were tried."""
    tried: list[int | None] = []

    class Backend:
        def __init__(self, params: Params, place: Workspace) -> None:
            self.index = place.stack_index

        def up_for(self, hold_s: int, say: object) -> None:
            tried.append(self.index)
            if self.index in down:
                raise DeployError(f"no way {self.index}\nmore")

    monkeypatch.setattr(holders, "backend_of", Backend)
    monkeypatch.setattr(holders, "POLL_S", 0.01)
    return tried


def test_a_claim_goes_past_a_stack_that_does_not_come_up(
    places: tuple[Workspace, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried, said = bring_up(monkeypatch, {0}), list[str]()
    place = claim_stack(PARAMS, places, ONE, "a", 60, said.append)
    assert (place, tried) == (places[1], [0, 1])
    assert said == ["stack 0 did not come up: no way 0 and 1 more"]
    assert claim_stack(PARAMS, places, ONE, "a", 60, said.append) == places[1]  # the same attempt again
    grow_old(places[0], SET_ASIDE_S + 1)
    with pytest.raises(DeployError, match="no way 0"):
        claim_stack(PARAMS, places, OTHER, "a", 60, said.append)


def test_a_claim_waits_until_a_stack_is_free(places: tuple[Workspace, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    bring_up(monkeypatch, set())
    (place,) = places[:1]
    assert take_free([place], ONE, "a") == place
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        give_back(place, ONE, "a")

    assert claim_stack(PARAMS, [place], OTHER, "a", 60, say) == place
    assert said == ["waiting for a free stack: attempt a at case-0001"]


def test_the_only_stack_is_free_again_when_it_does_not_come_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bring_up(monkeypatch, {None})
    only = Workspace(tmp_path)
    with pytest.raises(DeployError, match="no way None"):
        claim_stack(PARAMS, [only], ONE, "a", 60, lambda line: None)
    assert holder_of(only) is None
