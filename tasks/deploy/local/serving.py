"""vLLM behind Ray Serve: each replica is one real engine with vLLM's own OpenAI-compatible HTTP application.

Runs in the serving environment, inside the stack. ``ray.serve.llm`` is not used here: on CPU it needs a second process
per engine and twice the memory (measured: see the local backend's documentation).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

APPLICATION = "llm"
DEPLOYMENT = "VLLMReplica"
REPLICA_RESOURCE = "replica_slot"
HTTP_PORT = 8000


def span_processors() -> list[Any]:
    """Return Ray Serve's tracing exporter, which batches spans to ``OTEL_EXPORTER_OTLP_ENDPOINT``."""
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    return [BatchSpanProcessor(OTLPSpanExporter(insecure=True), schedule_delay_millis=500)]


class VLLMReplica:
    """One engine in the replica's own process (executor ``uni``), its statistics exported through Ray's metrics."""

    async def __init__(self, arguments: list[str]) -> None:  # type: ignore[misc]  # Serve awaits it
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.entrypoints.launchers.api_server.app_state import init_app_state
        from vllm.entrypoints.launchers.app import build_app
        from vllm.entrypoints.launchers.cli_args import make_arg_parser
        from vllm.utils.argparse_utils import FlexibleArgumentParser
        from vllm.v1.engine.async_llm import AsyncLLM
        from vllm.v1.metrics.ray_wrappers import RayPrometheusStatLogger

        options = make_arg_parser(FlexibleArgumentParser()).parse_args(arguments)
        engine_args = AsyncEngineArgs.from_cli_args(options)
        self.engine = AsyncLLM.from_engine_args(engine_args, stat_loggers=[RayPrometheusStatLogger])
        tasks = await self.engine.get_supported_tasks()
        self.http = build_app(options, tasks, self.engine.model_config)
        await init_app_state(self.engine, self.http.state, options, tasks)

    def __serve_build_asgi_app__(self) -> Any:
        return self.http

    async def check_health(self) -> None:
        """Raise RuntimeError when the engine is dead: Ray cannot unpickle vLLM's exceptions outside the replica."""
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            await self.engine.check_health()
        except EngineDeadError as error:
            raise RuntimeError(f"the engine is dead: {error}") from None


def deploy(settings: dict[str, Any]) -> None:
    """Start Ray Serve's proxy on the head and one replica per worker node; returns when all are running."""
    import ray
    from ray import serve
    from ray.serve.config import RequestRouterConfig

    ray.init(address=settings["ray_address"], log_to_driver=False)
    serve.start(proxy_location="HeadOnly", http_options={"host": "0.0.0.0", "port": HTTP_PORT})
    deployment = serve.deployment(
        serve.ingress()(VLLMReplica),
        name=DEPLOYMENT,
        num_replicas=settings["replicas"],
        max_ongoing_requests=settings["max_ongoing_requests"],
        health_check_period_s=5,
        health_check_timeout_s=30,
        graceful_shutdown_timeout_s=2,
        ray_actor_options={"num_cpus": 0, "resources": {REPLICA_RESOURCE: 1}},
        request_router_config=RequestRouterConfig(
            request_router_class="tasks.deploy.ejecting_router.EjectingRouter",
            request_router_kwargs={"ejected": settings["ejected"]},
        ),
    )
    serve.run(deployment.bind(settings["engine_arguments"]), name=APPLICATION, route_prefix="/")


def main() -> None:
    """Build the toy model (``model DIR JSON``) or start the application (``deploy JSON``)."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    model = commands.add_parser("model", help="build the toy model")
    model.add_argument("directory", type=Path)
    model.add_argument("settings", type=json.loads)
    start = commands.add_parser("deploy", help="start the application on a running Ray cluster")
    start.add_argument("settings", type=json.loads)
    arguments = parser.parse_args()
    if arguments.command == "model":
        from tasks.deploy.local.toy_model import build_model

        build_model(arguments.directory, **arguments.settings)
    else:
        deploy(arguments.settings)
