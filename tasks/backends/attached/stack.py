"""An attached stack as an attempt at a case, and a diagnosis, see it."""

from __future__ import annotations

from pathlib import Path

from tasks.backends.attached.backend import AttachedBackend
from tasks.backends.attached.checks import open_requests
from tasks.backends.attached.params import Traces
from tasks.backends.attached.runtime import AttachedRuntime
from tasks.backends.base import LiveStack
from tasks.case import Service, Stack
from tasks.errors import ParamsError
from tasks.export.base import ExportError, ServerName, TelemetrySources
from tasks.export.sources.http import HttpAccess

STEADY_LATENCY_S = 30.0
"""Nothing is known of how fast a stranger's engines are."""
RETRIES = 2


class AttachedStack(LiveStack):
    def __init__(self, runtime: AttachedRuntime) -> None:
        self.runtime: AttachedRuntime = runtime
        self._deploy = runtime.deploy

    def enter(self) -> None:
        """Its servers are reached from everywhere."""

    def unsteady(self) -> str | None:
        """Return why a case must not start now. Sends a completion. Raises ParamsError: load was not asked for."""
        if problems := AttachedBackend.campaign_problems(self._deploy):
            raise ParamsError(problems)
        try:
            found = open_requests(self.sources(), self.describe(), self._deploy.scrape_interval_s)
        except ExportError as error:
            return str(error)
        if found > 0:
            return f"{found:g} requests still open"
        return self.slow_or_failing(1, STEADY_LATENCY_S)

    def describe(self) -> Stack:
        return Stack(
            backend=self.runtime.backend,
            model=self._deploy.model,
            engine=self._deploy.engine,
            versions=self._deploy.versions,
            services=tuple(Service(name=name, role=role) for name, role in self._deploy.roles().items()),
        )

    def sources(self) -> TelemetrySources:
        deploy, traces = self._deploy, self._deploy.traces or Traces()
        return TelemetrySources(
            prometheus_url=deploy.prometheus.url,
            loki_url=deploy.loki.url if deploy.loki else None,
            loki_selector=deploy.loki.selector if deploy.loki else None,
            spans_url=traces.url,
            spans_kind=traces.kind,
            spans_services=(*traces.services, *(name for name in traces.names if name not in traces.services)),
            spans_names=traces.names,
            spans_limit=traces.limit,
            otlp_files=tuple(Path(file).expanduser() for file in traces.files),
            access=self._access(),
            calls=deploy.call_edges(),
            settle_s=2.0 * deploy.scrape_interval_s,
            namespace=deploy.kubernetes.namespace if deploy.kubernetes else None,
            owners=tuple(
                owner
                for service in deploy.services
                for owner in service.owners(self.runtime.known.get(service.name, {}))
            ),
            timeout_s=deploy.timeout_s,
            retries=RETRIES,
        )

    def addresses(self) -> str:
        gateway = self._deploy.gateway_url or "none: it is only read"
        return f"gateway {gateway}, prometheus {self._deploy.prometheus.url}"

    def _access(self) -> dict[ServerName, HttpAccess]:
        deploy = self._deploy
        access: dict[ServerName, HttpAccess] = {"prometheus": deploy.prometheus.auth.access}
        if deploy.loki:
            access["loki"] = deploy.loki.auth.access
        if deploy.traces:
            access["spans"] = deploy.traces.auth.access
        return access
