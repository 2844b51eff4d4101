"""Carries out a simulated case: its load goes through gateway, head and engines while its faults act."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from tasks.backends.base import CaseOrder
from tasks.backends.simulated.calibration import Calibration, EngineModel
from tasks.backends.simulated.engine import Arrivals, Fleet, Group, Served, States
from tasks.backends.simulated.faults import FAULTS
from tasks.backends.simulated.links import Links
from tasks.backends.simulated.params import ReplicaGroup, SimulatedDeployParams
from tasks.backends.simulated.world import FIRST_REPLICA, GATEWAY_INDEX, HEAD_INDEX, Effect, Timeline
from tasks.injection import PlannedInjection
from tasks.load.prompts import POOL_WORDS
from tasks.load.schedule import draw_schedule

SAMPLES_PER_SCRAPE = 5
"""The state is kept so often per scrape interval: every target is scraped at times of its own."""
OVERHEAD_PER_DOUBLING = 0.06
"""Part of a step that each doubling of the GPUs that share a layer adds; every further stage of a pipeline as much."""
LONGEST_TAIL_S = 60.0


@dataclass(frozen=True)
class Paths:
    """When each request passed each point, seconds after the start of the load, shape (requests,); NaN: it did not.

    ``gave_up``: when its client stops waiting. ``refused``: the gateway was down.
    """

    scheduled: np.ndarray
    sent: np.ndarray
    left_gateway: np.ndarray
    at_head: np.ndarray
    left_replica: np.ndarray
    back_at_gateway: np.ndarray
    first_token: np.ndarray
    last_token: np.ndarray
    gave_up: np.ndarray
    refused: np.ndarray
    prompt_tokens: np.ndarray
    output_tokens: np.ndarray


@dataclass(frozen=True)
class Times:
    """Begin of each phase, seconds after the start of the load; ``end``: of the recording."""

    baseline: float
    fault: float
    recovery: float
    end: float

    @classmethod
    def of(cls, order: CaseOrder) -> Times:
        windows = order.windows
        fault = windows.warmup_s + windows.baseline_s
        recovery = fault + windows.fault_s
        return cls(windows.warmup_s, fault, recovery, recovery + windows.recovery_s)


@dataclass(frozen=True)
class Outcome:
    """All that happened in a case."""

    times: Times
    effects: Sequence[Effect]
    timeline: Timeline
    paths: Paths
    served: Served
    states: States


def simulate(deploy: SimulatedDeployParams, calibration: Calibration, order: CaseOrder) -> Outcome:
    """Carry out the ordered case.

    Raises:
        FaultError: the calibration has no part that a fault of the case acts on.
    """
    times, names = Times.of(order), deploy.services()
    seeds = [int(each.generate_state(1)[0]) for each in np.random.SeedSequence(order.seed).spawn(4)]
    effects = [_effect(planned, names.index(planned.target), times, calibration) for planned in order.injections]
    timeline = Timeline(effects, len(names), calibration)
    links = Links(timeline, calibration, seeds[0])
    drawn = draw_schedule(order.load, times.end, order.seed, POOL_WORDS, times.fault)
    way = _Way(calibration, links, effects, np.random.default_rng(seeds[1]))
    scheduled = drawn.offset_ns / 1e9
    sent, left_gateway, at_head, at_router = way.there(scheduled)
    gave_up = sent + order.load.request_timeout_s
    at_router[at_router > gave_up] = np.nan
    sequence = np.argsort(at_router, kind="stable")[: np.count_nonzero(~np.isnan(at_router))]
    arrivals = Arrivals(
        at_s=at_router[sequence],
        prompt_tokens=drawn.prompt_tokens[sequence],
        output_tokens=drawn.output_tokens[sequence],
        group=_groups_of_requests(deploy, len(scheduled), seeds[2])[sequence],
        give_up_s=gave_up[sequence],
    )
    fleet = Fleet(_groups(deploy, calibration), calibration, timeline, arrivals, links, deploy.routing, seeds[3])
    tail_s = min(order.load.request_timeout_s, LONGEST_TAIL_S)
    states = fleet.run(times.end + tail_s, deploy.scrape_interval_s / SAMPLES_PER_SCRAPE)
    found = {each.name: getattr(fleet.served, each.name) for each in fields(Served)}
    served = Served(**{name: _at_places(values, sequence, len(scheduled)) for name, values in found.items()})
    left_replica, back, last = way.back(served, drawn.output_tokens)
    first = served.first_s + np.nan_to_num(last - served.last_s)
    return Outcome(
        times,
        effects,
        timeline,
        Paths(
            scheduled=scheduled,
            sent=sent,
            left_gateway=left_gateway,
            at_head=at_head,
            left_replica=left_replica,
            back_at_gateway=back,
            first_token=np.where(first <= gave_up, first, np.nan),
            last_token=np.where(last <= gave_up, last, np.nan),
            gave_up=gave_up,
            refused=np.isnan(left_gateway),
            prompt_tokens=drawn.prompt_tokens,
            output_tokens=drawn.output_tokens,
        ),
        served,
        states,
    )


def _effect(planned: PlannedInjection, service: int, times: Times, calibration: Calibration) -> Effect:
    fault = FAULTS[planned.kind]
    start = times.fault + planned.offset_s
    lasts_s = planned.duration_s if fault.lasts_s is None else fault.lasts_s(calibration, service)
    return Effect(service, start, start + lasts_s, fault.effect(planned.parameters))


def _groups(deploy: SimulatedDeployParams, calibration: Calibration) -> list[Group]:
    groups, first = [], 0
    for group in deploy.replica_groups:
        groups.append(Group(first, group.replicas, _engine(group, calibration.engine)))
        first += group.replicas
    return groups


def _engine(group: ReplicaGroup, engine: EngineModel) -> EngineModel:
    """Return the engine of a group: ``tensor`` GPUs share each layer, at a cost per doubling; every further stage of a
    pipeline adds its hand-over; the KV cache grows with the GPUs."""
    speed = group.tensor / (1 + OVERHEAD_PER_DOUBLING * np.log2(group.tensor) * group.tensor)
    factor = group.step_factor / max(float(speed), 1.0) * (1 + OVERHEAD_PER_DOUBLING * (group.pipeline - 1))
    scaled = ("fixed_s", "per_sequence_s", "per_kv_token_s", "per_prefill_token_s")
    step = engine.step.model_copy(update={name: getattr(engine.step, name) * factor for name in scaled})
    return engine.model_copy(update={"step": step, "kv_tokens": engine.kv_tokens * group.devices})


def _groups_of_requests(deploy: SimulatedDeployParams, count: int, seed: int) -> np.ndarray:
    groups = deploy.replica_groups
    share = np.array([group.load_share or group.replicas / deploy.replicas for group in groups])
    return np.random.default_rng(seed).choice(len(groups), size=count, p=share / share.sum())


def _at_places(values: np.ndarray, sequence: np.ndarray, count: int) -> np.ndarray:
    """Return ``values`` of the requests ``sequence`` at their places among all ``count`` requests."""
    nothing = {"i": -1, "b": False}.get(values.dtype.kind, np.nan)
    out = np.full(count, nothing, dtype=values.dtype)
    out[sequence] = values
    return out


class _Way:
    """The way of requests to the router and of answers back to their clients."""

    def __init__(
        self, calibration: Calibration, links: Links, effects: Sequence[Effect], rng: np.random.Generator
    ) -> None:
        self._calibration, self._links, self._rng = calibration, links, rng
        self._touched = {each.service for each in effects}

    def there(self, scheduled: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return when requests were sent, left the gateway, came to the head and to the router."""
        model, links = self._calibration, self._links
        sent = scheduled + self._rng.exponential(1.0, len(scheduled)) * model.send_lag_s
        left_gateway = links.proxied(GATEWAY_INDEX, model.gateway, sent)
        at_head = left_gateway + links.waits(GATEWAY_INDEX, left_gateway, model.response.gateway_trips)
        left_head = links.proxied(HEAD_INDEX, model.head, at_head)
        return sent, left_gateway, at_head, left_head + links.waits(HEAD_INDEX, left_head, model.response.trips_before)

    def back(self, served: Served, output_tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return when answers left their replica, were back at the gateway, and whole with their client."""
        model, links, own_trips = self._calibration, self._links, self._calibration.response.own_trips
        engine = model.engine
        out = served.last_s + engine.after_s * np.exp(
            engine.request_sigma * self._rng.standard_normal(len(output_tokens))
        )
        for service in self._touched - {GATEWAY_INDEX, HEAD_INDEX}:
            own = np.flatnonzero((served.replica == service - FIRST_REPLICA) & ~np.isnan(served.last_s))
            left = links.through(service, served.last_s[own], engine.after_s, engine.request_sigma, stalls=False)
            out[own] = left + links.waits(service, left, own_trips)
            size = self._size(service, output_tokens[own])
            out[own] = links.limited(service, out[own], size, model.host_replica.transmit_idle)
        back = links.proxied(HEAD_INDEX, model.head, out, answer=True)
        back += links.waits(HEAD_INDEX, back, own_trips)
        back = links.limited(HEAD_INDEX, back, self._size(HEAD_INDEX, output_tokens), model.host_head.transmit_idle)
        last = links.proxied(GATEWAY_INDEX, model.gateway, back, answer=True)
        last += links.waits(GATEWAY_INDEX, last, 1)
        size = self._size(GATEWAY_INDEX, output_tokens)
        return out, back, links.limited(GATEWAY_INDEX, last, size, model.host_gateway.transmit_idle)

    def _size(self, service: int, output_tokens: np.ndarray) -> np.ndarray:
        host = self._calibration.host_of(service)
        return host.transmit_per_request + host.transmit_per_token * output_tokens
