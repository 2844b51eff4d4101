"""The stand-ins of operators write what a real API server takes from the real ones."""

from __future__ import annotations

from pathlib import Path

from tasks.deploy.kubernetes.params import KubernetesDeployParams
from tasks.deploy.kubernetes.render import render_stack
from tests.kubernetes.cluster import EmulatedCluster
from tests.kubernetes.store import Object
from tests.kubernetes.workloads import DeploymentController, Kubelet, RayServiceController
from tests.waiting import until

CONDITION = {"type", "status", "reason", "message", "lastTransitionTime"}
"""What the schema of KubeRay's CRD requires of each condition; a server refuses a status without."""


def test_kuberay_writes_whole_conditions_and_keeps_their_times(tmp_path: Path) -> None:
    with EmulatedCluster(with_namespace=True) as cluster:
        cluster.add_node("gpu-0", gpus=1)
        for controller in (DeploymentController(), RayServiceController(), Kubelet()):
            cluster.add_controller(controller)
        for manifest in render_stack(KubernetesDeployParams(backend="kubernetes", replicas=1)):
            if manifest.kind == "RayService":
                cluster.put(manifest.document)
        until(lambda: conditions(cluster)["Ready"]["status"] == "True")
        first = conditions(cluster)
        assert all(each.keys() == CONDITION for each in first.values())
        cluster.add_namespace("another")  # the controllers look again
        until(lambda: conditions(cluster) == first)


def conditions(cluster: EmulatedCluster) -> dict[str, Object]:
    """The conditions of the RayService by their type."""
    service = cluster.get("ray.io/v1", "RayService", "rcarena") or {}
    found = {each["type"]: each for each in (service.get("status") or {}).get("conditions") or ()}
    return {"Ready": {"status": "Unknown"}} | found
