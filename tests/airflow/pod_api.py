"""A stand-in for a Kubernetes API server that runs pods as processes of this machine.

    python -m tests.airflow.pod_api --kubeconfig FILE --state DIR --map /workspace=/some/folder

It is what ``make airflow`` uses where there is no cluster, and what the end-to-end tests use. Pods are created, listed
by labels, watched, read, patched, logged (followed, with timestamps) and deleted with their grace period, as by the
real API (``tests/kubernetes``). A container is a process group: its image is ignored, its command is the one of
the image ``rcarena/tasks`` unless the pod names another, and paths of the container that ``--map`` names become paths
of this machine. Limits, accounts, volumes and networks are ignored. What is sent to ``exec`` is refused, never run.

For tests, ``POST /emulated/trouble?seconds=N`` answers 500 to all else for a while and ``POST /emulated/evict/NAME``
evicts.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tasks.kube.resources import Resource
from tests.kubernetes.cluster import EmulatedCluster
from tests.kubernetes.server import Handler

Object = dict[str, Any]
ENTRYPOINT = ("rcarena",)
DEFAULT_GRACE_S = 30.0
FINALIZER = "emulated/kubelet"
HIDDEN = ("AIRFLOW", "KUBECONFIG", "PYTHON", "RCARENA_")
DONE = ("Succeeded", "Failed")


@dataclass
class Container:
    """The process of one pod."""

    process: subprocess.Popen[bytes]
    log: Path
    deadline: float | None
    ended: threading.Event = field(default_factory=threading.Event)
    reason: str | None = None

    def is_late(self) -> bool:
        return self.deadline is not None and time.monotonic() > self.deadline and not self.ended.is_set()

    def end(self, grace_s: float) -> None:
        """SIGTERM to the group, SIGKILL after the grace period."""
        self._signal(signal.SIGTERM)
        if not self.ended.wait(grace_s):
            self._signal(signal.SIGKILL)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)


class Kubelet:
    """Controller of an ``EmulatedCluster``: starts what is pending and says how it goes."""

    def __init__(self, cluster: EmulatedCluster, state: Path, paths: Mapping[str, str]) -> None:
        self.cluster = cluster
        self.containers: dict[str, Container] = {}
        self._state = state
        self._paths = [(re.compile(rf"(^|=){re.escape(inside)}(?=/|$)"), outside) for inside, outside in paths.items()]

    def reconcile(self, cluster: EmulatedCluster) -> None:
        for pod in cluster.objects("v1", "Pod"):
            metadata = pod["metadata"]
            if metadata["uid"] not in self.containers and not metadata.get("deletionTimestamp"):
                self._start(pod)
        for container in list(self.containers.values()):
            if container.is_late():
                container.deadline, container.reason = None, "DeadlineExceeded"
                threading.Thread(target=container.end, args=(DEFAULT_GRACE_S,), daemon=True).start()

    def log_of(self, uid: str) -> Container | None:
        return self.containers.get(uid)

    def delete(self, pod: Object, grace_s: float) -> None:
        """Mark the pod, end its process, and only then let it go."""
        place, name = pod["metadata"]["namespace"], pod["metadata"]["name"]

        def mark(live: Object) -> None:
            live["metadata"].setdefault("deletionTimestamp", _now())
            live["metadata"]["deletionGracePeriodSeconds"] = int(grace_s)
            live["metadata"]["finalizers"] = [FINALIZER]

        self.cluster.change("v1", "Pod", name, mark, place)
        threading.Thread(target=self._end, args=(pod["metadata"]["uid"], name, place, grace_s), daemon=True).start()

    def evict(self, name: str) -> bool:
        pod = next((each for each in self.cluster.objects("v1", "Pod") if each["metadata"]["name"] == name), None)
        container = self.containers.get(pod["metadata"]["uid"]) if pod else None
        if container is None:
            return False
        container.reason = "Evicted"
        container.kill()
        return True

    def close(self) -> None:
        """End every container: all at once, each with its grace period."""
        threads = [threading.Thread(target=each.end, args=(DEFAULT_GRACE_S,)) for each in self.containers.values()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _end(self, uid: str, name: str, place: str, grace_s: float) -> None:
        container = self.containers.get(uid)
        if container is not None:
            container.end(grace_s)
            container.ended.wait(10)
        self.cluster.remove("v1", "Pod", name, place)

    def _start(self, pod: Object) -> None:
        metadata, container = pod["metadata"], pod["spec"]["containers"][0]
        folder = self._state / metadata["name"]
        folder.mkdir(parents=True, exist_ok=True)
        command = [self._outside(each) for each in (container.get("command") or ENTRYPOINT)]
        command += [self._outside(each) for each in container.get("args") or ()]
        environment = {key: value for key, value in os.environ.items() if not key.startswith(HIDDEN)}
        given = {each["name"]: self._outside(each.get("value") or "") for each in container.get("env") or ()}
        try:
            process = subprocess.Popen(
                command,
                cwd=folder,
                env={**environment, **given, "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            failed = ["/bin/sh", "-c", 'echo "$0"; exit 127', str(error)]
            process = subprocess.Popen(failed, stdout=subprocess.PIPE, start_new_session=True)
        limit = pod["spec"].get("activeDeadlineSeconds")
        running = Container(process, folder / "log", time.monotonic() + limit if limit else None)
        running.log.touch()
        self.containers[metadata["uid"]] = running
        started = _now()
        state = {"running": {"startedAt": started}}
        self.cluster.add_event(pod, "Started", f"Started container {container['name']}", "Normal")
        self._set_status(pod, {"phase": "Running", "startTime": started}, state, started)
        threading.Thread(target=self._watch, args=(pod, running, started), daemon=True).start()

    def _watch(self, pod: Object, container: Container, started: str) -> None:
        reader = threading.Thread(target=_copy_lines, args=(container,), daemon=True)
        reader.start()
        status = container.process.wait()
        container.kill()  # what it left in its group ends with it
        reader.join(2)
        code = status if status >= 0 else 128 - status
        phase = "Succeeded" if code == 0 and container.reason is None else "Failed"
        terminated = {
            "exitCode": code,
            "reason": container.reason or ("Completed" if code == 0 else "Error"),
            "startedAt": started,
            "finishedAt": _now(),
        }
        own = {"phase": phase, "startTime": started, **({"reason": container.reason} if container.reason else {})}
        self._set_status(pod, own, {"terminated": terminated}, started)
        container.ended.set()

    def _set_status(self, pod: Object, own: Object, state: Object, started: str) -> None:
        metadata, container = pod["metadata"], pod["spec"]["containers"][0]
        ready = "running" in state
        status = {
            **own,
            "podIP": "127.0.0.1",
            "conditions": [
                {"type": kind, "status": "True", "lastTransitionTime": started}
                for kind in ("PodScheduled", "Initialized", *(("Ready", "ContainersReady") if ready else ()))
            ],
            "containerStatuses": [
                {
                    "name": container["name"],
                    "image": container.get("image", ""),
                    "imageID": "",
                    "ready": ready,
                    "restartCount": 0,
                    "state": state,
                }
            ],
        }
        self.cluster.set_status("v1", "Pod", metadata["name"], status, metadata["namespace"])

    def _outside(self, text: str) -> str:
        for pattern, outside in self._paths:
            text = pattern.sub(lambda match, outside=outside: match[1] + outside, text)
        return text


class PodHandler(Handler):
    """What pods need beyond the emulated API: their logs, the grace period, and switches for tests."""

    kubelet: Kubelet
    broken_until = 0.0

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        if parts.path.startswith("/emulated/"):
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self._send(*self._switch(parts.path.split("/")[2:], parse_qs(parts.query)))
        elif time.monotonic() < PodHandler.broken_until:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self._send(500, {"kind": "Status", "status": "Failure", "code": 500, "message": "emulated trouble"})
        else:
            super()._serve()

    def _switch(self, path: list[str], query: dict[str, list[str]]) -> tuple[int, Object]:
        match path:
            case ["trouble"]:
                PodHandler.broken_until = time.monotonic() + float(query["seconds"][0])
                return 200, {}
            case ["evict", name]:
                return (200, {}) if self.kubelet.evict(name) else (404, {"message": f"no such pod: {name}"})
        return 404, {"message": "trouble?seconds=N or evict/NAME"}

    def _object(self, resource: Resource, namespace: str, name: str, subresource: str, body: Any) -> tuple[int, Any]:
        if resource.kind != "Pod":
            return super()._object(resource, namespace, name, subresource, body)
        if self.command == "POST" and not name:
            status, pod = super()._object(resource, namespace, name, subresource, body)
            pending = {"phase": "Pending"}
            self.cluster.change(
                "v1", "Pod", pod["metadata"]["name"], lambda live: live.setdefault("status", pending), namespace
            )
            return status, {**pod, "status": pending}
        if self.command == "GET" and subresource == "log":
            pod = self.cluster.store.get(resource, namespace, name)
            return 200, lambda: self._send_log(pod)
        if self.command == "DELETE" and not subresource:
            pod = self.cluster.store.get(resource, namespace, name)
            grace = (body or {}).get("gracePeriodSeconds", self.query.get("gracePeriodSeconds"))
            default = pod["spec"].get("terminationGracePeriodSeconds") or DEFAULT_GRACE_S
            self.kubelet.delete(pod, float(default if grace is None else grace))
            return 200, pod
        return super()._object(resource, namespace, name, subresource, body)

    def _send_log(self, pod: Object) -> None:
        follow, stamped = (self.query.get(each, "").lower() == "true" for each in ("follow", "timestamps"))
        since = time.time() - float(self.query.get("sinceSeconds") or time.time())
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for line in _lines(self.kubelet.log_of(pod["metadata"]["uid"]), follow, lambda: self.server.closing):
            stamp, _, text = line.partition(b" ")
            if datetime.fromisoformat(stamp.decode()).timestamp() >= since:
                data = line if stamped else text
                self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
                self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")
        self.wfile.flush()


class PodApi:
    """The emulated cluster with a kubelet; ``paths``: container path -> path of this machine."""

    def __init__(self, state: Path, paths: Mapping[str, str], namespace: str = "rcarena") -> None:
        self.cluster = EmulatedCluster(namespace, with_namespace=True)
        self.kubelet = Kubelet(self.cluster, state, paths)
        handler = type("BoundPodHandler", (PodHandler,), {"kubelet": self.kubelet})
        self.cluster._server.RequestHandlerClass = handler
        self.cluster.add_controller(self.kubelet)

    def close(self) -> None:
        self.kubelet.close()
        self.cluster.close()


def _copy_lines(container: Container) -> None:
    assert container.process.stdout is not None
    with container.log.open("ab", buffering=0) as log:
        for line in container.process.stdout:
            log.write(datetime.now(UTC).isoformat(timespec="microseconds").encode() + b" " + line.rstrip(b"\n") + b"\n")


def _lines(container: Container | None, follow: bool, stopped: Callable[[], bool]) -> Any:
    """Whole lines of the log, as they come while ``follow`` and the process lives."""
    if container is None:
        return
    with container.log.open("rb") as log:
        rest = b""
        while True:
            over = container.ended.is_set() or stopped() or not follow
            for line in log:
                rest += line
                if rest.endswith(b"\n"):
                    yield rest
                    rest = b""
            if over:
                return
            time.sleep(0.1)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def main() -> None:
    """Serve until a signal comes."""
    parser = argparse.ArgumentParser(description="Emulated Kubernetes API for pods: they run as local processes.")
    parser.add_argument("--kubeconfig", type=Path, required=True, help="where to write how to reach it")
    parser.add_argument("--state", type=Path, required=True, help="folder for logs of pods")
    parser.add_argument("--map", action="append", default=[], metavar="INSIDE=OUTSIDE", help="a path of containers")
    parser.add_argument("--namespace", default="rcarena")
    given = parser.parse_args()
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    paths = dict(each.split("=", 1) for each in given.map)
    api = PodApi(given.state, paths, given.namespace)
    api.cluster.kubeconfig(given.kubeconfig)
    print(json.dumps({"url": api.cluster.url, "kubeconfig": str(given.kubeconfig)}), flush=True)
    ended.wait()
    api.close()


if __name__ == "__main__":
    main()
