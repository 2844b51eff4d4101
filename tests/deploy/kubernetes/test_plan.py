"""The plan against the emulated API server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.deploy.kubernetes.plan import changes_spec, plan, text
from tasks.kube.client import Cluster
from tasks.kube.errors import InvalidError
from tasks.kube.manifest import Manifest
from tests.kubernetes.cluster import EmulatedCluster


@pytest.fixture
def emulated() -> Iterator[EmulatedCluster]:
    with EmulatedCluster(with_namespace=True) as cluster:
        yield cluster


@pytest.fixture
def cluster(emulated: EmulatedCluster, tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(emulated.address(tmp_path), deadline_s=30) as client:
        yield client


def config(name: str, namespace: str = "rcarena", **data: str) -> Manifest:
    metadata = {"name": name, "namespace": namespace}
    return Manifest({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})


def service(port: int) -> Manifest:
    spec: dict[str, Any] = {"ports": [{"port": port}], "selector": {"app": "x"}}
    metadata = {"name": "s", "namespace": "rcarena"}
    return Manifest({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec})


def test_tells_new_changed_and_unchanged_objects_and_changes_none(cluster: Cluster, emulated: EmulatedCluster) -> None:
    cluster.apply(config("same", x="1").document)
    cluster.apply(service(80).document)
    before = emulated.store.version
    changes = plan(cluster, (config("new"), config("same", x="1"), service(81)))
    assert [change.action for change in changes] == ["create", "unchanged", "change"]
    assert emulated.store.version == before
    lines = changes[2].diff.splitlines()
    assert "-  - port: 80" in lines
    assert "+  - port: 81" in lines
    assert text(changes).splitlines()[-1] == "1 to create, 1 to change, 1 unchanged"


def test_what_the_server_adds_is_no_change(cluster: Cluster, emulated: EmulatedCluster) -> None:
    applied = cluster.apply(service(80).document)
    assert applied["spec"]["clusterIP"]
    emulated.set_status("v1", "Service", "s", {"loadBalancer": {}})
    (change,) = plan(cluster, (service(80),))
    assert change.action == "unchanged"


def test_objects_of_a_namespace_that_is_still_to_be_made(cluster: Cluster) -> None:
    (change,) = plan(cluster, (config("a", namespace="later"),))
    assert (change.action, change.reason) == ("create", "not checked: its namespace is not there yet")


def test_kinds_that_a_chart_is_still_to_bring(cluster: Cluster, emulated: EmulatedCluster) -> None:
    emulated.uninstall("monitoring.coreos.com")
    metadata = {"name": "m", "namespace": "rcarena"}
    monitor = Manifest({"apiVersion": "monitoring.coreos.com/v1", "kind": "PodMonitor", "metadata": metadata})
    (change,) = plan(cluster, (monitor,))
    assert change.action == "create"
    assert "not known to the cluster yet" in change.reason


def test_values_of_secrets_are_never_shown(cluster: Cluster) -> None:
    def secret(value: str) -> Manifest:
        metadata = {"name": "t", "namespace": "rcarena"}
        return Manifest({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {"token": value}})

    cluster.apply(secret("hf_first").document)
    (change,) = plan(cluster, (secret("hf_second"),))
    assert change.action == "change"
    assert "<hidden" in change.diff
    for leaked in ("hf_first", "hf_second", "aGZf"):
        assert leaked not in change.diff


def test_a_manifest_that_the_server_refuses_is_an_error(cluster: Cluster, emulated: EmulatedCluster) -> None:
    emulated.admit("v1", "ConfigMap", lambda document: [("data", "forbidden")])
    with pytest.raises(InvalidError, match="forbidden"):
        plan(cluster, (config("a"),))


def test_what_may_not_be_read_is_unknown(cluster: Cluster, emulated: EmulatedCluster) -> None:
    emulated.deny("get", "configmaps")
    (change,) = plan(cluster, (config("a"),))
    assert change.action == "unknown"
    assert "1 cannot be told" in text((change,))


def test_a_change_of_labels_is_no_change_of_the_spec(cluster: Cluster) -> None:
    cluster.apply(service(80).document)
    labelled = Manifest(
        {**service(80).document, "metadata": {**service(80).document["metadata"], "labels": {"a": "b"}}}
    )
    assert not changes_spec(cluster, labelled)
    assert changes_spec(cluster, service(81))
