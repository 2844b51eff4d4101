"""Looks at a Prometheus and recognises what serves models by the labels of series. Nothing is changed."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tasks.backends.attached.found import Component, Finding, dns_label, unique_names
from tasks.export.sources.labelled import in_order, quoted
from tasks.export.sources.placement import REGEX_MARK
from tasks.export.sources.prometheus import PrometheusClient
from tasks.stack import Role

LOOK_BACK = "10m"
IDENTITIES = ("pod", "service", "instance", "ReplicaId")
"""Labels that may tell the units of a stack apart, the best first."""
CONSTANT = ("namespace", "job")
COMPOSE_SERVICE = "container_label_com_docker_compose_service"
MODEL_NAMES = ("model_name", "model_id", "model")

USUAL_INTERVALS_S = (1, 2, 5, 10, 15, 20, 30, 60, 120, 300)

Labels = dict[str, str]


@dataclass(frozen=True)
class Witness:
    """A series that only components of one kind have. ``matchers``: PromQL."""

    name: str
    series: str
    role: Role
    engine: str | None = None
    matchers: str = ""


WITNESSES: tuple[Witness, ...] = (
    Witness("vllm", "vllm:num_requests_running", "replica", "vllm"),
    Witness("vllm", "ray_vllm_num_requests_running", "replica", "vllm"),
    Witness("vllm", "ray_vllm:num_requests_running", "replica", "vllm"),
    Witness("sglang", "sglang:num_running_reqs", "replica", "sglang"),
    Witness("tgi", "tgi_queue_size", "replica", "tgi"),
    Witness("ray-head", "ray_node_cpu_utilization", "head", matchers='IsHeadNode="true"'),
    Witness("epp", "inference_objective_request_total", "head"),
    Witness("epp", "inference_model_request_total", "head"),
    Witness("router", "vllm:num_incoming_requests_total", "gateway"),
    Witness("nginx", "nginx_http_requests_total", "gateway"),
    Witness("nginx", "nginx_connections_active", "gateway"),
    Witness("ingress-nginx", "nginx_ingress_controller_requests", "gateway"),
    Witness("envoy", "envoy_http_downstream_rq_total", "gateway"),
)
CONTAINER_SERIES = "container_memory_working_set_bytes"
NODE_SERIES = ("node_memory_MemAvailable_bytes", "DCGM_FI_DEV_GPU_UTIL")
"""Of exporters that tell of a whole machine."""
BY_NAME: tuple[tuple[str, Role], ...] = (
    (r"nginx|gateway|proxy|router|ingress|envoy|haproxy|traefik", "gateway"),
    (r"(^|-)head($|-)|(^|-)epp($|-)|scheduler", "head"),
)
"""Roles that the name of a container suggests."""


def look_at_series(client: PrometheusClient, names: frozenset[str]) -> Finding:
    """Return what serves models, by the series of the last ten minutes. Raises SourceError.

    Args:
        names: of all series of that time.
    """
    components: list[Component] = []
    for role in ("replica", "head", "gateway"):
        for witness in WITNESSES:
            taken = {component.name for component in components}
            if witness.role == role and witness.series in names and witness.name not in taken:
                components += _components(client, witness)
    components += _named_containers(client, names, components)
    containers = _containers(client, names)
    nodes = [labels for series in NODE_SERIES if series in names for labels in _last(client, series)]
    components = [_with_neighbours(component, containers, nodes) for component in components]
    remarks = [] if any(each.role == "replica" for each in components) else ["no engine is scraped"]
    order = ("gateway", "head", "replica", "service")
    components.sort(key=lambda component: (order.index(component.role), component.name))
    return Finding(_kinds(components, containers), unique_names(components), tuple(remarks))


def scrape_interval_s(client: PrometheusClient, components: Sequence[Component], names: frozenset[str]) -> float:
    """Return the seconds between two samples of the slowest component; 15 where there are too few samples."""
    slowest = 0.0
    for component in components:
        matchers = ",".join(_matcher(name, value) for name, value in component.labels.items())
        for series in ("up", *(each.series for each in WITNESSES), CONTAINER_SERIES):  # Ray's gauges have gaps
            if series not in names:
                continue
            gaps = [np.diff(each.times_ns) for each in client.raw(f"{series}{{{matchers}}}[5m]")]
            if found := [float(np.median(gap)) / 1e9 for gap in gaps if len(gap)]:
                slowest = max(slowest, min(found))
                break
    return float(next((step for step in USUAL_INTERVALS_S if slowest and slowest <= step * 1.25), 15))


def _last(client: PrometheusClient, series: str, matchers: str = "") -> list[Labels]:
    return [labels for labels, _ in client.instant(f"last_over_time({series}{{{matchers}}}[{LOOK_BACK}])")]


def _components(client: PrometheusClient, witness: Witness) -> list[Component]:
    """Return one component per namespace, or per job where units are instances."""
    found = _last(client, witness.series, witness.matchers)
    if not found:
        return []
    identity = identity_of(found)
    by_place: dict[tuple[tuple[str, str], ...], list[Labels]] = defaultdict(list)
    for labels in found:
        shared = CONSTANT if identity == "instance" else CONSTANT[:1]
        place = tuple((name, labels[name]) for name in shared if labels.get(name))
        by_place[place].append(labels)
    components = []
    for place, members in sorted(by_place.items()):
        units = tuple(sorted({labels[identity] for labels in members}, key=in_order))
        model = next((labels[name] for labels in members for name in MODEL_NAMES if labels.get(name)), None)
        components.append(
            Component(
                name=witness.name,
                role=witness.role,
                kind=witness.name,
                units=units,
                each=identity,
                labels={**dict(place), identity: _any_of(units)},
                engine=witness.engine,
                model=model if witness.role == "replica" else None,
                where=f"{witness.series} by {identity}",
            )
        )
    return components


def identity_of(found: Sequence[Mapping[str, str]]) -> str:
    """Return the label that tells most of the series apart, of equally good ones the best known."""
    counts = {
        name: len({labels[name] for labels in found})
        for name in IDENTITIES
        if all(labels.get(name) for labels in found)
    }
    return max(counts, key=lambda name: (counts[name], -IDENTITIES.index(name)), default="instance")


def _any_of(units: Sequence[str]) -> str:
    return units[0] if len(units) == 1 else REGEX_MARK + "|".join(re.escape(each).replace(r"\-", "-") for each in units)


def _matcher(name: str, value: str) -> str:
    return f"{name}=~{quoted(value[1:])}" if value.startswith(REGEX_MARK) else f"{name}={quoted(value)}"


def _containers(client: PrometheusClient, names: frozenset[str]) -> list[Labels]:
    return _last(client, CONTAINER_SERIES) if CONTAINER_SERIES in names else []


def _named_containers(client: PrometheusClient, names: frozenset[str], known: Sequence[Component]) -> list[Component]:
    """Return gateways and heads that no exporter of their own shows, by the names of containers beside the engines."""
    engines = [component for component in known if component.role == "replica"]
    if not engines:
        return []
    each = engines[0].each if engines[0].each in ("pod", "service") else "name"
    namespace = engines[0].labels.get("namespace")
    taken = {unit for component in known for unit in component.units}
    roles_known = {component.role for component in known}
    found: dict[Role, set[str]] = defaultdict(set)
    for labels in _containers(client, names):
        name = labels.get(each, "")
        if not name or name in taken or (namespace and labels.get("namespace") != namespace):
            continue
        role = next((role for pattern, role in BY_NAME if re.search(pattern, name)), None)
        if role is not None and role not in roles_known:
            found[role].add(name)
    return [
        Component(
            name=dns_label(unit if each != "pod" else role),
            role=role,
            kind="container",
            units=(unit,),
            each=each,
            labels={**({"namespace": namespace} if namespace else {}), each: unit},
            where=f"{CONTAINER_SERIES} by {each}",
        )
        for role, units in sorted(found.items())
        for unit in sorted(units)
    ]


def _with_neighbours(component: Component, containers: Sequence[Labels], nodes: Sequence[Labels]) -> Component:
    """Add the labels by which cAdvisor (Docker), node exporters and DCGM name units that are known by their address."""
    if component.each == "ReplicaId":  # Ray Serve's own series name it otherwise
        return replace(component, alternatives={unit: [{"replica": unit}] for unit in component.units})
    if component.each != "instance":
        return component
    found: dict[str, list[Labels]] = {}
    for unit in component.units:
        host = unit.rpartition(":")[0] or unit
        docker = [each for each in containers if each.get("name") and _is_container(each, host)]
        beside = {each["instance"]: None for each in nodes if each.get("instance", "").rpartition(":")[0] == host}
        labels = [{"name": each["name"]} for each in docker] or [{"instance": instance} for instance in beside]
        if labels:
            found[unit] = labels
    return replace(component, alternatives=found) if found else component


def _is_container(labels: Mapping[str, str], host: str) -> bool:
    return host in (labels["name"], labels.get(COMPOSE_SERVICE), labels["name"].removesuffix("-1").partition("-")[2])


def _kinds(components: Sequence[Component], containers: Sequence[Labels]) -> tuple[str, ...]:
    """Say how the components were deployed, as far as labels tell."""
    kinds: dict[str, None] = {}
    by_docker = any(each.get(COMPOSE_SERVICE) for each in containers)
    for component in components:
        if component.role != "replica":
            continue
        through_ray = component.where.startswith("ray_")
        if component.each == "pod":
            kinds["pods on Kubernetes" + (", served by Ray" if through_ray else "")] = None
        elif through_ray:
            kinds["Ray Serve"] = None
        else:
            kinds["Docker Compose" if by_docker and component.alternatives else "bare processes"] = None
    return tuple(kinds)
