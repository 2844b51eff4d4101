from __future__ import annotations

import os
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import get_args

import pytest

from tasks.campaign.errors import AttemptError
from tasks.campaign.phases import (
    LOST_AFTER_S,
    SCHEDULE_FILE,
    Partner,
    Schedule,
    agree_on_start,
    publish_schedule,
    read_schedule,
)
from tasks.params import Windows
from tests.waiting import until

WINDOWS = Windows(warmup_s=5, baseline_s=20, fault_s=15, recovery_s=8)


def test_phases_follow_each_other_on_whole_seconds() -> None:
    schedule = Schedule.starting_soon(WINDOWS)
    assert [phase.name for phase in schedule.phases] == ["baseline", "fault", "recovery"]
    assert schedule.load_start.microsecond == 0
    assert schedule.phases[0].start - schedule.load_start == timedelta(seconds=5)
    assert all(one.end == other.start for one, other in zip(schedule.phases, schedule.phases[1:], strict=False))
    assert schedule.end - schedule.load_start == timedelta(seconds=48) == timedelta(seconds=schedule.load_seconds)


def test_partners_agree_on_one_start_in_the_future(tmp_path: Path) -> None:
    agreed: dict[str, Schedule] = {}

    def announce(partner: Partner) -> None:
        agreed[partner] = agree_on_start(tmp_path, partner, WINDOWS, timeout_s=10)

    threads = [threading.Thread(target=announce, args=(partner,)) for partner in get_args(Partner)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert agreed["load"] == agreed["inject"] == read_schedule(tmp_path)
    assert agreed["load"].load_start > datetime.now(UTC)
    assert not list(tmp_path.glob(".schedule*"))


def test_a_partner_that_waits_in_vain_says_for_which_other(tmp_path: Path) -> None:
    with pytest.raises(AttemptError, match=r"load: waited 0\.3 s for inject, which did not come"):
        agree_on_start(tmp_path, "load", WINDOWS, timeout_s=0.3)
    assert read_schedule(tmp_path) is None


def test_the_first_schedule_holds(tmp_path: Path) -> None:
    first = publish_schedule(tmp_path, Schedule.starting_soon(WINDOWS))
    later = first.model_copy(update={"load_start": first.load_start + timedelta(seconds=60)})
    assert publish_schedule(tmp_path, later) == first


def test_a_partner_that_comes_back_after_the_start_cannot_join(tmp_path: Path) -> None:
    begun = Schedule(load_start=datetime.now(UTC) - timedelta(seconds=1), windows=WINDOWS)
    publish_schedule(tmp_path, begun)
    with pytest.raises(AttemptError, match="without this process"):
        agree_on_start(tmp_path, "inject", WINDOWS, timeout_s=1)


def test_a_load_that_was_lost_before_the_start_is_not_waited_for_but_replaced(tmp_path: Path) -> None:
    """What it left says no more that it waits; the injection starts when another load is there."""
    lost = tmp_path / "ready-load"
    lost.touch()
    past = time.time() - LOST_AFTER_S - 1
    os.utime(lost, (past, past))
    with pytest.raises(AttemptError, match="for load, which did not come"):
        agree_on_start(tmp_path, "inject", WINDOWS, timeout_s=0.5)
    agreed: list[Schedule] = []
    injection = threading.Thread(target=lambda: agreed.append(agree_on_start(tmp_path, "inject", WINDOWS, 30)))
    injection.start()
    until(lambda: (tmp_path / "ready-inject").exists())
    agreed.append(agree_on_start(tmp_path, "load", WINDOWS, timeout_s=30))
    injection.join()
    assert len(agreed) == 2
    assert agreed[0] == agreed[1]


def test_a_part_begins_once(tmp_path: Path) -> None:
    """Two loads that both know of the start (the first was thought lost): one drives the stack."""
    publish_schedule(tmp_path, Schedule(load_start=datetime.now(UTC) + timedelta(seconds=60), windows=WINDOWS))
    agree_on_start(tmp_path, "load", WINDOWS, timeout_s=1)
    with pytest.raises(AttemptError, match="load: another process has begun"):
        agree_on_start(tmp_path, "load", WINDOWS, timeout_s=1)
    agree_on_start(tmp_path, "inject", WINDOWS, timeout_s=1)


def test_a_torn_schedule_is_named(tmp_path: Path) -> None:
    (tmp_path / SCHEDULE_FILE).write_text('{"load_start": "2026-')
    with pytest.raises(AttemptError, match=r"schedule\.json: cannot be read"):
        read_schedule(tmp_path)
