"""The cluster client against the emulated API server: semantics, errors, retries, credentials."""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.kube.address import ClusterAddress, find_cluster
from tasks.kube.client import ALL_NAMESPACES, Cluster
from tasks.kube.errors import (
    ClusterError,
    ConflictError,
    ExpiredError,
    ForbiddenError,
    InvalidError,
    NoClusterError,
    NotFoundError,
    UnreachableError,
)
from tests.kubernetes.cluster import EmulatedCluster

CONFIG = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"x": "1", "y": "2"}}


@pytest.fixture
def emulated() -> Iterator[EmulatedCluster]:
    with EmulatedCluster(with_namespace=True) as cluster:
        yield cluster


@pytest.fixture
def cluster(emulated: EmulatedCluster, tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(emulated.address(tmp_path), deadline_s=30) as client:
        yield client


def config(name: str, **metadata: Any) -> dict[str, Any]:
    return {**CONFIG, "metadata": {"name": name, **metadata}}


class TestObjects:
    def test_created_read_and_deleted(self, cluster: Cluster) -> None:
        created = cluster.create(CONFIG)
        assert cluster.get("v1", "ConfigMap", "a") == created
        assert created["metadata"]["namespace"] == "rcarena"
        assert cluster.delete("v1", "ConfigMap", "a") is True
        assert cluster.delete("v1", "ConfigMap", "a") is False
        assert cluster.find("v1", "ConfigMap", "a") is None

    def test_cluster_wide_kinds_have_no_namespace(self, cluster: Cluster, emulated: EmulatedCluster) -> None:
        emulated.add_node("gpu-0", gpus=2)
        assert cluster.get("v1", "Node", "gpu-0")["status"]["allocatable"]["nvidia.com/gpu"] == "2"

    def test_lists_every_page_with_type_of_the_items(self, cluster: Cluster, emulated: EmulatedCluster) -> None:
        for number in range(1203):
            emulated.put(config(f"c-{number:04}", labels={"even": str(number % 2 == 0)}))
        found = cluster.list("v1", "ConfigMap", label_selector="even=True")
        assert len(found) == 602
        assert found[0]["kind"] == "ConfigMap"
        assert sum("continue=" in path for _, path in emulated.requests) == 1

    def test_a_list_whose_continuation_expired_starts_again(self, cluster: Cluster, emulated: EmulatedCluster) -> None:
        for number in range(600):
            emulated.put(config(f"c-{number}"))
        emulated.misbehave(status=410, path="continue=")
        assert len(cluster.list("v1", "ConfigMap")) == 600

    def test_lists_across_namespaces(self, cluster: Cluster, emulated: EmulatedCluster) -> None:
        emulated.put(config("here"))
        emulated.put(config("there", namespace="default"))
        assert {each["metadata"]["name"] for each in cluster.list("v1", "ConfigMap", namespace=ALL_NAMESPACES)} == {
            "here",
            "there",
        }
        assert len(cluster.list("v1", "ConfigMap", field_selector="metadata.name=here")) == 1

    def test_apply_creates_changes_removes_and_keeps_what_others_set(self, cluster: Cluster) -> None:
        cluster.apply(CONFIG)
        cluster.merge_patch("v1", "ConfigMap", "a", {"data": {"other": "3"}, "metadata": {"labels": {"l": "v"}}})
        applied = cluster.apply({**CONFIG, "data": {"x": "5"}})
        assert applied["data"] == {"x": "5", "other": "3"}
        assert applied["metadata"]["labels"] == {"l": "v"}

    def test_applying_the_same_again_changes_nothing(self, cluster: Cluster) -> None:
        first = cluster.apply(CONFIG)
        assert cluster.apply(CONFIG)["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]

    def test_dry_run_shows_the_change_and_makes_none(self, cluster: Cluster) -> None:
        assert cluster.apply(CONFIG, dry_run=True)["data"] == CONFIG["data"]
        assert cluster.find("v1", "ConfigMap", "a") is None
        cluster.apply(CONFIG)
        assert cluster.apply({**CONFIG, "data": {"x": "9"}}, dry_run=True)["data"] == {"x": "9"}
        assert cluster.get("v1", "ConfigMap", "a")["data"] == CONFIG["data"]

    def test_status_is_patched_on_its_own(self, cluster: Cluster, emulated: EmulatedCluster) -> None:
        emulated.put({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"nodeName": "n"}})
        patch = {"spec": {"nodeName": "other"}, "status": {"phase": "Running"}}
        cluster.merge_patch("v1", "Pod", "p", patch, subresource="status")
        pod = cluster.get("v1", "Pod", "p")
        assert (pod["status"], pod["spec"]) == ({"phase": "Running"}, {"nodeName": "n"})

    def test_deletion_waits_for_finalizers(self, cluster: Cluster) -> None:
        cluster.create(config("held", finalizers=["chaos-mesh/records"]))
        assert cluster.delete("v1", "ConfigMap", "held")
        assert cluster.get("v1", "ConfigMap", "held")["metadata"]["deletionTimestamp"]
        cluster.merge_patch("v1", "ConfigMap", "held", {"metadata": {"finalizers": None}})
        assert cluster.find("v1", "ConfigMap", "held") is None

    def test_deletes_only_the_object_with_the_uid(self, cluster: Cluster) -> None:
        old = cluster.create(CONFIG)
        cluster.delete("v1", "ConfigMap", "a")
        new = cluster.create(CONFIG)
        assert cluster.delete("v1", "ConfigMap", "a", uid=old["metadata"]["uid"]) is False
        assert cluster.get("v1", "ConfigMap", "a") == new
        assert cluster.delete("v1", "ConfigMap", "a", uid=new["metadata"]["uid"]) is True

    def test_dependents_go_with_their_owner(self, cluster: Cluster) -> None:
        owner = cluster.create(CONFIG)
        reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "a", "uid": owner["metadata"]["uid"]}
        cluster.create(config("child", ownerReferences=[reference]))
        cluster.delete("v1", "ConfigMap", "a")
        assert cluster.list("v1", "ConfigMap") == []

    def test_reads_logs(self, cluster: Cluster, emulated: EmulatedCluster) -> None:
        emulated.put({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {}})
        emulated.write_log("p", "one\ntwo\nthree\n")
        assert cluster.logs("p", tail_lines=2) == "two\nthree\n"

    def test_kinds_that_are_not_in_the_table_are_discovered(self, cluster: Cluster, emulated: EmulatedCluster) -> None:
        emulated.register("example.org/v1", "Widget", "widgets", namespaced=False)
        created = cluster.create({"apiVersion": "example.org/v1", "kind": "Widget", "metadata": {"name": "w"}})
        assert ("POST", "/apis/example.org/v1/widgets") in [(m, p.split("?")[0]) for m, p in emulated.requests]
        assert "namespace" not in created["metadata"]

    def test_knows_whether_a_crd_is_there(self, cluster: Cluster, emulated: EmulatedCluster) -> None:
        assert "rayservices" in cluster.plurals("ray.io")
        emulated.uninstall("ray.io")
        with pytest.raises(NotFoundError):
            cluster.plurals("ray.io")

    def test_asks_for_permissions_and_version(self, cluster: Cluster, emulated: EmulatedCluster) -> None:
        assert cluster.can_i("create", "podchaos", group="chaos-mesh.org")
        emulated.deny("get", "pods/log")
        assert not cluster.can_i("get", "pods", subresource="log")
        assert cluster.can_i("get", "pods")
        assert cluster.version() == "v1.34.2"


class TestErrors:
    def test_not_found_tells_an_object_from_a_kind(self, cluster: Cluster, emulated: EmulatedCluster) -> None:
        emulated.uninstall("chaos-mesh.org")
        with pytest.raises(NotFoundError) as object_error:
            cluster.get("v1", "Pod", "nobody")
        with pytest.raises(NotFoundError) as kind_error:
            cluster.get("chaos-mesh.org/v1alpha1", "PodChaos", "x")
        assert not object_error.value.kind_missing
        assert kind_error.value.kind_missing

    def test_already_exists_and_conflict(self, cluster: Cluster) -> None:
        created = cluster.create(CONFIG)
        with pytest.raises(ConflictError) as taken:
            cluster.create(CONFIG)
        assert taken.value.already_exists
        cluster.merge_patch("v1", "ConfigMap", "a", {"data": {"x": "2"}})
        stale = {"metadata": {"resourceVersion": created["metadata"]["resourceVersion"]}, "data": {"x": "3"}}
        with pytest.raises(ConflictError) as conflict:
            cluster.merge_patch("v1", "ConfigMap", "a", stale)
        assert not conflict.value.already_exists

    def test_invalid_names_the_field(self, cluster: Cluster, emulated: EmulatedCluster) -> None:
        emulated.admit("v1", "ConfigMap", lambda document: [("data.x", "must be a word")])
        with pytest.raises(InvalidError, match=r"data\.x: must be a word") as error:
            cluster.apply(CONFIG)
        assert error.value.fields == ("data.x",)

    def test_forbidden_has_a_cure(self, cluster: Cluster, emulated: EmulatedCluster) -> None:
        emulated.deny("list", "pods")
        with pytest.raises(ForbiddenError, match="preflight"):
            cluster.list("v1", "Pod")

    def test_messages_name_context_and_server_and_no_token(self, cluster: Cluster, emulated: EmulatedCluster) -> None:
        with pytest.raises(ClusterError) as error:
            cluster.get("v1", "Pod", "nobody")
        text = str(error.value)
        assert text == f"get Pod rcarena/nobody: pods \"nobody\" not found (context 'emulated', {emulated.url})"
        assert emulated.token not in text


class TestCredentials:
    def test_a_rotated_token_is_read_again(self, cluster: Cluster, emulated: EmulatedCluster) -> None:
        cluster.version()
        emulated.rotate_token()
        assert cluster.list("v1", "ConfigMap") == []

    def test_an_expired_token_is_said_with_its_cure(self, cluster: Cluster, emulated: EmulatedCluster) -> None:
        emulated.expire_token()
        with pytest.raises(ExpiredError, match="log in to the cluster again") as error:
            cluster.list("v1", "ConfigMap")
        assert "token-" not in str(error.value)
        assert len(emulated.requests) == 2


class TestTrouble:
    @pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
    def test_asks_again(self, cluster: Cluster, emulated: EmulatedCluster, status: int) -> None:
        emulated.misbehave(status=status, times=2)
        assert cluster.apply(CONFIG)["data"] == CONFIG["data"]

    def test_waits_as_long_as_it_is_told(self, cluster: Cluster, emulated: EmulatedCluster) -> None:
        emulated.misbehave(status=429, retry_after_s=1)
        begin = time.monotonic()
        cluster.version()
        assert time.monotonic() - begin >= 1

    @pytest.mark.parametrize("trouble", [{"truncate": True}, {"reset": True}, {"reset": True, "after": True}])
    def test_a_lost_answer_is_asked_for_again(
        self, cluster: Cluster, emulated: EmulatedCluster, trouble: dict[str, Any]
    ) -> None:
        emulated.misbehave(**trouble, method="PATCH")
        assert cluster.apply(CONFIG)["metadata"]["name"] == "a"

    def test_a_slow_answer_is_given_up_and_asked_for_again(self, emulated: EmulatedCluster, tmp_path: Path) -> None:
        emulated.misbehave(delay_s=1)
        with Cluster(emulated.address(tmp_path), deadline_s=5, read_timeout_s=0.2) as client:
            assert client.version() == "v1.34.2"
        assert len(emulated.requests) == 2

    def test_a_lost_creation_with_a_generated_name_is_not_repeated(
        self, cluster: Cluster, emulated: EmulatedCluster
    ) -> None:
        emulated.misbehave(reset=True, after=True, method="POST")
        with pytest.raises(UnreachableError):
            cluster.create({**CONFIG, "metadata": {"generateName": "a-"}})
        assert len(emulated.objects("v1", "ConfigMap")) == 1

    def test_a_lost_deletion_is_a_deletion(self, cluster: Cluster, emulated: EmulatedCluster) -> None:
        created = cluster.create(CONFIG)
        emulated.misbehave(truncate=True, method="DELETE")
        cluster.delete("v1", "ConfigMap", "a", uid=created["metadata"]["uid"])
        assert emulated.objects("v1", "ConfigMap") == []

    def test_gives_up_at_the_deadline_and_says_why(self, emulated: EmulatedCluster, tmp_path: Path) -> None:
        emulated.misbehave(status=503, times=1000, message="the server is starting")
        with (
            Cluster(emulated.address(tmp_path), deadline_s=0.7) as client,
            pytest.raises(UnreachableError, match="HTTP 503: the server is starting"),
        ):
            client.version()
        assert len(emulated.requests) >= 2

    def test_nobody_listens(self, tmp_path: Path) -> None:
        with EmulatedCluster() as emulated:
            address = emulated.address(tmp_path)
        with (
            Cluster(address, deadline_s=0.3) as client,
            pytest.raises(UnreachableError, match=rf"Connection refused \(context 'emulated', {emulated.url}\)"),
        ):
            client.version()

    def test_many_threads_share_a_client(self, cluster: Cluster, emulated: EmulatedCluster) -> None:
        emulated.misbehave(status=500, times=5)
        threads = [threading.Thread(target=cluster.apply, args=(config(f"t-{n}"),)) for n in range(20)]
        for thread in threads:
            thread.start()
        emulated.rotate_token()
        for thread in threads:
            thread.join()
        assert len(emulated.objects("v1", "ConfigMap")) == 20


class TestAddress:
    def test_pins_the_current_context(self, emulated: EmulatedCluster, tmp_path: Path) -> None:
        path = emulated.kubeconfig(tmp_path / "config", context="prod")
        address = find_cluster(None, "ns", {"KUBECONFIG": str(path)})
        assert address == ClusterAddress(namespace="ns", context="prod", kubeconfig=str(path))
        assert pickle.loads(pickle.dumps(address)) == address
        assert ClusterAddress.model_validate_json(address.model_dump_json()) == address

    def test_an_unknown_context_is_a_clear_error(self, emulated: EmulatedCluster, tmp_path: Path) -> None:
        path = emulated.kubeconfig(tmp_path / "config", context="prod")
        with pytest.raises(NoClusterError, match="has no context 'prdo'; did you mean 'prod'"):
            find_cluster("prdo", "ns", {"KUBECONFIG": str(path)})

    def test_no_kubeconfig_is_a_clear_error(self, tmp_path: Path) -> None:
        with pytest.raises(NoClusterError, match="no kubeconfig at"):
            find_cluster(None, "ns", {"KUBECONFIG": str(tmp_path / "absent")})

    def test_inside_a_pod_its_service_account_is_used(self) -> None:
        address = find_cluster(None, "ns", {"KUBERNETES_SERVICE_HOST": "10.0.0.1"})
        assert address.in_cluster

    def test_a_broken_kubeconfig_is_a_clear_error(self, tmp_path: Path) -> None:
        path = tmp_path / "config"
        path.write_text("contexts: [", encoding="utf-8")
        with pytest.raises(NoClusterError, match="cannot be read as a kubeconfig"):
            find_cluster(None, "ns", {"KUBECONFIG": str(path)})
