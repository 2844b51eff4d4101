"""Looks at the pods of a namespace and recognises what serves models there. Nothing is changed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tasks.backends.attached.found import Component, Finding, dns_label, unique_names
from tasks.export.sources.labelled import in_order
from tasks.kube.client import ALL_NAMESPACES, Cluster, Object
from tasks.kube.errors import ForbiddenError, NotFoundError
from tasks.stack import Role

VLLM, SGLANG, TGI = "vllm", "sglang", "tgi"
KUBERAY, LLM_D, KSERVE, STACK, PLAIN = (
    "KubeRay RayService",
    "llm-d",
    "KServe InferenceService",
    "vLLM production stack",
    "plain pods",
)


@dataclass(frozen=True)
class Rule:
    """A pod is of a kind when all that is given here holds.

    ``labels``: label -> regular expression for its value. ``image``, ``command``: regular expressions found in those of
    its main container; ``container``: that for its name.
    """

    kind: str
    role: Role
    engine: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    image: str = ""
    command: str = ""
    container: str = ""

    def container_of(self, pod: Object) -> Object | None:
        """Return the container that the rule is about; None: the pod is of another kind."""
        labels = pod["metadata"].get("labels") or {}
        if not all(re.fullmatch(value, labels.get(name, "")) for name, value in self.labels.items()):
            return None
        for container in pod["spec"]["containers"]:
            command = " ".join([*(container.get("command") or ()), *(container.get("args") or ())])
            texts = ((self.image, container.get("image") or ""), (self.command, command))
            named = not self.container or re.fullmatch(self.container, container["name"])
            if named and all(not pattern or re.search(pattern, text) for pattern, text in texts):
                return dict(container)
        return None


ANY_VALUE = ".+"
RULES: tuple[Rule, ...] = (
    Rule(KUBERAY, "head", labels={"ray.io/node-type": "head"}, container="ray.*"),
    Rule(KUBERAY, "head", labels={"ray.io/node-type": "head"}),
    Rule(KUBERAY, "replica", VLLM, labels={"ray.io/node-type": "worker"}, container="ray.*"),
    Rule(KUBERAY, "replica", VLLM, labels={"ray.io/node-type": "worker"}),
    Rule(LLM_D, "head", image=r"inference-scheduler|endpoint-picker|(^|/)epp[:@]"),
    Rule(LLM_D, "replica", VLLM, labels={"llm-d.ai/inferenceServing": "true"}, command=r"\bvllm\b"),
    Rule(LLM_D, "replica", VLLM, labels={"llm-d.ai/inferenceServing": "true"}, container="vllm|modelserver"),
    Rule(LLM_D, "replica", VLLM, labels={"llm-d.ai/inferenceServing": "true"}),
    Rule(LLM_D, "gateway", labels={"gateway.networking.k8s.io/gateway-name": ANY_VALUE}),
    Rule(
        KSERVE,
        "replica",
        VLLM,
        labels={"serving.kserve.io/inferenceservice": ANY_VALUE, "component": "predictor"},
        container="kserve-container",
    ),
    Rule(KSERVE, "service", labels={"serving.kserve.io/inferenceservice": ANY_VALUE, "component": "transformer"}),
    Rule(STACK, "gateway", image=r"lmstack-router|production-stack.*router|vllm-router"),
    Rule(STACK, "gateway", container="router-container"),
    Rule(STACK, "replica", VLLM, labels={"helm-release-name": ANY_VALUE, "model": ANY_VALUE}, container="vllm"),
    Rule(PLAIN, "replica", VLLM, command=r"\bvllm serve\b|vllm\.entrypoints"),
    Rule(PLAIN, "replica", VLLM, image=r"(^|/)vllm(-openai)?[:@]|vllm/vllm|vllm-openai"),
    Rule(PLAIN, "replica", SGLANG, command=r"sglang\.launch_server|\bsglang serve\b"),
    Rule(PLAIN, "replica", SGLANG, image=r"(^|/)sglang[:@]"),
    Rule(PLAIN, "replica", TGI, command=r"text-generation-launcher"),
    Rule(PLAIN, "replica", TGI, image=r"text-generation-inference"),
    Rule(PLAIN, "gateway", image=r"(^|/)(nginx|envoy|haproxy|traefik|kong|proxyv2|litellm|apisix)[:@-]"),
)
"""The first that fits counts."""

VOLATILE = ("pod-template-hash", "controller-revision-hash", "pod-template-generation")
SUFFIX = "[a-z0-9]+"
MODEL_OPTIONS = re.compile(r"--(?:served-model-name|model-id|model-path|model)[= ]([^ ]+)")
SERVED = re.compile(r"\bvllm serve (?!-)([^ ]+)")


def look_at_pods(cluster: Cluster) -> Finding:
    """Return what serves models in the cluster's namespace. Raises ClusterError."""
    pods = [pod for pod in cluster.list("v1", "Pod") if (pod.get("status") or {}).get("phase") in ("Running", None)]
    groups: dict[str, tuple[Rule, list[tuple[Object, Object]]]] = {}
    others: set[str] = set()
    for pod in pods:
        found = next(((rule, container) for rule in RULES if (container := rule.container_of(pod))), None)
        if found is None:
            others.add(_controller(pod)[1])
        else:
            groups.setdefault(_controller(pod)[1], (found[0], []))[1].append((pod, found[1]))
    components = [_component(name, rule, members) for name, (rule, members) in sorted(groups.items())]
    kinds = tuple(dict.fromkeys(component.kind for component in _by_role(components)))
    services = _services(cluster)
    remarks = [f"not used: {', '.join(sorted(others))}"] if others else []
    url = _gateway_url(cluster, components, pods, services)
    everywhere = _services_everywhere(cluster)
    named = unique_names(_by_role(components))
    return Finding(kinds, named, tuple(remarks), url, _prometheus_url(everywhere), _traces(everywhere))


def _by_role(components: list[Component]) -> list[Component]:
    order = ("gateway", "head", "replica", "service")
    return sorted(components, key=lambda component: (order.index(component.role), component.name))


def _component(name: str, rule: Rule, members: Sequence[tuple[Object, Object]]) -> Component:
    pods = sorted((str(pod["metadata"]["name"]) for pod, _ in members), key=in_order)
    container = members[0][1]
    command = " ".join([*(container.get("command") or ()), *(container.get("args") or ())])
    named = MODEL_OPTIONS.search(command) or SERVED.search(command)
    namespace = str(members[0][0]["metadata"]["namespace"])
    return Component(
        name=dns_label(name),
        role=rule.role,
        kind=rule.kind,
        units=tuple(pods),
        each="pod",
        labels={"namespace": namespace, "pod": _pattern(name, [pod for pod, _ in members])},
        engine=rule.engine,
        model=named.group(1) if named else None,
        version=_tag(container.get("image") or ""),
        where=f"{_controller(members[0][0])[0]} {name}",
        selector=_selector([pod for pod, _ in members]),
        container=str(container["name"]),
    )


def _controller(pod: Object) -> tuple[str, str]:
    """Return kind and name of what the pod belongs to: of a ReplicaSet its Deployment, of a RayCluster the group."""
    metadata = pod["metadata"]
    labels = metadata.get("labels") or {}
    if "ray.io/cluster" in labels:
        origin = labels.get("ray.io/originated-from-cr-name") or labels["ray.io/cluster"]
        group = "head" if labels.get("ray.io/node-type") == "head" else labels.get("ray.io/group", "worker")
        return labels.get("ray.io/originated-from-crd") or "RayCluster", f"{origin}-{group}"
    owner = next((each for each in metadata.get("ownerReferences") or () if each.get("controller")), None)
    if owner is None:
        return "Pod", str(metadata["name"])
    name, template = str(owner["name"]), labels.get("pod-template-hash")
    if owner["kind"] == "ReplicaSet" and template and name.endswith(f"-{template}"):
        return "Deployment", name.removesuffix(f"-{template}")
    return str(owner["kind"]), name


def _pattern(name: str, pods: Sequence[Object]) -> str:
    """Return a regular expression for the names of the pods, and of those that will replace them."""
    kind = _controller(pods[0])[0]
    names = [str(pod["metadata"]["name"]) for pod in pods]
    labels = pods[0]["metadata"].get("labels") or {}
    guess = {
        "Deployment": f"{_literal(name)}-{SUFFIX}-{SUFFIX}",
        "StatefulSet": f"{_literal(name)}-[0-9]+",
        "ReplicaSet": f"{_literal(name)}-{SUFFIX}",
        "Pod": _literal(name),
    }.get(kind)
    if "ray.io/cluster" in labels:
        origin = labels.get("ray.io/originated-from-cr-name") or labels["ray.io/cluster"]
        group = _literal(labels.get("ray.io/group", ""))
        member = "head" if labels.get("ray.io/node-type") == "head" else f"{group}-worker"
        guess = f"{_literal(origin)}-(.*-)?{member}-{SUFFIX}"
    if guess is None:
        guess = f"{_literal(_common_start(names))}.*"
    if all(re.fullmatch(guess, each) for each in names):
        return guess if kind == "Pod" and len(names) == 1 else f"~{guess}"
    return "~" + "|".join(map(_literal, names))


def _common_start(names: Sequence[str]) -> str:
    first, last = min(names), max(names)
    length = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return first[:length]


def _literal(text: str) -> str:
    return re.escape(text).replace(r"\-", "-")


def _selector(pods: Sequence[Object]) -> str | None:
    """Return the labels that all the pods have in common, as a selector."""
    first = pods[0]["metadata"].get("labels") or {}
    common = {
        name: value
        for name, value in sorted(first.items())
        if name not in VOLATILE and all((pod["metadata"].get("labels") or {}).get(name) == value for pod in pods)
    }
    return ",".join(f"{name}={value}" for name, value in common.items()) or None


def _tag(image: str) -> str | None:
    name, colon, tag = image.partition("@")[0].rpartition(":")
    return tag if colon and "/" not in tag and name else None


def _services(cluster: Cluster) -> list[Object]:
    try:
        return cluster.list("v1", "Service")
    except ForbiddenError:
        return []


def _gateway_url(
    cluster: Cluster, components: Sequence[Component], pods: Sequence[Object], services: Sequence[Object]
) -> str | None:
    """Return the address, inside the cluster, of a Service before the gateway, or before the only kind of replica."""
    by_name = {str(pod["metadata"]["name"]): pod for pod in pods}
    for role in ("gateway", "head", "replica"):
        for component in components:
            if component.role != role:
                continue
            labels = by_name[component.units[0]]["metadata"].get("labels") or {}
            for service in services:
                selector = (service.get("spec") or {}).get("selector") or {}
                ports = (service.get("spec") or {}).get("ports") or ()
                wanted = [port for port in ports if _is_http(port, role)]
                if selector and selector.items() <= labels.items() and wanted:
                    name = service["metadata"]["name"]
                    return f"http://{name}.{cluster.namespace}.svc.cluster.local:{wanted[0]['port']}"
    return None


SERVE_PORT = 8000


def _is_http(port: Mapping[str, Any], role: str) -> bool:
    if role == "head":
        return port.get("port") == SERVE_PORT
    return port.get("port") not in (9090, 9002, 9003, 15021) and "metric" not in str(port.get("name", ""))


def _services_everywhere(cluster: Cluster) -> list[Object]:
    try:
        return cluster.list("v1", "Service", namespace=ALL_NAMESPACES)
    except (ForbiddenError, NotFoundError):
        return []


def _prometheus_url(services: Sequence[Object]) -> str | None:
    """Return the address, inside the cluster, of a Prometheus that some Service is named after."""
    found = []
    for service in services:
        ports = [port for port in (service.get("spec") or {}).get("ports") or () if port.get("port") in (9090, 80)]
        name = str(service["metadata"]["name"])
        labels = service["metadata"].get("labels") or {}
        named = labels.get("app.kubernetes.io/name") == "prometheus"
        if ports and (named or name.endswith(("prometheus", "prometheus-operated"))):
            found.append(f"http://{name}.{service['metadata']['namespace']}.svc.cluster.local:{ports[0]['port']}")
    return min(found, default=None)


@dataclass(frozen=True)
class TraceService:
    """How charts and operators call the Service of a server that holds spans. ``ports``: the best first; the name is
    ``app`` or a regular expression ``name``."""

    kind: str
    app: str
    name: str
    ports: tuple[int, ...]


TRACE_SERVICES = (
    TraceService("tempo", "tempo", r"(.*-)?tempo(-distributed)?(-query-frontend)?", (3200, 3100)),
    TraceService("jaeger", "jaeger", r"(.*-)?jaeger(-.*)?", (16686,)),
    TraceService("jaeger", "", r"(.*-)?jaeger-query", (80,)),
)


def _traces(services: Sequence[Object]) -> tuple[str, str] | None:
    """Return kind and address, inside the cluster, of a Tempo or Jaeger that some Service is named after."""
    found = []
    for service in services:
        labels = service["metadata"].get("labels") or {}
        name, namespace = str(service["metadata"]["name"]), service["metadata"]["namespace"]
        ports = [port.get("port") for port in (service.get("spec") or {}).get("ports") or ()]
        for rank, rule in enumerate(TRACE_SERVICES):
            port = next((port for port in rule.ports if port in ports), None)
            named = re.fullmatch(rule.name, name)
            labelled = bool(rule.app) and labels.get("app.kubernetes.io/name") == rule.app
            component = labels.get("app.kubernetes.io/component", "query-frontend")
            if port is not None and (named or (labelled and component in ("query-frontend", "query", "all-in-one"))):
                url = f"http://{name}.{namespace}.svc.cluster.local:{port}"
                found.append((rank, "query" not in name, url, rule.kind))
                break
    if not found:
        return None
    _, _, url, kind = min(found)
    return kind, url
