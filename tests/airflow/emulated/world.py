"""Two stacks on an emulated cluster that enforces the rendered roles, for pods that a real Airflow starts.

    python -m tests.airflow.emulated.world DIRECTORY

Runs until SIGTERM, in the environment of the tasks. DIRECTORY gets ``params.yaml``, a kubeconfig per service account in
``accounts``, and at last ``ready``: the URL that answers with what is on the cluster (see ``state``).
"""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path

from tasks.deploy.kubernetes.names import task_account
from tasks.deploy.kubernetes.params import KubernetesDeployParams
from tasks.deploy.kubernetes.preflight import DEFAULT_CLASS
from tasks.deploy.kubernetes.render import render_stack
from tasks.params import load_params
from tests.export.emulators import Request, Response, json_response, serving
from tests.kubernetes import rbac
from tests.kubernetes.live_stack import LiveStack, live_stack
from tests.test_kubernetes_campaign import FOUR_CASES, params_for

NAMESPACES = ("rcarena-0", "rcarena-1")
WITH_TOKEN = ("deploy", "inject", "export")
"""Tasks whose pods have a token of their account; the others reach no API."""
PREPARED = rbac.KINDS | {"Namespace", "CustomResourceDefinition", "PersistentVolumeClaim"}
CAMPAIGN = {**FOUR_CASES, "score": FOUR_CASES["score"] | {"methods": ["random"]}}


def main() -> None:
    directory = Path(sys.argv[1])
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    with live_stack(directory, NAMESPACES) as stack, serving(lambda request: state(stack, request)) as url:
        params = params_for(stack, directory / "params.yaml", CAMPAIGN)
        prepare(stack, params)
        (directory / "accounts").mkdir()
        for task in WITH_TOKEN:
            stack.cluster.kubeconfig(directory / "accounts" / task_account(task), account=task_account(task))
        (directory / ".ready").write_text(url)
        (directory / ".ready").rename(directory / "ready")
        ended.wait()


def prepare(stack: LiveStack, params: Path) -> None:
    """A default storage class, and what an administrator applies before the first pod (docs/airflow.md)."""
    storage = {"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "provisioner": "emulated"}
    stack.cluster.put({**storage, "metadata": {"name": "standard", "annotations": {DEFAULT_CLASS: "true"}}})
    deploy = load_params(params).deploy
    assert isinstance(deploy, KubernetesDeployParams)
    for index in range(deploy.stack_count):
        for manifest in render_stack(deploy.of_stack(index)):
            if manifest.kind in PREPARED:
                stack.cluster.put(manifest.document)


def state(stack: LiveStack, request: Request) -> Response:
    """``refused``: requests that no role allows; ``faults`` and ``stacks``: the namespaces that have some."""
    cluster = stack.cluster
    kinds = [("chaos-mesh.org/v1alpha1", kind) for kind in ("StressChaos", "NetworkChaos", "PodChaos")]
    kinds.append(("rcarena.io/v1alpha1", "NodeFault"))
    faults = [each["metadata"]["namespace"] for kind in kinds for each in cluster.objects(*kind)]
    stacks = [each["metadata"]["namespace"] for each in cluster.objects("ray.io/v1", "RayService")]
    return json_response({"refused": list(cluster.refused), "faults": sorted(faults), "stacks": sorted(stacks)})


if __name__ == "__main__":
    main()
