"""Reaches the services of a stack from this process by given URLs, cluster DNS or ``kubectl port-forward``.

The URLs are chosen once, when the stack comes up, and published with it. A forward listens on a port of this machine;
every process that needs it keeps it open and reopens it when the port is closed. The kubectl processes end with the
process that started them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from tasks.deploy.errors import DeployError
from tasks.deploy.health import is_up
from tasks.deploy.kubernetes import names
from tasks.deploy.kubernetes.names import ServiceAddress
from tasks.deploy.kubernetes.params import KubernetesDeployParams
from tasks.deploy.kubernetes.runtime import Forward, KubernetesRuntime
from tasks.kube.address import ClusterAddress
from tasks.stack import GATEWAY

logger = logging.getLogger(__name__)

LOCALHOST = "127.0.0.1"
OPEN_TIMEOUT_S = 20.0
LOOK_INTERVAL_S = 1.0
STOP_TIMEOUT_S = 3.0


@dataclass(frozen=True)
class Urls:
    """Base URL of each service as seen from this machine (None: not installed), and the forwards they need."""

    gateway: str
    prometheus: str
    loki: str | None
    spans: str | None
    deepflow: str | None
    forwards: tuple[Forward, ...]


def choose_urls(params: KubernetesDeployParams, cluster: ClusterAddress, known: tuple[Forward, ...] = ()) -> Urls:
    """Choose URLs: from ``endpoints``, else cluster DNS (in a pod), else forwards, reusing the ports of ``known``.
    Raises DeployError without Prometheus."""
    wanted: dict[str, ServiceAddress | None] = {
        "gateway": ServiceAddress(params.namespace, GATEWAY, names.GATEWAY_PORT),
        "prometheus": names.PROMETHEUS,
        "loki": names.LOKI,
        "spans": names.SPANS,
        "deepflow": names.DEEPFLOW if params.telemetry.deepflow else None,
    }
    given = params.endpoints.model_dump()
    urls: dict[str, str | None] = {}
    forwards: list[Forward] = []
    ports = {(each.namespace, each.service, each.port): each.local_port for each in known}
    for name, service in wanted.items():
        if given[name] is not None or service is None or not _installed(name, params):
            urls[name] = _without_slash(given[name])
        elif cluster.in_cluster:
            urls[name] = service.url
        else:
            local_port = ports.get((service.namespace, service.name, service.port)) or _free_port()
            forwards.append(
                Forward(namespace=service.namespace, service=service.name, port=service.port, local_port=local_port)
            )
            urls[name] = f"http://{LOCALHOST}:{local_port}"
    if urls["prometheus"] is None:
        raise DeployError(
            "deploy.endpoints.prometheus: must be given when deploy.telemetry.install is false: faults are verified "
            "and cases are made from its metrics"
        )
    return Urls(
        gateway=str(urls["gateway"]),
        prometheus=urls["prometheus"],
        loki=urls["loki"],
        spans=urls["spans"],
        deepflow=urls["deepflow"],
        forwards=tuple(forwards),
    )


@contextlib.contextmanager
def open_forwards(cluster: ClusterAddress, forwards: tuple[Forward, ...]) -> Iterator[None]:
    """Keep ``forwards`` open within the context; do nothing when there are none.

    Raises:
        DeployError: kubectl is missing, or a forward does not open; the message says why.
    """
    if not forwards:
        yield
        return
    opened = _PortForwards(cluster, forwards)
    try:
        opened.open_all()
        opened.watch()
        yield
    finally:
        opened.close()


def open_forwards_of(runtime: KubernetesRuntime) -> contextlib.ExitStack:
    """Keep the runtime's forwards open until the returned stack is closed or this process ends. Raises DeployError."""
    stack = contextlib.ExitStack()
    stack.enter_context(open_forwards(runtime.cluster, runtime.forwards))
    return stack


class _PortForwards:
    """The forwards that this process keeps open. One that another process keeps open is left alone while it works."""

    def __init__(self, cluster: ClusterAddress, forwards: tuple[Forward, ...]) -> None:
        self._cluster = cluster
        self._forwards = forwards
        self._kubectl = _kubectl(cluster)
        self._children: dict[Forward, subprocess.Popen[bytes]] = {}
        self._stderr: dict[Forward, IO[bytes]] = {}
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="port-forwards", daemon=True)

    def open_all(self) -> None:
        closed = [each for each in self._forwards if not is_up(LOCALHOST, each.local_port)]
        for forward in closed:
            self._start(forward)
        for forward in closed:
            self._await(forward)

    def watch(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()
        with self._lock:
            for child in self._children.values():
                child.terminate()
            for child in self._children.values():
                try:
                    child.wait(STOP_TIMEOUT_S)
                except subprocess.TimeoutExpired:
                    child.kill()
                    child.wait()
            for stderr in self._stderr.values():
                stderr.close()
            self._children.clear()
            self._stderr.clear()

    def _watch(self) -> None:
        """Reopen forwards: each ends with the pod that it leads to, or with the process that kept it open."""
        while not self._stopped.wait(LOOK_INTERVAL_S):
            for forward in self._forwards:
                child = self._children.get(forward)
                if child is not None and child.poll() is None:
                    continue
                if child is None and is_up(LOCALHOST, forward.local_port):
                    continue
                logger.info("opening the way to %s again", forward.service)
                with contextlib.suppress(OSError):
                    self._start(forward)

    def _start(self, forward: Forward) -> None:
        command = [*self._kubectl, "--namespace", forward.namespace, "port-forward", "--address", LOCALHOST]
        command += [f"service/{forward.service}", f"{forward.local_port}:{forward.port}"]
        environment = {**os.environ, "KUBECONFIG": str(self._cluster.kubeconfig)}
        with self._lock:
            if self._stopped.is_set():
                return
            if forward not in self._stderr:
                self._stderr[forward] = tempfile.TemporaryFile()  # noqa: SIM115 (closed by ``close``)
            stderr = self._stderr[forward]
            stderr.seek(0)
            stderr.truncate()
            self._children[forward] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=stderr, env=environment
            )

    def _await(self, forward: Forward) -> None:
        child = self._children[forward]
        deadline = time.monotonic() + OPEN_TIMEOUT_S
        while time.monotonic() < deadline:
            if child.poll() is not None:
                raise DeployError(f"no way to {forward.service} in {forward.namespace}: {self._reason(forward, child)}")
            if is_up(LOCALHOST, forward.local_port):
                return
            time.sleep(0.05)
        raise DeployError(
            f"no way to {forward.service} in {forward.namespace}: kubectl port-forward did not open port "
            f"{forward.local_port} within {OPEN_TIMEOUT_S:g} s"
        )

    def _reason(self, forward: Forward, child: subprocess.Popen[bytes]) -> str:
        stderr = self._stderr[forward]
        stderr.seek(0)
        lines = stderr.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"kubectl ended with status {child.returncode}"


def _kubectl(cluster: ClusterAddress) -> list[str]:
    """Return the kubectl command, which ends with its parent where ``setpriv`` exists. Raises DeployError."""
    if shutil.which("kubectl") is None:
        raise DeployError(
            "kubectl is missing: it makes the way from this machine to the cluster's services. Install it, or give the "
            "URLs in deploy.endpoints, or run inside the cluster"
        )
    wrapper = ["setpriv", "--pdeathsig", "TERM", "--"] if shutil.which("setpriv") else []
    return [*wrapper, "kubectl", "--context", str(cluster.context)]


def _installed(name: str, params: KubernetesDeployParams) -> bool:
    return name == "gateway" or params.telemetry.install


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOCALHOST, 0))
        port: int = probe.getsockname()[1]
    return port


def _without_slash(url: str | None) -> str | None:
    return None if url is None else url.rstrip("/")
