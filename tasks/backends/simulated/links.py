"""The way of a request and its answer through gateway and head, and what slow or broken links make of it."""

from __future__ import annotations

import numpy as np

from tasks.backends.simulated.calibration import Calibration, ProxyModel
from tasks.backends.simulated.params import FIRST_REPLICA
from tasks.backends.simulated.world import Timeline, World

RETRANSMISSIONS = 6
"""A packet is sent again after 1, 2, 4 … times the first wait, so often at most."""


class Links:
    """Times (s after the start of the load) at which messages get through services and over their links.

    What is random belongs to a message: tables of messages (``waits``, ``through``) draw for every row, so that what
    happens later changes nothing of what was before.
    """

    def __init__(self, timeline: Timeline, calibration: Calibration, seed: int) -> None:
        self._calibration, self._seed = calibration, seed
        self._one_by_one = np.random.default_rng(seed)
        self.change(timeline)

    def change(self, timeline: Timeline) -> None:
        """Take the world from now on; its past must be the same."""
        self._timeline = timeline
        worlds = timeline.worlds
        self._plain = np.all([(world.delay_s == 0) & (world.loss == 0) for world in worlds], axis=0).tolist()

    def changed_services(self) -> list[int]:
        """Return the replicas whose own time or link some world changes."""
        names = ("host", "delay_s", "loss", "rate", "frozen", "cut", "down")
        healthy = World.healthy(1)
        changed = [
            np.any([getattr(world, name) != getattr(healthy, name)[0] for name in names], axis=0)
            for world in self._timeline.worlds
        ]
        return [int(i) for i in np.flatnonzero(np.any(changed, axis=0)) if i >= FIRST_REPLICA]

    def wait(self, service: int, at_s: float, trips: float) -> float:
        """Return how long the next message and the ``trips`` of its exchange take on the link of ``service``."""
        if self._plain[service]:
            return 0.0
        return float(self._waits(service, np.array([at_s]), trips, self._one_by_one)[0])

    def waits(self, service: int, at_s: np.ndarray, trips: float, purpose: int) -> np.ndarray:
        """Return the same for a table of messages: ``trips`` times the delay, and a wait per lost packet. At NaN it is
        what the first state of the link makes it. ``purpose`` tells tables of one link apart."""
        if self._plain[service]:
            return np.zeros(len(at_s))
        return self._waits(service, at_s, trips, np.random.default_rng([self._seed, service, purpose, 1]))

    def _waits(self, service: int, at_s: np.ndarray, trips: float, rng: np.random.Generator) -> np.ndarray:
        worlds = self._timeline.index(np.where(np.isnan(at_s), -np.inf, at_s))
        delay = self._timeline.series("delay_s", service)[worlds]
        loss = self._timeline.series("loss", service)[worlds]
        jitter = self._timeline.series("jitter_s", service)[worlds]
        waits = delay * trips + jitter * rng.uniform(-1, 1, len(at_s)) * np.sqrt(max(trips, 1))
        for _ in range(max(1, round(trips))):
            drawn = rng.random(len(at_s))
            lossy = np.flatnonzero(loss > 0)
            again = np.minimum(np.floor(np.log1p(-drawn[lossy]) / np.log(loss[lossy])), RETRANSMISSIONS)
            waits[lossy] += self._calibration.response.retransmit_s * (2.0**again - 1)
        return np.maximum(waits, 0)

    def through(self, service: int, at_s: np.ndarray, own_s: np.ndarray, *, stalls: bool = True) -> np.ndarray:
        """Return when messages that come at ``at_s`` leave ``service``: its own time ``own_s``, longer while its CPU is
        shared, and the end of a freeze or a partition. ``stalls``: it waits for the CPU as a request does. NaN: the
        service was down, or the message itself never came."""
        out = np.full(len(at_s), np.nan)
        came = np.flatnonzero(~np.isnan(at_s))
        worlds = self._timeline.index(at_s[came])
        took = own_s[came] / self._timeline.series("host", service)[worlds]
        if stalls:
            draws = np.random.default_rng([self._seed, service, 2]).exponential(1.0, len(at_s))
            took += draws[came] * self._timeline.series("stall_s", service)[worlds]
        out[came] = self._clear(service, at_s[came], worlds) + took
        out[came[self._timeline.series("down", service)[worlds]]] = np.nan
        return out

    def stalls(self, service: int, at_s: np.ndarray) -> np.ndarray:
        """Return how long what comes at ``at_s`` would wait for the CPU of ``service``."""
        stall_s = self._timeline.series("stall_s", service)
        if not stall_s.any():
            return np.zeros(len(at_s))
        worlds = self._timeline.index(np.where(np.isnan(at_s), -np.inf, at_s))
        return np.random.default_rng([self._seed, service, 5]).exponential(1.0, len(at_s)) * stall_s[worlds]

    def proxied(self, service: int, model: ProxyModel, at_s: np.ndarray, *, answer: bool = False) -> np.ndarray:
        """Return when requests, or answers, that come to a gateway or head at ``at_s`` leave it."""
        median_s = model.after_s if answer else model.before_s
        drawn = np.random.default_rng([self._seed, service, 3 + answer]).standard_normal(len(at_s))
        return self.through(service, at_s, median_s * np.exp(model.sigma * drawn), stalls=not answer)

    def limited(self, service: int, at_s: np.ndarray, size: np.ndarray, idle: float) -> np.ndarray:
        """Return when answers of ``size`` bytes, ready at ``at_s``, are out: where the rate of the service's link is
        limited they queue behind each other, and ``idle`` bytes per second of other traffic take their part,
        but for ``least_link_share``."""
        out = at_s.copy()
        rates = self._timeline.series("rate", service)
        if not np.isfinite(rates).any():
            return out
        free, least = -np.inf, self._calibration.response.least_link_share
        for i in np.argsort(at_s, kind="stable"):  # NaN last
            if np.isnan(at_s[i]):
                break
            rate = rates[self._timeline.index(at_s[i : i + 1])[0]]
            if not np.isfinite(rate):
                free = -np.inf
                continue
            begin = max(free, at_s[i])
            free = out[i] = begin + size[i] / max(rate - idle, least * rate)
        return out

    def _clear(self, service: int, at_s: np.ndarray, worlds: np.ndarray) -> np.ndarray:
        """Return when the service can next take messages that come at ``at_s``, NaN: never."""
        frozen, cut = (self._timeline.series(name, service) for name in ("frozen", "cut"))
        clear = at_s.copy()
        for i in np.flatnonzero((frozen | cut)[worlds]):
            later = np.flatnonzero(~(frozen | cut)[worlds[i] :])
            opens = self._timeline.times[worlds[i] + later[0]] if len(later) else np.nan
            if cut[worlds[i]] and len(later):
                tries = at_s[i] + self._calibration.response.retransmit_s * (2.0 ** np.arange(1, 16) - 1)
                opens = next((each for each in tries if each >= opens), np.nan)
            clear[i] = opens
        return clear
