from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tasks.deploy.local.layout import Layout
from tasks.deploy.local.params import LocalDeployParams
from tasks.deploy.local.toy_model import build_model


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(LocalDeployParams(backend="local", replicas=4), tmp_path / "stack")


def test_every_service_has_its_own_address_and_process(layout: Layout) -> None:
    processes = [layout.gateway_process(), layout.head_process(), *layout.replica_processes()]
    assert [process.service for process in processes] == list(layout.roles)
    assert len(set(layout.addresses.values())) == 6


def test_prometheus_accepts_its_configuration(layout: Layout, tmp_path: Path) -> None:
    text = layout.prometheus_configuration()
    jobs = {job["job_name"]: job for job in yaml.safe_load(text)["scrape_configs"]}
    labelled = [config["labels"]["service"] for config in jobs["ray"]["static_configs"]]
    assert labelled == ["ray-head", *layout.replicas]
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")
    (tmp_path / "prometheus.yml").write_text(text)
    subprocess.run([promtool, "check", "config", tmp_path / "prometheus.yml"], check=True, capture_output=True)


def test_nginx_accepts_its_configuration(layout: Layout) -> None:
    nginx = shutil.which("nginx", path="/usr/sbin:/usr/bin")
    if nginx is None:
        pytest.skip("nginx is not installed")
    directory = layout.directory / "nginx-proxy"
    directory.mkdir(parents=True)
    (directory / "nginx.conf").write_text(layout.nginx_configuration())
    check = subprocess.run(
        [nginx, "-t", "-p", directory, "-c", directory / "nginx.conf"], capture_output=True, text=True
    )
    assert check.returncode == 0, check.stderr


def test_an_unknown_architecture_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="allowed: falcon-h1, llama, qwen2"):
        build_model(tmp_path, architecture="gpt", layers=1, hidden_size=64, vocabulary=512, max_model_len=64)
