"""A whole campaign on an emulated cluster (see ``tests.kubernetes.live_stack`` for what is real in it)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.case import Case, read_cases, validate_case
from tasks.inject.recover import residue
from tasks.params import load_params
from tasks.workspace import Workspace
from tests.kubernetes.live_stack import FULL_POWER_W, LiveStack, live_stack
from tests.node_agent.machine import GPU, OTHER_GPU

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

CONFIG: dict[str, Any] = {
    "campaign": {
        "name": "emulated",
        "seed": 7,
        "fault_free_cases": 0,
        "windows": {"warmup_s": 4, "baseline_s": 14, "fault_s": 14, "recovery_s": 6},
    },
    "load": {"arrival": "constant", "rate": 4, "output_tokens": {"mean": 8}},
    "inject": {
        "faults": [
            {"kind": "cpu-stress", "targets": ["ray-replicas-0"], "parameters": {"workers": 4}},
            {"kind": "network-delay", "targets": ["ray-replicas-1"], "parameters": {"delay_ms": 200, "jitter_ms": 0}},
            {"kind": "gpu-power-limit", "targets": ["ray-replicas-1"]},
        ]
    },
    "export": {"step_s": 1, "rate_window_s": 4},
    "score": {"methods": ["random", "nsigma", "baro", "microrank"], "profile": "paper", "bootstrap_samples": 200},
    "report": {},
}


def params_for(stack: LiveStack, file: Path) -> Path:
    deploy = {
        "backend": "kubernetes",
        "replicas": 2,
        "model": "falcon-h1-7b",
        "telemetry": {"install": False},
        "endpoints": {
            "gateway": stack.gateway_url,
            "prometheus": stack.prometheus_url,
            "loki": stack.loki_url,
            "spans": stack.spans_url,
        },
        "scrape_interval_s": 1,
        "start_timeout_s": 60,
    }
    file.write_text(yaml.safe_dump({**CONFIG, "deploy": deploy}))
    return file


def campaign(params: Path, workspace: Path, kubeconfig: Path, log_file: Path) -> int:
    """Exit status of ``rcarena campaign``; what it says goes to ``log_file``."""
    outside = {name: value for name, value in os.environ.items() if name != "KUBERNETES_SERVICE_HOST"}
    command = [sys.executable, "-m", "tasks.cli", "campaign", "--params", str(params), "--workspace", str(workspace)]
    with log_file.open("wb") as log:
        return subprocess.run(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=outside | {"KUBECONFIG": str(kubeconfig)},
            timeout=500,
            check=False,
        ).returncode


def trouble(stack: LiveStack, workspace: Path, stopped: threading.Event) -> None:
    """While the campaign runs: an API that fails for a while, a rotated token, a Loki that fails twice."""
    while not stopped.is_set() and not list((workspace / "journal").glob("*.json")):
        time.sleep(0.2)
    if not stopped.wait(3):
        stack.cluster.misbehave(status=500, times=6)
    if not stopped.wait(25):
        stack.cluster.rotate_token()
    stack.loki_failures = 2


def by_kind(workspace: Workspace) -> dict[str, Case]:
    cases = list(read_cases(workspace.cases))
    return {case.record.injections[0].kind if case.record.injections else "none": case for case in cases}


def test_a_campaign_on_an_emulated_cluster(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "workspace")
    with live_stack(tmp_path) as stack:
        kubeconfig = stack.cluster.kubeconfig(tmp_path / "kubeconfig")
        params = params_for(stack, tmp_path / "params.yaml")
        load_params(params)
        stopped = threading.Event()
        troubles = threading.Thread(target=trouble, args=(stack, workspace.root, stopped), daemon=True)
        troubles.start()
        status = campaign(params, workspace.root, kubeconfig, tmp_path / "campaign.log")
        stopped.set()
        troubles.join()
        assert status == 0, (tmp_path / "campaign.log").read_text()
        assert stack.leftovers() == []
        assert stack.agent.machine.limit(GPU) == stack.agent.machine.limit(OTHER_GPU) == FULL_POWER_W
        assert stack.cluster.objects("ray.io/v1", "RayService") == []
    assert residue(workspace) == []
    cases = by_kind(workspace)
    assert set(cases) == {"cpu-stress", "network-delay", "gpu-power-limit"}
    for case in cases.values():
        assert validate_case(case.path) == []
        assert case.record.stack.backend == "kubernetes"
        assert {case.record.completeness[signal].status for signal in ("requests", "spans", "topology")} <= {
            "complete",
            "partial",
        }, case.record.completeness
        assert set(case.metrics["service"].unique()) == {"nginx-proxy", "ray-head", "ray-replicas-0", "ray-replicas-1"}
        assert len(case.logs) > 50
    for kind in ("cpu-stress", "network-delay", "gpu-power-limit"):
        injection = cases[kind].record.injections[0]
        assert injection.verdict == "effective", f"{kind}: {injection.reason}"
        assert injection.verified is not None
    scores = json.loads((workspace.scores / "metrics.json").read_text())
    assert scores["cases"]["scored"] == 3
    assert scores["methods"]["nsigma"]["avg5"] > scores["chance"]["avg5"]
    assert (workspace.report / "index.html").exists()
