"""A campaign on a stack that somebody else deployed: load where it was asked for, and cases like any others."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.case import read_cases, validate_case
from tests.backends.attached.params import attached
from tests.backends.attached.test_backend import REPLICAS, ROUTER, prometheus
from tests.command import ROOT, rcarena, rcarena_here
from tests.export.emulators import serving
from tests.waiting import until

WINDOWS = {"warmup_s": 2, "baseline_s": 3, "fault_s": 3, "recovery_s": 1}


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[str]:
    """URL of a server that answers completions."""
    folder = tmp_path / "server"
    for name in ("edge", "head", "a", "b"):
        (folder / "logs" / name).mkdir(parents=True)
    (folder / "delays").mkdir()
    command = [sys.executable, "-m", "tests.backends.toy.server", str(folder), "5", "edge", "head", "a", "b"]
    server = subprocess.Popen(command, cwd=ROOT)
    until((folder / "port").exists)
    yield f"http://127.0.0.1:{(folder / 'port').read_text()}"
    server.kill()
    server.wait()


def document(url: str, **deploy: Any) -> dict[str, Any]:
    params = attached(url, [ROUTER, REPLICAS], **deploy)
    params["campaign"] = {**params["campaign"], "fault_free_cases": 1, "windows": WINDOWS}
    return {**params, "export": {"step_s": 1, "rate_window_s": 2}, "load": {"arrival": "constant", "rate": 4}}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_case_without_a_fault_is_recorded(gateway: str, tmp_path: Path) -> None:
    with serving(prometheus) as url:
        file = tmp_path / "params.yaml"
        file.write_text(yaml.safe_dump(document(url, gateway_url=gateway, model="toy")))
        done = rcarena("collect", "--params", str(file), "--workspace", str(tmp_path / "w"))
    assert done.returncode == 0, done.stdout + done.stderr
    (case,) = read_cases(tmp_path / "w" / "cases")
    assert validate_case(case.path) == []
    assert [service.name for service in case.record.stack.services] == ["router", "vllm-0", "vllm-1"]
    assert case.record.stack.backend == "attached"
    assert case.requests["status"].eq(200).all()
    assert set(case.metrics["service"]) == {"vllm-0", "vllm-1"}
    assert case.record.completeness["spans"].status == "missing"


def test_without_a_gateway_there_is_no_load(tmp_path: Path) -> None:
    with serving(prometheus) as url:
        file = tmp_path / "params.yaml"
        file.write_text(yaml.safe_dump(document(url)))
        done = rcarena_here("collect", "--params", str(file), "--workspace", str(tmp_path / "w"))
    assert done.exit_code != 0
    assert "deploy.gateway_url: is not set, so the stack can only be read" in done.stdout + done.stderr
