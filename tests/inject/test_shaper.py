from __future__ import annotations

import hashlib
import random
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.inject.executors.local import network
from tasks.inject.executors.local.network import LinkImpairment
from tasks.inject.executors.local.probes import Pinger
from tasks.inject.shaper import CorrelatedUniform, DelayLine, Impairment
from tasks.system.marked_processes import MARKER, end_marked
from tests.inject.ministack import MiniStack, fetch
from tests.inject.ministack_processes import pattern

SERVICE = "ray-replicas-1"


@given(st.lists(st.tuples(st.floats(0, 10), st.binary(max_size=4)), max_size=50))
def test_frames_leave_by_time_and_equal_times_in_order(frames: list[tuple[float, bytes]]):
    line = DelayLine()
    for release, frame in frames:
        line.push(release, frame)
    left = []
    while (due := line.pop_due(10)) is not None:
        left.append(due)
    assert left == sorted(frames, key=lambda each: each[0])
    assert line.held_bytes == 0
    assert line.next_release is None


def test_nothing_leaves_before_its_time():
    line = DelayLine()
    line.push(5.0, b"a")
    assert line.pop_due(4.999) is None
    assert line.next_release == 5.0
    assert line.pop_due(5.0) == (5.0, b"a")


def test_a_frame_put_back_stays_first():
    line = DelayLine()
    for frame in (b"1", b"2", b"3"):
        line.push(1.0, frame)
    release, frame = line.pop_due(2) or (0, b"")
    line.push_back(frame, release)
    assert [line.pop_due(2) for _ in range(3)] == [(1.0, b"1"), (1.0, b"2"), (1.0, b"3")]


def test_the_queue_is_bounded_by_frames_and_bytes():
    line = DelayLine(max_frames=3, max_bytes=10)
    line.push(1, b"aaaa")
    assert not line.full
    line.push(1, b"aaaaaa")
    assert line.full
    line.pop_due(2)
    assert not line.full
    line.push(1, b"")
    line.push(1, b"")
    assert line.full


def test_jitter_is_uniform_around_the_delay():
    impair = Impairment(0.3, 0.05, 0, 0, random.Random(1).random)
    delays = [impair() or 0 for _ in range(20_000)]
    assert min(delays) >= 0.25
    assert max(delays) <= 0.35
    assert statistics.fmean(delays) == pytest.approx(0.3, abs=0.001)
    assert statistics.stdev(delays) == pytest.approx(0.05 / 3**0.5, rel=0.03)


def test_correlation_ties_a_delay_to_the_one_before():
    draw = CorrelatedUniform(0.8, random.Random(1).random)
    numbers = [draw() for _ in range(5_000)]
    assert statistics.correlation(numbers[:-1], numbers[1:]) == pytest.approx(0.8, abs=0.05)


@pytest.mark.parametrize("loss", [0.0, 0.05, 0.3, 1.0])
def test_the_share_lost_is_the_one_asked_for(loss: float):
    impair = Impairment(0, 0, 0, loss, random.Random(1).random)
    lost = sum(impair() is None for _ in range(20_000)) / 20_000
    assert lost == pytest.approx(loss, abs=0.01)


@contextmanager
def shaped(stack: MiniStack, impairment: LinkImpairment, monkeypatch: pytest.MonkeyPatch, mark: Path) -> Iterator[None]:
    """The user-space shaper on the link of ``SERVICE``, on kernels with netem too."""
    target = stack.target(SERVICE)
    monkeypatch.setenv(MARKER, str(mark))
    assert network.impair(target, impairment, run_for_s=60, prefer_kernel=False) == "user-space shaper"
    try:
        yield
    finally:
        network.restore_egress(target)
        assert end_marked(MARKER, mark, grace_s=2)
        assert network.egress_residue(target) == []


def round_trips_ms(stack: MiniStack, count: int, every_s: float, wait_s: float) -> list[float]:
    pinger = Pinger(stack.target(SERVICE), payload_bytes=32)
    try:
        answered = []
        for _ in range(count):
            pinger.send()
            time.sleep(every_s)
            answered += pinger.replies()
        time.sleep(wait_s)
        answered += pinger.replies()
        return [1e3 * (echo.round_trip_s or 0) for echo in answered]
    finally:
        pinger.close()


@pytest.mark.privileged
def test_delay_and_jitter_on_a_link(clean: MiniStack, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    with shaped(clean, LinkImpairment(delay_ms=80, jitter_ms=40), monkeypatch, tmp_path / "x.json"):
        delays = round_trips_ms(clean, 150, 0.01, 0.5)
    assert len(delays) == 150
    assert min(delays) >= 40
    assert 70 <= statistics.median(delays) <= 130
    assert 12 <= statistics.stdev(delays) <= 60  # 40 / sqrt(3) = 23


@pytest.mark.privileged
def test_loss_on_a_link(clean: MiniStack, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    with shaped(clean, LinkImpairment(loss_percent=30), monkeypatch, tmp_path / "x.json"):
        answered = len(round_trips_ms(clean, 600, 0.002, 0.3))
    assert 0.70 - 5 * 0.0187 <= answered / 600 <= 0.70 + 5 * 0.0187  # five standard deviations


@pytest.mark.privileged
@pytest.mark.parametrize(
    ("impairment", "size"),
    [
        (LinkImpairment(delay_ms=20), 8 * 2**20),
        (LinkImpairment(delay_ms=10, jitter_ms=5), 2 * 2**20),
        (LinkImpairment(loss_percent=5), 2**18),
    ],
    ids=["delay", "jitter", "loss"],
)
def test_a_long_transfer_arrives_whole(
    clean: MiniStack, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, impairment: LinkImpairment, size: int
):
    with (
        shaped(clean, impairment, monkeypatch, tmp_path / "x.json"),
        clean.connect(SERVICE, timeout_s=60) as connection,
    ):
        received = fetch(connection, size)
    assert hashlib.sha256(received).digest() == hashlib.sha256(pattern(size)).digest()


@pytest.mark.privileged
def test_the_undo_loses_nothing_that_is_held(clean: MiniStack, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    pinger = Pinger(clean.target(SERVICE), payload_bytes=32)
    with shaped(clean, LinkImpairment(delay_ms=5_000), monkeypatch, tmp_path / "x.json"):
        for _ in range(20):
            pinger.send()
        time.sleep(0.2)
        assert pinger.replies() == []
    time.sleep(0.3)
    assert len(pinger.replies()) == 20
    pinger.close()
