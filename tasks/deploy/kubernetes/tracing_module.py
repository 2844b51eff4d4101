"""The tracing exporter of Ray Serve, mounted into its pods as the module ``rcarena_tracing``: no image must have it."""

from __future__ import annotations

from typing import Any


def span_processors() -> list[Any]:
    """Batches spans to ``OTEL_EXPORTER_OTLP_ENDPOINT``, under the service name of ``OTEL_SERVICE_NAME``."""
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    return [BatchSpanProcessor(OTLPSpanExporter(insecure=True), schedule_delay_millis=500)]
