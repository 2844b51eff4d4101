"""What a case says of the stack: limits and accelerators per service."""

from __future__ import annotations

from pathlib import Path

from tasks.backends.kubernetes.stack import KubernetesStack
from tasks.backends.local.stack import LocalStack
from tasks.case import Limits
from tasks.deploy.kubernetes.params import KubernetesDeployParams
from tasks.deploy.kubernetes.runtime import KubernetesRuntime, PodRuntime
from tasks.deploy.kubernetes.runtime import ServiceRuntime as KubernetesService
from tasks.deploy.local.params import LocalDeployParams
from tasks.deploy.local.runtime import ServiceRuntime, StackRuntime


def test_a_local_stack_says_its_limits(tmp_path: Path) -> None:
    services = [("nginx-proxy", "gateway", 0.5), ("ray-head", "head", None), ("ray-replicas-0", "replica", 0.6)]
    runtime = StackRuntime.model_construct(
        services=tuple(
            ServiceRuntime.model_construct(name=name, role=role, address="10.0.0.1", cgroups={}, cpu_cores=cores)
            for name, role, cores in services
        ),
        directory=tmp_path,
        versions={},
    )
    model = {"kv_cache_mb": 32, "max_model_len": 256, "max_num_seqs": 8}
    params = LocalDeployParams.model_validate({"backend": "local", "replicas": 1, "model": model})
    limits = {service.name: service.limits for service in LocalStack(runtime, params).describe().services}
    assert limits == {
        "nginx-proxy": Limits(cpu_cores=0.5),
        "ray-head": Limits(),
        "ray-replicas-0": Limits(cpu_cores=0.6, kv_cache_bytes=32 * 2**20, max_model_len=256, max_num_seqs=8),
    }


def test_a_stack_on_kubernetes_says_its_limits_and_accelerators(tmp_path: Path) -> None:
    def pod(name: str, node: str, *gpus: str) -> PodRuntime:
        return PodRuntime(name=name, uid=name, node=node, ip="10.0.0.1", gpus=gpus)

    pods = {
        "nginx-proxy": ("gateway", (pod("a", "n1"),)),
        "ray-replicas-0": ("replica", (pod("b", "n1", "GPU-1", "GPU-2"), pod("c", "n2", "GPU-3", "GPU-4"))),
    }
    runtime = KubernetesRuntime.model_construct(
        services=tuple(
            KubernetesService.model_construct(name=name, role=role, selector="x", container="x", pods=of)
            for name, (role, of) in pods.items()
        ),
        directory=tmp_path,
        versions={},
    )
    params = KubernetesDeployParams.model_validate(
        {
            "backend": "kubernetes",
            "replicas": 1,
            "parallelism": {"tensor": 2, "pipeline": 2},
            "resources": {"replica": {"cpu_cores": 4, "memory_gb": 10}, "gateway": {"cpu_cores": 1, "memory_gb": 0.5}},
            "engine_arguments": {"max_num_seqs": 64, "max_model_len": "8k"},
        }
    )
    gateway, replica = KubernetesStack(runtime, params).describe().services
    assert gateway.limits == Limits(cpu_cores=1, memory_bytes=0.5e9)
    assert gateway.devices == ()
    assert replica.devices == ("GPU-1", "GPU-2", "GPU-3", "GPU-4")
    assert (replica.limits.cpu_cores, replica.limits.memory_bytes, replica.limits.max_num_seqs) == (8, 20e9, 64)
    assert replica.limits.max_model_len is None
