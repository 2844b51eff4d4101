"""The agent: it restores what an earlier agent left, then works, and restores everything at its end.

The main thread is the watchdog: it ends faults in time and needs no API. A second thread talks to the API.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tasks.kube.client import Cluster
from tasks.kube.errors import ClusterError
from tasks.node_agent import health
from tasks.node_agent.actions import Node
from tasks.node_agent.gpu_publisher import Publisher
from tasks.node_agent.journal import Journal
from tasks.node_agent.keeper import Keeper
from tasks.node_agent.reconciler import LINGER_S, Reconciler
from tasks.system.file_lock import FileLock

log = logging.getLogger(__name__)

TICK_S = 0.2
ROUND_S = 1.0
PUBLISH_S = 5.0
LAST_ATTEMPTS_S = 30.0
"""A terminated agent tries to restore for this long; the pod's grace period is longer."""


@dataclass(frozen=True)
class Settings:
    node_name: str
    journal: Path
    health_file: Path = health.DEFAULT_FILE
    round_s: float = ROUND_S
    linger_s: float = LINGER_S


class Agent:
    def __init__(self, settings: Settings, node: Node, connect: Callable[[], Cluster]) -> None:
        self._settings = settings
        self._connect = connect
        self._node = node
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._keeper = Keeper(Journal(settings.journal), node, changed=lambda uid: self._wake.set())
        self._reconciler: Reconciler | None = None

    def run(self) -> int:
        """Work until ``stop``. Return the exit status: 1 when a fault is left. Raises OSError for the journal."""
        self._settings.journal.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = self._take_journal()
        try:
            self._keeper.load()
            talker = threading.Thread(target=self._talk, name="api", daemon=True)
            talker.start()
            while not self._stop.wait(TICK_S) and talker.is_alive():
                self._keeper.tick()
                health.touch(self._settings.health_file)
            failed = not self._stop.is_set()
            self._stop.set()
            return self._leave(talker) or int(failed)
        finally:
            lock.release()

    def stop(self) -> None:
        """End ``run``; called by another thread or a signal handler."""
        self._stop.set()
        self._wake.set()

    def _take_journal(self) -> FileLock:
        """Let one agent a node work: another waits, alive, until the first has ended or ``stop`` is called."""
        busy = RuntimeError(f"another agent holds {self._settings.journal}")
        lock = FileLock(self._settings.journal / ".lock", busy)
        said = False
        while not self._stop.is_set() and not lock.try_acquire():
            if not said:
                log.warning("%s: waiting for its end", busy)
                said = True
            health.touch(self._settings.health_file)
            time.sleep(TICK_S)
        return lock

    def _talk(self) -> None:
        cluster = self._reach()
        if cluster is None:
            return
        with cluster:
            self._reconciler = Reconciler(cluster, self._keeper, self._settings.node_name, self._settings.linger_s)
            publisher = Publisher(cluster, self._node, self._settings.node_name)
            next_publish = 0.0
            while not self._stop.is_set():
                try:
                    self._reconciler.round()
                    if time.monotonic() >= next_publish:
                        next_publish = time.monotonic() + PUBLISH_S
                        publisher.publish()
                except ClusterError as error:
                    log.warning("%s", error)
                self._wake.wait(self._settings.round_s)
                self._wake.clear()
            self._reconciler.accepting = False

    def _reach(self) -> Cluster | None:
        while not self._stop.is_set():
            try:
                return self._connect()
            except ClusterError as error:
                log.warning("%s", error)
                self._stop.wait(self._settings.round_s)
        return None

    def _leave(self, talker: threading.Thread) -> int:
        """Restore everything without the API, then report to the API if it answers."""
        if self._reconciler is not None:
            self._reconciler.accepting = False
        deadline = time.monotonic() + LAST_ATTEMPTS_S
        pause = TICK_S
        while left := self._keeper.restore_all("the agent ends"):
            if time.monotonic() > deadline:
                break
            time.sleep(pause)
            pause = min(2 * pause, 5.0)
        talker.join(timeout=10)
        if self._reconciler is not None and not talker.is_alive():
            with suppress(ClusterError):
                self._reconciler.round()
        for entry in left:
            log.error("%s: left to the next agent: %s", entry.name, entry.problem)
        return 1 if left else 0
