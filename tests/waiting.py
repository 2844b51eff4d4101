"""Wait for what must come. ``HANG_S`` ends a test that hangs, with a message; it bounds no behaviour."""

from __future__ import annotations

import time
from collections.abc import Callable

HANG_S = 100.0


def until(
    condition: Callable[[], object],
    problem: Callable[[], object] | str = "",
    seconds: float = HANG_S,
    pause_s: float = 0.02,
) -> None:
    """Return once ``condition()`` is true. Raises AssertionError with ``problem`` after ``seconds``."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, (problem() if callable(problem) else problem) or f"not within {seconds:g} s"
        time.sleep(pause_s)
