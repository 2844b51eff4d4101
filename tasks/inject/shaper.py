"""Program that delays and drops frames on the egress of a link in user space, for kernels without netem.

A clsact filter redirects what the link would send to a TAP device of this process; each frame is held until its time
and then put on the link through a raw packet socket that bypasses queueing disciplines and filters. Frames cross with
their virtio header, so the segmentation and checksum offloads of the sender stay in force and a 64 KiB burst is
one read and one write. Delay, jitter and correlation follow the definitions of Linux netem: with jitter, frames may
overtake.

It is run by file path inside the network namespace of the link, and imports the standard library only to start fast. It
prints ``ready``, serves until its standard input closes, SIGTERM or its own deadline, then removes the redirection and
sends at once what it still holds: no frame is lost by the undo.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import fcntl
import heapq
import os
import random
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

READY = b"ready\n"
VNET_HEADER_BYTES = 10
MAX_READ_BYTES = 65_536 + 64 + VNET_HEADER_BYTES
MAX_HELD_FRAMES = 20_000
MAX_HELD_BYTES = 64 * 2**20
TAP_QUEUE_FRAMES = 4_096
READS_PER_TURN = 64

_TUNSETIFF = 0x400454CA
_TUNSETOFFLOAD = 0x400454D0
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
_OFFLOAD_CSUM_TSO = 0x01 | 0x02 | 0x04 | 0x08
_OFFLOAD_USO = 0x20 | 0x40
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _SIOCGIFMTU, _SIOCSIFMTU, _SIOCSIFTXQLEN = 0x8913, 0x8914, 0x8921, 0x8922, 0x8943
_IFF_UP = 0x1
_SOL_PACKET, _PACKET_VNET_HDR, _PACKET_QDISC_BYPASS = 263, 15, 20


class CorrelatedUniform:
    """Draws uniform numbers in [0, 1), each pulled towards the one before by ``correlation`` (0..1), as netem does."""

    def __init__(self, correlation: float, draw: Callable[[], float]) -> None:
        self._correlation = correlation
        self._draw = draw
        self._last = draw()

    def __call__(self) -> float:
        self._last = self._draw() * (1 - self._correlation) + self._last * self._correlation
        return self._last


@dataclass
class Impairment:
    """Draws the fate of a frame: its extra delay in seconds, or None when it is lost."""

    delay_s: float
    jitter_s: float
    correlation: float
    loss: float
    draw: Callable[[], float] = random.random

    def __post_init__(self) -> None:
        self._delay_draw = CorrelatedUniform(self.correlation, self.draw)

    def __call__(self) -> float | None:
        if self.loss and self.draw() < self.loss:
            return None
        if not self.jitter_s:
            return self.delay_s
        return max(0.0, self.delay_s + self.jitter_s * (2 * self._delay_draw() - 1))


@dataclass
class DelayLine:
    """A queue of frames by release time; equal times keep their order. Stop reading while ``full``."""

    max_frames: int = MAX_HELD_FRAMES
    max_bytes: int = MAX_HELD_BYTES
    held_bytes: int = 0
    _heap: list[tuple[float, int, bytes]] = field(default_factory=list)
    _pushed: int = 0

    def __len__(self) -> int:
        return len(self._heap)

    @property
    def full(self) -> bool:
        return len(self._heap) >= self.max_frames or self.held_bytes >= self.max_bytes

    @property
    def next_release(self) -> float | None:
        return self._heap[0][0] if self._heap else None

    def push(self, release: float, frame: bytes) -> None:
        heapq.heappush(self._heap, (release, self._pushed, frame))
        self._pushed += 1
        self.held_bytes += len(frame)

    def push_back(self, frame: bytes, release: float) -> None:
        """Return a frame that could not be sent: it stays ahead of every frame with a later release."""
        heapq.heappush(self._heap, (release, -1, frame))
        self.held_bytes += len(frame)

    def pop_due(self, now: float) -> tuple[float, bytes] | None:
        if not self._heap or self._heap[0][0] > now:
            return None
        release, _, frame = heapq.heappop(self._heap)
        self.held_bytes -= len(frame)
        return release, frame


def open_tap(name: str, mtu: int, offload: bool) -> int:
    """Create a TAP device with virtio headers and bring it up. It lives as long as the returned descriptor."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR))
    if offload:
        try:
            fcntl.ioctl(descriptor, _TUNSETOFFLOAD, _OFFLOAD_CSUM_TSO | _OFFLOAD_USO)
        except OSError:  # kernels before 6.2 know no UDP segmentation here
            fcntl.ioctl(descriptor, _TUNSETOFFLOAD, _OFFLOAD_CSUM_TSO)
    with contextlib.suppress(OSError):  # no frames of its own on the device
        Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1", encoding="ascii")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SIOCSIFMTU, struct.pack("16si20x", name.encode(), mtu))
        fcntl.ioctl(control, _SIOCSIFTXQLEN, struct.pack("16si20x", name.encode(), TAP_QUEUE_FRAMES))
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH22x", name.encode(), _IFF_UP))
    return descriptor


def interface_mtu(name: str) -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        answer = fcntl.ioctl(control, _SIOCGIFMTU, struct.pack("16s24x", name.encode()))
    return int(struct.unpack_from("i", answer, 16)[0])


def open_link(interface: str) -> socket.socket:
    """Open a send-only packet socket on ``interface`` that bypasses its queueing disciplines and filters."""
    link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    link.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
    link.setsockopt(_SOL_PACKET, _PACKET_QDISC_BYPASS, 1)
    link.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8 * 2**20)
    link.bind((interface, 0))
    link.setblocking(False)
    return link


def serve(tap: int, link: socket.socket, impair: Impairment, stop: Callable[[], bool], wake: list[int]) -> DelayLine:
    """Move frames from ``tap`` to ``link`` until ``stop()``; return the frames still queued.

    ``wake``: descriptors that, when readable, cause a call of ``stop()``.
    """
    line = DelayLine()
    buffer = bytearray(MAX_READ_BYTES)
    view = memoryview(buffer)
    while not stop():
        readable = wake if line.full else [tap, *wake]
        upcoming = line.next_release
        timeout = 0.5 if upcoming is None else min(0.5, max(0.0, upcoming - time.monotonic()))
        ready, _, _ = select.select(readable, [], [], timeout)
        if tap in ready:
            _receive(tap, view, line, impair)
        _send_due(link, line, time.monotonic())
    return line


def _receive(tap: int, view: memoryview, line: DelayLine, impair: Impairment) -> None:
    now = time.monotonic()
    for _ in range(READS_PER_TURN):
        if line.full:
            return
        try:
            size = os.readv(tap, [view])
        except BlockingIOError:
            return
        delay = impair()
        if delay is not None:
            line.push(now + delay, bytes(view[:size]))


def _send_due(link: socket.socket, line: DelayLine, until: float) -> None:
    while (due := line.pop_due(until)) is not None:
        release, frame = due
        try:
            link.send(frame)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.ENOBUFS):  # the peer's queue is full: a moment later
                line.push_back(frame, release)
                time.sleep(0.0005)
                return
            if error.errno not in (errno.EMSGSIZE, errno.EINVAL):
                raise


def drop_redirection(interface: str) -> None:
    """Remove the clsact filter that feeds this process, if it exists."""
    subprocess.run(["tc", "qdisc", "del", "dev", interface, "clsact"], check=False, capture_output=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--interface", required=True)
    parser.add_argument("--tap", required=True)
    parser.add_argument("--delay-ms", type=float, default=0)
    parser.add_argument("--jitter-ms", type=float, default=0)
    parser.add_argument("--correlation-percent", type=float, default=0)
    parser.add_argument("--loss-percent", type=float, default=0)
    parser.add_argument("--run-for-s", type=float, required=True)
    options = parser.parse_args(arguments)
    deadline = time.monotonic() + options.run_for_s
    impair = Impairment(
        delay_s=options.delay_ms / 1e3,
        jitter_s=options.jitter_ms / 1e3,
        correlation=options.correlation_percent / 100,
        loss=options.loss_percent / 100,
    )
    stopping = False

    def ask_to_stop(*_: object) -> None:
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGTERM, ask_to_stop)
    wake_in, wake_out = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(wake_out)
    # a lossy link loses each segment by itself, so segments must be cut before they come here
    tap = open_tap(options.tap, interface_mtu(options.interface), offload=not impair.loss)
    link = open_link(options.interface)
    os.write(sys.stdout.fileno(), READY)

    def stop() -> bool:
        owner_gone = bool(select.select([0], [], [], 0)[0]) and not os.read(0, 64)
        return stopping or owner_gone or time.monotonic() >= deadline

    try:
        line = serve(tap, link, impair, stop, [0, wake_in])
    finally:
        drop_redirection(options.interface)
    _receive(tap, memoryview(bytearray(MAX_READ_BYTES)), line, Impairment(0, 0, 0, 0))
    give_up = time.monotonic() + 0.5
    while line.next_release is not None and time.monotonic() < give_up:
        _send_due(link, line, float("inf"))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
