#!/usr/bin/env python3
"""The pod API of Kubernetes without a cluster: pods run as processes of this machine.

    scripts/pod_api.py --kubeconfig FILE --state DIR [--map /workspace=/some/folder] [--namespace NAME]

`make airflow` starts it where there is no cluster; anything that runs pods through the Kubernetes API can use it. Pods
are created, listed by labels, read, patched, logged (followed, with timestamps) and deleted with their grace period;
their events are listed; watches are refused, so clients list again. A container is a process group: its image is
ignored, its command is `rcarena` unless the pod names another, and paths of the container that --map names become paths
of this machine. Limits, volumes and networks are ignored; of its account a process gets the name (POD_SERVICE_ACCOUNT);
`exec` is refused. Only this machine can reach it, with the token in FILE.

For tests, ``POST /emulated/trouble?seconds=N`` answers 500 to all else for a while and ``POST /emulated/evict/NAME``
evicts a pod. Standard library only.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import itertools
import json
import os
import re
import secrets
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

Object = dict[str, Any]
ENTRYPOINT = ("rcarena",)
DEFAULT_GRACE_S = 30.0
HIDDEN = ("AIRFLOW", "KUBECONFIG", "PYTHON", "RCARENA_")
KINDS = {"pods": "Pod", "events": "Event"}
KUBECONFIG = """\
apiVersion: v1
kind: Config
current-context: emulated
clusters:
- name: emulated
  cluster:
    server: {url}
users:
- name: emulated
  user:
    token: {token}
contexts:
- name: emulated
  context:
    cluster: emulated
    user: emulated
"""


class ApiError(Exception):
    """An answer that is no success."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.document = {
            "kind": "Status",
            "apiVersion": "v1",
            "status": "Failure",
            "code": status,
            "reason": reason,
            "message": message,
        }


class Store:
    """Objects by kind, namespace and name. What its methods return are copies."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._versions = itertools.count(1)
        self._objects: dict[tuple[str, str, str], Object] = {}

    def add(self, kind: str, document: Object) -> Object:
        metadata = document["metadata"]
        key = (kind, metadata["namespace"], metadata["name"])
        own = {"uid": str(uuid.uuid4()), "creationTimestamp": _now()}
        with self._lock:
            if key in self._objects:
                raise ApiError(409, "AlreadyExists", f'{kind} "{metadata["name"]}" already exists')
            return self._put(key, {"apiVersion": "v1", "kind": kind, **document, "metadata": {**metadata, **own}})

    def get(self, kind: str, namespace: str, name: str) -> Object:
        with self._lock:
            try:
                return copy.deepcopy(self._objects[kind, namespace, name])
            except KeyError:
                raise ApiError(404, "NotFound", f'{kind} "{name}" not found') from None

    def change(self, kind: str, namespace: str, name: str, patch: Object) -> Object:
        """Merge ``patch`` into the object (RFC 7386)."""
        with self._lock:
            return self._put((kind, namespace, name), _merged(self.get(kind, namespace, name), patch))

    def remove(self, kind: str, namespace: str, name: str) -> None:
        with self._lock:
            self._objects.pop((kind, namespace, name), None)

    def select(self, kind: str, namespace: str, wanted: Callable[[Object], bool]) -> list[Object]:
        with self._lock:
            found = [each for key, each in self._objects.items() if key[:2] == (kind, namespace)]
            return [copy.deepcopy(each) for each in found if wanted(each)]

    def _put(self, key: tuple[str, str, str], document: Object) -> Object:
        document["metadata"]["resourceVersion"] = str(next(self._versions))
        self._objects[key] = document
        return copy.deepcopy(document)


@dataclass
class Container:
    """The process of one pod."""

    process: subprocess.Popen[bytes]
    log: Path
    ended: threading.Event = field(default_factory=threading.Event)
    reason: str | None = None

    def end(self, grace_s: float) -> None:
        """SIGTERM to the group, SIGKILL after the grace period."""
        self._signal(signal.SIGTERM)
        if not self.ended.wait(grace_s):
            self.kill()

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)


class Kubelet:
    """Start, watch and end the processes of pods; ``paths`` maps a path of containers to one of this machine."""

    def __init__(self, store: Store, state: Path, paths: Mapping[str, str]) -> None:
        self.containers: dict[str, Container] = {}
        self._store = store
        self._state = state
        self._paths = [(re.compile(rf"(^|=){re.escape(inside)}(?=/|$)"), outside) for inside, outside in paths.items()]

    def start(self, pod: Object) -> None:
        metadata, container = pod["metadata"], pod["spec"]["containers"][0]
        folder = self._state / metadata["name"]
        folder.mkdir(parents=True, exist_ok=True)
        command = [self._outside(each) for each in (container.get("command") or ENTRYPOINT)]
        command += [self._outside(each) for each in container.get("args") or ()]
        environment = {key: value for key, value in os.environ.items() if not key.startswith(HIDDEN)}
        environment["POD_SERVICE_ACCOUNT"] = pod["spec"].get("serviceAccountName") or "default"
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
        running = Container(process, folder / "log")
        running.log.touch()
        self.containers[metadata["uid"]] = running
        started = _now()
        self._set_status(pod, {"phase": "Running", "startTime": started}, {"running": {"startedAt": started}})
        event = {"reason": "Started", "message": f"Started container {container['name']}", "type": "Normal", "count": 1}
        involved = {"kind": "Pod", "name": metadata["name"], "uid": metadata["uid"]}
        place = {"name": _event_name(pod), "namespace": metadata["namespace"]}
        self._store.add("Event", {"metadata": place, "involvedObject": involved, "lastTimestamp": started, **event})
        threading.Thread(target=self._watch, args=(pod, running, started), daemon=True).start()
        if limit := pod["spec"].get("activeDeadlineSeconds"):
            threading.Thread(target=self._end_late, args=(running, limit), daemon=True).start()

    def delete(self, pod: Object, grace_s: float) -> None:
        """Mark the pod, end its process, and only then let it go."""
        namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
        mark = {"deletionTimestamp": _now(), "deletionGracePeriodSeconds": int(grace_s)}
        self._store.change("Pod", namespace, name, {"metadata": mark})

        def end() -> None:
            container = self.containers[pod["metadata"]["uid"]]
            container.end(grace_s)
            container.ended.wait(10)
            self._store.remove("Pod", namespace, name)
            self._store.remove("Event", namespace, _event_name(pod))

        threading.Thread(target=end, daemon=True).start()

    def evict(self, pod: Object) -> None:
        container = self.containers[pod["metadata"]["uid"]]
        container.reason = "Evicted"
        container.kill()

    def close(self) -> None:
        """End all containers at once, each with its grace period."""
        threads = [threading.Thread(target=each.end, args=(DEFAULT_GRACE_S,)) for each in self.containers.values()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _end_late(self, container: Container, limit_s: float) -> None:
        if not container.ended.wait(limit_s):
            container.reason = "DeadlineExceeded"
            container.end(DEFAULT_GRACE_S)

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
        self._set_status(pod, own, {"terminated": terminated})
        container.ended.set()

    def _set_status(self, pod: Object, own: Object, state: Object) -> None:
        metadata, container = pod["metadata"], pod["spec"]["containers"][0]
        ready = "running" in state
        true = ("PodScheduled", "Initialized", *(("Ready", "ContainersReady") if ready else ()))
        status = {
            **own,
            "podIP": "127.0.0.1",
            "conditions": [{"type": each, "status": "True", "lastTransitionTime": own["startTime"]} for each in true],
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
        with contextlib.suppress(ApiError):  # it was removed meanwhile
            self._store.change("Pod", metadata["namespace"], metadata["name"], {"status": status})

    def _outside(self, text: str) -> str:
        for pattern, outside in self._paths:
            text = pattern.sub(lambda match, outside=outside: match[1] + outside, text)
        return text


class PodApi(ThreadingHTTPServer):
    """Serves until ``close``, on a free port of this machine."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, state: Path, paths: Mapping[str, str], namespace: str = "rcarena") -> None:
        self.store = Store()
        self.kubelet = Kubelet(self.store, state, paths)
        self.namespace = namespace
        self.token = secrets.token_urlsafe(24)
        self.broken_until = 0.0
        self.closing = False
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def write_kubeconfig(self, path: Path) -> None:
        staging = path.with_name(f".{path.name}")
        staging.unlink(missing_ok=True)
        with os.fdopen(os.open(staging, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
            opened.write(KUBECONFIG.format(url=self.url, token=self.token))
        staging.replace(path)

    def close(self) -> None:
        self.kubelet.close()
        self.closing = True
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hung up is no news."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: PodApi

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        self.query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            answer = self._answer(parts.path.split("/")[1:], raw)
        except ApiError as error:
            self._send(error.status, error.document)
        except ValueError as error:
            self._send(400, ApiError(400, "BadRequest", str(error)).document)
        else:
            if callable(answer):
                answer()
            else:
                self._send(201 if self.command == "POST" else 200, answer)

    do_POST = do_PATCH = do_DELETE = do_PUT = do_GET  # noqa: N815

    def _answer(self, path: list[str], raw: bytes) -> Object | Callable[[], None]:
        given = self.headers.get("Authorization", "")
        if not secrets.compare_digest(given.encode(), f"Bearer {self.server.token}".encode()):
            raise ApiError(401, "Unauthorized", "Unauthorized")
        if path[0] == "emulated" and self.command == "POST":
            return self._switch(path[1:])
        if time.monotonic() < self.server.broken_until:
            raise ApiError(500, "InternalError", "emulated trouble")
        body = json.loads(raw) if raw else {}
        match self.command, path:
            case "GET", ["version"]:
                return {"major": "1", "minor": "34", "gitVersion": "v1.34.0"}
            case "GET", ["api", "v1", "namespaces", namespace, ("pods" | "events") as plural]:
                return self._list(KINDS[plural], namespace)
            case "POST", ["api", "v1", "namespaces", namespace, "pods"]:
                return self._create(namespace, body)
            case _, ["api", "v1", "namespaces", namespace, "pods", name, *rest] if rest in ([], ["log"]):
                pod = self.server.store.get("Pod", namespace, name)
                match self.command, rest:
                    case "GET", ["log"]:
                        return lambda: self._send_log(pod)
                    case "GET", []:
                        return pod
                    case "PATCH", []:
                        return self.server.store.change("Pod", namespace, name, body)
                    case "DELETE", []:
                        return self._delete(pod, body)
        raise ApiError(404, "NotFound", "the server could not find the requested resource")

    def _switch(self, path: list[str]) -> Object:
        match path:
            case ["trouble"]:
                self.server.broken_until = time.monotonic() + float(self.query["seconds"])
            case ["evict", name]:
                self.server.kubelet.evict(self.server.store.get("Pod", self.server.namespace, name))
            case _:
                raise ApiError(404, "NotFound", "trouble?seconds=N or evict/NAME")
        return {}

    def _create(self, namespace: str, body: Object) -> Object:
        if namespace != self.server.namespace:
            raise ApiError(404, "NotFound", f'namespaces "{namespace}" not found')
        metadata = {**body["metadata"], "namespace": namespace}
        pod = self.server.store.add("Pod", {**body, "metadata": metadata, "status": {"phase": "Pending"}})
        self.server.kubelet.start(pod)
        return pod

    def _delete(self, pod: Object, options: Object) -> Object:
        grace = options.get("gracePeriodSeconds", self.query.get("gracePeriodSeconds"))
        default = pod["spec"].get("terminationGracePeriodSeconds") or DEFAULT_GRACE_S
        self.server.kubelet.delete(pod, float(default if grace is None else grace))
        return pod

    def _list(self, kind: str, namespace: str) -> Object:
        if self.query.get("watch", "").lower() in ("1", "true"):
            raise ApiError(403, "Forbidden", "watching is not served: list again")
        wanted = selector(self.query.get("labelSelector", ""), self.query.get("fieldSelector", ""))
        found = self.server.store.select(kind, namespace, wanted)
        return {"apiVersion": "v1", "kind": f"{kind}List", "metadata": {}, "items": found}

    def _send_log(self, pod: Object) -> None:
        follow, stamped = (self.query.get(each, "").lower() == "true" for each in ("follow", "timestamps"))
        since = time.time() - float(self.query.get("sinceSeconds") or time.time())
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        container = self.server.kubelet.containers.get(pod["metadata"]["uid"])
        for line in _lines(container, follow, lambda: self.server.closing):
            stamp, _, text = line.partition(b" ")
            if datetime.fromisoformat(stamp.decode()).timestamp() >= since:
                self._chunk(line if stamped else text)
        self._chunk(b"")

    def _chunk(self, data: bytes) -> None:
        """Send one chunk; an empty one ends the answer."""
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def _send(self, status: int, answer: Object) -> None:
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        self.wfile.flush()


def selector(labels: str, fields: str) -> Callable[[Object], bool]:
    """Whether an object has these labels and fields. Raises ValueError for a selector that cannot be read."""
    tests = [_label_test(part.strip()) for part in re.split(r",(?![^(]*\))", labels) if part.strip()]
    pairs = [re.fullmatch(r"([\w.]+)(==?|!=)(.*)", part) for part in fields.split(",") if part]
    if None in pairs:
        raise ValueError(f"unable to parse field selector {fields!r}")

    def matches(document: Object) -> bool:
        return all(test(document["metadata"].get("labels") or {}) for test in tests) and all(
            (_field(document, pair[1]) == pair[3]) == (pair[2] != "!=") for pair in pairs if pair
        )

    return matches


def _label_test(part: str) -> Callable[[dict[str, str]], bool]:
    if match := re.fullmatch(r"([^\s!=]+)\s+(in|notin)\s+\(([^)]*)\)", part):
        key, values = match[1], {value.strip() for value in match[3].split(",")}
        return lambda labels: (labels.get(key) in values) == (match[2] == "in")
    if match := re.fullmatch(r"([^\s!=]+)\s*(==?|!=)\s*(\S*)", part):
        return lambda labels: (labels.get(match[1]) == match[3]) == (match[2] != "!=")
    if re.fullmatch(r"!?[\w./-]+", part):
        return lambda labels: (part.lstrip("!") in labels) != part.startswith("!")
    raise ValueError(f"unable to parse requirement: {part!r}")


def _field(document: Any, path: str) -> str:
    for key in path.split("."):
        document = document.get(key) if isinstance(document, dict) else None
    return "" if document is None else str(document)


def _merged(target: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = _merged(result.get(key), value)
    return result


def _event_name(pod: Object) -> str:
    return f"{pod['metadata']['name']}.{pod['metadata']['uid']}"


def _copy_lines(container: Container) -> None:
    assert container.process.stdout is not None
    with container.log.open("ab", buffering=0) as log:
        for line in container.process.stdout:
            log.write(datetime.now(UTC).isoformat(timespec="microseconds").encode() + b" " + line.rstrip(b"\n") + b"\n")


def _lines(container: Container | None, follow: bool, stopped: Callable[[], bool]) -> Iterator[bytes]:
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
    parser = argparse.ArgumentParser(description="The pod API of Kubernetes: pods run as processes of this machine.")
    parser.add_argument("--kubeconfig", type=Path, required=True, help="where to write how to reach it")
    parser.add_argument("--state", type=Path, required=True, help="folder for logs of pods")
    parser.add_argument("--map", action="append", default=[], metavar="INSIDE=OUTSIDE", help="a path of containers")
    parser.add_argument("--namespace", default="rcarena")
    given = parser.parse_args()
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    api = PodApi(given.state, dict(each.split("=", 1) for each in given.map), given.namespace)
    api.write_kubeconfig(given.kubeconfig)
    print(json.dumps({"url": api.url, "kubeconfig": str(given.kubeconfig)}), flush=True)
    ended.wait()
    api.close()


if __name__ == "__main__":
    main()
