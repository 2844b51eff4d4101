"""The state of every service of a simulated stack that faults change, and its course over a case."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np

from tasks.backends.simulated.calibration import Calibration


@dataclass
class World:
    """One entry per service: gateway, head, replicas. A healthy service has the defaults of ``healthy``.

    ``compute``: speed of the engine's device; ``host``: speed of the CPU beside it; ``stall_s``, ``handover_stall_s``:
    mean extra wait of a request before the engine and within it; ``delay_s``, ``jitter_s``, ``loss``, ``rate``: of what
    it sends (bytes per second); ``link_use``: part of a limited rate that other traffic takes; ``cut``, ``frozen``,
    ``stalled``, ``down``: nothing in or out, no process runs, the engine makes no step, no process is there; ``gone``:
    nor is its machine; ``kv_share``: part of the KV cache that is left; ``quota``: part of its CPU quota that is left;
    ``stress_cores``, ``extra_memory``, ``extra_processes``: of what runs beside it; ``filled``: a stressor fills its
    memory; ``clock_cap``, ``power_cap``: MHz and W; ``intruder``: share of the GPU's time that another process takes;
    ``gpu_memory``: bytes that it holds; ``scraped``: its metrics are read; ``ejected``: the router gives it no more
    requests; ``step_factor``: length of the engine's steps by its version; ``absent``: it is not part of the stack (a
    spare replica).
    """

    compute: np.ndarray
    host: np.ndarray
    stall_s: np.ndarray
    handover_stall_s: np.ndarray
    delay_s: np.ndarray
    jitter_s: np.ndarray
    loss: np.ndarray
    rate: np.ndarray
    link_use: np.ndarray
    cut: np.ndarray
    frozen: np.ndarray
    stalled: np.ndarray
    down: np.ndarray
    gone: np.ndarray
    kv_share: np.ndarray
    quota: np.ndarray
    stress_cores: np.ndarray
    extra_memory: np.ndarray
    extra_processes: np.ndarray
    filled: np.ndarray
    clock_cap: np.ndarray
    power_cap: np.ndarray
    intruder: np.ndarray
    gpu_memory: np.ndarray
    scraped: np.ndarray
    ejected: np.ndarray
    step_factor: np.ndarray
    absent: np.ndarray

    @classmethod
    def healthy(cls, services: int) -> World:
        default = {"compute": 1.0, "host": 1.0, "kv_share": 1.0, "quota": 1.0, "step_factor": 1.0}
        default |= dict.fromkeys(("rate", "clock_cap", "power_cap"), np.inf)
        flags = ("cut", "frozen", "stalled", "down", "gone", "filled", "ejected", "absent")
        arrays = {
            each.name: np.zeros(services, dtype=bool)
            if each.name in flags
            else np.ones(services, dtype=bool)
            if each.name == "scraped"
            else np.full(services, default.get(each.name, 0.0))
            for each in fields(cls)
        }
        return cls(**arrays)

    @property
    def unreachable(self) -> np.ndarray:
        return self.cut | self.frozen | self.down


Apply = Callable[[World, int, Calibration], None]
"""Changes the state of the service with this index."""


@dataclass(frozen=True)
class Effect:
    """An effect on a service from ``start_s`` to ``end_s`` after the start of the load.

    ``kind``: of the fault that it belongs to; empty: an action's. ``restarts``: the service's processes end and start
    again. ``cured``: an action has ended it.
    """

    service: int
    start_s: float
    end_s: float
    apply: Apply
    kind: str = ""
    restarts: bool = False
    cured: bool = False


class Timeline:
    """The world over time: constant between ``times`` (seconds after the start of the load; the first is -inf)."""

    def __init__(self, effects: Sequence[Effect], services: int, calibration: Calibration) -> None:
        moments = {moment for each in effects for moment in (each.start_s, each.end_s)}
        changes = sorted(moment for moment in moments if np.isfinite(moment))
        self.times = np.array([-np.inf, *changes])
        self.worlds = []
        for begin in self.times:
            world = World.healthy(services)
            for each in effects:
                if each.start_s <= begin < each.end_s:
                    each.apply(world, each.service, calibration)
            self.worlds.append(world)

    def index(self, at_s: np.ndarray) -> np.ndarray:
        """Return the number of the world at each time."""
        return np.searchsorted(self.times, at_s, side="right") - 1

    def at(self, at_s: float) -> World:
        return self.worlds[int(self.index(np.array([at_s]))[0])]

    def restarted(self, at_s: np.ndarray) -> np.ndarray:
        """Return whether each service runs again after it was down, shape (times, services)."""
        down = np.stack([world.down for world in self.worlds])
        return (np.logical_or.accumulate(down) & ~down)[self.index(at_s)]

    def silent_for(self, at_s: np.ndarray) -> np.ndarray:
        """Return for how long (s) each service has answered nobody, 0 where it does, shape (times, services)."""
        silent = np.stack([world.unreachable for world in self.worlds])
        since = np.full(silent.shape, np.inf)
        for i, (now, begins) in enumerate(zip(silent, self.times, strict=True)):
            before = since[i - 1] if i else since[0]
            since[i] = np.where(now, np.minimum(before, begins), np.inf)
        which = self.index(at_s)
        return np.where(silent[which], at_s[:, None] - np.where(silent[which], since[which], 0), 0)

    def present(self, until_s: float) -> np.ndarray:
        """Return the positions of the services that were part of the stack at some time until ``until_s``."""
        worlds = [world for world, begins in zip(self.worlds, self.times, strict=True) if begins <= until_s]
        return np.flatnonzero(~np.logical_and.reduce([world.absent for world in worlds]))

    def series(self, name: str, service: int) -> np.ndarray:
        """Return the value of a field of one service in each world."""
        return np.array([getattr(world, name)[service] for world in self.worlds])

    def matrix(self, name: str, at_s: np.ndarray) -> np.ndarray:
        """Return a field of all services at each time, shape (times, services)."""
        return np.stack([getattr(world, name) for world in self.worlds])[self.index(at_s)]
