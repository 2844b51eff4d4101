"""The metrics of a simulated case, on the grid of its export."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from tasks import metrics
from tasks.backends.simulated.calibration import Calibration
from tasks.backends.simulated.hosts import Work, gpu_columns, host_columns
from tasks.backends.simulated.params import FIRST_REPLICA, GATEWAY_INDEX, HEAD_INDEX, SimulatedDeployParams
from tasks.backends.simulated.sampling import Answers, Scrapes, ScrapeSchedule
from tasks.backends.simulated.simulation import Outcome
from tasks.export.derived_metrics import windows_of
from tasks.export.grid import TimeGrid
from tasks.metrics import Metric

BLOCK = 256
"""Services whose host metrics are computed at a time: memory does not grow with the fleet."""

ENGINES, HEAD = 1, 2
"""What is scraped at times of its own; hosts come after these."""


@dataclass(frozen=True)
class Block:
    """One metric of some services: ``values`` (times, services), ``services`` their positions."""

    metric: Metric
    services: np.ndarray
    values: np.ndarray


class Telemetry:
    """Metrics of one outcome. ``grid_s``: the times of the grid, seconds after the start of the load."""

    def __init__(
        self,
        outcome: Outcome,
        deploy: SimulatedDeployParams,
        calibration: Calibration,
        grid: TimeGrid,
        start_ns: int,
        rate_window_s: float,
        seed: int,
    ) -> None:
        self._outcome, self._deploy, self._calibration = outcome, deploy, calibration
        self._grid, self._start_ns, self._window_s = grid, start_ns, rate_window_s
        self._grid_s = (grid.times_ns - start_ns) / 1e9
        self._seed = seed
        self._count = len(outcome.timeline.worlds[0].absent)

    def blocks(self) -> Iterator[Block]:
        """Yield every metric, without services that were never there; while one is not, it has no sample."""
        if not self._outcome.absences:
            yield from self._all_blocks()
            return
        absent = self._outcome.timeline.matrix("absent", self._grid_s)
        for block in self._all_blocks():
            own = absent[:, block.services]
            there = ~own.all(axis=0)
            if there.any():
                values = np.where(own, np.nan, block.values)
                yield Block(block.metric, block.services[there], values[:, there])

    def _all_blocks(self) -> Iterator[Block]:
        yield from self._engine_gauges()
        yield from self._times_of_requests()
        yield from self._front()
        roles = [(GATEWAY_INDEX, GATEWAY_INDEX + 1), (HEAD_INDEX, HEAD_INDEX + 1)]
        roles += [(first, min(first + BLOCK, self._count)) for first in range(FIRST_REPLICA, self._count, BLOCK)]
        for begin, end in roles:
            yield from self._hosts(begin, end)

    # -- scrapes

    def _answers(self, *causes: str) -> Answers:
        """Return which targets answer: those that are scraped and for which none of ``causes`` is true."""
        worlds = self._outcome.timeline.worlds
        able = [
            world.scraped & ~np.logical_or.reduce([getattr(world, cause) >= 1 for cause in causes]) for world in worlds
        ]
        return Answers(self._outcome.timeline.times, np.stack(able))

    def _schedule(self, targets: int, purpose: int) -> ScrapeSchedule:
        deploy = self._deploy
        seed = self._seed + purpose
        return ScrapeSchedule(targets, deploy.scrape_interval_s, deploy.scrape_jitter_s, deploy.missed_scrapes, seed)

    def _scrapes(self, targets: slice, purpose: int, *causes: str) -> Scrapes:
        answers = self._answers(*causes)
        own = Answers(answers.begins_s, answers.answers[:, targets])
        schedule = self._schedule(own.answers.shape[1], purpose)
        report_s = self._calibration.engine.report_s if purpose in (ENGINES, HEAD) else 0.0
        return schedule.scrapes(self._grid_s, self._window_s, self._outcome.states.at_s, own, report_s)

    @cached_property
    def _engine_scrapes(self) -> Scrapes:
        return self._scrapes(slice(FIRST_REPLICA, None), ENGINES, "cut", "frozen", "down", "link_use")

    @cached_property
    def _head_scrapes(self) -> Scrapes:
        return self._scrapes(slice(HEAD_INDEX, HEAD_INDEX + 1), HEAD, "cut", "frozen", "down")

    # -- engines and Serve

    def _engine_gauges(self) -> Iterator[Block]:
        states, scrapes = self._outcome.states, self._engine_scrapes
        replicas = np.arange(FIRST_REPLICA, self._count)
        groups = self._deploy.replica_groups
        room = np.repeat(
            [self._calibration.engine.kv_tokens * group.devices for group in groups],
            [*(group.replicas for group in groups[:-1]), groups[-1].replicas + self._deploy.spare_replicas],
        )
        left = self._outcome.timeline.matrix("kv_share", self._grid_s)[:, FIRST_REPLICA:]
        columns = {
            metrics.REQUESTS_RUNNING: scrapes.gauge(states.gauges["running"]),
            metrics.REQUESTS_WAITING: scrapes.gauge(states.gauges["waiting"]),
            metrics.KV_CACHE_USAGE: np.minimum(scrapes.gauge(states.gauges["kv_tokens"]) / room + 1 - left, 1),
            metrics.GENERATION_TOKENS_RATE: scrapes.rate(states.counters["generated"]),
            metrics.PROMPT_TOKENS_RATE: scrapes.rate(states.counters["prompted"]),
            metrics.PREEMPTIONS_RATE: scrapes.rate(states.counters["preemptions"]),
            metrics.REQUEST_RATE: scrapes.rate(states.counters["finished"]),
            metrics.SERVE_ONGOING_REQUESTS: scrapes.gauge(states.gauges["accepted_now"]),
            metrics.ERROR_RATE: self._lost_rate(),
        }
        for metric, values in columns.items():
            yield Block(metric, replicas, values)

    def _lost_rate(self) -> np.ndarray:
        """Return the rate of requests that replicas lost, where they answer a scrape."""
        served = self._outcome.served
        lost = np.flatnonzero(served.lost)
        rate = np.zeros((self._grid.steps, self._count - FIRST_REPLICA))
        for which in lost:
            died = served.lost_s[which]
            inside = (self._grid_s >= died) & (self._grid_s < died + self._window_s)
            rate[inside, served.replica[which]] += 1 / self._window_s
        return np.where(self._engine_scrapes.seen, rate, np.nan)

    def _front(self) -> Iterator[Block]:
        """The head's and the gateway's own metrics."""
        states, scrapes, paths = self._outcome.states, self._head_scrapes, self._outcome.paths
        worlds = self._outcome.timeline
        down = worlds.matrix("down", states.at_s)[:, FIRST_REPLICA:]
        silent = worlds.silent_for(states.at_s)[:, FIRST_REPLICA:] > self._calibration.response.unhealthy_after_s
        healthy = np.count_nonzero(~(down | silent), axis=1)[:, None]
        finished = np.sort(paths.back_at_gateway[~np.isnan(paths.back_at_gateway)])
        done = np.searchsorted(finished, states.at_s)[:, None]
        gave_up = np.sort(paths.gave_up[np.isnan(paths.last_token) & ~np.isnan(paths.at_head)])
        failed = np.searchsorted(gave_up, states.at_s)[:, None]
        head = np.array([HEAD_INDEX])
        ongoing = self._ongoing(paths.at_head, paths.back_at_gateway)[:, None]
        yield Block(metrics.SERVE_ONGOING_REQUESTS, head, scrapes.gauge(ongoing))
        yield Block(metrics.SERVE_QUEUED_REQUESTS, head, scrapes.gauge(states.head_queued[:, None]))
        yield Block(metrics.SERVE_HEALTHY_REPLICAS, head, scrapes.gauge(healthy))
        yield Block(metrics.REQUEST_RATE, head, scrapes.rate(done))
        yield Block(metrics.ERROR_RATE, head, scrapes.rate(failed))
        gateway = np.array([GATEWAY_INDEX])
        ended = np.where(np.isnan(paths.last_token), paths.gave_up, paths.last_token)
        ended = np.where(paths.refused, np.nan, ended)
        bad = np.isnan(paths.last_token)
        for metric, which in ((metrics.REQUEST_RATE, ~np.isnan(ended)), (metrics.ERROR_RATE, bad & ~np.isnan(ended))):
            _, step = windows_of(self._ns(ended[which]), self._grid, self._window_s)
            yield Block(metric, gateway, np.bincount(step, minlength=self._grid.steps)[:, None] / self._window_s)

    # -- times of requests

    def _times_of_requests(self) -> Iterator[Block]:
        served, paths = self._outcome.served, self._outcome.paths
        replica = FIRST_REPLICA + served.replica
        queue = served.admitted_s - served.queued_s + self._shortest_queue(replica)
        handover = served.queued_s - served.arrived_s
        prefill, decode = served.first_s - served.admitted_s, served.last_s - served.first_s
        engine = {
            metrics.TTFT_MEAN: (handover + queue + prefill, np.ones(len(queue))),
            metrics.QUEUE_TIME_MEAN: (queue, np.ones(len(queue))),
            metrics.PREFILL_TIME_MEAN: (prefill, np.ones(len(queue))),
            metrics.DECODE_TIME_MEAN: (decode, np.ones(len(queue))),
            metrics.E2E_LATENCY_MEAN: (handover + queue + prefill + decode, np.ones(len(queue))),
            metrics.INTER_TOKEN_LATENCY_MEAN: (decode, np.maximum(paths.output_tokens - 1.0, 0)),
        }
        replicas = np.arange(FIRST_REPLICA, self._count)
        at = self._windows(served.last_s, replica)
        for metric, (numerator, denominator) in engine.items():
            yield Block(metric, replicas, at.ratio(numerator, denominator)[:, FIRST_REPLICA:])
        one = np.ones(len(replica))
        own = self._windows(paths.left_replica, replica).ratio(paths.left_replica - served.received_s, one)
        yield Block(metrics.SERVE_PROCESSING_LATENCY_MEAN, replicas, own[:, FIRST_REPLICA:])
        head = np.full(len(replica), HEAD_INDEX)
        way = self._windows(paths.back_at_gateway, head).ratio(paths.back_at_gateway - paths.at_head, one)
        yield Block(metrics.SERVE_PROCESSING_LATENCY_MEAN, np.array([HEAD_INDEX]), way[:, [HEAD_INDEX]])
        yield from self._latencies(replica)

    def _shortest_queue(self, replica: np.ndarray) -> np.ndarray:
        """Return what each request waits at least between the queue and a seat."""
        engine = self._calibration.engine
        drawn = np.random.default_rng([self._seed, 2]).standard_normal(len(replica))
        return engine.queue_s * np.exp(engine.handover_sigma * drawn)

    def _latencies(self, replica: np.ndarray) -> Iterator[Block]:
        """Latency of each service as its caller sees it: a quantile over the calls that ended in the window."""
        served, paths = self._outcome.served, self._outcome.paths
        calls = {
            GATEWAY_INDEX: (paths.last_token, paths.last_token - paths.sent, None),
            HEAD_INDEX: (paths.back_at_gateway, paths.back_at_gateway - paths.left_gateway, None),
            FIRST_REPLICA: (paths.back_at_gateway, paths.back_at_gateway - paths.at_head, replica),
        }
        frames = []
        for service, (end, took, of) in calls.items():
            ended = np.flatnonzero(~np.isnan(end) & (served.replica >= 0))
            event, step = windows_of(self._ns(end[ended]), self._grid, self._window_s)
            which = np.full(len(ended), service) if of is None else of[ended]
            frames.append(pd.DataFrame({"step": step, "service": which[event], "took": took[ended][event]}))
        grouped = pd.concat(frames, ignore_index=True).groupby(["step", "service"])["took"]
        for metric, quantile in ((metrics.LATENCY_P50, 0.5), (metrics.LATENCY_P90, 0.9)):
            found = grouped.quantile(quantile)
            values = np.full((self._grid.steps, self._count), np.nan)
            values[found.index.get_level_values(0), found.index.get_level_values(1)] = found.to_numpy()
            yield Block(metric, np.arange(self._count), values)

    def _ns(self, at_s: np.ndarray) -> np.ndarray:
        return np.round(at_s * 1e9).astype(np.int64) + self._start_ns

    def _windows(self, end_s: np.ndarray, service: np.ndarray) -> _Windows:
        ended = np.flatnonzero(~np.isnan(end_s) & (service >= 0))
        event, step = windows_of(self._ns(end_s[ended]), self._grid, self._window_s)
        return _Windows(ended[event], step * self._count + service[ended[event]], (self._grid.steps, self._count))

    # -- hosts

    def _hosts(self, begin: int, end: int) -> Iterator[Block]:
        services, at_s = slice(begin, end), self._grid_s
        seed = (self._seed, begin)
        scrapes = self._scrapes(services, 3 + begin, "gone", *(["cut"] if self._calibration.gpu else []))
        host, timeline = self._calibration.host_of(begin), self._outcome.timeline
        work = self._work(begin, end, at_s)
        columns = host_columns(host, self._calibration, timeline, services, at_s, self._window_s, work, seed)
        if begin >= FIRST_REPLICA:
            if self._calibration.gpu is None:
                quota = timeline.matrix("quota", at_s)[:, services]
                share = columns[metrics.CPU_USAGE] / (host.cores or 1.0) / quota
                columns = {**columns, metrics.ACCELERATOR_UTILIZATION: share}
            else:
                at_work = scrapes.gauge(
                    self._outcome.states.gauges["running"][:, begin - FIRST_REPLICA : end - FIRST_REPLICA]
                )
                columns |= gpu_columns(
                    self._calibration.gpu, self._outcome.timeline, services, at_s, work, np.nan_to_num(at_work), seed
                )
        for metric, values in columns.items():
            yield Block(metric, np.arange(begin, end), np.where(scrapes.seen, values, np.nan))

    def _ongoing(self, since_s: np.ndarray, until_s: np.ndarray) -> np.ndarray:
        """Return how many requests were between two points of their way at the time of each recorded state; one that
        does not come to the second until its client gives up."""
        paths = self._outcome.paths
        came = ~np.isnan(since_s)
        begun = np.sort(since_s[came])
        left = np.where(np.isnan(until_s), paths.gave_up, np.minimum(until_s, paths.gave_up))
        ended = np.sort(np.maximum(since_s, left)[came])  # a client may give up before the first point
        at_s = self._outcome.states.at_s
        return np.searchsorted(begun, at_s, side="right") - np.searchsorted(ended, at_s, side="right")

    def _work(self, begin: int, end: int, at_s: np.ndarray) -> Work:
        """Return what the services did until ``at_s``; gateway and head do it for all requests."""
        states, shape = self._outcome.states, (self._grid.steps, end - begin)
        position = np.clip(np.searchsorted(states.at_s, at_s, side="right") - 1, 0, None)
        before = np.clip(np.searchsorted(states.at_s, at_s - self._window_s, side="right") - 1, 0, None)

        def rate(values: np.ndarray) -> np.ndarray:
            grown = values[position] - values[before]
            return np.where(grown >= 0, grown, values[position]) / self._window_s

        if begin >= FIRST_REPLICA:
            own = slice(begin - FIRST_REPLICA, end - FIRST_REPLICA)
            counters = {name: values[:, own] for name, values in states.counters.items()}
            return Work(
                rate(counters["accepted"]),
                rate(counters["generated"]),
                rate(counters["work_s"]),
                rate(counters["busy_s"]),
                states.gauges["kv_tokens"][position][:, own],
                np.maximum.accumulate(states.gauges["accepted_now"][:, own])[position],
            )
        paths = self._outcome.paths
        done = paths.last_token if begin == GATEWAY_INDEX else paths.back_at_gateway
        order = np.argsort(done, kind="stable")[: np.count_nonzero(~np.isnan(done))]
        total = np.concatenate([[0.0], np.cumsum(paths.output_tokens[order])])
        number = np.searchsorted(done[order], states.at_s)
        zero = np.zeros(shape)
        requests, tokens = rate(number[:, None].astype(float)), rate(total[number][:, None])
        anyone = (states.gauges["running"] > 0).any(axis=1)
        work = np.cumsum(anyone * np.diff(states.at_s, prepend=states.at_s[0]))
        since = paths.sent if begin == GATEWAY_INDEX else paths.at_head
        most = np.maximum.accumulate(self._ongoing(since, done))[position][:, None]
        return Work(requests, tokens, rate(work[:, None]), zero, zero, most)


@dataclass(frozen=True)
class _Windows:
    """Requests in the windows that they ended in. ``cell``: position in the table of ``shape`` (times, services)."""

    request: np.ndarray
    cell: np.ndarray
    shape: tuple[int, int]

    def ratio(self, numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
        """Return sum of ``numerator`` / sum of ``denominator`` per window, NaN where there is none."""
        size = self.shape[0] * self.shape[1]
        above = np.bincount(self.cell, np.nan_to_num(numerator[self.request]), size)
        below = np.bincount(self.cell, np.where(np.isnan(numerator[self.request]), 0, denominator[self.request]), size)
        return np.divide(above, below, out=np.full(size, np.nan), where=below > 0).reshape(self.shape)
