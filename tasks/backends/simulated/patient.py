"""A simulated case as somebody who may act sees it, and what each action does to its world.

Which fault an action ends follows from where the fault lives, not from the table of cures: a stressor, a freeze and a
stall live in the service's processes, an impairment on its link, a throttle in a setting, an intruder on its node.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pandas as pd

from tasks.backends.base import CaseOrder, Patient
from tasks.backends.simulated.calibration import Calibration, read_calibration
from tasks.backends.simulated.faults import restart_s
from tasks.backends.simulated.maker import publish_until_now
from tasks.backends.simulated.params import FIRST_REPLICA, SimulatedDeployParams
from tasks.backends.simulated.simulation import Simulation
from tasks.backends.simulated.world import Effect, World
from tasks.case import Case
from tasks.errors import RCArenaError

Place = Literal["processes", "link", "setting", "node"]

LIVES_IN: dict[str, Place] = {
    "cpu-stress": "processes",
    "memory-stress": "processes",
    "process-freeze": "processes",
    "engine-stall": "processes",
    "kv-cache-squeeze": "processes",
    "network-delay": "link",
    "network-loss": "link",
    "network-bandwidth": "link",
    "network-partition": "link",
    "accelerator-throttle": "setting",
    "gpu-clock-lock": "setting",
    "gpu-power-limit": "setting",
    "gpu-contention": "node",
    "gpu-memory": "node",
}
"""Kinds that are not here end by themselves: a killed service is started again anyway."""
RENEWS: dict[str, frozenset[Place]] = {
    "restart": frozenset({"processes"}),
    "reschedule": frozenset({"processes", "link", "setting", "node"}),
    "restore": frozenset({"setting"}),
    "evict": frozenset({"node"}),
    "eject": frozenset(),
    "scale-out": frozenset(),
    "roll-back": frozenset({"processes"}),
}
OFFERED_S = 30.0
"""The offered load is that of so long."""
PLACING_S = 5.0
"""Extra time until a service starts on another node."""


class SimulatedPatient(Patient):
    """A simulated case. Its times stand still until it is advanced."""

    copies: ClassVar[bool] = True

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        times = simulation.times
        self.begin_s, self.fault_s, self.recovery_s, self.end_s = times.baseline, times.fault, times.recovery, times.end

    def another(self) -> SimulatedPatient:
        """Return the same case as it is now, to go another way."""
        return SimulatedPatient(copy.deepcopy(self._simulation))

    @property
    def now_s(self) -> float:
        return self._simulation.now

    def advance(self, until_s: float) -> None:
        self._simulation.advance(until_s)

    def requests(self) -> pd.DataFrame:
        (paths, served), now = self._simulation.known(), self.now_s
        due = (paths.scheduled <= now) & (paths.scheduled < self.end_s)
        first, last = paths.first_token[due], paths.last_token[due]
        over = paths.gave_up[due] <= now
        failed = served.lost[due] | paths.refused[due] | (np.isnan(last) & over)
        return pd.DataFrame(
            {
                "scheduled": paths.scheduled[due],
                "first_token": first,
                "last_token": last,
                "failed": failed,
                "output_tokens": paths.output_tokens[due],
            }
        )

    def recording(self, directory: Path) -> Case:
        return publish_until_now(self._simulation, directory)

    def act(self, action: str, target: str) -> float:
        simulation, now = self._simulation, self.now_s
        if action not in RENEWS:
            raise RCArenaError(f"the simulated backend has no {action}; allowed: {', '.join(sorted(RENEWS))}")
        if target not in simulation.names:
            raise RCArenaError(f"unknown service '{target}'")
        service = simulation.names.index(target)
        if action == "eject":
            if service < FIRST_REPLICA:
                raise RCArenaError(f"eject cannot act on '{target}': it is no replica")
            simulation.add(Effect(service, now, np.inf, _ejected))
            return np.inf
        if action == "scale-out":
            raise RCArenaError("the fleet has no spare replica")
        simulation.cure(target, {kind for kind, place in LIVES_IN.items() if place in RENEWS[action]})
        if action in ("restore", "evict"):
            return 0.0
        down_s = restart_s(simulation.calibration, service) + (PLACING_S if action == "reschedule" else 0.0)
        simulation.add(Effect(service, now, now + down_s, _down, restarts=True))
        return down_s

    def unresponsive(self) -> Sequence[str]:
        silent = self._simulation.world.unreachable
        return [self._simulation.names[i] for i in np.flatnonzero(silent)]

    def load_share(self) -> float:
        simulation = self._simulation
        load, step = simulation.order.load, simulation.calibration.engine.step
        seats = simulation.calibration.engine.max_num_seqs
        full_step_s = step.fixed_s + step.per_sequence_s * seats
        tokens_per_s = simulation.offered(OFFERED_S) * load.output_tokens.mean
        capacity = len(simulation.names[FIRST_REPLICA:]) * seats / full_step_s
        return float(tokens_per_s / capacity)


def admit(deploy: SimulatedDeployParams, order: CaseOrder) -> SimulatedPatient:
    """Return the ordered case at its start. Raises ParamsError, FaultError."""
    return SimulatedPatient(Simulation(deploy, read_calibration(deploy.calibration), order))


def _ejected(world: World, service: int, _: Calibration) -> None:
    world.ejected[service] = True


def _down(world: World, service: int, _: Calibration) -> None:
    world.down[service] = True
