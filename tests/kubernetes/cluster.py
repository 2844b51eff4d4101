"""``EmulatedCluster``: a stand-in for a Kubernetes API server, for tests.

It speaks the real protocol over HTTP for every kind of ``tasks.kube.resources`` (and ``NodeFault``): see
``store`` for what objects do, ``server`` for the routes, ``trouble`` for faults. Nothing runs in it: what controllers
and kubelets would do, objects with a method ``reconcile(cluster)`` do (``tests.kubernetes.workloads`` has some).

    with EmulatedCluster() as cluster:
        cluster.add_node("gpu-0", gpus=4)
        cluster.add_controller(DeploymentController()); cluster.add_controller(Kubelet())
        client = Cluster(cluster.address(tmp_path))
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import yaml

from tasks.kube.address import ClusterAddress
from tasks.kube.resources import Resource
from tests.kubernetes import rbac
from tests.kubernetes.answers import ApiError
from tests.kubernetes.server import Server
from tests.kubernetes.store import Admission, Object, Store, clone
from tests.kubernetes.trouble import Trouble, Troubles
from tests.waiting import HANG_S

CONTEXT = "emulated"
IDLE_TICK_S = 0.05
ADMIN = frozenset({"default", "kube-system"})


class Controller(Protocol):
    def reconcile(self, cluster: EmulatedCluster) -> None:
        """Look at the objects and do what is due. Called after every change and every ``IDLE_TICK_S``."""


class EmulatedCluster:
    """``namespace`` is the default of the methods here, and made when ``with_namespace``.

    Whose request it is, the token says: an administrator's, or that of a service account of ``namespace`` (see
    ``kubeconfig``), which may do what the roles on the cluster allow it. ``account``: the service account in whose name
    the administrator's requests come, too. ``refused``: what no role allowed.
    """

    def __init__(self, namespace: str = "rcarena", *, with_namespace: bool = False, version: str = "v1.34.2") -> None:
        self.namespace = namespace
        self.version = version
        self.store = Store()
        self.troubles = Troubles()
        self.requests: deque[tuple[str, str]] = deque(maxlen=10_000)
        self.token = "token-1"
        self._token_number = 1
        self._kubeconfigs: dict[Path, str | None] = {}
        self.account: str | None = None
        self.refused: list[str] = []
        self._denied: set[tuple[str, str, str]] = set()
        self._logs: dict[tuple[str, str], str] = {}
        self._controllers: list[Controller] = []
        self._failure: Exception | None = None
        self._stopped = threading.Event()
        for name in (*sorted(ADMIN), *((namespace,) if with_namespace else ())):
            self.add_namespace(name)
        self._server = Server(self)
        self._threads = (
            threading.Thread(target=self._server.serve_forever, args=(0.02,), name="emulated-api", daemon=True),
            threading.Thread(target=self._control, name="emulated-controllers", daemon=True),
        )
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> EmulatedCluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if error is None and self._failure is not None:
            raise self._failure

    def close(self) -> None:
        self._stopped.set()
        self._server.closing = True
        with self.store.changed:
            self.store.changed.notify_all()
        self._server.shutdown()
        self._server.server_close()
        for thread in self._threads:
            thread.join(5)

    # -- how to reach it

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def kubeconfig(self, path: Path, context: str = CONTEXT, account: str | None = None) -> Path:
        """Write a kubeconfig with the token that is valid now; ``rotate_token`` writes it again.

        ``account``: the token is that of this service account; None: an administrator's.
        """
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": context,
            "clusters": [{"name": context, "cluster": {"server": self.url}}],
            "users": [{"name": context, "user": {"token": self.token_of(account)}}],
            "contexts": [{"name": context, "context": {"cluster": context, "user": context}}],
        }
        staging = path.with_name(f".{path.name}")
        staging.write_text(yaml.safe_dump(document), encoding="utf-8")
        staging.replace(path)
        self._kubeconfigs[path] = account
        return path

    def token_of(self, account: str | None) -> str:
        return self.token if account is None else f"{self.token}.{account}"

    def address(self, directory: Path, namespace: str | None = None, account: str | None = None) -> ClusterAddress:
        """The address by a kubeconfig that is written to ``directory``."""
        file = directory / ("kubeconfig" if account is None else f"kubeconfig-{account}")
        kubeconfig = self.kubeconfig(file, account=account)
        return ClusterAddress(namespace=namespace or self.namespace, context=CONTEXT, kubeconfig=str(kubeconfig))

    # -- trouble

    def misbehave(self, **trouble: Any) -> None:
        """The next ``times`` requests whose path and query match the regex ``path`` meet it; see ``Trouble``."""
        self.troubles.add(Trouble(**trouble))

    def behave(self) -> None:
        self.troubles.clear()

    def expire_token(self) -> None:
        """The token is refused from now on; the kubeconfigs still have the old one."""
        self._token_number += 1
        self.token = f"token-{self._token_number}"

    def rotate_token(self) -> None:
        """``expire_token``, and the kubeconfigs get the new one."""
        with self.store.lock:
            self.expire_token()
            for path, account in self._kubeconfigs.items():
                self.kubeconfig(path, account=account)

    def deny(self, verb: str, plural: str, group: str = "") -> None:
        """403, and "no" to SelfSubjectAccessReview. ``verb`` may be ``*``; a subresource is ``pods/log``."""
        self._denied.add((verb, plural, group))

    def uninstall(self, group: str) -> None:
        """The API group is unknown, as without its CRDs."""
        self.store.unregister(group)

    def register(self, api_version: str, kind: str, plural: str, *, namespaced: bool = True) -> None:
        self.store.register(Resource(api_version, kind, plural, namespaced))

    def admit(self, api_version: str, kind: str, admission: Admission) -> None:
        """``admission(document)`` returns (field, problem) pairs; any makes the write a 422."""
        self.store.admissions[api_version, kind] = admission

    # -- objects, as a controller or a fixture sees them

    def get(self, api_version: str, kind: str, name: str, namespace: str | None = None) -> Object | None:
        resource = self.store.of_kind(api_version, kind)
        try:
            return self.store.get(resource, self._place(resource, namespace), name)
        except ApiError:
            return None

    def objects(
        self, api_version: str, kind: str, namespace: str | None = None, labels: str = "", fields: str = ""
    ) -> list[Object]:
        """``namespace`` None: of all namespaces. None of a kind that is not installed."""
        try:
            resource = self.store.of_kind(api_version, kind)
        except KeyError:
            return []
        return self.store.select(resource, namespace or "", labels, fields)

    def put(self, document: Object) -> Object:
        """Create or replace with its status, unchecked; the namespace defaults to the cluster's."""
        resource = self.store.of_kind(document["apiVersion"], document["kind"])
        if resource.namespaced:
            document = {**document, "metadata": {"namespace": self.namespace, **document["metadata"]}}
        return self.store.put(document)

    def change(
        self,
        api_version: str,
        kind: str,
        name: str,
        change: Callable[[Object], None],
        namespace: str | None = None,
    ) -> Object | None:
        """Edit an object in place (status, finalizers, annotations); None when it is not there."""
        with self.store.lock:
            document = self.get(api_version, kind, name, namespace)
            if document is None:
                return None
            before = clone(document)
            change(document)
            return document if document == before else self.store.put(document)

    def set_status(
        self, api_version: str, kind: str, name: str, status: Object, namespace: str | None = None
    ) -> Object | None:
        return self.change(api_version, kind, name, lambda document: document.update(status=status), namespace)

    def delete(self, api_version: str, kind: str, name: str, namespace: str | None = None) -> None:
        """As by the API: finalizers hold the object."""
        resource = self.store.of_kind(api_version, kind)
        self.store.delete(resource, self._place(resource, namespace), name)

    def remove(self, api_version: str, kind: str, name: str, namespace: str | None = None) -> None:
        """Gone at once, whatever its finalizers."""
        resource = self.store.of_kind(api_version, kind)
        self.store.remove(resource, self._place(resource, namespace), name)

    def add_namespace(self, name: str, labels: dict[str, str] | None = None) -> Object:
        return self.store.put(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels or {}}}
        )

    def add_node(
        self,
        name: str,
        *,
        gpus: int = 0,
        product: str = "NVIDIA-H100-80GB-HBM3",
        runtime: str = "containerd://2.1.4",
        labels: dict[str, str] | None = None,
        annotations: dict[str, str] | None = None,
        cpu: str = "32",
        memory: str = "128Gi",
    ) -> Object:
        capacity = {"cpu": cpu, "memory": memory, "pods": "110", **({"nvidia.com/gpu": str(gpus)} if gpus else {})}
        gpu_labels = {"nvidia.com/gpu.product": product, "nvidia.com/gpu.count": str(gpus)} if gpus else {}
        number = len(self.objects("v1", "Node")) + 1
        return self.store.put(
            {
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": {
                    "name": name,
                    "labels": {"kubernetes.io/hostname": name, **gpu_labels, **(labels or {})},
                    "annotations": annotations or {},
                },
                "spec": {},
                "status": {
                    "capacity": capacity,
                    "allocatable": capacity,
                    "addresses": [{"type": "InternalIP", "address": f"192.168.0.{number}"}],
                    "conditions": [{"type": "Ready", "status": "True"}],
                    "nodeInfo": {"containerRuntimeVersion": runtime, "kubeletVersion": self.version},
                },
            }
        )

    def add_event(self, involved: Object, reason: str, message: str, kind: str = "Warning") -> None:
        """An event about ``involved``; the same one again counts up."""
        metadata = involved["metadata"]
        name = f"{metadata['name']}.{reason.lower()}"
        known = self.get("v1", "Event", name, metadata.get("namespace")) or {"count": 0}
        self.put(
            {
                "apiVersion": "v1",
                "kind": "Event",
                "metadata": {"name": name, "namespace": metadata.get("namespace", "default")},
                "involvedObject": {"kind": involved["kind"], "name": metadata["name"], "uid": metadata.get("uid")},
                "reason": reason,
                "message": message,
                "type": kind,
                "count": known["count"] + 1,
                "lastTimestamp": datetime.now(UTC).isoformat(timespec="seconds"),
            }
        )

    def write_log(self, pod: str, text: str, namespace: str | None = None) -> None:
        self._logs[namespace or self.namespace, pod] = text

    # -- controllers

    def add_controller(self, controller: Controller) -> None:
        self._controllers.append(controller)
        with self.store.changed:
            self.store.changed.notify_all()

    def wait_for(self, condition: Callable[[], bool], timeout_s: float = HANG_S) -> None:
        """Raises AssertionError when ``condition`` does not become true."""
        end = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < end, f"not within {timeout_s} s: {condition}"
            with self.store.changed:
                self.store.changed.wait(0.02)

    def _control(self) -> None:
        seen = -1
        while not self._stopped.is_set():
            with self.store.changed:
                if self.store.version == seen:
                    self.store.changed.wait(IDLE_TICK_S)
                seen = self.store.version
            for controller in tuple(self._controllers):
                try:
                    controller.reconcile(self)
                except Exception as error:  # noqa: BLE001 (the test must hear of it)
                    self._failure = self._failure or error

    # -- what the server asks

    def authenticate(self, header: str) -> str | None:
        """The service account that the token is of; None: an administrator's."""
        with self.store.lock:
            token, _, account = header.partition(" ")[2].partition(".")
            accepted = header.lower().startswith("bearer ") and token == self.token
        if not accepted:
            raise ApiError(401, "Unauthorized", "Unauthorized")
        return account or self.account

    def allows(self, account: str | None, access: rbac.Access) -> bool:
        return not self._is_denied(access) and self._has_role(account, access)

    def check_permission(self, account: str | None, access: rbac.Access) -> None:
        if not self._has_role(account, access):
            self.refused.append(f"{account}: {access}")
        elif not self._is_denied(access):
            return
        plural = access.plural.partition("/")[0]
        message = (
            f'{plural} is forbidden: User "{account or "emulated"}" cannot {access.verb} resource "{plural}" '
            f'in API group "{access.group}"'
        )
        raise ApiError(403, "Forbidden", message)

    def _is_denied(self, access: rbac.Access) -> bool:
        denied = {(verb, access.plural, access.group) for verb in (access.verb, "*")}
        return bool(self._denied & denied)

    def _has_role(self, account: str | None, access: rbac.Access) -> bool:
        return account is None or rbac.is_allowed(self, account, self.namespace, access)

    def log_of(self, namespace: str, pod: str, query: dict[str, str]) -> str:
        lines = self._logs.get((namespace, pod), "").splitlines(keepends=True)
        return "".join(lines[-int(query["tailLines"]) :] if "tailLines" in query else lines)

    def _place(self, resource: Resource, namespace: str | None) -> str:
        return (namespace or self.namespace) if resource.namespaced else ""
