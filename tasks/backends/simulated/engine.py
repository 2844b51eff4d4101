"""A fleet of engines with continuous batching behind a router, in steps of fixed length, vectorised over replicas.

In each step an engine makes ``dt / step time`` passes; the step time follows the calibration's law of the batch, the
tokens in the KV cache and the prompt tokens in work. A pass gives a token to every sequence that decodes and takes a
piece of the prompts in work. Requests wait in order of arrival for a free seat and for room in the KV cache; when the
cache is full the youngest sequence is preempted and starts again. Times of tokens are interpolated within a step.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tasks.backends.simulated.calibration import Calibration, EngineModel
from tasks.backends.simulated.links import Links
from tasks.backends.simulated.params import FIRST_REPLICA
from tasks.backends.simulated.world import Timeline

NOBODY = -1
"""No request in a seat; no replica for a request."""
PASSED_OVER = 0.5
"""How likely a replica behind a slow link is passed over: Ray Serve waits longer after each late answer."""
GIVE_UP_CHECK_S = 1.0
"""How often requests whose client has gone are taken out."""


@dataclass(frozen=True)
class Group:
    """Replicas of one model: ``first`` and ``count`` of the fleet."""

    first: int
    count: int
    engine: EngineModel


@dataclass(frozen=True)
class Arrivals:
    """Requests at the router, shape (requests,) each.

    ``at_s``: seconds after the start of the load, NaN: it never comes; ``group``: index of the group that serves it;
    ``give_up_s``: when the client gives up.
    """

    at_s: np.ndarray
    prompt_tokens: np.ndarray
    output_tokens: np.ndarray
    group: np.ndarray
    give_up_s: np.ndarray


@dataclass(frozen=True)
class Served:
    """What became of each request, shape (requests,) each.

    ``replica``: -1 when none took it. ``received_s``, ``arrived_s``, ``queued_s``, ``admitted_s``, ``first_s``,
    ``last_s``: when it came to its replica, to the engine, to the queue of its core, got a seat, had its first and last
    token; NaN: never. ``lost_s``: when its replica was killed under it.
    """

    replica: np.ndarray
    received_s: np.ndarray
    arrived_s: np.ndarray
    queued_s: np.ndarray
    admitted_s: np.ndarray
    first_s: np.ndarray
    last_s: np.ndarray
    lost_s: np.ndarray

    @property
    def lost(self) -> np.ndarray:
        return ~np.isnan(self.lost_s)

    @classmethod
    def nothing_yet(cls, requests: int) -> Served:
        return cls(np.full(requests, NOBODY), *np.full((7, requests), np.nan))


COUNTERS = ("generated", "prompted", "preemptions", "accepted", "finished", "work_s", "busy_s")
"""``work_s``: CPU or GPU seconds that passes took; ``busy_s``: seconds with a sequence in work."""


@dataclass(frozen=True)
class States:
    """The engines at ``at_s`` (s after the start of the load). ``gauges`` and ``counters``: name -> (times, replicas);
    counters start again when a replica is killed. ``head_queued``: (times,)."""

    at_s: np.ndarray
    gauges: dict[str, np.ndarray]
    counters: dict[str, np.ndarray]
    head_queued: np.ndarray


class Router:
    """Chooses a replica of a group.

    ``power-of-two``: of two different ones at random that with fewer requests, as Ray Serve does (Mitzenmacher, "The
    Power of Two Choices in Randomized Load Balancing", 2001); ``round-robin``; ``least-loaded``. It passes over
    replicas that do not answer, and sometimes over one that answers late.
    """

    def __init__(self, policy: str, groups: Sequence[Group], rng: np.random.Generator) -> None:
        self._policy, self._groups, self._rng = policy, list(groups), rng
        self._next = [0] * len(groups)

    def resize(self, group: int, count: int) -> None:
        """Choose among the first ``count`` replicas of a group from now on."""
        self._groups[group] = replace(self._groups[group], count=count)

    def choose(self, group: int, load: np.ndarray, reachable: np.ndarray, late: np.ndarray) -> int:
        """Return the replica, or ``NOBODY`` when none of the group answers. ``late``: how likely each is passed over
        when the other of two is not late."""
        of = self._groups[group]
        if self._policy == "power-of-two":
            for _ in range(8):
                first, step = (self._rng.random() for _ in range(2))
                a = of.first + int(first * of.count)
                b = of.first + (a - of.first + 1 + int(step * (of.count - 1))) % of.count
                if reachable[a] and reachable[b]:
                    if late[a] != late[b] and self._rng.random() < abs(late[a] - late[b]):
                        return b if late[a] > late[b] else a
                    return a if load[a] <= load[b] else b
                if reachable[a] or reachable[b]:
                    return a if reachable[a] else b
        free = of.first + np.flatnonzero(reachable[of.first : of.first + of.count])
        if not len(free):
            return NOBODY
        if self._policy == "round-robin":
            chosen = int(free[np.searchsorted(free, of.first + self._next[group]) % len(free)])
            self._next[group] = (chosen - of.first + 1) % of.count
            return chosen
        if self._policy == "least-loaded":
            free = free[load[free] == load[free].min()]
        return int(free[int(self._rng.random() * len(free))])


class Fleet:
    """All replicas of a stack, ready to serve one case."""

    def __init__(
        self,
        groups: Sequence[Group],
        calibration: Calibration,
        timeline: Timeline,
        arrivals: Arrivals,
        links: Links,
        policy: str,
        seed: int,
        sample_s: float = 0.1,
    ) -> None:
        """``sample_s``: how often the state is kept."""
        self._links, self._calibration = links, calibration
        self._engines = [group.engine for group in groups for _ in range(group.count)]
        self.replicas = len(self._engines)
        routing, self._noise_rng, self._waits = map(np.random.default_rng, np.random.SeedSequence(seed).spawn(3))
        self._router, self._last = Router(policy, groups, routing), groups[-1]
        law = [engine.step for engine in self._engines]
        self._fixed = np.array([each.fixed_s for each in law])
        self._per_sequence = np.array([each.per_sequence_s for each in law])
        self._per_kv = np.array([each.per_kv_token_s for each in law])
        self._per_prefill = np.array([each.per_prefill_token_s for each in law])
        self._host_share = np.array([each.host_share for each in law])
        self._memory = np.exp(-calibration.dt_s / np.array([each.tau_s for each in law]))
        self._innovation = np.array([each.sigma for each in law]) * np.sqrt(1 - self._memory**2)
        self._common = np.sqrt([each.shared for each in law])
        self._alone = np.sqrt([1 - each.shared for each in law])
        self._budget = np.array([engine.max_batched_tokens for engine in self._engines], dtype=float)
        self._seats = np.array([engine.max_num_seqs for engine in self._engines])
        self._kv_tokens = np.array([engine.kv_tokens for engine in self._engines], dtype=float)
        shape = (self.replicas, int(self._seats.max()))
        self._request = np.full(shape, NOBODY)
        self._prompt, self._prefill, self._left, self._tokens = (np.zeros(shape, dtype=np.float32) for _ in range(4))
        self._queues: list[deque[int]] = [deque() for _ in range(self.replicas)]
        self._queued: set[int] = set()
        self._held: deque[int] = deque()
        self._coming: list[tuple[float, int, int]] = []
        self._load, self._occupied = np.zeros(self.replicas, dtype=int), np.zeros(self.replicas, dtype=int)
        self._noise = np.zeros(self.replicas)
        self._counters = {name: np.zeros(self.replicas) for name in COUNTERS}
        self._killed = np.zeros(self.replicas, dtype=bool)
        self.served = Served.nothing_yet(len(arrivals.at_s))
        self._step = self._taken = 0
        self._every = max(1, round(sample_s / calibration.dt_s))
        self._kept: list[tuple[np.ndarray, ...]] = []
        self._head: list[int] = []
        self._times: list[float] = []
        self.change(timeline, arrivals)

    @property
    def now(self) -> float:
        """Seconds after the start of the load until which it has served."""
        return self._step * self._calibration.dt_s

    def change(self, timeline: Timeline, arrivals: Arrivals) -> None:
        """Take the world and the requests from now on; their past must be the same."""
        self._timeline, self._arrivals = timeline, arrivals
        self._sequence = np.argsort(arrivals.at_s, kind="stable")[: np.count_nonzero(~np.isnan(arrivals.at_s))]
        self._changes = set(np.ceil(timeline.times[1:] / self._calibration.dt_s).astype(int).tolist())
        self._look(self.now)

    def advance(self, until_s: float) -> None:
        """Serve until ``until_s`` after the start of the load; ``served`` then holds what became of each request."""
        dt = self._calibration.dt_s
        check = max(1, round(GIVE_UP_CHECK_S / dt))
        at_s = self._arrivals.at_s[self._sequence]
        steps = range(self._step, max(self._step, int(np.ceil(until_s / dt - 1e-9))))
        due = np.searchsorted(at_s, (np.array(steps) + 1) * dt, side="left").tolist()
        for step, until in zip(steps, due, strict=True):
            now = step * dt
            if step in self._changes:
                self._look(now)
            while self._held and self._take(self._held[0], now):
                self._held.popleft()
            while self._taken < until:
                which = int(self._sequence[self._taken])
                if not self._take(which, float(self._arrivals.at_s[which])):
                    self._held.append(which)
                self._taken += 1
            while self._coming and self._coming[0][0] <= now:
                ready, which, r = heapq.heappop(self._coming)
                self.served.queued_s[which] = ready
                self._queues[r].append(which)
                self._queued.add(r)
            if self._queued:
                self._admit(now)
            if self._occupied.any():
                self._pass(now, dt)
                if step % check == 0:
                    self._drop_those_given_up(now)
            if step % self._every == 0:
                self._keep(now + dt)
            self._step = step + 1

    def _keep(self, at_s: float) -> None:
        waiting = np.zeros(self.replicas, dtype=np.float32)
        for r in self._queued:
            waiting[r] = len(self._queues[r])
        counters = tuple(counter.copy() for counter in self._counters.values())
        self._times.append(at_s)
        self._kept.append((self._occupied.copy(), waiting, self._tokens.sum(axis=1), self._load.copy(), *counters))
        self._head.append(len(self._held))

    def states(self) -> States:
        """Return the states that were kept until now."""
        columns = [np.stack(column) for column in zip(*self._kept, strict=True)]
        queued = np.array(self._head)
        return States(
            np.array(self._times),
            dict(zip(("running", "waiting", "kv_tokens", "accepted_now"), columns[:4], strict=True)),
            dict(zip(COUNTERS, columns[4:], strict=True)),
            queued,
        )

    def _look(self, now: float) -> None:
        """Take the state of the world from now on; replicas that are killed now lose what they have."""
        world = self._timeline.at(now)
        of = slice(FIRST_REPLICA, FIRST_REPLICA + self.replicas)
        down = world.down[of]
        joined = np.flatnonzero(~world.absent[of][self._last.first :])
        self._router.resize(-1, int(joined[-1]) + 1 if len(joined) else 0)
        self._reachable = ~(world.unreachable[of] | world.ejected[of])
        deadline_s = self._calibration.response.probe_deadline_s
        stall_s = np.maximum(world.stall_s[of] + world.handover_stall_s[of], 1e-9)
        self._late = np.maximum.reduce(
            [PASSED_OVER * (world.delay_s[of] > deadline_s), np.exp(-deadline_s / stall_s), world.link_use[of] ** 2]
        ).clip(max=self._calibration.response.passed_over_most)
        self._moves = ~(down | world.frozen[of] | world.stalled[of])
        self._compute = world.compute[of] * (1 - world.intruder[of])
        self._host, self._stall_s = world.host[of], world.stall_s[of]
        self._handover_stall_s = world.handover_stall_s[of]
        self._room = self._kv_tokens * world.kv_share[of]
        self._slowness = self._host_share / self._host + (1 - self._host_share) / self._compute
        self._slowness *= world.step_factor[of]
        self._speed = np.minimum(1, self._host)
        for r in np.flatnonzero(down & ~self._killed):
            self._kill(int(r), now)
        self._killed = down

    def _take(self, which: int, at: float) -> bool:
        """Route a request that comes at ``at``. Return False when it must be held, because nobody answers."""
        if self._arrivals.give_up_s[which] < at:
            return True
        r = self._router.choose(int(self._arrivals.group[which]), self._load, self._reachable, self._late)
        if r == NOBODY:
            return False
        engine = self._engines[r]
        drawn, stalls = self._waits.standard_normal(2), self._waits.exponential(1.0, 2)
        host = self._host[r]
        wait = engine.before_s * np.exp(engine.request_sigma * drawn[0]) / host + self._stall_s[r] * stalls[0]
        handover = engine.handover_s * engine.handover_factor(float(drawn[1])) / host
        handover += self._handover_stall_s[r] * stalls[1]
        self._load[r] += 1
        self._counters["accepted"][r] += 1
        received = at + self._links.wait(FIRST_REPLICA + r, at, self._calibration.response.trips_before)
        self.served.replica[which], self.served.received_s[which] = r, received
        self.served.arrived_s[which] = arrived = received + float(wait)
        heapq.heappush(self._coming, (arrived + float(handover), which, r))
        return True

    def _admit(self, now: float) -> None:
        """Seat requests that wait."""
        for r in sorted(self._queued):
            if not self._moves[r]:
                continue
            queue = self._queues[r]
            used = float(self._tokens[r].sum() + self._prefill[r].sum())
            while queue and self._occupied[r] < self._seats[r]:
                which = queue[0]
                if self._arrivals.give_up_s[which] < now:
                    queue.popleft()
                    self._load[r] -= 1
                    continue
                need = float(self._arrivals.prompt_tokens[which])
                if used + need > self._room[r] and self._occupied[r]:
                    break
                queue.popleft()
                seat = int(np.argmax(self._request[r] == NOBODY))
                self._request[r, seat] = which
                self._prompt[r, seat] = self._prefill[r, seat] = need
                self._left[r, seat] = max(1, self._arrivals.output_tokens[which])
                self._occupied[r] += 1
                used += need
                if np.isnan(self.served.admitted_s[which]):
                    queued = self.served.queued_s[which]
                    self.served.admitted_s[which] = now if now - queued >= self._calibration.dt_s else queued
            if not queue:
                self._queued.discard(r)

    def _pass(self, now: float, dt: float) -> None:
        """Make the passes of one step."""
        seated = self._request != NOBODY
        prefilling = self._prefill > 0
        decoding = seated & ~prefilling
        batch = np.count_nonzero(decoding, axis=1)
        chunk = np.minimum(np.where(prefilling, self._prompt, 0).sum(axis=1), self._budget - batch)
        self._noise *= self._memory
        drawn = self._noise_rng.standard_normal(self.replicas + 1)
        self._noise += self._innovation * (self._common * drawn[0] + self._alone * drawn[1:])
        law = self._per_sequence * batch + self._per_kv * self._tokens.sum(axis=1) + self._per_prefill * chunk
        law = (self._fixed + law) * self._slowness * np.exp(self._noise)
        active = self._moves & (self._occupied > 0)
        passes = np.where(active, dt / law, 0.0)
        self._counters["busy_s"] += np.where(self._occupied > 0, dt, 0.0)
        self._counters["work_s"] += np.where(active, dt * self._speed, 0.0)
        if prefilling.any():
            self._advance_prompts(now, dt, passes, chunk, prefilling)
        if batch.any():
            self._advance_answers(now, dt, passes, decoding)
        full = self._tokens.sum(axis=1) + self._prefill.sum(axis=1) > self._room
        for r in np.flatnonzero(full & (self._occupied > 1)):
            self._preempt(int(r))

    def _advance_prompts(
        self, now: float, dt: float, passes: np.ndarray, chunk: np.ndarray, prefilling: np.ndarray
    ) -> None:
        budget = passes * chunk
        before = np.cumsum(self._prefill, axis=1) - self._prefill
        part = np.clip(budget[:, None] - before, 0, self._prefill)
        self._counters["prompted"] += part.sum(axis=1)
        self._tokens += part
        done = prefilling & (part >= self._prefill)
        used = np.divide(before + part, budget[:, None], out=np.ones_like(part), where=budget[:, None] > 0)
        self._prefill -= part
        for r, seat in zip(*np.nonzero(done), strict=True):
            which = self._request[r, seat]
            if np.isnan(self.served.first_s[which]):
                self.served.first_s[which] = max(now + dt * min(float(used[r, seat]), 1), self.served.admitted_s[which])
            self._left[r, seat] -= 1
            self._counters["generated"][r] += 1
            if self._left[r, seat] <= 0:
                self._finish(int(r), int(seat), float(self.served.first_s[which]))

    def _advance_answers(self, now: float, dt: float, passes: np.ndarray, decoding: np.ndarray) -> None:
        made = np.where(decoding, np.minimum(passes[:, None], self._left), 0).astype(np.float32)
        self._counters["generated"] += made.sum(axis=1)
        self._tokens += made
        ended = decoding & (self._left - made <= 1e-6)
        for r, seat in zip(*np.nonzero(ended), strict=True):
            made[r, seat] = 0
            self._finish(int(r), int(seat), now + dt * min(1.0, float(self._left[r, seat]) / max(passes[r], 1e-9)))
        self._left -= made

    def _finish(self, r: int, seat: int, at: float) -> None:
        self.served.last_s[self._request[r, seat]] = at
        self._counters["finished"][r] += 1
        self._load[r] -= 1
        self._leave(r, seat)

    def _leave(self, r: int, seat: int) -> None:
        self._request[r, seat] = NOBODY
        self._prefill[r, seat] = self._left[r, seat] = self._tokens[r, seat] = 0
        self._occupied[r] -= 1

    def _preempt(self, r: int) -> None:
        seats = np.flatnonzero(self._request[r] != NOBODY)
        seat = int(seats[np.argmax(self.served.admitted_s[self._request[r, seats]])])
        self._queues[r].appendleft(int(self._request[r, seat]))
        self._queued.add(r)
        self._counters["preemptions"][r] += 1
        self._leave(r, seat)

    def _drop_those_given_up(self, now: float) -> None:
        for r in np.flatnonzero(self._occupied):
            for seat in np.flatnonzero(self._request[r] != NOBODY):
                if self._arrivals.give_up_s[self._request[r, seat]] < now:
                    self._load[r] -= 1
                    self._leave(int(r), int(seat))

    def _kill(self, r: int, now: float) -> None:
        """Fail everything on a replica; its counters start again."""
        on_the_way = [which for _, which, at in self._coming if at == r]
        seated = self._request[r][self._request[r] != NOBODY].tolist()
        self.served.lost_s[[*seated, *self._queues[r], *on_the_way]] = now
        self._coming = [each for each in self._coming if each[2] != r]
        heapq.heapify(self._coming)
        self._queues[r].clear()
        self._queued.discard(r)
        self._request[r] = NOBODY
        self._prefill[r] = self._left[r] = self._tokens[r] = 0
        self._load[r] = self._occupied[r] = 0
        for counter in self._counters.values():
            counter[r] = 0
