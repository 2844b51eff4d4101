"""The processes of the local stack: command, environment and directory of each, from the parameters alone."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tasks.deploy.local import serving
from tasks.deploy.local.namespaces import FABRIC_ADDRESS, service_address
from tasks.deploy.local.params import LocalDeployParams
from tasks.stack import GATEWAY, HEAD, Role

REPOSITORY = Path(__file__).resolve().parents[3]
SERVE_PYTHON_VARIABLE = "RCARENA_SERVE_PYTHON"
MODEL_NAME = "toy"

GATEWAY_PORT = 8080
NGINX_STATUS_PORT = 8081
RAY_PORT = 6379
RAY_METRICS_PORT = 9100
PROMETHEUS_PORT = 9090
OTLP_PORT = 4317
CGROUP_EXPORTER_PORT = 9101
NGINX_EXPORTER_PORT = 9113

TELEMETRY_PORTS = {
    "prometheus": PROMETHEUS_PORT,
    "otlp-receiver": OTLP_PORT,
    "cgroup-exporter": CGROUP_EXPORTER_PORT,
    "nginx-exporter": NGINX_EXPORTER_PORT,
}

SPANS_FILE = Path("telemetry/spans.otlp")
"""Below the stack's directory."""
WITHHELD = Path("telemetry/withheld")
"""Below the stack's directory: a file named after a service makes the cgroup exporter leave that service out."""
EJECTED = Path("routing/ejected")
"""Below the stack's directory: a file named after an address makes the router pass over the replica there."""

RAY_TEMP = Path("/run/netns/.ray")
"""A mount point on the fabric's private tmpfs; short, because Ray puts its sockets below it."""

_ENGINE_ENVIRONMENT = {
    "VLLM_TARGET_DEVICE": "cpu",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1",
}
_RAY_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_memory_monitor_refresh_ms": "0",
    "RAY_metrics_report_interval_ms": "1000",
    "RAY_agent_register_timeout_ms": "180000",
    "RAY_enable_worker_prestart": "0",
    "RAY_SERVE_TRACING_EXPORTER_IMPORT_PATH": "tasks.deploy.local.serving:span_processors",
    "RAY_SERVE_TRACING_SAMPLING_RATIO": "1.0",
    "RAY_COLOR_PREFIX": "0",
}


def serve_python() -> Path:
    """Return the interpreter of the serving environment (Ray and vLLM)."""
    return Path(os.environ.get(SERVE_PYTHON_VARIABLE) or REPOSITORY / ".venv-serve" / "bin" / "python")


@dataclass(frozen=True)
class Process:
    """One supervised process. ``service`` None: it runs in the fabric and is not part of the system under test."""

    name: str
    argv: tuple[str, ...]
    directory: Path
    service: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    essential: bool = False

    @property
    def log(self) -> Path:
        return self.directory / f"{self.name}.log"


@dataclass(frozen=True)
class Layout:
    """Paths, addresses and processes of a stack below ``directory``."""

    params: LocalDeployParams
    directory: Path

    @property
    def roles(self) -> dict[str, Role]:
        return self.params.roles()

    @property
    def addresses(self) -> dict[str, str]:
        return {service: service_address(i) for i, service in enumerate(self.params.service_names())}

    @property
    def replicas(self) -> list[str]:
        return [service for service, role in self.roles.items() if role == "replica"]

    @property
    def gateway_url(self) -> str:
        return f"http://{self.addresses[GATEWAY]}:{GATEWAY_PORT}"

    @property
    def prometheus_url(self) -> str:
        return f"http://{FABRIC_ADDRESS}:{PROMETHEUS_PORT}"

    @property
    def otlp_file(self) -> Path:
        return self.directory / SPANS_FILE

    @property
    def access_log(self) -> Path:
        return self.directory / GATEWAY / "access.log"

    @property
    def services_file(self) -> Path:
        return self.directory / "telemetry" / "services.json"

    @property
    def model_directory(self) -> Path:
        return self.directory / "model"

    def log_directories(self) -> dict[str, Path]:
        """Return the directory of each service's log files (at any depth)."""
        return {service: self.directory / service for service in self.roles}

    def ray_directory(self, service: str) -> Path:
        return self.directory / service / "ray"

    def cpu_cores(self, service: str) -> float:
        return float(getattr(self.params.cpu_cores, self.roles[service]))

    def telemetry_processes(self) -> list[Process]:
        """Return Prometheus and its exporters, which start first to record the start of the others."""
        directory = self.directory / "telemetry"
        interval = f"{self.params.scrape_interval_s:g}s"
        prometheus = (
            "prometheus",
            f"--config.file={directory / 'prometheus.yml'}",
            f"--storage.tsdb.path={directory / 'prometheus'}",
            f"--web.listen-address={FABRIC_ADDRESS}:{PROMETHEUS_PORT}",
            "--storage.tsdb.retention.time=7d",
            "--query.lookback-delta=10s",
            "--log.level=warn",
        )
        module = (sys.executable, "-m")
        return [
            Process(
                "otlp-receiver",
                (
                    *module,
                    "tasks.deploy.local.otlp_receiver",
                    f"--listen={FABRIC_ADDRESS}:{OTLP_PORT}",
                    f"--out={self.otlp_file}",
                ),
                directory,
                environment={"PYTHONPATH": str(REPOSITORY)},
            ),
            Process(
                "cgroup-exporter",
                (
                    *(*module, "tasks.deploy.local.cgroup_exporter"),
                    f"--listen={FABRIC_ADDRESS}:{CGROUP_EXPORTER_PORT}",
                    f"--services={self.services_file}",
                    f"--withheld={self.directory / WITHHELD}",
                ),
                directory,
                environment={"PYTHONPATH": str(REPOSITORY)},
            ),
            Process(
                "nginx-exporter",
                (
                    "prometheus-nginx-exporter",
                    f"-nginx.scrape-uri=http://{self.addresses[GATEWAY]}:{NGINX_STATUS_PORT}/status",
                    f"-web.listen-address={FABRIC_ADDRESS}:{NGINX_EXPORTER_PORT}",
                    "-nginx.retries=1000000",
                    f"-nginx.retry-interval={interval}",
                ),
                directory,
            ),
            Process("prometheus", prometheus, directory),
        ]

    def gateway_process(self) -> Process:
        directory = self.directory / GATEWAY
        return Process(
            "nginx", ("nginx", "-p", str(directory), "-c", str(directory / "nginx.conf")), directory, GATEWAY
        )

    def head_process(self) -> Process:
        return self._raylet(
            HEAD, "--head", f"--port={RAY_PORT}", "--num-cpus=0", "--include-dashboard=false", essential=True
        )

    def replica_processes(self) -> list[Process]:
        resources = json.dumps({serving.REPLICA_RESOURCE: 1})
        address = f"{self.addresses[HEAD]}:{RAY_PORT}"
        return [
            self._raylet(service, f"--address={address}", "--num-cpus=0", f"--resources={resources}")
            for service in self.replicas
        ]

    def application_process(self) -> Process:
        """Return the driver, which starts the Ray Serve application and ends."""
        settings = {
            "ray_address": f"{self.addresses[HEAD]}:{RAY_PORT}",
            "replicas": self.params.replicas,
            "max_ongoing_requests": 4 * self.params.model.max_num_seqs,
            "engine_arguments": self.engine_arguments(),
            "ejected": str(self.directory / EJECTED),
        }
        return self._in_ray_node("application", HEAD, _serving_command("deploy", json.dumps(settings)))

    def model_process(self) -> Process:
        model = self.params.model
        settings = {
            "architecture": model.architecture,
            "layers": model.layers,
            "hidden_size": model.hidden_size,
            "vocabulary": model.vocabulary,
            "max_model_len": model.max_model_len,
        }
        argv = _serving_command("model", str(self.model_directory), json.dumps(settings))
        return Process("model", argv, self.directory / "telemetry", environment={"PYTHONPATH": str(REPOSITORY)})

    def engine_arguments(self) -> list[str]:
        model = self.params.model
        return [
            f"--model={self.model_directory}",
            f"--served-model-name={MODEL_NAME}",
            "--load-format=dummy",
            "--dtype=float32",
            "--enforce-eager",
            f"--max-model-len={model.max_model_len}",
            f"--max-num-seqs={model.max_num_seqs}",
            f"--kv-cache-memory-bytes={model.kv_cache_mb * 1_000_000}",
            "--distributed-executor-backend=uni",
            f"--otlp-traces-endpoint=http://{FABRIC_ADDRESS}:{OTLP_PORT}",
            "--disable-uvicorn-access-log",
        ]

    def prometheus_configuration(self) -> str:
        interval = self.params.scrape_interval_s

        def job(name: str, seconds: float, targets: dict[str, str], keep: str) -> dict[str, Any]:
            return {
                "job_name": name,
                "scrape_interval": f"{seconds * 1000:.0f}ms",
                "scrape_timeout": f"{seconds * 1000:.0f}ms",
                "honor_labels": True,
                "static_configs": [
                    {"targets": [target], "labels": {"service": service} if service else {}}
                    for service, target in targets.items()
                ],
                "metric_relabel_configs": [{"source_labels": ["__name__"], "regex": keep, "action": "keep"}],
            }

        ray_targets = {s: f"{a}:{RAY_METRICS_PORT}" for s, a in self.addresses.items() if s != GATEWAY}
        configuration = {
            "global": {"scrape_interval": f"{interval * 1000:.0f}ms", "evaluation_interval": "1h"},
            "scrape_configs": [
                job("cgroup", interval, {"": f"{FABRIC_ADDRESS}:{CGROUP_EXPORTER_PORT}"}, "container_.*"),
                job("nginx", interval, {GATEWAY: f"{FABRIC_ADDRESS}:{NGINX_EXPORTER_PORT}"}, "nginx.*"),
                job("ray", self.params.slowest_scrape_s, ray_targets, "ray_(serve|vllm|node|component)_.*"),
            ],
        }
        return yaml.safe_dump(configuration, sort_keys=False)

    def nginx_configuration(self) -> str:
        from jinja2 import Environment, PackageLoader, StrictUndefined

        environment = Environment(
            loader=PackageLoader("tasks.deploy.local"),
            undefined=StrictUndefined,
            autoescape=False,  # noqa: S701 (no HTML)
        )
        return environment.get_template("nginx.conf.j2").render(
            directory=self.directory / GATEWAY,
            head_address=self.addresses[HEAD],
            serve_port=serving.HTTP_PORT,
            gateway_port=GATEWAY_PORT,
            status_port=NGINX_STATUS_PORT,
        )

    def _raylet(self, service: str, *options: str, essential: bool = False) -> Process:
        argv = (
            str(serve_python()),
            "-m",
            "ray.scripts.scripts",
            "start",
            f"--node-ip-address={self.addresses[service]}",
            f"--temp-dir={RAY_TEMP}",
            "--object-store-memory=80000000",
            f"--metrics-export-port={RAY_METRICS_PORT}",
            "--disable-usage-stats",
            "--log-style=record",
            "--block",
            *options,
        )
        return self._in_ray_node("raylet", service, argv, essential=essential)

    def _in_ray_node(self, name: str, service: str, argv: tuple[str, ...], *, essential: bool = False) -> Process:
        """Return a process with a private directory mounted at ``RAY_TEMP``: Ray nodes that share one race at start."""
        bind = ("sh", "-c", 'mount --bind "$1" "$2" && shift 2 && exec "$@"', "sh")
        environment = {
            **_ENGINE_ENVIRONMENT,
            **_RAY_ENVIRONMENT,
            "PYTHONPATH": str(REPOSITORY),
            "HOME": str(RAY_TEMP),
            "TMPDIR": str(RAY_TEMP),
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{FABRIC_ADDRESS}:{OTLP_PORT}",
            "OTEL_SERVICE_NAME": service,
            "OTEL_RESOURCE_ATTRIBUTES": f"k8s.pod.name={service}",
        }
        command = (*bind, str(self.ray_directory(service)), str(RAY_TEMP), *argv)
        return Process(name, command, self.directory / service, service, environment, essential)


def _serving_command(*arguments: str) -> tuple[str, ...]:
    return (str(serve_python()), "-c", "from tasks.deploy.local.serving import main; main()", *arguments)
