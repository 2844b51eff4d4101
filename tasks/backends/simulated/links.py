"""The way of a request and its answer through gateway and head, and what slow or broken links make of it."""

from __future__ import annotations

import numpy as np

from tasks.backends.simulated.calibration import Calibration, ProxyModel
from tasks.backends.simulated.world import Timeline

RETRANSMISSIONS = 6
"""A packet is sent again after 1, 2, 4 … times the first wait, so often at most."""


class Links:
    """Times (s after the start of the load) at which messages get through services and over their links."""

    def __init__(self, timeline: Timeline, calibration: Calibration, seed: int) -> None:
        self._timeline, self._calibration = timeline, calibration
        self._rng = np.random.default_rng(seed)
        worlds = timeline.worlds
        self._plain = np.all([(world.delay_s == 0) & (world.loss == 0) for world in worlds], axis=0).tolist()

    def wait(self, service: int, at_s: float, trips: float) -> float:
        """Return how long one message and the ``trips`` of its exchange take on the link of ``service``."""
        return 0.0 if self._plain[service] else float(self.waits(service, np.array([at_s]), trips)[0])

    def waits(self, service: int, at_s: np.ndarray, trips: float) -> np.ndarray:
        """Return the same for many messages: ``trips`` times the delay, and a wait per lost packet. At NaN it is what
        the first state of the link makes it."""
        if self._plain[service]:
            return np.zeros(len(at_s))
        worlds = self._timeline.index(np.where(np.isnan(at_s), -np.inf, at_s))
        delay = self._timeline.series("delay_s", service)[worlds]
        loss = self._timeline.series("loss", service)[worlds]
        waits = delay * trips
        late = np.flatnonzero(delay > 0)
        if len(late):
            jitter = self._timeline.series("jitter_s", service)[worlds[late]]
            waits[late] += jitter * self._rng.uniform(-1, 1, len(late)) * np.sqrt(max(trips, 1))
        lossy = np.flatnonzero(loss > 0)
        for _ in range(max(1, round(trips))):
            if not len(lossy):
                break
            again = np.minimum(self._rng.geometric(1 - loss[lossy]) - 1, RETRANSMISSIONS)
            waits[lossy] += self._calibration.response.retransmit_s * (2.0**again - 1)
        return np.maximum(waits, 0)

    def through(
        self, service: int, at_s: np.ndarray, median_s: float, sigma: float, *, stalls: bool = True
    ) -> np.ndarray:
        """Return when messages that come at ``at_s`` leave ``service``: its own time, longer while its CPU is shared,
        and the end of a freeze or a partition. ``stalls``: it waits for the CPU as a request does. NaN: the service was
        down, or the message itself never came."""
        out = np.full(len(at_s), np.nan)
        came = np.flatnonzero(~np.isnan(at_s))
        worlds = self._timeline.index(at_s[came])
        host = self._timeline.series("host", service)[worlds]
        stall = self._timeline.series("stall_s", service)[worlds]
        own = median_s * np.exp(sigma * self._rng.standard_normal(len(came))) / host
        if stalls:
            own += np.where(stall > 0, self._rng.exponential(1.0, len(came)) * stall, 0)
        out[came] = self._clear(service, at_s[came], worlds) + own
        out[came[self._timeline.series("down", service)[worlds]]] = np.nan
        return out

    def proxied(self, service: int, model: ProxyModel, at_s: np.ndarray, *, answer: bool = False) -> np.ndarray:
        """Return when requests, or answers, that come to a gateway or head at ``at_s`` leave it."""
        return self.through(service, at_s, model.after_s if answer else model.before_s, model.sigma, stalls=not answer)

    def limited(self, service: int, at_s: np.ndarray, size: np.ndarray, idle: float) -> np.ndarray:
        """Return when answers of ``size`` bytes, ready at ``at_s``, are out: where the rate of the service's link is
        limited they queue behind each other, and ``idle`` bytes per second of other traffic take their part."""
        out = at_s.copy()
        rates = self._timeline.series("rate", service)
        if not np.isfinite(rates).any():
            return out
        free = -np.inf
        for i in np.argsort(at_s, kind="stable"):  # NaN last
            if np.isnan(at_s[i]):
                break
            rate = rates[self._timeline.index(at_s[i : i + 1])[0]]
            if not np.isfinite(rate):
                free = -np.inf
                continue
            begin = max(free, at_s[i])
            free = out[i] = begin + size[i] / max(rate - idle, 0.15 * rate)
        return out

    def _clear(self, service: int, at_s: np.ndarray, worlds: np.ndarray) -> np.ndarray:
        """Return when the service can next take messages that come at ``at_s``."""
        frozen, cut = (self._timeline.series(name, service) for name in ("frozen", "cut"))
        clear = at_s.copy()
        for i in np.flatnonzero((frozen | cut)[worlds]):
            later = np.flatnonzero(~(frozen | cut)[worlds[i] :])
            opens = self._timeline.times[worlds[i] + later[0]]
            if cut[worlds[i]]:
                tries = at_s[i] + self._calibration.response.retransmit_s * (2.0 ** np.arange(1, 16) - 1)
                opens = tries[np.searchsorted(tries, opens)]
            clear[i] = opens
        return clear
