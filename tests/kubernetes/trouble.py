"""Faults of the emulated API server: what a request meets instead of, or after, its answer."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass


@dataclass
class Trouble:
    """``after``: the request is carried out first, and then the trouble begins (a lost answer)."""

    status: int | None = None
    times: int = 1
    path: str = ""
    method: str | None = None
    message: str = "emulated trouble"
    retry_after_s: int | None = None
    delay_s: float = 0
    truncate: bool = False
    reset: bool = False
    after: bool = False

    def meets(self, method: str, target: str) -> bool:
        return self.times > 0 and self.method in (None, method) and re.search(self.path, target) is not None


class Troubles:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[Trouble] = []

    def add(self, trouble: Trouble) -> None:
        with self._lock:
            self._waiting.append(trouble)

    def clear(self) -> None:
        with self._lock:
            self._waiting.clear()

    def take(self, method: str, target: str) -> Trouble | None:
        with self._lock:
            for trouble in self._waiting:
                if trouble.meets(method, target):
                    trouble.times -= 1
                    return trouble
        return None
