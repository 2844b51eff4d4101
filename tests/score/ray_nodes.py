"""A Ray cluster of several nodes on this machine: each is a raylet with processes, sockets and an object store of its
own, as on several machines."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tasks.system.scratch import scratch_directory

STORE_BYTES = 80 * 2**20
"""Of each node; Ray wants 75 MiB at least."""


class RayNodes:
    """``address`` is that of the head, which runs no pairs."""

    def __init__(self, cluster: Any) -> None:
        self._cluster = cluster
        self.address: str = cluster.address
        self.workers: list[Any] = []

    def add(self) -> None:
        """Add a node with one CPU, and wait until it is there."""
        self.workers.append(self._cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES))

    def lose(self) -> None:
        """End a node at once, as when its machine fails."""
        self._cluster.remove_node(self.workers.pop(), allow_graceful=False)


@contextmanager
def ray_nodes(workers: int) -> Iterator[RayNodes]:
    """Run a cluster of a head and ``workers`` nodes of one CPU each."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    from ray.cluster_utils import Cluster

    with scratch_directory("ray", Path("/tmp")) as folder, pytest.MonkeyPatch.context() as environment:
        (folder / "ray").mkdir()
        environment.setenv("RAY_TMPDIR", str(folder))
        head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": STORE_BYTES}
        cluster = Cluster(initialize_head=True, head_node_args=head)  # at exit, too, if it does not come up
        try:
            nodes = RayNodes(cluster)
            for _ in range(workers):
                nodes.add()
            yield nodes
        finally:
            cluster.shutdown()
