"""``deploy up | status`` on a cluster, and the stack's lease; ``teardown`` takes it down. Each is idempotent."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pydantic import ValidationError

from tasks.deploy.errors import DeployError
from tasks.deploy.health import complete
from tasks.deploy.kubernetes import lease, names
from tasks.deploy.kubernetes.access import open_forwards
from tasks.deploy.kubernetes.crds import is_served
from tasks.deploy.kubernetes.describe import describe
from tasks.deploy.kubernetes.diagnosis import Watcher
from tasks.deploy.kubernetes.helm import install_charts
from tasks.deploy.kubernetes.nodes import gpu_nodes
from tasks.deploy.kubernetes.params import KubernetesDeployParams
from tasks.deploy.kubernetes.plan import changes_spec
from tasks.deploy.kubernetes.render import render_stack
from tasks.deploy.kubernetes.runtime import KubernetesRuntime, service_selector
from tasks.deploy.kubernetes.validate import validate_deploy_params
from tasks.deploy.kubernetes.volumes import CLAIM, kept_volumes
from tasks.deploy.kubernetes.waiting import RAY_SERVICE, await_ready, is_ready
from tasks.errors import ParamsError
from tasks.kube.address import ClusterAddress, find_cluster
from tasks.kube.client import Cluster
from tasks.kube.errors import ClusterError, ForbiddenError, NotFoundError
from tasks.kube.manifest import Manifest, stack_labels
from tasks.stack import Role
from tasks.system.durable import write_durably
from tasks.system.file_lock import FileLock

logger = logging.getLogger(__name__)

Progress = Callable[[str], None]
ADDRESS_FILE = "cluster.json"
FROM_OUTSIDE = "run `rcarena deploy up` once from outside the cluster, with rights on all of it"
COMPLETION_TIMEOUT_S = 60.0
GONE_TIMEOUT_S = 180.0
POLL_S = 1.0
MOUNTED_BY_ENGINES = ("ConfigMap", names.SERVE_CODE_MAP)


@dataclass(frozen=True)
class ServiceStatus:
    name: str
    role: str
    pods: int
    ready: int
    nodes: str
    restarts: int


@dataclass(frozen=True)
class Status:
    """``state``: ``down``, ``starting``, ``ready`` or ``unhealthy``."""

    state: str
    detail: str
    services: tuple[ServiceStatus, ...] = ()


def up(params: KubernetesDeployParams, directory: Path, progress: Progress = logger.info) -> KubernetesRuntime:
    """Bring the stack up, or find it up; return once a completion came back through the gateway.

    The stack is leased: call ``renew_lease`` or ``drop_lease``. Objects of a failed start stay until ``down``.

    Raises:
        DeployError: the stack is not up; the message gives the reason and the remedy.
        ParamsError: ``params`` cannot be rendered.
    """
    problems = validate_deploy_params(params)
    if problems:
        raise ParamsError(problems)
    try:
        with stack_lock(directory):
            address = find_cluster(params.context, params.namespace)
            with Cluster(address) as cluster:
                return _up(cluster, params, directory.resolve(), progress)
    except ClusterError as error:
        raise DeployError(str(error)) from error


def status(params: KubernetesDeployParams, directory: Path) -> Status:
    """Return the state of the stack; request a completion when all its pods are ready. Raises DeployError."""
    try:
        with Cluster(address_of(params, directory), deadline_s=15) as cluster:
            return _status(cluster, params, directory)
    except ClusterError as error:
        raise DeployError(str(error)) from error


def renew_lease(directory: Path) -> None:
    """Renew the lease: the campaign that brought the stack up is alive. Errors are logged, not raised."""
    address = read_address(directory)
    if address is None:
        return
    try:
        lease.acquire(_connection(address), lease.workspace_id(directory))
    except (ClusterError, DeployError) as error:
        logger.warning("the lease of the stack was not renewed: %s", error)


def hold_lease(directory: Path, duration_s: int) -> None:
    """Lease the stack to this workspace for ``duration_s``, beyond the end of this process.

    Raises:
        DeployError: another workspace holds the lease, or the cluster cannot be asked.
    """
    address = read_address(directory)
    if address is None:
        return
    try:
        lease.acquire(_connection(address), lease.workspace_id(directory), duration_s=duration_s)
    except ClusterError as error:
        raise DeployError(f"the lease of the stack cannot be held: {error}") from error


def drop_lease(directory: Path) -> None:
    """Release the lease: the stack stays up and the next campaign may take it. Errors are logged, not raised."""
    address = read_address(directory)
    if address is None:
        return
    try:
        lease.release(_connection(address), lease.workspace_id(directory))
    except ClusterError as error:
        logger.warning("the lease of the stack was not given up, it expires by itself: %s", error)


def read_address(directory: Path) -> ClusterAddress | None:
    """Return the cluster of this workspace's stack, None without one; known before anything is applied there."""
    try:
        return ClusterAddress.model_validate_json((directory / ADDRESS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValidationError):
        return None


def address_of(params: KubernetesDeployParams, directory: Path) -> ClusterAddress:
    """Return the cluster of this workspace's stack, else the one named by ``params``. Raises NoClusterError."""
    return read_address(directory) or find_cluster(params.context, params.namespace)


def stack_lock(directory: Path) -> FileLock:
    """Return the lock that allows one ``up`` or ``down`` at a time per workspace."""
    busy = DeployError(f"another process is bringing the stack of {directory.parent} up or down")
    return FileLock(directory.parent / ".stack.lock", busy)


def _up(cluster: Cluster, params: KubernetesDeployParams, directory: Path, progress: Progress) -> KubernetesRuntime:
    deadline = time.monotonic() + params.start_timeout_s
    progress(f"stack: {cluster.label}, Kubernetes {cluster.version()}")
    _refuse_other_stack(cluster, directory)
    manifests = render_stack(params)
    _claim_namespace(cluster, next(each for each in manifests if each.kind == "Namespace"), progress)
    owner = lease.workspace_id(directory)
    lease.acquire(cluster, owner)
    _write_address(cluster.address, directory)
    with lease.renewing(cluster, owner):
        install_charts(cluster, params, owner, progress)
        _apply(cluster, manifests, progress)
        watcher = Watcher(gpus_exist=_enough_gpus(cluster, params))
        await_ready(cluster, params, manifests, watcher, progress, deadline - time.monotonic())
        runtime = describe(cluster, params, directory)
        _await_completion(runtime, max(deadline, time.monotonic() + COMPLETION_TIMEOUT_S))
        runtime.write()
    progress(f"stack: ready, a completion came back through {runtime.gateway_url}")
    return runtime


def _refuse_other_stack(cluster: Cluster, directory: Path) -> None:
    old = read_address(directory)
    if old is not None and (old.context, old.namespace) != (cluster.address.context, cluster.address.namespace):
        raise DeployError(
            f"this workspace has a stack in namespace {old.namespace} of {old.label}: take it down first "
            "(`rcarena deploy down`), or use another --workspace"
        )


def _claim_namespace(cluster: Cluster, manifest: Manifest, progress: Progress) -> None:
    """Create or label the namespace. A pod of the cluster only checks the labels. Raises DeployError when others use
    it, or it lacks the labels."""
    live = cluster.find("v1", "Namespace", manifest.name)
    if cluster.address.in_cluster:
        if live is None or not stack_labels(manifest.name).items() <= (live["metadata"].get("labels") or {}).items():
            raise DeployError(f"namespace {manifest.name} is not prepared for a stack: {FROM_OUTSIDE}")
        return
    if live is not None:
        _await_end_of_deletion(cluster, manifest.name, progress)
        live = cluster.find("v1", "Namespace", manifest.name)
    ours = stack_labels(manifest.name)
    if live is not None and not ours.items() <= (live["metadata"].get("labels") or {}).items():
        strangers = [str(pod["metadata"]["name"]) for pod in cluster.list("v1", "Pod")]
        if strangers:
            raise DeployError(
                f"deploy.namespace: '{manifest.name}' is used by others ({', '.join(strangers[:3])}): choose another"
            )
    _apply_one(cluster, manifest)


def _await_end_of_deletion(cluster: Cluster, name: str, progress: Progress) -> None:
    deadline = time.monotonic() + GONE_TIMEOUT_S
    reported = False
    while (live := cluster.find("v1", "Namespace", name)) and live["metadata"].get("deletionTimestamp"):
        if time.monotonic() > deadline:
            raise DeployError(f"namespace {name} is being deleted and does not go: see `kubectl describe ns {name}`")
        if not reported:
            progress(f"stack: waiting for the end of the deletion of namespace {name}")
            reported = True
        time.sleep(POLL_S)


def _apply(cluster: Cluster, manifests: tuple[Manifest, ...], progress: Progress) -> None:
    """Apply in order; delete a changed RayService first: KubeRay updates no cluster (``upgradeStrategy`` None)."""
    kept = kept_volumes(cluster, manifests)
    ray = next(each for each in manifests if each.kind == "RayService")
    live = cluster.find(*RAY_SERVICE)
    engine_manifests = [each for each in manifests if each is ray or (each.kind, each.name) == MOUNTED_BY_ENGINES]
    runs_as_wanted = live is not None and not any(changes_spec(cluster, each) for each in engine_manifests)
    if live is not None and not runs_as_wanted:
        progress("stack: it runs with other parameters: its engines are started anew")
        _delete_and_await(cluster, ray)
    skipped = [each for each in manifests if each.kind == CLAIM and each.name in kept]
    skipped += [ray] if runs_as_wanted else []
    wanted = [each for each in manifests if each not in skipped]
    if cluster.address.in_cluster:
        _check_administered(cluster, manifests)
        wanted = [each for each in wanted if not each.is_administered(cluster.namespace)]
    progress(f"stack: applying {len(wanted)} objects")
    for manifest in wanted:
        _apply_one(cluster, manifest)


def _check_administered(cluster: Cluster, manifests: tuple[Manifest, ...]) -> None:
    """Check by discovery that our CRDs are served: a pod may neither apply nor read them. ``rcarena preflight`` checks
    accounts and permissions. Raises DeployError."""
    for each in manifests:
        if each.kind == "CustomResourceDefinition" and not is_served(cluster, each.name):
            raise DeployError(f"the cluster lacks the CRD {each.name}: {FROM_OUTSIDE}")


def _apply_one(cluster: Cluster, manifest: Manifest) -> None:
    """Apply one manifest. A cluster-wide object that exists is accepted when the credentials may not change it."""
    try:
        cluster.apply(manifest.document)
    except NotFoundError as error:
        if not error.kind_missing:
            raise
        raise DeployError(
            f"the cluster does not know the kind {manifest.kind} ({manifest.api_version}): install its operator; "
            "deploy.telemetry.install: true does it"
        ) from error
    except ForbiddenError:
        known = cluster.find(manifest.api_version, manifest.kind, manifest.name, namespace=manifest.namespace)
        if known is None or manifest.namespace is not None:
            raise
        logger.info("%s is there and may not be changed by these credentials", manifest)


def _delete_and_await(cluster: Cluster, manifest: Manifest) -> None:
    cluster.delete(manifest.api_version, manifest.kind, manifest.name, propagation="Foreground")
    deadline = time.monotonic() + GONE_TIMEOUT_S
    selector = "ray.io/is-ray-node=yes"
    while cluster.find(manifest.api_version, manifest.kind, manifest.name) or cluster.list(
        "v1", "Pod", label_selector=selector
    ):
        if time.monotonic() > deadline:
            raise DeployError(f"{manifest} is being deleted and does not go: see `kubectl describe`")
        time.sleep(POLL_S)


def _await_completion(runtime: KubernetesRuntime, deadline: float) -> None:
    with open_forwards(runtime.cluster, runtime.forwards):
        while True:
            problem = complete(runtime.gateway_url, runtime.model, COMPLETION_TIMEOUT_S)
            if problem is None:
                return
            if time.monotonic() >= deadline:
                raise DeployError(
                    f"everything is ready, but no completion came back through {runtime.gateway_url}: {problem}"
                )
            time.sleep(POLL_S)


def _enough_gpus(cluster: Cluster, params: KubernetesDeployParams) -> bool:
    needed = params.replicas * params.parallelism.pipeline * params.gpus_per_pod
    try:
        return sum(node.allocatable for node in gpu_nodes(cluster, params)) >= needed
    except ForbiddenError:
        return True


def _status(cluster: Cluster, params: KubernetesDeployParams, directory: Path) -> Status:
    ray_service = cluster.find(*RAY_SERVICE)
    if ray_service is None:
        return Status("down", f"no stack runs in namespace {cluster.namespace} ({cluster.label})")
    services = tuple(_service_status(cluster, name, role) for name, role in params.roles().items())
    runtime = KubernetesRuntime.read(directory)
    waiting = [each for each in services if each.ready < max(1, each.pods)]
    if runtime is None or waiting:
        names = ", ".join(each.name for each in waiting)
        state = "starting" if runtime is None else "unhealthy"
        return Status(state, f"not ready: {names}" if names else "its start was interrupted", services)
    with open_forwards(runtime.cluster, runtime.forwards):
        problem = complete(runtime.gateway_url, runtime.model, COMPLETION_TIMEOUT_S)
    if problem:
        return Status("unhealthy", f"no completion through the gateway: {problem}", services)
    return Status("ready", f"a completion came back through {runtime.gateway_url}", services)


def _service_status(cluster: Cluster, name: str, role: Role) -> ServiceStatus:
    pods = cluster.list("v1", "Pod", label_selector=service_selector(cluster.namespace, name))
    containers = [each for pod in pods for each in (pod.get("status") or {}).get("containerStatuses") or ()]
    return ServiceStatus(
        name=name,
        role=role,
        pods=len(pods),
        ready=sum(map(is_ready, pods)),
        nodes=",".join(sorted({str(pod["spec"].get("nodeName") or "-") for pod in pods})) or "-",
        restarts=sum(int(each.get("restartCount") or 0) for each in containers),
    )


def _write_address(address: ClusterAddress, directory: Path) -> None:
    """Record the cluster before anything is applied: ``down`` needs it, whatever the current context is then."""
    directory.mkdir(parents=True, exist_ok=True)
    write_durably(directory / ADDRESS_FILE, address.model_dump_json(indent=1).encode())


@cache
def _connection(address: ClusterAddress) -> Cluster:
    """Return one connection for all renewals of this process: obtaining credentials may be slow."""
    return Cluster(address, deadline_s=15)
