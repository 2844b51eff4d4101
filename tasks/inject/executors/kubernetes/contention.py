"""Faults by pods beside the target: they compute on its GPU, hold its memory, or fill its KV cache.

The pods run in the target's own image (it is on the node, and has torch) a program of this package that is sent as
text. They ask for no GPU: with ``NVIDIA_VISIBLE_DEVICES`` the container runtime gives them the target's.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import yaml

from tasks.deploy.kubernetes.names import GATEWAY_PORT, RAY_SERVICE, SERVE_PORT, SERVE_SERVICE, ServiceAddress
from tasks.inject.errors import FaultError
from tasks.inject.executor import FaultParameters
from tasks.inject.executors.kubernetes import gpu_probes
from tasks.inject.executors.kubernetes.chaos_resource import resource_name
from tasks.inject.executors.kubernetes.executor import KubernetesExecutor
from tasks.inject.executors.kubernetes.fault_pod import (
    CONTAINER,
    GRACE_S,
    READY_FILE,
    READY_TIMEOUT_S,
    FaultPod,
    ready_probe,
)
from tasks.inject.executors.kubernetes.target import LOOK_DEADLINE_S, translate_errors
from tasks.inject.executors.kubernetes.undo import DeleteFaultPods, KubernetesStep
from tasks.stack import GATEWAY

P = TypeVar("P", bound=FaultParameters)
HERE = Path(__file__).parent
RAY_API = "ray.io/v1"


class SidePodExecutor(KubernetesExecutor[P]):
    """Runs pods beside the target. ``activeDeadlineSeconds`` ends them even when all our processes are dead."""

    @abstractmethod
    def specs(self, run_for_s: float) -> tuple[dict[str, Any], ...]:
        """Return the specs of the pods to run."""

    @property
    def fault_pods(self) -> FaultPod:
        return FaultPod(self.target, resource_name(self.injection_id))

    def undo_steps(self) -> tuple[KubernetesStep, ...]:
        return (DeleteFaultPods(injection=resource_name(self.injection_id)),)

    def apply(self, run_for_s: float) -> str:
        self.take_pods()
        specs = self.specs(run_for_s)
        self.fault_pods.create(self.injection_id, specs)
        self.fault_pods.await_ready(len(specs))
        self.applied_at = datetime.now(UTC)
        return f"pod beside the target: {specs[0]['containers'][0]['image']}"

    def lost(self) -> str | None:
        return self.fault_pods.lost(LOOK_DEADLINE_S)

    def spec(self, program: str, arguments: dict[str, Any], run_for_s: float) -> dict[str, Any]:
        """Return the spec of a pod in the target's image that runs the file ``program`` of this package."""
        source = (HERE / program).read_text(encoding="utf-8")
        container = self._target_container()
        options = {"seconds": math.ceil(run_for_s + READY_TIMEOUT_S), "ready-file": READY_FILE, **arguments}
        return {
            "restartPolicy": "Never",
            "activeDeadlineSeconds": math.ceil(run_for_s + READY_TIMEOUT_S),
            "terminationGracePeriodSeconds": GRACE_S,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "tolerations": [{"operator": "Exists"}],
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 1000,
                "runAsGroup": 100,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": CONTAINER,
                    "image": container["image"],
                    "imagePullPolicy": container.get("imagePullPolicy", "IfNotPresent"),
                    "command": ["python", "-c", source, *(f"--{name}={value}" for name, value in options.items())],
                    "readinessProbe": ready_probe(),
                    "resources": {"requests": {"cpu": "100m", "memory": "512Mi"}, "limits": {"memory": "8Gi"}},
                    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                }
            ],
        }

    def _target_container(self) -> dict[str, Any]:
        for each in self.pods[0]["spec"]["containers"]:
            if each["name"] == self.target.container:
                return dict(each)
        raise FaultError(f"{self.target.name}: its pod has no container {self.target.container}")


class GpuPodExecutor(SidePodExecutor[P]):
    """Runs one pod on each node where the target has GPUs, on those GPUs."""

    @abstractmethod
    def burner_arguments(self) -> dict[str, Any]:
        """Options of ``gpu_burner.py``."""

    def specs(self, run_for_s: float) -> tuple[dict[str, Any], ...]:
        gpus = gpu_probes.gpus_of(self.target)
        return tuple(
            self._on_gpus(node, [gpu.uuid for gpu in found], run_for_s) for node, found in sorted(gpus.items())
        )

    def _on_gpus(self, node: str, uuids: list[str], run_for_s: float) -> dict[str, Any]:
        spec = self.spec("gpu_burner.py", self.burner_arguments(), run_for_s)
        runtime_class = self.pods[0]["spec"].get("runtimeClassName")
        spec |= {"nodeName": node, **({"runtimeClassName": runtime_class} if runtime_class else {})}
        spec["containers"][0]["env"] = [
            {"name": "NVIDIA_VISIBLE_DEVICES", "value": ",".join(uuids)},
            {"name": "NVIDIA_DRIVER_CAPABILITIES", "value": "compute,utility"},
        ]
        return spec


class PromptExecutor(SidePodExecutor[P]):
    """Runs a pod that sends prompts to the target's engine. Behind Ray's router this needs a stack with one replica, or
    replicas that are separate applications (pipeline parallelism)."""

    @abstractmethod
    def flood_arguments(self) -> dict[str, Any]:
        """Options of ``prompt_flood.py``."""

    def refusal(self) -> str | None:
        if self.url() is not None:
            return None
        return (
            f"requests cannot be aimed at {self.target.service}: Ray Serve's router spreads them over all replicas; "
            "use a stack with one replica (deploy.replicas: 1)"
        )

    def specs(self, run_for_s: float) -> tuple[dict[str, Any], ...]:
        return (self.spec("prompt_flood.py", {"url": self.url(), **self.flood_arguments()}, run_for_s),)

    def url(self) -> str | None:
        """Return a URL whose requests all reach the target's engine; None when there is none."""
        with translate_errors(self.target):
            service = self.target.api().get(RAY_API, "RayService", RAY_SERVICE, namespace=self.target.namespace)
        config = yaml.safe_load(service["spec"]["serveConfigV2"])
        prefix = f"/{self.target.service}"
        if any(each.get("route_prefix") == prefix for each in config["applications"]):
            return ServiceAddress(self.target.namespace, SERVE_SERVICE, SERVE_PORT).url + prefix
        groups = service["spec"]["rayClusterConfig"].get("workerGroupSpecs") or ()
        if len(groups) != 1:
            return None
        return ServiceAddress(self.target.namespace, GATEWAY, GATEWAY_PORT).url
