"""The table of what a cluster lacks, against the emulated cluster."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tasks.deploy.kubernetes import chart_index
from tasks.deploy.kubernetes.charts import pinned_charts
from tasks.deploy.kubernetes.params import KubernetesDeployParams
from tasks.deploy.kubernetes.preflight import Check, preflight
from tasks.kube.address import ClusterAddress
from tasks.kube.client import Cluster
from tasks.kube.errors import UnreachableError
from tasks.kube.gpu_map import GpuState, NodeGpus, config_map
from tests.deploy.kubernetes.conftest import MakeParams
from tests.kubernetes.cluster import EmulatedCluster

DEFAULT = {"storageclass.kubernetes.io/is-default-class": "true"}


@pytest.fixture
def good(gpu_cluster: EmulatedCluster) -> EmulatedCluster:
    metadata = {"name": "local-path", "annotations": DEFAULT}
    gpu_cluster.put(
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": metadata,
            "provisioner": "rancher.io/local-path",
        }
    )
    return gpu_cluster


def looked(cluster: EmulatedCluster, params: KubernetesDeployParams, directory: Path) -> dict[str, Check]:
    with Cluster(cluster.address(directory), deadline_s=30) as client:
        return {check.name: check for check in preflight(client, params)}


def test_a_good_cluster_has_no_failure(good: EmulatedCluster, make_params: MakeParams, tmp_path: Path) -> None:
    checks = looked(good, make_params(), tmp_path)
    assert {check.verdict for check in checks.values()} == {"ok"}
    assert checks["GPUs"].result.startswith("2 needed, 4 free (gpu-0: 2 × NVIDIA-H100-80GB-HBM3")
    assert "containerd at /run/containerd/containerd.sock, 2 nodes" in checks["container runtime"].result
    assert checks["storage class"].result == "local-path (rancher.io/local-path)"


def test_every_failure_has_its_cure(gpu_cluster: EmulatedCluster, make_params: MakeParams, tmp_path: Path) -> None:
    gpu_cluster.deny("create", "networkchaos", "chaos-mesh.org")
    gpu_cluster.deny("get", "pods/log")
    gpu_cluster.uninstall("ray.io")
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "training", "namespace": "default"},
        "spec": {
            "nodeName": "gpu-0",
            "containers": [{"name": "c", "image": "i", "resources": {"limits": {"nvidia.com/gpu": "2"}}}],
        },
        "status": {"phase": "Running"},
    }
    gpu_cluster.put(pod)
    checks = looked(gpu_cluster, make_params(replicas=3, model="llama-3.1-8b"), tmp_path)
    failed = {name: check for name, check in checks.items() if check.verdict == "failed"}
    assert failed.keys() == {"permissions", "GPUs", "storage class", "model token", "CRDs"}
    assert all(check.cure for check in failed.values())
    assert failed["permissions"].result == "missing: get pods/log; create networkchaos.chaos-mesh.org"
    assert failed["GPUs"].result.startswith("3 needed, 2 free")
    assert "rayservices.ray.io" in failed["CRDs"].result
    assert "create secret generic huggingface --from-file=token=FILE" in failed["model token"].cure


def test_gpus_are_counted_in_pods_that_fit(good: EmulatedCluster, make_params: MakeParams, tmp_path: Path) -> None:
    good.add_node("gpu-2", gpus=3)
    checks = looked(good, make_params(model="qwen2.5-7b", replicas=4, parallelism={"tensor": 2}), tmp_path)
    assert checks["GPUs"].verdict == "failed"
    assert checks["GPUs"].result.startswith("8 needed, 7 free")


def test_nodes_that_are_not_ready_tainted_or_elsewhere_do_not_count(
    good: EmulatedCluster, make_params: MakeParams, tmp_path: Path
) -> None:
    good.change("v1", "Node", "gpu-0", lambda node: node["spec"].update(unschedulable=True))
    taint = {"key": "reserved", "effect": "NoSchedule"}
    good.change("v1", "Node", "gpu-1", lambda node: node["spec"].update(taints=[taint]))
    assert "no node offers any" in looked(good, make_params(), tmp_path)["GPUs"].result
    tolerant = make_params(accelerator={"tolerations": [{"key": "reserved"}]})
    assert looked(good, tolerant, tmp_path)["GPUs"].verdict == "ok"


@pytest.mark.parametrize(
    ("runtime", "kubelet", "socket"),
    [
        ("containerd://2.0.5-k3s1", "v1.34.1+k3s1", "containerd at /run/k3s/containerd/containerd.sock (k3s)"),
        ("containerd://2.0.5", "v1.34.1+rke2r1", "containerd at /run/k3s/containerd/containerd.sock (rke2)"),
        ("containerd://2.0.5", "v1.34.1+k0s", "containerd at /run/k0s/containerd.sock (k0s)"),
        ("containerd://2.0.5", "v1.34.1-gke.100", "containerd at /run/containerd/containerd.sock (gke)"),
        ("cri-o://1.34.0", "v1.34.1", "crio at /run/crio/crio.sock"),
        ("docker://28.0.0", "v1.34.1", "docker at /var/run/docker.sock"),
    ],
)
def test_finds_the_socket_of_the_container_runtime(
    make_params: MakeParams, tmp_path: Path, runtime: str, kubelet: str, socket: str
) -> None:
    with EmulatedCluster(version=kubelet) as cluster:
        cluster.add_node("one", gpus=2, runtime=runtime)
        assert socket in looked(cluster, make_params(), tmp_path)["container runtime"].result


def test_kind_is_known_by_its_nodes_and_others_by_their_labels(make_params: MakeParams, tmp_path: Path) -> None:
    with EmulatedCluster() as cluster:
        cluster.add_node("one", gpus=2)
        cluster.change("v1", "Node", "one", lambda node: node["spec"].update(providerID="kind://docker/kind/one"))
        cluster.add_node("two", labels={"microk8s.io/cluster": "true"})
        cluster.add_node("three", runtime="cri-o://1.34.0", labels={"node.openshift.io/os_id": "rhel"})
        row = looked(cluster, make_params(), tmp_path)["container runtime"]
    assert row.verdict == "warning"
    assert all(f"({name})" in row.result for name in ("kind", "microk8s", "openshift"))


def test_gpus_that_the_operator_is_to_bring_are_no_failure(make_params: MakeParams, tmp_path: Path) -> None:
    with EmulatedCluster() as cluster:
        cluster.add_node("one")
        operator = {"install": True, "gpu_operator": True}
        accelerator = {"runtime_class": "nvidia"}
        with_it = looked(cluster, make_params(telemetry=operator, accelerator=accelerator), tmp_path)
        without = looked(cluster, make_params(accelerator=accelerator), tmp_path)
    assert (with_it["GPUs"].verdict, with_it["runtime class"].verdict) == ("warning", "ok")
    assert (without["GPUs"].verdict, without["runtime class"].verdict) == ("failed", "failed")


def test_a_runtime_class_that_is_there_is_found(good: EmulatedCluster, make_params: MakeParams, tmp_path: Path) -> None:
    good.put({"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "nvidia"}, "handler": "n"})
    params = make_params(accelerator={"runtime_class": "nvidia"})
    assert looked(good, params, tmp_path)["runtime class"].verdict == "ok"
    missing = looked(good, make_params(accelerator={"runtime_class": "nvidia-cdi"}), tmp_path)["runtime class"]
    assert (missing.verdict, missing.cure) == ("failed", "deploy.accelerator.runtime_class: one of nvidia")


def test_pod_security_that_keeps_the_gpu_agent_out_is_said(
    good: EmulatedCluster, make_params: MakeParams, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good.add_namespace("rcarena", {"pod-security.kubernetes.io/enforce": "restricted"})
    outside = looked(good, make_params(), tmp_path)["pod security"]
    assert (outside.verdict, "deploy up" in outside.result) == ("warning", True)
    assert "pod security" not in looked(good, make_params(accelerator={"kind": "none"}), tmp_path)
    with Cluster(good.address(tmp_path), deadline_s=30) as client:
        client.version()
        monkeypatch.setattr(ClusterAddress, "in_cluster", property(lambda self: True))
        inside = {check.name: check for check in preflight(client, make_params())}["pod security"]
    assert inside.verdict == "failed"
    assert inside.cure.endswith("namespace rcarena pod-security.kubernetes.io/enforce=privileged")


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(repo: str) -> str:
        raise OSError("no network in tests")

    monkeypatch.setattr(chart_index, "read_index", refuse)


def test_power_limits_come_from_the_gpu_agents(good: EmulatedCluster, make_params: MakeParams, tmp_path: Path) -> None:
    fixed = GpuState(uuid="GPU-fixed", power_limit_w=75, min_power_limit_w=75, max_power_limit_w=75)
    free = GpuState(uuid="GPU-free", power_limit_w=700, min_power_limit_w=200, max_power_limit_w=700)
    good.add_namespace("rcarena")
    good.put(config_map("rcarena", NodeGpus(node="gpu-0", gpus=(fixed,))))
    good.put(config_map("rcarena", NodeGpus(node="gpu-1", gpus=(free,))))
    with Cluster(good.address(tmp_path), deadline_s=30) as client:
        rows = [check for check in preflight(client, make_params()) if check.name == "GPU power limits"]
    assert [(row.verdict, row.result) for row in rows] == [
        ("warning", "gpu-0 GPU-fixed: cannot be set"),
        ("ok", "gpu-1 GPU-free: 700.0 W of 200.0 to 700.0 W"),
    ]


def test_a_secret_that_is_there_is_enough_and_its_value_is_not_shown(
    good: EmulatedCluster, make_params: MakeParams, tmp_path: Path
) -> None:
    good.add_namespace("rcarena")
    good.put(
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "huggingface"}, "stringData": {"token": "hf_x"}}
    )
    check = looked(good, make_params(model="llama-3.1-8b"), tmp_path)["model token"]
    assert (check.verdict, check.result) == ("ok", "Secret huggingface has the key 'token'")


def test_missing_series_are_named(good: EmulatedCluster, make_params: MakeParams, tmp_path: Path) -> None:
    def unreachable() -> list[str]:
        raise OSError("refused")

    with Cluster(good.address(tmp_path), deadline_s=30) as client:
        (check,) = [
            each for each in preflight(client, make_params(), lambda: ["a", "b"]) if each.name == "metric series"
        ]
        (failed,) = [each for each in preflight(client, make_params(), unreachable) if each.name == "metric series"]
    assert (check.verdict, check.result) == ("warning", "missing: a, b")
    assert "refused" in failed.result


def test_what_may_not_be_looked_at_is_a_row(good: EmulatedCluster, make_params: MakeParams, tmp_path: Path) -> None:
    good.deny("list", "nodes")
    checks = looked(good, make_params(), tmp_path)
    assert checks["permissions"].result == "missing: list nodes (whole cluster)"
    assert checks["nodes"].verdict == "warning"


def test_wrong_parameters_are_rows(good: EmulatedCluster, make_params: MakeParams, tmp_path: Path) -> None:
    checks = looked(good, make_params(model="falcon"), tmp_path)
    assert "unknown model 'falcon'" in checks["parameters"].result


def test_an_unreachable_cluster_raises(make_params: MakeParams, tmp_path: Path) -> None:
    with EmulatedCluster() as cluster:
        address = cluster.address(tmp_path)
    with Cluster(address, deadline_s=0.3) as client, pytest.raises(UnreachableError):
        preflight(client, make_params())


def test_charts_are_looked_up_before_helm_is_asked(
    good: EmulatedCluster, make_params: MakeParams, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = {each.chart: each.version for each in pinned_charts()}

    def read(repo: str) -> str:
        if "grafana.github.io" in repo:
            raise OSError("no route")
        return json.dumps({"entries": {chart: [{"version": version}] for chart, version in versions.items()}})

    monkeypatch.setattr(chart_index, "read_index", read)
    params = make_params(telemetry={"install": True})
    versions["loki"] = "99.0.0"
    with Cluster(good.address(tmp_path), deadline_s=30) as client:
        rows = [check for check in preflight(client, params) if check.name == "charts"]
    assert [row.verdict for row in rows] == ["failed", "warning"]
    assert "newest is 99.0.0" in rows[0].result
    assert "no route" in rows[1].result


def test_a_pod_needs_neither_helm_nor_the_repositories(
    good: EmulatedCluster, make_params: MakeParams, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with Cluster(good.address(tmp_path), deadline_s=30) as client:
        client.version()  # the way to the cluster is made from here; what follows believes itself in a pod
        monkeypatch.setattr(ClusterAddress, "in_cluster", property(lambda self: True))
        names = {check.name for check in preflight(client, make_params(telemetry={"install": True}))}
    assert names.isdisjoint({"helm", "charts", "kubectl"})
