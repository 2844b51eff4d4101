"""A timer for asyncio that is exact to the microsecond.

The event loop waits in epoll, which counts whole milliseconds; a Linux timerfd wakes it at the nanosecond asked for,
with no busy waiting.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import time
from collections.abc import Callable

_TFD_TIMER_ABSTIME = 1
_NS = 1_000_000_000


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class ExactTimer:
    """Calls ``callback`` in ``loop`` at the monotonic time last armed, once per ``arm``."""

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        self._loop = loop
        self._callback = callback
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd: int = self._libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        loop.add_reader(self._fd, self._expired)

    def arm(self, monotonic_ns: int) -> None:
        """Fire at ``monotonic_ns`` (``time.monotonic_ns``), at once if that has passed; replaces an earlier ``arm``."""
        seconds, nanoseconds = divmod(max(monotonic_ns, 1), _NS)
        when = _Itimerspec(value=_Timespec(seconds, nanoseconds))
        if self._libc.timerfd_settime(self._fd, _TFD_TIMER_ABSTIME, ctypes.byref(when), None) < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    def close(self) -> None:
        self._loop.remove_reader(self._fd)
        os.close(self._fd)

    def _expired(self) -> None:
        with contextlib.suppress(BlockingIOError):  # armed anew between expiry and this call
            os.read(self._fd, 8)
            self._callback()
