"""``deploy`` as a pod of the cluster runs it: the service account of the task, and the rights of its roles, no more."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.deploy.errors import DeployError
from tasks.deploy.kubernetes import lifecycle
from tasks.deploy.kubernetes.lifecycle import drop_lease, status, up
from tasks.deploy.kubernetes.params import KubernetesDeployParams
from tasks.deploy.kubernetes.permissions import missing_permissions
from tasks.deploy.kubernetes.plan import plan
from tasks.deploy.kubernetes.render import render_stack
from tasks.deploy.kubernetes.teardown import down
from tasks.kube import transport
from tasks.kube.address import ClusterAddress, load_configuration
from tasks.kube.client import Cluster
from tests.deploy.kubernetes.conftest import MakeParams
from tests.kubernetes.cluster import EmulatedCluster
from tests.kubernetes.rbac import Access, is_allowed


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("waiting", "lifecycle", "teardown"):
        monkeypatch.setattr(f"tasks.deploy.kubernetes.{module}.POLL_S", 0.05)


@pytest.fixture
def enter_pod(
    gpu_cluster: EmulatedCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], ClusterAddress]:
    """From then on requests come from a pod with the account of this task; only the way to the server is still the
    kubeconfig's, for no pod has one to an emulator."""
    outside = gpu_cluster.address(tmp_path)
    pod = ClusterAddress(namespace=gpu_cluster.namespace, context=None, kubeconfig=None)

    def enter(task: str) -> ClusterAddress:
        gpu_cluster.account = f"rcarena-{task}"
        gpu_cluster.refused.clear()
        monkeypatch.setattr(transport, "load_configuration", lambda address: load_configuration(outside))
        monkeypatch.setattr(lifecycle, "find_cluster", lambda context, namespace: pod)
        return pod

    return enter


@pytest.fixture
def prepared(gpu_cluster: EmulatedCluster, make_params: MakeParams, tmp_path: Path) -> KubernetesDeployParams:
    """A stack that an administrator brought up from outside, and left to the pods."""
    params = make_params(telemetry={"install": False, "istio": True})
    directory = tmp_path / "administrator" / "stack"
    up(params, directory)
    drop_lease(directory)
    return params


def test_up_finds_the_stack_up_and_asks_for_nothing_that_it_may_not(
    gpu_cluster: EmulatedCluster,
    prepared: KubernetesDeployParams,
    enter_pod: Callable[[str], ClusterAddress],
    tmp_path: Path,
) -> None:
    before = gpu_cluster.get("ray.io/v1", "RayService", "rcarena")
    enter_pod("deploy")
    directory = tmp_path / "workspace" / "stack"
    for _ in range(2):
        assert up(prepared, directory).alive
    assert status(prepared, directory).state == "ready"
    assert gpu_cluster.refused == []
    after = gpu_cluster.get("ray.io/v1", "RayService", "rcarena")
    assert before is not None
    assert after is not None
    assert after["metadata"]["uid"] == before["metadata"]["uid"]


def test_down_and_up_again_in_a_pod(
    gpu_cluster: EmulatedCluster,
    prepared: KubernetesDeployParams,
    enter_pod: Callable[[str], ClusterAddress],
    tmp_path: Path,
) -> None:
    enter_pod("deploy")
    directory = tmp_path / "workspace" / "stack"
    up(prepared, directory)
    assert down(prepared, directory)
    assert gpu_cluster.get("ray.io/v1", "RayService", "rcarena") is None
    assert gpu_cluster.get("v1", "ServiceAccount", "rcarena-deploy") is not None
    assert up(prepared, directory).alive
    assert gpu_cluster.refused == []


def test_the_plan_leaves_out_what_is_an_administrators(
    gpu_cluster: EmulatedCluster,
    prepared: KubernetesDeployParams,
    enter_pod: Callable[[str], ClusterAddress],
) -> None:
    with Cluster(enter_pod("deploy")) as cluster:
        changes = {str(change.manifest): change for change in plan(cluster, render_stack(prepared))}
    assert changes["RayService rcarena/rcarena"].action == "unchanged"
    assert changes["Namespace rcarena"].action == "unknown"
    assert "administrator" in changes["ClusterRole rcarena-rcarena-observe"].reason
    assert {change.action for change in changes.values()} == {"unchanged", "unknown"}
    assert gpu_cluster.refused == []


def test_preflight_misses_no_permission(
    gpu_cluster: EmulatedCluster,
    prepared: KubernetesDeployParams,
    enter_pod: Callable[[str], ClusterAddress],
) -> None:
    with Cluster(enter_pod("deploy")) as cluster:
        assert missing_permissions(cluster, prepared) == []


def test_a_cluster_that_no_administrator_prepared_is_said(
    gpu_cluster: EmulatedCluster,
    make_params: MakeParams,
    enter_pod: Callable[[str], ClusterAddress],
    tmp_path: Path,
) -> None:
    enter_pod("deploy")
    gpu_cluster.account = None  # an account without any role could not even look
    with pytest.raises(DeployError, match="is not prepared for a stack: run `rcarena deploy up` once from outside"):
        up(make_params(), tmp_path / "workspace" / "stack")


@pytest.mark.parametrize(
    ("task", "verb", "plural", "group"),
    [
        ("deploy", "create", "pods/exec", ""),
        ("deploy", "patch", "roles", "rbac.authorization.k8s.io"),
        ("deploy", "list", "secrets", ""),
        ("inject", "create", "pods/exec", ""),
        ("inject", "delete", "rayservices", "ray.io"),
        ("export", "create", "pods", ""),
        ("load", "get", "pods", ""),
    ],
)
def test_no_account_may_more_than_its_task(
    gpu_cluster: EmulatedCluster,
    prepared: KubernetesDeployParams,
    task: str,
    verb: str,
    plural: str,
    group: str,
) -> None:
    access = Access(verb, group, plural, "rcarena")
    assert not is_allowed(gpu_cluster, f"rcarena-{task}", "rcarena", access)
