"""A simulated case as somebody who may act sees it, and what each action does to its world.

Which fault an action ends follows from where the fault lives, not from the table of cures: a stressor, a freeze and a
stall live in the service's processes, an impairment on its link, a throttle in a setting, an intruder beside it on
its node, a loss in the machine, a bad rollout in its version.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from tasks.backends.base import BranchingPatient, CaseOrder
from tasks.backends.simulated.calibration import Calibration, read_calibration
from tasks.backends.simulated.faults import ROLLOUT, restart_s
from tasks.backends.simulated.maker import publish_until_now
from tasks.backends.simulated.params import FIRST_REPLICA, SimulatedDeployParams
from tasks.backends.simulated.simulation import Simulation
from tasks.backends.simulated.world import Effect, World
from tasks.case import Case
from tasks.errors import RCArenaError

Place = Literal["processes", "link", "setting", "node", "machine", "version"]

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
    "node-loss": "machine",
    "bad-rollout": "version",
}
"""Kinds that are not here end by themselves: a killed service is started again anyway."""
RENEWS: dict[str, frozenset[Place]] = {
    "restart": frozenset({"processes"}),
    "reschedule": frozenset({"processes", "link", "setting", "node", "machine"}),
    "restore": frozenset({"setting"}),
    "evict": frozenset({"node"}),
    "eject": frozenset(),
    "scale-out": frozenset(),
    "roll-back": frozenset({"processes", "version"}),
}
OFFERED_S = 30.0
"""The offered load is that of so long."""
PLACING_S = 5.0
"""Extra time until a service starts on another node."""

Undo = Callable[[Simulation], None]
"""Takes back an action that lasts, from now on."""


class SimulatedPatient(BranchingPatient):
    """A simulated case. Its times stand still until it is advanced."""

    def __init__(self, simulation: Simulation, lasting: Mapping[tuple[str, str], Undo] | None = None) -> None:
        self._simulation, self._lasting = simulation, dict(lasting or {})
        times = simulation.times
        self.begin_s, self.fault_s, self.recovery_s, self.end_s = times.baseline, times.fault, times.recovery, times.end

    def another(self) -> SimulatedPatient:
        return SimulatedPatient(copy.deepcopy(self._simulation), self._lasting)

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
        if target not in self._services():
            raise RCArenaError(f"unknown service '{target}'")
        if (action, target) in self._lasting:
            raise RCArenaError(f"{action} of {target} lasts already")
        service = simulation.names.index(target)
        if action == "eject":
            return self._eject(service)
        if action == "scale-out":
            return self._scale_out(target)
        if action == "roll-back":
            self._roll_back(target)
        simulation.cure(target, {kind for kind, place in LIVES_IN.items() if place in RENEWS[action]})
        if action in ("restore", "evict"):
            return 0.0
        down_s = restart_s(simulation.calibration, service) + (PLACING_S if action == "reschedule" else 0.0)
        simulation.add(Effect(service, now, now + down_s, _down, restarts=True))
        return down_s

    def undo(self, action: str, target: str) -> None:
        """Take back an action that lasts: readmit, remove the added replica, make the rollout again.

        Raises:
            RCArenaError: it does not last.
        """
        try:
            undo = self._lasting.pop((action, target))
        except KeyError:
            raise RCArenaError(f"there is no {action} of {target} to take back") from None
        undo(self._simulation)

    def _eject(self, service: int) -> float:
        name = self._simulation.names[service]
        if service < FIRST_REPLICA:
            raise RCArenaError(f"eject cannot act on '{name}': it is no replica")
        effect = Effect(service, self.now_s, np.inf, _ejected)
        self._simulation.add(effect)
        self._lasting["eject", name] = lambda simulation: simulation.withdraw(effect)
        return np.inf

    def _scale_out(self, target: str) -> float:
        """Add a replica, which serves once its engine is loaded; the target goes on as before."""
        added = self._simulation.join(self.now_s + self._simulation.calibration.engine.restart_s)
        if added is None:
            raise RCArenaError("the fleet has no spare replica; deploy.spare_replicas says how many there are")
        self._lasting["scale-out", target] = partial(_remove, added=added)
        return 0.0

    def _roll_back(self, target: str) -> None:
        """Bring back the version before. Raises RCArenaError: there was no rollout."""
        rollouts = [each for each in self._simulation.faults_on(target) if each.kind == ROLLOUT]
        if not rollouts:
            raise RCArenaError(f"no rollout of {target} ended shortly before: there is no version to go back to")
        self._lasting["roll-back", target] = partial(_roll_out, rollouts=rollouts)

    def _services(self) -> list[str]:
        """Return the services that are part of the stack now."""
        absent = self._simulation.world.absent
        return [name for name, is_absent in zip(self._simulation.names, absent, strict=True) if not is_absent]

    def unresponsive(self) -> Sequence[str]:
        silent = self._simulation.world.unreachable & ~self._simulation.world.absent
        return [self._simulation.names[i] for i in np.flatnonzero(silent)]

    def load_share(self) -> float:
        simulation = self._simulation
        load, step = simulation.order.load, simulation.calibration.engine.step
        seats = simulation.calibration.engine.max_num_seqs
        full_step_s = step.fixed_s + step.per_sequence_s * seats
        tokens_per_s = simulation.offered(OFFERED_S) * load.output_tokens.mean
        capacity = len(self._services()[FIRST_REPLICA:]) * seats / full_step_s
        return float(tokens_per_s / capacity)


def admit(deploy: SimulatedDeployParams, order: CaseOrder) -> SimulatedPatient:
    """Return the ordered case at its start. Raises ParamsError, FaultError."""
    return SimulatedPatient(Simulation(deploy, read_calibration(deploy.calibration), order))


def _remove(simulation: Simulation, added: str) -> None:
    """Give a replica that was added no more requests, and take it away once the last it has must have ended."""
    gone_s = simulation.now + simulation.order.load.request_timeout_s
    simulation.add(Effect(simulation.names.index(added), simulation.now, gone_s, _ejected))
    simulation.leave(added, gone_s)


def _roll_out(simulation: Simulation, rollouts: Sequence[Effect]) -> None:
    """Start the service again in the version that was rolled back."""
    for each in rollouts:
        back_s = simulation.now + restart_s(simulation.calibration, each.service)
        simulation.add(Effect(each.service, simulation.now, back_s, _down, restarts=True))
        simulation.add(replace(each, start_s=back_s, end_s=max(back_s, each.end_s), kind=""))


def _ejected(world: World, service: int, _: Calibration) -> None:
    world.ejected[service] = True


def _down(world: World, service: int, _: Calibration) -> None:
    world.down[service] = True
