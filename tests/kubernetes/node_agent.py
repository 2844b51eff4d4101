"""The real node agent beside an emulated cluster, on a node whose GPUs and processes are stand-ins.

with EmulatedCluster(with_namespace=True) as cluster, EmulatedNodeAgent(cluster, tmp_path, "gpu-0") as agent:
    agent.machine.add_process(10, pod=pod["metadata"]["uid"], gpu=GPU)
    ...
    agent.machine.limit(GPU)
"""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType

import kubernetes.config  # noqa: F401 (two threads that import it at once come to a deadlock)

from tasks.kube.client import Cluster
from tasks.node_agent.agent import Agent, Settings
from tests.kubernetes.cluster import EmulatedCluster
from tests.node_agent.machine import NODE, Machine

ROUND_S, LINGER_S = 0.05, 0.4
API_DEADLINE_S = 0.5


class EmulatedNodeAgent:
    """``machine`` is the node: its GPUs, limits and processes can be looked at and changed.

    ``account``: the service account whose rights the agent has; None: an administrator's.
    """

    def __init__(
        self, cluster: EmulatedCluster, directory: Path, node_name: str = NODE, account: str | None = None
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.machine = Machine(directory / node_name)
        settings = Settings(node_name, self.machine.journal, self.machine.root / "health", ROUND_S, LINGER_S)
        address = cluster.address(directory, account=account)
        self._agent = Agent(settings, self.machine.node(), lambda: Cluster(address, deadline_s=API_DEADLINE_S))
        self._thread = threading.Thread(target=self._agent.run, name=f"agent-{node_name}", daemon=True)

    def __enter__(self) -> EmulatedNodeAgent:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """As SIGTERM does: everything is restored first."""
        self._agent.stop()
        self._thread.join(20)
        assert not self._thread.is_alive(), "the agent does not end"
