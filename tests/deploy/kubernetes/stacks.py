"""Three stacks that every render must be right for."""

from __future__ import annotations

from typing import Any

from tasks.deploy.kubernetes.params import KubernetesDeployParams

DOCUMENTS: dict[str, dict[str, Any]] = {
    "default": {"replicas": 3},
    "multi-node": {
        "replicas": 2,
        "namespace": "llama",
        "model": "llama-3.1-8b",
        "engine_arguments": {"max_num_seqs": 128},
        "parallelism": {"tensor": 2, "pipeline": 2},
        "placement_strategy": "SPREAD",
        "accelerator": {"runtime_class": "nvidia", "node_selector": {"gpu": "h100"}},
        "storage": {"class_name": "fast-nfs", "size_gb": 500, "access_mode": "ReadWriteMany"},
        "telemetry": {"install": False, "otlp_endpoint": "http://collector.observability:4317"},
        "scrape_interval_s": 10,
    },
    "cpu-toy": {
        "replicas": 1,
        "model": "toy-cpu",
        "accelerator": {"kind": "none"},
        "model_token": None,
        "images": {"serve": "rcarena/serve-cpu:0.1.0"},
        "resources": {"replica": {"cpu_cores": 2, "memory_gb": 6}},
        "telemetry": {"istio": False},
    },
}


def stack(name: str = "default", **changes: Any) -> KubernetesDeployParams:
    return KubernetesDeployParams.model_validate({"backend": "kubernetes", **DOCUMENTS[name], **changes})
