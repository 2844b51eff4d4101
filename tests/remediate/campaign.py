"""A small campaign on simulated replicas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks.params import Params, load_params

ROOT = Path(__file__).resolve().parents[2]


def params(policies: tuple[str, ...] = ("none", "platform", "table:peerwise", "oracle")) -> Params:
    document: dict[str, Any] = load_params(ROOT / "presets/simulated.yaml").model_dump(mode="json")
    document["campaign"] |= {
        "name": "remedy",
        "fault_free_cases": 1,
        "windows": {"warmup_s": 5, "baseline_s": 40, "fault_s": 60, "recovery_s": 5},
    }
    throttle = {"kind": "accelerator-throttle", "targets": ["ray-replicas-1"], "parameters": {"fraction": 0.1}}
    document["inject"] = {"faults": [throttle]}
    slo = {"alarm_p": 1e-4}
    document["remediate"] = {"policies": list(policies), "slo": slo, "guards": {"restart_s": 30}}
    return Params.model_validate(document)
