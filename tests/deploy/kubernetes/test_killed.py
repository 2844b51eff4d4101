"""``kill -9`` of ``up`` and ``down`` in the middle: the next one ends the work."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.backends import published
from tasks.deploy.kubernetes.lifecycle import up
from tasks.deploy.kubernetes.params import KubernetesDeployParams
from tasks.deploy.kubernetes.teardown import down
from tasks.kube.manifest import stack_selector
from tests.deploy.kubernetes.conftest import MakeParams
from tests.kubernetes.cluster import EmulatedCluster
from tests.slow import first_always
from tests.waiting import until

KINDS = {
    "v1": ("ServiceAccount", "ConfigMap", "Service", "Pod"),
    "rbac.authorization.k8s.io/v1": ("Role", "RoleBinding"),
    "apps/v1": ("Deployment", "DaemonSet"),
    "ray.io/v1": ("RayService",),
}
CALL = """
import sys
from pathlib import Path
from tasks.deploy.kubernetes.lifecycle import up
from tasks.deploy.kubernetes.teardown import down
from tasks.deploy.kubernetes.params import KubernetesDeployParams
action, params, stack = sys.argv[1:]
{"up": up, "down": down}[action](KubernetesDeployParams.model_validate_json(params), Path(stack))
"""


def ours(cluster: EmulatedCluster) -> list[str]:
    selector = stack_selector("rcarena")
    return [
        f"{kind} {each['metadata']['name']}"
        for api_version, kinds in KINDS.items()
        for kind in kinds
        for each in cluster.objects(api_version, kind, labels=selector)
    ]


def kill_when(condition: Callable[[], bool], action: str, params: KubernetesDeployParams, stack: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", CALL, action, params.model_dump_json(), str(stack)])
    until(lambda: condition() or process.poll() is not None, pause_s=0.001)
    assert process.poll() is None, f"{action} ended before it could be killed"
    process.kill()
    process.wait()


@pytest.mark.parametrize("made", first_always([8, 1, 20]))
def test_a_stack_whose_up_was_killed_goes_away(
    gpu_cluster: EmulatedCluster, make_params: MakeParams, tmp_path: Path, made: int
) -> None:
    params, stack = make_params(), tmp_path / "workspace" / "stack"
    kill_when(lambda: len(ours(gpu_cluster)) >= made, "up", params, stack)
    assert published(stack) is None
    assert down(params, stack)
    assert ours(gpu_cluster) == []
    assert not down(params, stack)


def test_a_stack_whose_up_was_killed_comes_up(
    gpu_cluster: EmulatedCluster, make_params: MakeParams, tmp_path: Path
) -> None:
    params, stack = make_params(), tmp_path / "workspace" / "stack"
    kill_when(lambda: len(ours(gpu_cluster)) >= 8, "up", params, stack)
    assert up(params, stack).alive


@pytest.mark.parametrize("left", first_always([0.4, 0.9]))
def test_a_down_that_was_killed_is_finished(
    gpu_cluster: EmulatedCluster, make_params: MakeParams, tmp_path: Path, left: float
) -> None:
    params, stack = make_params(), tmp_path / "workspace" / "stack"
    up(params, stack)
    full = len(ours(gpu_cluster))
    kill_when(lambda: len(ours(gpu_cluster)) < left * full, "down", params, stack)
    down(params, stack)
    assert ours(gpu_cluster) == []
    assert published(stack) is None
