"""Carries out a simulated case: its load goes through gateway, head and engines while its faults act."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from tasks.backends.base import CaseOrder
from tasks.backends.simulated.calibration import Calibration, EngineModel
from tasks.backends.simulated.engine import Arrivals, Fleet, Group, Served, States
from tasks.backends.simulated.faults import FAULTS
from tasks.backends.simulated.links import Links
from tasks.backends.simulated.params import (
    FIRST_REPLICA,
    GATEWAY_INDEX,
    HEAD_INDEX,
    ReplicaGroup,
    SimulatedDeployParams,
)
from tasks.backends.simulated.placement import Place, on_the_first_node_of, placement
from tasks.backends.simulated.world import Effect, Timeline, World
from tasks.injection import PlannedInjection
from tasks.load.prompts import POOL_WORDS
from tasks.load.schedule import Schedule, draw_schedule

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
    """What happened until ``until_s`` after the start of the load; times after that are NaN. ``effects``: those of the
    simulation's injections, in their order; ``actions``: what was changed besides; ``absences``: when spare replicas
    were not there."""

    times: Times
    until_s: float
    effects: Sequence[Effect]
    actions: Sequence[Effect]
    absences: Sequence[Effect]
    timeline: Timeline
    paths: Paths
    served: Served
    states: States


class Simulation:
    """A case in the making: it is advanced in time, may be looked at, and its world may be changed from then on.

    What is random belongs to the case's seed, not to what is done: the past never changes, and two simulations of an
    order that differ by an action see the same arrivals and the same noise.

    ``injections``: those of the order; one that acts on a node stands there once for each service that is on it.

    Raises:
        FaultError: the calibration has no part that a fault of the case acts on.
    """

    def __init__(self, deploy: SimulatedDeployParams, calibration: Calibration, order: CaseOrder) -> None:
        self.deploy, self.calibration, self.order = deploy, calibration, order
        self.times, self.names = Times.of(order), (*deploy.service_names(), *deploy.spare_names())
        placed = placement(deploy, calibration)
        self.injections = tuple(each for planned in order.injections for each in _on_its_node(planned, placed))
        self._faults = [
            _effect(each, self.names.index(each.target), self.times, calibration) for each in self.injections
        ]
        self._actions: list[Effect] = []
        self._absences = [Effect(self.names.index(spare), -np.inf, np.inf, _absent) for spare in deploy.spare_names()]
        seeds = [int(each.generate_state(1)[0]) for each in np.random.SeedSequence(order.seed).spawn(4)]
        drawn = draw_schedule(order.load, self.times.end, order.seed, POOL_WORDS, self.times.fault)
        self._timeline = self._new_timeline()
        self._links = Links(self._timeline, calibration, seeds[0])
        self._way = _Way(calibration, self._links, order.load.request_timeout_s, drawn, seeds[1])
        self._group = _groups_of_requests(deploy, len(drawn.offset_ns), seeds[2])
        self._fleet = Fleet(
            _groups(deploy, calibration),
            calibration,
            self._timeline,
            self._arrivals(),
            self._links,
            deploy.routing,
            seeds[3],
            deploy.scrape_interval_s / SAMPLES_PER_SCRAPE,
        )
        self.end_s = self.times.end + min(order.load.request_timeout_s, LONGEST_TAIL_S)

    @property
    def now(self) -> float:
        """Seconds after the start of the load."""
        return self._fleet.now

    def advance(self, until_s: float) -> None:
        """Let time pass until ``until_s`` after the start of the load, at most until ``end_s``."""
        self._fleet.advance(min(until_s, self.end_s))

    def add(self, effect: Effect) -> None:
        """Change the world from now on by ``effect``, which must not start before now unless nothing has happened.

        Raises:
            ValueError: it starts in the past.
        """
        if effect.start_s < self.now and self.now > 0:
            raise ValueError(f"an effect from {effect.start_s:g} s on cannot change what was before {self.now:g} s")
        self._actions.append(effect)
        self._change()

    def cure(self, service: str, kinds: Collection[str] | None = None) -> list[str]:
        """End now what faults (of ``kinds``; None: of all) do to a service; return the kinds that were ended."""
        index, ended = self.names.index(service), []
        for i, effect in enumerate(self._faults):
            acts = effect.service == index and effect.start_s <= self.now < effect.end_s
            if acts and (kinds is None or effect.kind in kinds):
                self._faults[i] = replace(effect, end_s=self.now, cured=True)
                ended.append(effect.kind)
        self._change()
        return ended

    def withdraw(self, effect: Effect) -> None:
        """End now an effect that was added. Raises ValueError: it was not."""
        self._actions[self._actions.index(effect)] = replace(effect, end_s=max(self.now, effect.start_s))
        self._change()

    def join(self, at_s: float) -> str | None:
        """Let a spare replica serve from ``at_s`` on; return its name, None: there is no spare one now."""
        for i, absence in enumerate(self._absences):
            if absence.start_s <= self.now and np.isinf(absence.end_s):
                self._absences[i] = replace(absence, end_s=at_s)
                self._change()
                return self.names[absence.service]
        return None

    def leave(self, spare: str, at_s: float) -> None:
        """Take a spare replica that has joined away again at ``at_s``."""
        self._absences.append(Effect(self.names.index(spare), at_s, np.inf, _absent))
        self._change()

    def faults_on(self, service: str) -> list[Effect]:
        """Return what faults do to a service now."""
        index = self.names.index(service)
        return [each for each in self._faults if each.service == index and each.start_s <= self.now < each.end_s]

    def _change(self) -> None:
        self._timeline = self._new_timeline()
        self._links.change(self._timeline)
        self._fleet.change(self._timeline, self._arrivals())

    def _new_timeline(self) -> Timeline:
        return Timeline([*self._faults, *self._actions, *self._absences], len(self.names), self.calibration)

    def _arrivals(self) -> Arrivals:
        way = self._way
        return Arrivals(way.there()[-1], way.prompt_tokens, way.output_tokens, self._group, way.gave_up)

    @property
    def world(self) -> World:
        """The state of the services now."""
        return self._timeline.at(self.now)

    def offered(self, window_s: float) -> float:
        """Return the requests per second that were due in the last ``window_s``."""
        due = self._way.scheduled
        return float(np.count_nonzero((due > self.now - window_s) & (due <= self.now))) / window_s

    def known(self) -> tuple[Paths, Served]:
        """Return what has become of the requests until now; later times are NaN."""
        until_s = self.now if self.now < self.end_s else np.inf
        served = self._fleet.served
        known = {each.name: getattr(served, each.name).copy() for each in fields(Served)}
        paths = self._way.paths(served)
        if np.isfinite(until_s):
            for times in (
                *known.values(),
                paths.left_gateway,
                paths.at_head,
                paths.left_replica,
                paths.back_at_gateway,
            ):
                if times.dtype.kind == "f":
                    times[times > until_s] = np.nan
            for times in (paths.first_token, paths.last_token):
                times[times > until_s] = np.nan
        return paths, Served(**known)

    def outcome(self) -> Outcome:
        """Return what has happened until now."""
        paths, served = self.known()
        return Outcome(
            self.times,
            self.now if self.now < self.end_s else np.inf,
            tuple(self._faults),
            tuple(self._actions),
            tuple(self._absences),
            self._timeline,
            paths,
            served,
            self._fleet.states(),
        )


def simulate(deploy: SimulatedDeployParams, calibration: Calibration, order: CaseOrder) -> Outcome:
    """Carry out the whole ordered case.

    Raises:
        FaultError: the calibration has no part that a fault of the case acts on.
    """
    simulation = Simulation(deploy, calibration, order)
    simulation.advance(simulation.end_s)
    return simulation.outcome()


def _on_its_node(planned: PlannedInjection, placed: Mapping[str, Place]) -> list[PlannedInjection]:
    """Return the injection; if its kind acts on a node, one for each service that is lost with it."""
    if not FAULTS[planned.kind].node:
        return [planned]
    return [planned.model_copy(update={"target": name}) for name in on_the_first_node_of(planned.target, placed)]


def _effect(planned: PlannedInjection, service: int, times: Times, calibration: Calibration) -> Effect:
    fault = FAULTS[planned.kind]
    start = times.fault + planned.offset_s
    lasts_s = planned.duration_s
    if fault.lasts_s is not None:
        lasts_s = fault.lasts_s(calibration, service, planned.duration_s)
    restarts = fault.lasts_s is not None
    return Effect(service, start, start + lasts_s, fault.effect(planned.parameters), planned.kind, restarts)


def _absent(world: World, service: int, _: Calibration) -> None:
    world.absent[service] = world.down[service] = True


def _groups(deploy: SimulatedDeployParams, calibration: Calibration) -> list[Group]:
    groups, first = [], 0
    for group in deploy.replica_groups:
        groups.append(Group(first, group.replicas, _engine(group, calibration.engine)))
        first += group.replicas
    groups[-1] = replace(groups[-1], count=groups[-1].count + deploy.spare_replicas)
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


class _Way:
    """The way of requests to the router and of answers back to their clients."""

    def __init__(self, calibration: Calibration, links: Links, timeout_s: float, drawn: Schedule, seed: int) -> None:
        self._calibration, self._links = calibration, links
        rng = np.random.default_rng(seed)
        self.scheduled = drawn.offset_ns / 1e9
        self.prompt_tokens, self.output_tokens = drawn.prompt_tokens, drawn.output_tokens
        self._sent = self.scheduled + rng.exponential(1.0, len(self.scheduled)) * calibration.send_lag_s
        self.gave_up = self._sent + timeout_s
        engine = calibration.engine
        self._after_s = engine.after_s * np.exp(engine.request_sigma * rng.standard_normal(len(self.scheduled)))

    def there(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return when requests left the gateway, came to the head and to the router."""
        model, links = self._calibration, self._links
        left_gateway = links.proxied(GATEWAY_INDEX, model.gateway, self._sent)
        at_head = left_gateway + links.waits(GATEWAY_INDEX, left_gateway, model.response.gateway_trips, 0)
        left_head = links.proxied(HEAD_INDEX, model.head, at_head)
        at_router = left_head + links.waits(HEAD_INDEX, left_head, model.response.trips_before, 0)
        at_router[at_router > self.gave_up] = np.nan
        return left_gateway, at_head, at_router

    def paths(self, served: Served) -> Paths:
        left_gateway, at_head, _ = self.there()
        left_replica, back, last = self._back(served)
        first = served.first_s + np.nan_to_num(last - served.last_s)
        return Paths(
            scheduled=self.scheduled,
            sent=self._sent,
            left_gateway=left_gateway,
            at_head=at_head,
            left_replica=left_replica,
            back_at_gateway=back,
            first_token=np.where(first <= self.gave_up, first, np.nan),
            last_token=np.where(last <= self.gave_up, last, np.nan),
            gave_up=self.gave_up,
            refused=np.isnan(left_gateway),
            prompt_tokens=self.prompt_tokens,
            output_tokens=self.output_tokens,
        )

    def _back(self, served: Served) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return when answers left their replica, were back at the gateway, and whole with their client."""
        model, links, own_trips = self._calibration, self._links, self._calibration.response.own_trips
        out = served.last_s + self._after_s
        for service in links.changed_services():
            own = np.flatnonzero((served.replica == service - FIRST_REPLICA) & ~np.isnan(served.last_s))
            came = np.full(len(out), np.nan)
            came[own] = served.last_s[own]
            left = links.through(service, came, self._after_s, stalls=False)
            left += links.waits(service, left, own_trips, 1)
            left = links.limited(service, left, self._size(service), model.host_replica.transmit_idle)
            out[own] = left[own]
        back = links.proxied(HEAD_INDEX, model.head, out, answer=True)
        acknowledged = links.waits(HEAD_INDEX, back, own_trips, 1)
        back += acknowledged
        stalled = links.stalls(HEAD_INDEX, out) * self._calibration.response.acknowledged_stall
        back = links.limited(HEAD_INDEX, back, self._size(HEAD_INDEX), model.host_head.transmit_idle)
        last = links.proxied(GATEWAY_INDEX, model.gateway, back, answer=True)
        last += links.waits(GATEWAY_INDEX, last, 1, 1)
        return (
            np.minimum(out + acknowledged + stalled, np.where(np.isnan(back), np.inf, back)),
            back,
            links.limited(GATEWAY_INDEX, last, self._size(GATEWAY_INDEX), model.host_gateway.transmit_idle),
        )

    def _size(self, service: int) -> np.ndarray:
        host = self._calibration.host_of(service)
        return host.transmit_per_request + host.transmit_per_token * self.output_tokens
