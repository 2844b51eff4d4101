"""Which nodes and GPUs each service of a simulated stack has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tasks.backends.simulated.calibration import Calibration
from tasks.backends.simulated.params import FIRST_REPLICA, SimulatedDeployParams


@dataclass(frozen=True)
class Place:
    nodes: tuple[str, ...]
    devices: tuple[str, ...] = ()


def placement(deploy: SimulatedDeployParams, calibration: Calibration) -> dict[str, Place]:
    """Return the place of each service: replicas fill GPU nodes in order, and one may need several; gateway and head
    have a node of their own, and so has each spare replica. Without GPUs all share one machine."""
    names, spares = deploy.service_names(), deploy.spare_names()
    if calibration.gpu is None:
        return dict.fromkeys((*names, *spares), Place(("node-0",)))
    placed, used = dict.fromkeys(names[:FIRST_REPLICA], Place(("node-0",))), 0
    replicas = iter(names[FIRST_REPLICA:])
    for group in deploy.replica_groups:
        for _ in range(group.replicas):
            devices = range(used, used + group.devices)
            nodes = tuple(dict.fromkeys(f"node-{1 + device // deploy.gpus_per_node}" for device in devices))
            placed[next(replicas)] = Place(nodes, tuple(f"GPU-simulated-{device}" for device in devices))
            used += group.devices
    free = -(-used // deploy.gpus_per_node)
    for i, spare in enumerate(spares):
        device = f"GPU-simulated-{(free + i) * deploy.gpus_per_node}"
        placed[spare] = Place((f"node-{1 + free + i}",), (device,))
    return placed


def on_the_first_node_of(target: str, placed: Mapping[str, Place]) -> list[str]:
    """Return ``target`` and the other services that have a part on its first node: they are lost with it, and a replica
    over several nodes with any of them."""
    node = placed[target].nodes[0]
    return [target, *(name for name, place in placed.items() if name != target and node in place.nodes)]
