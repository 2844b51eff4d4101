"""Node agents as processes of their own, to be killed. Started from a server that has the imports already."""

from __future__ import annotations

import logging
import multiprocessing
import signal
import sys
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from tasks.kube.address import ClusterAddress
from tasks.kube.client import Cluster
from tasks.node_agent.actions import Node
from tasks.node_agent.agent import Agent, Settings
from tasks.node_agent.processes import ProcessTable
from tests.node_agent.machine import NODE, InProcessSmi, Machine

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.node_agent.agents", "kubernetes.client", "kubernetes.config"])


def start_agent(machine: Machine, address: ClusterAddress) -> ForkServerProcess:
    process = _context.Process(target=_run, args=(machine.root, address), daemon=True)
    process.start()
    return process


def _run(root: Path, address: ClusterAddress) -> None:
    with (root / "agent.log").open("a") as log:
        logging.basicConfig(level=logging.INFO, stream=log)
        node = Node(InProcessSmi(root / "gpus.json"), ProcessTable(root / "proc"))
        settings = Settings(NODE, root / "journal", root / "health", 0.05, 0.1)
        agent = Agent(settings, node, lambda: Cluster(address, deadline_s=0.5))
        signal.signal(signal.SIGTERM, lambda *_: agent.stop())
        sys.exit(agent.run())
