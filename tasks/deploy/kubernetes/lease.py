"""Ownership of a stack by a Lease in the cluster, so that two campaigns never share it. It expires unless renewed."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tasks.deploy.errors import DeployError
from tasks.kube.client import Cluster, Object
from tasks.kube.errors import ClusterError, ConflictError, NotFoundError
from tasks.kube.manifest import stack_labels
from tasks.system.durable import create_once

logger = logging.getLogger(__name__)

API = ("coordination.k8s.io/v1", "Lease")
CAMPAIGN_LEASE = "rcarena-campaign"
CHARTS_LEASE = "rcarena-charts"
LEASE_S = 120
RENEWAL_S = 20.0
OWNER_FILE = "owner"
HOLDER_ANNOTATION = "rcarena.io/holder"
ATTEMPTS = 5


class HeldError(DeployError):
    """Another workspace, or another stack of this one, holds the lease."""


def workspace_id(directory: Path) -> str:
    """Return the id of this workspace, the same from every pod that mounts it; created at the first call."""
    file = directory / OWNER_FILE
    directory.mkdir(parents=True, exist_ok=True)
    create_once(file, uuid.uuid4().hex.encode())
    return file.read_text(encoding="utf-8").strip()


def acquire(
    cluster: Cluster,
    owner: str,
    name: str = CAMPAIGN_LEASE,
    namespace: str | None = None,
    duration_s: int = LEASE_S,
) -> None:
    """Take or renew the lease; without renewal it expires after ``duration_s``.

    Raises:
        HeldError: another workspace holds it.
        DeployError: it changes hands all the time.
        ClusterError: the cluster cannot be asked.
    """
    for _ in range(ATTEMPTS):
        lease = cluster.find(*API, name, namespace=namespace)
        try:
            if lease is None:
                cluster.create(_document(cluster, owner, name, namespace, duration_s))
                return
            _refuse_if_held(lease, owner, cluster)
            cluster.merge_patch(*API, name, _renewal(lease, owner, duration_s), namespace=namespace)
        except (ConflictError, NotFoundError):
            continue
        return
    raise DeployError(f"the lease {name} changes hands all the time: is another campaign starting, too?")


def release(cluster: Cluster, owner: str, name: str = CAMPAIGN_LEASE, namespace: str | None = None) -> None:
    """Release the lease if ``owner`` holds it. Raises ClusterError."""
    lease = cluster.find(*API, name, namespace=namespace)
    if lease is None or _holder(lease) != owner:
        return
    patch = {"metadata": {"resourceVersion": lease["metadata"]["resourceVersion"]}, "spec": {"holderIdentity": None}}
    try:
        cluster.merge_patch(*API, name, patch, namespace=namespace)
    except (ConflictError, NotFoundError):
        return


@contextlib.contextmanager
def renewing(cluster: Cluster, owner: str, name: str = CAMPAIGN_LEASE, namespace: str | None = None) -> Iterator[None]:
    """Renew the lease in a thread within the context. Errors are logged, not raised."""
    stopped = threading.Event()

    def renew() -> None:
        while not stopped.wait(RENEWAL_S):
            try:
                acquire(cluster, owner, name, namespace)
            except (ClusterError, DeployError) as error:
                logger.warning("the lease %s was not renewed: %s", name, error)

    thread = threading.Thread(target=renew, name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def _refuse_if_held(lease: Object, owner: str, cluster: Cluster) -> None:
    if _holder(lease) in ("", owner) or _expired(lease):
        return
    if lease["metadata"]["name"] == CHARTS_LEASE:
        raise HeldError(f"another campaign ({_holder_name(lease)}) is installing charts on this cluster: wait for it")
    raise HeldError(
        f"the stack in namespace {cluster.namespace} belongs to another campaign ({_holder_name(lease)}, renewed "
        f"{lease['spec'].get('renewTime')} for {lease['spec'].get('leaseDurationSeconds')} s): use another "
        "deploy.namespace, or wait for its end"
    )


def _holder(lease: Object) -> str:
    return str((lease.get("spec") or {}).get("holderIdentity") or "")


def _holder_name(lease: Object) -> str:
    return str((lease["metadata"].get("annotations") or {}).get(HOLDER_ANNOTATION) or _holder(lease))


def _expired(lease: Object) -> bool:
    spec = lease.get("spec") or {}
    if not spec.get("renewTime"):
        return True
    renewed = datetime.fromisoformat(str(spec["renewTime"]))
    return datetime.now(UTC) - renewed > timedelta(seconds=int(spec.get("leaseDurationSeconds") or LEASE_S))


def _document(cluster: Cluster, owner: str, name: str, namespace: str | None, duration_s: int) -> Object:
    metadata: dict[str, Any] = {"name": name, "namespace": namespace or cluster.namespace, "annotations": _host()}
    if namespace is None:
        metadata["labels"] = stack_labels(cluster.namespace)
    spec = {"holderIdentity": owner, "leaseDurationSeconds": duration_s, "acquireTime": _now(), "renewTime": _now()}
    return {"apiVersion": API[0], "kind": API[1], "metadata": metadata, "spec": spec}


def _renewal(lease: Object, owner: str, duration_s: int) -> Object:
    spec: dict[str, Any] = {"holderIdentity": owner, "renewTime": _now(), "leaseDurationSeconds": duration_s}
    if _holder(lease) != owner:
        spec |= {"acquireTime": _now(), "leaseTransitions": int(lease["spec"].get("leaseTransitions") or 0) + 1}
    version = lease["metadata"]["resourceVersion"]
    return {"metadata": {"resourceVersion": version, "annotations": _host()}, "spec": spec}


def _host() -> dict[str, str]:
    return {HOLDER_ANNOTATION: socket.gethostname()}


def _now() -> str:
    """Return the current time as a MicroTime of the Kubernetes API."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
