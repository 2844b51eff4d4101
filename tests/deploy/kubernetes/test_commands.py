"""``rcarena deploy ...`` and ``preflight`` for a cluster, as a person calls them."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click.testing
import pytest
import yaml
from typer.testing import CliRunner

from tasks.cli import app
from tasks.deploy.kubernetes import lease, lifecycle, teardown, waiting
from tests.deploy.kubernetes.gateway import Gateway
from tests.kubernetes.cluster import EmulatedCluster

ROOT = Path(__file__).parents[3]
Rcarena = Callable[..., click.testing.Result]


@pytest.fixture
def rcarena(tmp_path: Path, gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rcarena]:
    """Runs a command with parameters for a cluster; keyword arguments change the section ``deploy``."""
    for module in (lifecycle, teardown, waiting):
        monkeypatch.setattr(module, "POLL_S", 0.05)
    monkeypatch.setattr("tasks.backends.kubernetes.answers.DEADLINE_S", 0.5)
    document = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    document["inject"] = {"faults": []}
    file = tmp_path / "params.yaml"

    def run(command: str, **changes: Any) -> click.testing.Result:
        deploy: dict[str, Any] = {
            "backend": "kubernetes",
            "replicas": 2,
            "telemetry": {"install": False},
            "endpoints": {"gateway": gateway.url, "prometheus": "http://127.0.0.1:9"},
            "start_timeout_s": 20,
            "scrape_interval_s": 2,
        }
        file.write_text(yaml.safe_dump({**document, "deploy": {**deploy, **changes}}), encoding="utf-8")
        where = ["--params", str(file)]
        if command.split()[:2] != ["deploy", "plan"]:
            where += ["--workspace", str(tmp_path / "workspace")]
        return CliRunner().invoke(app, [*command.split(), *where])

    yield run
    logging.getLogger().handlers.clear()


def test_render_needs_no_cluster(rcarena: Rcarena, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "absent"))
    done = rcarena("deploy render")
    assert done.exit_code == 0, done.output
    files = [Path(line) for line in done.stdout.splitlines()]
    kinds = [yaml.safe_load(file.read_text())["kind"] for file in files if file.parent.name == "manifests"]
    assert {"Namespace", "RayService", "Deployment"} <= set(kinds)


@pytest.mark.parametrize("command", ["preflight", "deploy preflight", "deploy plan"])
def test_no_cluster_ends_with_2_and_one_clear_line(
    rcarena: Rcarena, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "absent"))
    done = rcarena(command)
    assert done.exit_code == 2
    assert done.stderr.startswith("rcarena: no cluster: no kubeconfig at ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("command", ["preflight", "deploy plan"])
def test_an_unreachable_cluster_ends_with_2(
    rcarena: Rcarena, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with EmulatedCluster() as gone:
        monkeypatch.setenv("KUBECONFIG", str(gone.kubeconfig(tmp_path / "kubeconfig")))
    done = rcarena(command)
    assert done.exit_code == 2
    assert "Connection refused (context 'emulated'" in done.stderr


def test_an_unknown_context_and_a_wrong_backend_end_with_2(gpu_cluster: EmulatedCluster, rcarena: Rcarena) -> None:
    done = rcarena("deploy plan", context="emulatde")
    assert (done.exit_code, "did you mean 'emulated'" in done.stderr) == (2, True)
    done = CliRunner().invoke(app, ["deploy", "plan", "--params", str(ROOT / "params.yaml")])
    assert (done.exit_code, "needs kubernetes (got local)" in done.stderr) == (2, True)


def test_a_stack_from_preflight_to_down(gpu_cluster: EmulatedCluster, rcarena: Rcarena) -> None:
    done = rcarena("preflight")
    assert done.exit_code == 1
    assert "FAILED   storage class" in done.stdout
    assert "→ set deploy.storage.class_name" in done.stdout
    metadata = {"name": "fast"}
    gpu_cluster.put({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": metadata})
    done = rcarena("preflight --json", storage={"class_name": "fast"})
    assert done.exit_code == 0, done.output
    assert {row["verdict"] for row in json.loads(done.stdout)} == {"ok"}

    done = rcarena("deploy plan")
    assert done.exit_code == 0, done.output
    assert "+ RayService rcarena/rcarena" in done.stdout
    assert rcarena("deploy status").exit_code == 1

    done = rcarena("deploy up")
    assert done.exit_code == 0, done.output
    assert "prometheus http://127.0.0.1:9" in done.stdout

    done = rcarena("deploy plan")
    assert done.stdout.splitlines()[-1].startswith("0 to create, 0 to change"), done.stdout
    done = rcarena("deploy plan --json", images={"gateway": "nginx:1.29.4-otel"})
    changed = [each["object"] for each in json.loads(done.stdout)["objects"] if each["action"] == "change"]
    assert changed == ["Deployment rcarena/nginx-proxy"]

    done = rcarena("deploy status --json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["state"] == "ready"

    done = rcarena("deploy down")
    assert done.exit_code == 0, done.output
    assert done.stdout.endswith("the stack is down\n")
    assert rcarena("deploy down").stdout.endswith("no stack was up\n")


def test_a_stack_is_held_until_it_is_released(gpu_cluster: EmulatedCluster, rcarena: Rcarena) -> None:
    def holder() -> tuple[str, int]:
        document = gpu_cluster.get(*lease.API, lease.CAMPAIGN_LEASE, "rcarena")
        assert document is not None
        return document["spec"].get("holderIdentity") or "", document["spec"]["leaseDurationSeconds"]

    assert rcarena("deploy up --hold 7200").exit_code == 0
    owner, seconds = holder()
    assert (bool(owner), seconds) == (True, 7200)
    done = rcarena("deploy release")
    assert (done.exit_code, done.stdout) == (0, "no fault is left; the stack stays up\n")
    assert holder()[0] == ""


def test_two_stacks_come_up_and_go_down_together_or_one_by_one(
    gpu_cluster: EmulatedCluster, rcarena: Rcarena, gateway: Gateway
) -> None:
    two: dict[str, Any] = {"stacks": 2, "endpoints": {"gateway": f"{gateway.url}/{{stack}}", "prometheus": "http://a"}}

    def states() -> list[str]:
        done = rcarena("deploy status --json", **two)
        return [each["answer"]["state"] for each in json.loads(done.stdout)]

    done = rcarena("deploy up --stack 1", **two)
    assert done.exit_code == 0, done.output
    assert states() == ["down", "ready"]
    done = rcarena("deploy up --hold 600", **two)
    assert done.exit_code == 0, done.output
    assert f"stack 0: gateway {gateway.url}/0" in done.stdout
    assert f"stack 1: gateway {gateway.url}/1" in done.stdout
    assert states() == ["ready", "ready"]
    for namespace in ("rcarena-0", "rcarena-1"):
        assert gpu_cluster.get("ray.io/v1", "RayService", "rcarena", namespace) is not None
        document = gpu_cluster.get(*lease.API, lease.CAMPAIGN_LEASE, namespace)
        assert document is not None
        assert document["spec"]["leaseDurationSeconds"] == 600
    done = rcarena("deploy release", **two)
    assert done.stdout.splitlines() == [f"stack {index}: no fault is left; the stack stays up" for index in (0, 1)]

    done = rcarena("deploy down --stack 0", **two)
    assert (done.exit_code, done.stdout.splitlines()[-1]) == (0, "stack 0: the stack is down")
    assert states() == ["down", "ready"]
    done = rcarena("deploy down")  # the parameters ask for one stack now: what is up goes all the same
    assert done.exit_code == 0, done.output
    assert "stack 1: the stack is down" in done.stdout
    assert gpu_cluster.objects("ray.io/v1", "RayService") == []


def test_a_command_for_one_stack_asks_which(rcarena: Rcarena) -> None:
    two: dict[str, Any] = {"stacks": 2, "endpoints": {}}
    for command, problem in [
        ("inject cpu-stress ray-head", "--stack: is needed, there are 2 stacks (0 to 1)"),
        ("deploy status --stack 2", "--stack 2: the stacks are 0 to 1"),
    ]:
        done = rcarena(command, **two)
        assert (done.exit_code, problem in done.stderr) == (2, True), done.stderr


def test_up_without_an_operator_ends_with_1_and_says_what_to_do(gpu_cluster: EmulatedCluster, rcarena: Rcarena) -> None:
    gpu_cluster.uninstall("ray.io")
    done = rcarena("deploy up")
    assert done.exit_code == 1
    assert "the cluster lacks rayclusters.ray.io" in done.stderr


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl")
def test_exec_names_the_services_that_there_are(gpu_cluster: EmulatedCluster, rcarena: Rcarena) -> None:
    assert rcarena("deploy up").exit_code == 0
    done = rcarena("deploy exec ray-replica-0 ls")
    assert done.exit_code == 2
    assert "did you mean 'ray-replicas-0'" in done.stderr
