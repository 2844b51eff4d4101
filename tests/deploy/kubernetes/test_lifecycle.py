"""Up, status and down against the emulated cluster."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

import pytest

from tasks.backends import published, running
from tasks.deploy.errors import DeployError, StackNotRunningError
from tasks.deploy.kubernetes import lease, lifecycle, teardown, waiting
from tasks.deploy.kubernetes.diagnosis import Watcher
from tasks.deploy.kubernetes.lifecycle import drop_lease, hold_lease, renew_lease, status, up
from tasks.deploy.kubernetes.params import KubernetesDeployParams
from tasks.deploy.kubernetes.render import render_stack
from tasks.deploy.kubernetes.runtime import KubernetesRuntime
from tasks.deploy.kubernetes.teardown import down
from tasks.errors import ParamsError
from tasks.kube.client import Cluster
from tasks.kube.manifest import Manifest, stack_selector
from tests.deploy.kubernetes.conftest import MakeParams
from tests.deploy.kubernetes.gateway import Gateway
from tests.kubernetes.answers import Object
from tests.kubernetes.cluster import EmulatedCluster
from tests.kubernetes.workloads import Kubelet

OURS = stack_selector("rcarena")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(waiting, "POLL_S", 0.05)
    monkeypatch.setattr(lifecycle, "POLL_S", 0.05)
    monkeypatch.setattr(teardown, "POLL_S", 0.05)
    monkeypatch.setattr(lifecycle, "render_stack", lambda params: _rendered(params.model_dump_json()))
    yield
    lifecycle._connection.cache_clear()


@cache
def _rendered(params: str) -> tuple[Manifest, ...]:
    return render_stack(KubernetesDeployParams.model_validate_json(params))


@pytest.fixture
def stack(tmp_path: Path) -> Path:
    return tmp_path / "workspace" / "stack"


class TestUp:
    def test_waits_asks_for_a_completion_and_publishes(
        self,
        gpu_cluster: EmulatedCluster,
        make_params: MakeParams,
        stack: Path,
        gateway: Gateway,
        kubelet: Kubelet,
    ) -> None:
        gateway.failures = 1
        kubelet.start_s = 2
        said: list[str] = []
        runtime = up(make_params(), stack, said.append)
        assert published(stack) == runtime == running(stack)
        assert gateway.models == ["falcon-h1-7b"] * 2
        assert {service.name: service.role for service in runtime.services} == make_params().roles()
        assert {pod.node for service in runtime.services for pod in service.pods} <= {"gpu-0", "gpu-1"}
        replica = runtime.service("ray-replicas-1")
        live = gpu_cluster.get("v1", "Pod", replica.pods[0].name)
        assert live is not None
        assert live["metadata"]["uid"] == replica.pods[0].uid
        assert live["metadata"]["labels"]["app"] == "ray-replicas-1"
        assert any("waiting for" in line for line in said)
        assert "ready" in said[-1]

    def test_a_second_and_a_third_time_change_nothing_but_the_lease(
        self, gpu_cluster: EmulatedCluster, make_params: MakeParams, stack: Path
    ) -> None:
        """All that is asked of the API is applied again, and is there already: no object gets another version."""
        first = up(make_params(), stack)
        assert isinstance(first, KubernetesRuntime)
        before = gpu_cluster.store.version
        for _ in range(2):
            assert up(make_params(), stack) == first
        changed = {
            f"{what} {resource.kind} {document['metadata']['name']}"
            for version, resource, what, document in gpu_cluster.store.history
            if version > before
        }
        assert changed == {"MODIFIED Lease rcarena-campaign"}

    def test_what_the_operator_writes_into_the_spec_is_no_change(
        self, gpu_cluster: EmulatedCluster, make_params: MakeParams, stack: Path
    ) -> None:
        up(make_params(), stack)
        before = gpu_cluster.get("ray.io/v1", "RayService", "rcarena")
        assert before is not None
        assert before["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["scaleStrategy"] == {}
        for _ in range(2):
            said: list[str] = []
            up(make_params(), stack, said.append)
            assert not any("other parameters" in line for line in said)
        after = gpu_cluster.get("ray.io/v1", "RayService", "rcarena")
        assert after is not None
        assert (after["metadata"]["uid"], after["metadata"]["generation"], after["spec"]) == (
            before["metadata"]["uid"],
            before["metadata"]["generation"],
            before["spec"],
        )

    def test_a_spec_that_somebody_else_changed_is_put_right(
        self, gpu_cluster: EmulatedCluster, make_params: MakeParams, stack: Path
    ) -> None:
        up(make_params(), stack)

        def shrink(document: Object) -> None:
            document["spec"]["rayClusterConfig"]["workerGroupSpecs"].pop()

        gpu_cluster.change("ray.io/v1", "RayService", "rcarena", shrink)
        said: list[str] = []
        up(make_params(), stack, said.append)
        assert any("other parameters" in line for line in said)

    def test_other_parameters_start_the_engines_anew(
        self, gpu_cluster: EmulatedCluster, make_params: MakeParams, stack: Path
    ) -> None:
        first = up(make_params(), stack)
        said: list[str] = []
        second = up(make_params(model="qwen2.5-7b"), stack, said.append)
        assert any("other parameters" in line for line in said)
        assert second.model == "qwen2.5-7b"
        assert {p.uid for s in first.services if s.role == "replica" for p in s.pods}.isdisjoint(
            {p.uid for s in second.services if s.role == "replica" for p in s.pods}
        )

    def test_kept_volumes_that_cannot_change_are_named_before_anything_is_touched(
        self, gpu_cluster: EmulatedCluster, make_params: MakeParams, stack: Path
    ) -> None:
        small = {"class_name": "fast", "size_gb": 10, "models_gb": 10}
        first = up(make_params(storage=small), stack)
        many = make_params(storage={**small, "class_name": "slow", "access_mode": "ReadWriteMany"}, replicas=1)
        with pytest.raises(DeployError, match=r"workspace \(ReadWriteOnce, .*; class fast, slow wanted\).*--volumes"):
            up(many, stack)
        with pytest.raises(DeployError, match=r"10 GiB, 20 wanted, and its storage class lets no volume grow"):
            up(make_params(storage={**small, "models_gb": 20}), stack)
        assert up(make_params(storage=small), stack) == first

    def test_kept_volumes_are_used_when_larger_and_grow_where_they_may(
        self, gpu_cluster: EmulatedCluster, make_params: MakeParams, stack: Path
    ) -> None:
        def size() -> str:
            claim = gpu_cluster.get("v1", "PersistentVolumeClaim", "workspace")
            assert claim is not None
            return str(claim["spec"]["resources"]["requests"]["storage"])

        storage_class = {"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "fast"}}
        gpu_cluster.put({**storage_class, "provisioner": "p", "allowVolumeExpansion": True})
        up(make_params(storage={"class_name": "fast", "size_gb": 20}), stack)
        up(make_params(storage={"class_name": "fast", "size_gb": 10}), stack)
        assert size() == "20Gi"
        up(make_params(storage={"class_name": "fast", "size_gb": 30}), stack)
        assert size() == "30Gi"

    def test_survives_an_unsteady_api(self, gpu_cluster: EmulatedCluster, make_params: MakeParams, stack: Path) -> None:
        gpu_cluster.misbehave(status=500, times=3)
        gpu_cluster.misbehave(truncate=True, times=2, path="pods")
        gpu_cluster.misbehave(reset=True, times=2, method="PATCH")
        assert up(make_params(), stack).alive

    def test_one_that_was_interrupted_is_continued(
        self, gpu_cluster: EmulatedCluster, make_params: MakeParams, stack: Path, kubelet: Kubelet
    ) -> None:
        kubelet.start_s = 60

        def interrupt(line: str) -> None:
            if "waiting for" in line:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            up(make_params(), stack, interrupt)
        assert status(make_params(), stack).state == "starting"
        kubelet.start_s = 0
        assert up(make_params(), stack).alive

    def test_too_few_gpus_fail_early_with_the_cure(
        self, gpu_cluster: EmulatedCluster, make_params: MakeParams, stack: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(lifecycle, "Watcher", lambda gpus_exist: Watcher(gpus_exist, grace_divisor=1000))
        with pytest.raises(DeployError, match=r"Insufficient nvidia.com/gpu(.|\n)*what to do: free GPUs"):
            up(make_params(replicas=5), stack)
        assert published(stack) is None

    def test_pods_that_are_refused_are_told_by_their_controllers_events(
        self,
        gpu_cluster: EmulatedCluster,
        make_params: MakeParams,
        stack: Path,
        kubelet: Kubelet,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(lifecycle, "Watcher", lambda gpus_exist: Watcher(gpus_exist, grace_divisor=1000))
        kubelet.start_s = 60
        refusal = 'pods "gpu-agent-x" is forbidden: violates PodSecurity "restricted:latest": privileged'

        def refuse(line: str) -> None:
            if "waiting for" in line:
                gpu_cluster.add_event(
                    {"kind": "DaemonSet", "metadata": {"name": "gpu-agent", "namespace": "rcarena"}},
                    "FailedCreate",
                    refusal,
                )

        with pytest.raises(DeployError, match=r"DaemonSet gpu-agent: FailedCreate(.|\n)*label the namespace"):
            up(make_params(), stack, refuse)

    def test_an_image_that_does_not_exist_fails_early(
        self,
        gpu_cluster: EmulatedCluster,
        make_params: MakeParams,
        stack: Path,
        kubelet: Kubelet,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(lifecycle, "Watcher", lambda gpus_exist: Watcher(gpus_exist, grace_divisor=1000))
        kubelet.broken_images.add(make_params().images.serve)
        with pytest.raises(DeployError, match=r"ImagePullBackOff(.|\n)*deploy\.images"):
            up(make_params(), stack)

    def test_time_out_says_what_was_missing(
        self, gpu_cluster: EmulatedCluster, make_params: MakeParams, stack: Path, kubelet: Kubelet
    ) -> None:
        kubelet.start_s = 60
        with pytest.raises(
            DeployError, match=r"not ready within deploy\.start_timeout_s \(2 s\): .*RayService rcarena"
        ):
            up(make_params(start_timeout_s=2), stack)

    def test_wrong_parameters_and_used_namespaces_are_refused(
        self, gpu_cluster: EmulatedCluster, make_params: MakeParams, stack: Path
    ) -> None:
        with pytest.raises(ParamsError, match="did you mean 'falcon-h1-7b'"):
            up(make_params(model="falcon-h1-7"), stack)
        gpu_cluster.add_namespace("shop")
        gpu_cluster.put(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": "till", "namespace": "shop"},
                "spec": {"containers": []},
            }
        )
        with pytest.raises(DeployError, match="'shop' is used by others"):
            up(make_params(namespace="shop"), stack)

    def test_a_kubernetes_without_the_operator_is_a_clear_error(
        self, gpu_cluster: EmulatedCluster, make_params: MakeParams, stack: Path
    ) -> None:
        gpu_cluster.uninstall("ray.io")
        with pytest.raises(DeployError, match=r"lacks rayclusters\.ray\.io.*telemetry\.install"):
            up(make_params(), stack)


class TestLease:
    def test_two_campaigns_never_share_a_stack(
        self, gpu_cluster: EmulatedCluster, make_params: MakeParams, stack: Path, tmp_path: Path
    ) -> None:
        up(make_params(), stack)
        other = tmp_path / "other" / "stack"
        with pytest.raises(DeployError, match="belongs to another campaign"):
            up(make_params(), other)
        with pytest.raises(DeployError, match="belongs to another campaign"):
            down(make_params(), other)
        renew_lease(stack)
        drop_lease(stack)
        assert up(make_params(), other).alive

    def test_is_held_without_a_process_for_as_long_as_was_asked(
        self, gpu_cluster: EmulatedCluster, make_params: MakeParams, stack: Path, tmp_path: Path
    ) -> None:
        up(make_params(), stack)
        hold_lease(stack, 3600)

        def age(document: dict[str, dict[str, str]]) -> None:
            then = datetime.now(UTC) - timedelta(seconds=self.age_s)
            document["spec"]["renewTime"] = then.strftime("%Y-%m-%dT%H:%M:%S.%fZ")

        self.age_s = 3000
        gpu_cluster.change(*lease.API, lease.CAMPAIGN_LEASE, age)
        with pytest.raises(DeployError, match="for 3600 s"):
            up(make_params(), tmp_path / "other" / "stack")
        assert up(make_params(), stack).alive  # the holder may
        hold_lease(stack, 3600)
        self.age_s = 3700
        gpu_cluster.change(*lease.API, lease.CAMPAIGN_LEASE, age)
        assert up(make_params(), tmp_path / "other" / "stack").alive
        with pytest.raises(DeployError, match="belongs to another campaign"):
            hold_lease(stack, 3600)

    def test_expires(self, gpu_cluster: EmulatedCluster, make_params: MakeParams, stack: Path, tmp_path: Path) -> None:
        up(make_params(), stack)

        def age(document: dict[str, dict[str, str]]) -> None:
            document["spec"]["renewTime"] = "2020-01-01T00:00:00.000000Z"

        gpu_cluster.change(*lease.API, lease.CAMPAIGN_LEASE, age)
        assert up(make_params(), tmp_path / "other" / "stack").alive

    def test_only_one_of_many_gets_it(self, gpu_cluster: EmulatedCluster, tmp_path: Path) -> None:
        gpu_cluster.add_namespace("rcarena")
        address = gpu_cluster.address(tmp_path)
        got: list[str] = []

        def take(owner: str) -> None:
            with Cluster(address, deadline_s=10) as cluster:
                try:
                    lease.acquire(cluster, owner)
                except DeployError:
                    return
                got.append(owner)

        threads = [threading.Thread(target=take, args=(f"owner-{number}",)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(got) == 1


class TestDown:
    def test_removes_what_is_ours_and_keeps_volumes_and_strangers(
        self, gpu_cluster: EmulatedCluster, make_params: MakeParams, stack: Path
    ) -> None:
        runtime = up(make_params(), stack)
        gpu_cluster.put({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "theirs"}, "data": {}})
        assert down(make_params(), stack) is True
        assert gpu_cluster.objects("v1", "Pod", labels=OURS) == []
        assert gpu_cluster.objects("rbac.authorization.k8s.io/v1", "Role", labels=OURS) == []
        assert gpu_cluster.get("v1", "ConfigMap", "theirs") is not None
        assert len(gpu_cluster.objects("v1", "PersistentVolumeClaim", "rcarena")) == 3
        namespace = gpu_cluster.get("v1", "Namespace", "rcarena")
        assert namespace is not None
        assert "rcarena.io/stack" not in namespace["metadata"]["labels"]
        assert not runtime.alive
        assert published(stack) is None
        assert down(make_params(), stack) is False

    def test_an_empty_namespace_goes_with_the_volumes(
        self, gpu_cluster: EmulatedCluster, make_params: MakeParams, stack: Path
    ) -> None:
        up(make_params(), stack)
        assert down(make_params(), stack, volumes=True)
        assert gpu_cluster.get("v1", "Namespace", "rcarena") is None

    def test_comes_up_again_where_volumes_were_kept(
        self, gpu_cluster: EmulatedCluster, make_params: MakeParams, stack: Path
    ) -> None:
        up(make_params(), stack)
        down(make_params(), stack)
        assert up(make_params(), stack).alive

    def test_names_what_is_stuck(
        self, gpu_cluster: EmulatedCluster, make_params: MakeParams, stack: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        up(make_params(), stack)
        labels = dict(part.split("=") for part in OURS.split(","))
        metadata = {"name": "stuck", "labels": labels, "finalizers": ["chaos-mesh/records"]}
        gpu_cluster.put({"apiVersion": "chaos-mesh.org/v1alpha1", "kind": "PodChaos", "metadata": metadata})
        monkeypatch.setattr(teardown, "FAULTS_TIMEOUT_S", 0.3)
        with pytest.raises(DeployError, match=r"PodChaos stuck \(held by chaos-mesh/records\)"):
            down(make_params(), stack)
        assert gpu_cluster.objects("v1", "Pod", labels=OURS), "the engines run on: the fault is still to be undone"
        gpu_cluster.remove("chaos-mesh.org/v1alpha1", "PodChaos", "stuck")
        assert down(make_params(), stack)

    def test_finds_the_cluster_of_the_stack_whatever_the_current_context_is(
        self,
        gpu_cluster: EmulatedCluster,
        make_params: MakeParams,
        stack: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        up(make_params(), stack)
        with EmulatedCluster() as elsewhere:
            monkeypatch.setenv("KUBECONFIG", str(elsewhere.kubeconfig(tmp_path / "elsewhere")))
            assert down(make_params(), stack)
        assert gpu_cluster.objects("v1", "Pod", labels=OURS) == []

    def test_the_crd_stays_while_another_stack_needs_it(
        self, gpu_cluster: EmulatedCluster, make_params: MakeParams, stack: Path
    ) -> None:
        crd = ("apiextensions.k8s.io/v1", "CustomResourceDefinition", "nodefaults.rcarena.io")
        gpu_cluster.add_namespace("second", {"app.kubernetes.io/managed-by": "rcarena"})
        up(make_params(), stack)
        down(make_params(), stack)
        assert gpu_cluster.get(*crd) is not None
        gpu_cluster.remove("v1", "Namespace", "second")
        up(make_params(), stack)
        down(make_params(), stack)
        assert gpu_cluster.get(*crd) is None


class TestStatus:
    def test_tells_down_ready_and_unhealthy(
        self, gpu_cluster: EmulatedCluster, make_params: MakeParams, stack: Path, gateway: Gateway
    ) -> None:
        assert status(make_params(), stack).state == "down"
        up(make_params(), stack)
        found = status(make_params(), stack)
        assert found.state == "ready"
        assert [(each.name, each.ready, each.pods) for each in found.services] == [
            ("nginx-proxy", 1, 1),
            ("ray-head", 1, 1),
            ("ray-replicas-0", 1, 1),
            ("ray-replicas-1", 1, 1),
        ]
        gateway.failures = 1
        assert status(make_params(), stack).state == "unhealthy"


class TestAlive:
    def test_an_api_that_does_not_answer_counts_as_alive(
        self, gpu_cluster: EmulatedCluster, make_params: MakeParams, stack: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("tasks.deploy.kubernetes.runtime.ALIVE_DEADLINE_S", 0.3)
        runtime = up(make_params(), stack)
        gpu_cluster.misbehave(status=503, times=100)
        assert runtime.alive
        gpu_cluster.behave()
        gpu_cluster.remove("v1", "Namespace", "rcarena")
        assert not runtime.alive
        with pytest.raises(StackNotRunningError, match="rcarena deploy up"):
            running(stack)
