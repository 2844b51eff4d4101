"""The router of our stacks' Ray Serve: the default one, which passes over replicas that were ejected.

Runs in the serving environment, wherever Serve chooses a replica, and needs nothing but Ray: a cluster mounts this file
into its pods. Serve has no way to take one replica out of routing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ray.serve._private.request_router.pow_2_router import PowerOfTwoChoicesRequestRouter


class EjectingRouter(PowerOfTwoChoicesRequestRouter):
    """Power of two choices among the replicas on nodes without a file of their address in ``ejected``. When none is
    left it chooses among all: a router that refuses everything helps nobody."""

    def initialize_state(self, ejected: str = "", **_: Any) -> None:
        self._ejected = Path(ejected)

    def apply_locality_routing(self, pending_request: Any = None) -> set[Any]:
        candidates: set[Any] = super().apply_locality_routing(pending_request)
        try:
            ejected = {file.name for file in self._ejected.iterdir()}
        except OSError:
            return candidates
        left = {each for each in candidates if self._file_of(each) not in ejected}
        return left or candidates

    def _file_of(self, replica: Any) -> str:
        address: str = self._replicas[replica]._replica_info.node_ip
        return address.replace(":", "-")
