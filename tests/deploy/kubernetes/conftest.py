"""A cluster with GPU nodes and the operators' stand-ins, a gateway, and parameters that point there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.deploy.kubernetes.params import KubernetesDeployParams
from tests.deploy.kubernetes.gateway import Gateway
from tests.kubernetes.cluster import EmulatedCluster
from tests.kubernetes.workloads import DeploymentController, Kubelet, RayServiceController

MakeParams = Callable[..., KubernetesDeployParams]


@pytest.fixture
def kubelet() -> Kubelet:
    return Kubelet()


@pytest.fixture
def gpu_cluster(kubelet: Kubelet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EmulatedCluster]:
    """Two nodes with two GPUs each; its kubeconfig is the one of this process."""
    with EmulatedCluster() as cluster:
        cluster.add_namespace("rcarena-telemetry")
        for number in range(2):
            cluster.add_node(f"gpu-{number}", gpus=2)
        for controller in (DeploymentController(), RayServiceController(), kubelet):
            cluster.add_controller(controller)
        monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig(tmp_path / "kubeconfig")))
        monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
        yield cluster


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    server = Gateway()
    yield server
    server.close()


@pytest.fixture
def make_params(gateway: Gateway) -> MakeParams:
    def make(**changes: Any) -> KubernetesDeployParams:
        fields: dict[str, Any] = {
            "backend": "kubernetes",
            "replicas": 2,
            "telemetry": {"install": False},
            "endpoints": {"gateway": gateway.url, "prometheus": "http://127.0.0.1:9"},
            "start_timeout_s": 20,
        }
        return KubernetesDeployParams.model_validate({**fields, **changes})

    return make
