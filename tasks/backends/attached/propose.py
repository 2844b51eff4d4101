"""Proposes the parameters of an attached stack from what was found, and says which metrics they can fill."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from tasks.backends.attached.checks import LOOK_BACK_S, Check, clock_check, examine
from tasks.backends.attached.found import Component, Finding
from tasks.backends.attached.params import AttachedDeployParams, LokiServer, TelemetryServer, Traces
from tasks.backends.attached.runtime import AttachedRuntime
from tasks.backends.attached.series import look_at_series, scrape_interval_s
from tasks.backends.attached.stack import RETRIES, AttachedStack
from tasks.backends.base import Answer, Attachment
from tasks.deploy.errors import DeployError
from tasks.errors import ParamsError
from tasks.export.base import export_errors_of
from tasks.export.exporter import read_metrics
from tasks.export.queries.labelled import CANDIDATES, Candidate
from tasks.export.queries.metrics import METRIC_MAP, missing_metrics
from tasks.export.queries.series_names import NOTES
from tasks.export.sources.prometheus import PrometheusClient
from tasks.metrics import METRICS
from tasks.params import ExportParams
from tasks.validation import validation_problems
from tasks.yaml_core import dump

TIMEOUT_S = 20.0
WINDOW_SCRAPES = 4
"""Scrapes per rate window."""
NO_TELEMETRY_YET = "deploy.prometheus.url could not be guessed: give --prometheus"


@dataclass(frozen=True)
class Coverage:
    """``filled``: metric -> (series, services that have it); ``lacking``: metric -> (services, series that would fill
    it); ``silent``: lacking metric -> series that are there, but without a value, such as a mean over no request."""

    filled: Mapping[str, tuple[str, tuple[str, ...]]]
    lacking: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]
    silent: Mapping[str, tuple[str, ...]]


def propose(order: Attachment) -> Answer:
    """Look, without changing anything; ``text`` says what was found, ``document`` holds the parameters.

    Raises:
        DeployError: nothing that serves models was found, or Prometheus cannot be read.
        ClusterError: the cluster cannot be read.
        ParamsError: neither a namespace nor a Prometheus is given.
    """
    if order.namespace is None and order.prometheus_url is None:
        raise ParamsError(["--kubernetes -n NAMESPACE or --prometheus URL: one of them is needed"])
    seen = _pods(order) if order.namespace is not None else Finding((), ())
    url = order.prometheus_url or seen.prometheus_url
    server = (
        None
        if order.prometheus_url is None
        else _server("--prometheus", order.prometheus_url, order, {}, TelemetryServer)
    )
    if order.loki_url is not None:
        _server("--loki", order.loki_url, order, {}, LokiServer)
    if order.traces is not None:
        _server("--traces", order.traces[1], order, {"kind": order.traces[0]}, Traces)
    checks: list[Check] = []
    interval_s, coverage = 15.0, None
    if server is not None:
        with (
            export_errors_of("Prometheus"),
            PrometheusClient(server.url, timeout_s=TIMEOUT_S, retries=RETRIES, access=server.auth.access) as client,
        ):
            end_s = client.now()
            checks.append(clock_check(end_s - datetime.now(UTC).timestamp()))
            names = client.series_names(end_s - LOOK_BACK_S, end_s)
            found = look_at_series(client, names)
            seen = _together(seen, found, order.namespace)
            interval_s = scrape_interval_s(client, seen.components, names)
    if not seen.components:
        where = f"namespace {order.namespace}" if order.namespace else server.url if server else ""
        raise DeployError(f"{where}: nothing that serves models was found; {'; '.join(seen.remarks) or 'no engine'}")
    document = _document(seen, order, url, interval_s)
    deploy = AttachedDeployParams.model_validate(document["deploy"])
    if server is not None:
        live = AttachedStack(AttachedRuntime(deploy=deploy, directory=Path()))
        checks += [
            check for check in examine(live.sources(), live.describe(), interval_s).checks if check.name != "clock"
        ]
        coverage = _coverage(live, interval_s)
    return Answer(
        _text(seen, checks, coverage, url, server is not None, order.traces is not None),
        {
            "recognised": list(seen.kinds),
            "components": [_facts(component) for component in seen.components],
            "checks": [vars(check) for check in checks],
            "filled": {name: list(found) for name, found in coverage.filled.items()} if coverage else None,
            "lacking": {name: list(found) for name, found in coverage.lacking.items()} if coverage else None,
            "silent": {name: list(found) for name, found in coverage.silent.items()} if coverage else None,
            "params": document,
            "file": _file(document, seen),
        },
    )


def _pods(order: Attachment) -> Finding:
    from tasks.backends.attached.pods import look_at_pods
    from tasks.kube.address import find_cluster
    from tasks.kube.client import Cluster

    assert order.namespace is not None
    with Cluster(find_cluster(order.context, order.namespace), deadline_s=TIMEOUT_S) as cluster:
        return look_at_pods(cluster)


Section = TypeVar("Section", bound=BaseModel)


def _server(option: str, url: str, order: Attachment, more: Mapping[str, str], section: type[Section]) -> Section:
    """Return a section of the parameters that an option gives. Raises ParamsError, which names the option."""
    try:
        return section.model_validate({"url": url, "auth": dict(order.auth), **more})
    except ValidationError as error:
        raise ParamsError(f"{option}: {problem}" for problem in validation_problems(error, section)) from error


def _together(pods: Finding, series: Finding, namespace: str | None) -> Finding:
    """Return the pods, where there are any: the cluster knows more of them. Engines that only series show are added."""
    if not pods.components:
        return replace(series, remarks=(*pods.remarks, *series.remarks))
    roles = {component.role for component in pods.components}
    further = tuple(
        component
        for component in series.components
        if component.role not in roles and component.labels.get("namespace") in (None, namespace)
    )
    return replace(pods, components=(*pods.components, *further))


def _document(seen: Finding, order: Attachment, url: str | None, interval_s: float) -> dict[str, Any]:
    window_s = WINDOW_SCRAPES * interval_s
    replicas = [component for component in seen.components if component.role == "replica"]
    first = replicas[0] if replicas else seen.components[0]
    deploy: dict[str, Any] = {"backend": "attached"}
    if first.model:
        deploy["model"] = first.model
    if first.engine:
        deploy["engine"] = first.engine
    if order.namespace is not None:
        deploy["kubernetes"] = {"namespace": order.namespace, **({"context": order.context} if order.context else {})}
    server: dict[str, Any] = {"url": url or "http://localhost:9090"}
    if order.auth:
        server["auth"] = order.auth
    deploy["prometheus"] = server
    if order.loki_url is not None:
        deploy["loki"] = {"url": order.loki_url, **({"auth": order.auth} if order.auth else {})}
    if order.traces is not None:
        kind, address = order.traces
        deploy["traces"] = {"kind": kind, "url": address, **({"auth": order.auth} if order.auth else {})}
    deploy["services"] = [_compact(entry) for component in seen.components for entry in component.services]
    versions = {component.engine: component.version for component in replicas if component.engine and component.version}
    if versions:
        deploy["versions"] = versions
    deploy["scrape_interval_s"] = interval_s
    return {
        "campaign": {
            "name": "attached",
            "seed": 1,
            "windows": {"warmup_s": window_s, "baseline_s": 600, "fault_s": 300, "recovery_s": 60},
        },
        "deploy": deploy,
        "load": {"arrival": "constant", "rate": 1},
        "inject": {"faults": []},
        "export": {"step_s": interval_s, "rate_window_s": window_s},
        "score": {"methods": ["peerwise", "nsigma", "baro"], "profile": "llm"},
        "report": {},
    }


def _compact(entry: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in entry.items()
        if value is not None and not (name == "each" and "replicas" not in entry)
    }


def _coverage(live: AttachedStack, interval_s: float) -> Coverage:
    """Read every canonical metric of the last minutes once."""
    now, window_s = datetime.now(UTC), WINDOW_SCRAPES * interval_s
    since = now - timedelta(seconds=max(60.0, 6 * interval_s))
    sources, stack = live.sources(), live.describe()
    params = ExportParams(step_s=max(0.5, interval_s), rate_window_s=window_s)
    rows = read_metrics(sources, (since, now), params, stack, list(METRICS.values())).dropna()
    pairs = rows[["metric", "service", "source"]].drop_duplicates().astype(str)
    roles = {service.name: service.role for service in stack.services}
    with PrometheusClient(
        sources.prometheus_url or "", access=sources.access["prometheus"], **sources.patience
    ) as client:
        names = client.series_names(now.timestamp() - LOOK_BACK_S, now.timestamp())
    filled = {}
    for metric in METRICS:
        of = pairs[pairs["metric"] == metric]
        if of.empty:
            continue
        series = [_series_of(metric, source, names) for source in dict.fromkeys(of["source"])]
        filled[metric] = (" or ".join(series), tuple(sorted(set(of["service"]))))
    every = missing_metrics(set(pairs[["metric", "service"]].itertuples(index=False, name=None)), roles, "labelled")
    lacking: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {}
    silent: dict[str, tuple[str, ...]] = {}
    for spec in METRIC_MAP:
        if spec.name in filled and spec.name not in every:
            continue
        services = every.get(spec.name) or tuple(name for name, role in roles.items() if role in spec.metric.roles)
        wanted = tuple(
            dict.fromkeys(name for each in CANDIDATES if each.metric is spec.metric for name in _names(each))
        )
        if services and spec.name not in filled:
            lacking[spec.name] = (services, wanted)
            variants = [variant for each in CANDIDATES if each.metric is spec.metric for variant in each.variants]
            if there := next((each.series for each in variants if names.issuperset(each.series)), ()):
                silent[spec.name] = tuple(there)
    return Coverage(filled, lacking, silent)


def _names(candidate: Candidate) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for variant in candidate.variants for name in variant.series))


def _series_of(metric: str, source: str, names: frozenset[str]) -> str:
    found = [each for each in CANDIDATES if each.metric.name == metric and each.source == source]
    there = next((each for each in found if names.issuperset(_names(each))), None)
    return source if there is None else there.told.replace("`", "")


def _facts(component: Component) -> dict[str, Any]:
    return {
        "name": component.name,
        "role": component.role,
        "kind": component.kind,
        "units": list(component.units),
        "where": component.where,
        "engine": component.engine,
        "model": component.model,
    }


def _text(
    seen: Finding, checks: Sequence[Check], coverage: Coverage | None, url: str | None, asked: bool, traces: bool
) -> str:
    lines = [f"recognised: {', '.join(seen.kinds) or 'no kind of deployment'}"]
    width = max(len(component.name) for component in seen.components)
    for component in seen.components:
        count = f"{len(component.units)} {component.each}{'s' * (len(component.units) > 1)}"
        what = ", ".join(filter(None, (component.engine, component.version, component.model)))
        lines.append(f"  {component.name:<{width}}  {component.role:<8} {count:<12} {component.where}  {what}".rstrip())
    lines += list(seen.remarks)
    if not asked:
        port = (url or "").rpartition(":")[2] or "9090"
        place = (url or "").partition("://")[2].split(".")
        lines.append("prometheus: was not asked; give --prometheus URL to see what it has of these")
        if url and len(place) > 2:
            lines.append(f"  from outside the cluster: kubectl -n {place[1]} port-forward svc/{place[0]} 9090:{port}")
    if seen.traces is not None and not traces:
        lines.append(f"traces: {seen.traces[0]} at {seen.traces[1]}; give --traces {seen.traces[0]}=URL to read them")
    lines += [f"{check.name}: {check.result}" for check in checks]
    if coverage is not None:
        lines.append(f"metrics: {len(coverage.filled)} of {len(METRICS)} are filled")
        lines += [
            f"  {metric:<30} {series}  ({len(who)} services)" for metric, (series, who) in coverage.filled.items()
        ]
        if coverage.lacking:
            lines.append("not filled:")
        for metric, (_, series) in coverage.lacking.items():
            if metric in coverage.silent:
                lines.append(f"  {metric:<30} {coverage.silent[metric][0]} has no value yet: no request?")
                continue
            notes = list(dict.fromkeys(NOTES[name] for name in series if name in NOTES))
            needs = f"needs {', or '.join(series[:4])}{' …' * (len(series) > 4)}" if series else "needs spans"
            lines.append(f"  {metric:<30} {needs}" + (f" ({notes[0]})" if notes else ""))
    return "\n".join(lines)


def _file(document: dict[str, Any], seen: Finding) -> str:
    """Return the file of parameters, with remarks on what its owner may want to add."""
    head = [
        f"# Proposed by `rcarena attach`: {', '.join(seen.kinds) or 'unknown kind of deployment'}.",
        "# Look through deploy.services: name, role, and the labels of their series.",
        "# The stack is only read. For load: deploy.gateway_url and deploy.model. For faults: deploy.allow_faults.",
    ]
    if seen.gateway_url:
        head.append(f"# gateway_url may be {seen.gateway_url} (inside the cluster).")
    if seen.traces is not None and "traces" not in document["deploy"]:
        kind, url = seen.traces
        head.append(f'# traces may be {{kind: {kind}, url: "{url}"}} (inside the cluster).')
    return "\n".join([*head, dump(document)])
