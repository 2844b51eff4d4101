"""Maps pods, GPUs, addresses and calls to services over time."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from typing import Literal

ALWAYS_FROM, ALWAYS_TO = -(2**62), 2**62

Units = Literal["processes", "pods", "labelled"]
"""Units of a service: processes, whose series carry the label ``service``, pods, which series name, or whatever the
labels say that its owner gave (``LabelMatch``)."""
Join = Literal["service", "pod", "gpu", "callee", "labels"]
"""Identifies the service of a series: its label ``service``, its pod, its GPU, the callee of a call, or the labels that
its owner gave."""
PEER_LABELS = ("pod", "address", "pod_ip", "canonical_service", "workload", "service_name", "app")
"""Suffixes of Istio's labels ``source_*`` and ``destination_*``, those that distinguish replicas first. A Telemetry
resource may add ``pod``, ``address`` and ``pod_ip``."""


@dataclass(frozen=True)
class PodPlacement:
    """A pod of a service, its node and GPUs (UUIDs). ``start`` and ``end`` (aware) are None when unknown, that is
    unbounded."""

    service: str
    pod: str
    uid: str | None = None
    node: str | None = None
    address: str | None = None
    gpus: tuple[str, ...] = ()
    start: datetime | None = None
    end: datetime | None = None

    @property
    def span_ns(self) -> tuple[int, int]:
        start = ALWAYS_FROM if self.start is None else round(self.start.timestamp() * 1e9)
        return start, ALWAYS_TO if self.end is None else round(self.end.timestamp() * 1e9)


@dataclass(frozen=True)
class Holding:
    """``unit`` (a pod, a GPU) belongs to ``service`` from ``start_ns`` until just before ``end_ns``."""

    service: str
    unit: str
    start_ns: int = ALWAYS_FROM
    end_ns: int = ALWAYS_TO


@dataclass(frozen=True)
class LabelMatch:
    """Series with these labels belong to ``service``, from ``start_ns`` until just before ``end_ns``.

    ``labels``: name -> exact value, or, after a ``~``, a regular expression for the whole value.
    """

    service: str
    labels: Mapping[str, str]
    start_ns: int = ALWAYS_FROM
    end_ns: int = ALWAYS_TO

    def fits(self, labels: Mapping[str, str]) -> bool:
        return all(
            re.fullmatch(wanted[1:], labels.get(name, "")) is not None
            if wanted.startswith(REGEX_MARK)
            else labels.get(name) == wanted
            for name, wanted in self.labels.items()
        )


REGEX_MARK = "~"


@dataclass(frozen=True)
class Placement:
    """All pods of the services over one window.

    Args:
        services: every service of the stack.
        pods: also those that were replaced within the window.
        namespace: namespace of the pods; series that name another namespace are ignored.
        aliases: further names, such as those of Kubernetes Services -> service.
        matches: labels of series -> service, where the owner of the stack gave them.
    """

    services: tuple[str, ...]
    pods: tuple[PodPlacement, ...] = ()
    namespace: str | None = None
    aliases: Mapping[str, str] = field(default_factory=dict)
    matches: tuple[LabelMatch, ...] = ()

    @cached_property
    def nodes(self) -> dict[str, tuple[str, ...]]:
        """Service -> nodes of its pods."""
        found: dict[str, dict[str, None]] = defaultdict(dict)
        for pod in self.pods:
            if pod.node:
                found[pod.service][pod.node] = None
        return {service: tuple(nodes) for service, nodes in found.items()}

    @cached_property
    def names(self) -> dict[str, str]:
        """Unambiguous name -> service: services, aliases, pods, their uids and addresses."""
        names = dict(self.aliases)
        claimed: dict[str, set[str]] = defaultdict(set)
        for pod in self.pods:
            for name in (pod.pod, pod.uid, pod.address):
                if name:
                    claimed[name].add(pod.service)
        names.update({name: next(iter(services)) for name, services in claimed.items() if len(services) == 1})
        return {**names, **{service: service for service in self.services}}

    def holdings(self, labels: Mapping[str, str], join: Join) -> tuple[Holding, ...]:
        """Return the services that a series with these labels belongs to, and when; empty for series of others."""
        if join == "labels":
            return self.of_labels(labels)
        if join == "callee":
            return self.of_peer(labels, "destination")
        found = self._of_gpu(labels) if join == "gpu" else self._of_pod(labels)
        if not found and labels.get("service") in self.services:
            # The pod is unknown, but its monitor names its service.
            return (Holding(labels["service"], labels.get("UUID") or labels.get("pod", "")),)
        return found

    def of_labels(self, labels: Mapping[str, str]) -> tuple[Holding, ...]:
        """Return the services whose labels these are. Each series of a service is a unit of its own."""
        exact = (
            match
            for names, by_values in self._exact_matches.items()
            for match in by_values.get(tuple(labels.get(name, "") for name in names), ())
        )
        found = [*exact, *(match for match in self._regex_matches if match.fits(labels))]
        unit = repr(sorted(labels.items())) if found else ""
        return tuple(Holding(match.service, unit, match.start_ns, match.end_ns) for match in found)

    @cached_property
    def _exact_matches(self) -> dict[tuple[str, ...], dict[tuple[str, ...], list[LabelMatch]]]:
        """Names of labels -> their values -> matches: hundreds of services cost one look-up per series."""
        found: dict[tuple[str, ...], dict[tuple[str, ...], list[LabelMatch]]] = defaultdict(lambda: defaultdict(list))
        for match in self.matches:
            if not _is_regex(match):
                names = tuple(sorted(match.labels))
                found[names][tuple(match.labels[name] for name in names)].append(match)
        return found

    @cached_property
    def _regex_matches(self) -> tuple[LabelMatch, ...]:
        return tuple(filter(_is_regex, self.matches))

    def of_peer(self, labels: Mapping[str, str], side: Literal["source", "destination"]) -> tuple[Holding, ...]:
        """Return the services at one end of a call, by Istio's labels."""
        if labels.get(f"{side}_workload_namespace", "") not in ("", "unknown", self.namespace):
            return ()
        for ending in PEER_LABELS:
            name = labels.get(f"{side}_{ending}", "")
            if not name or name == "unknown":
                continue
            host = name.rpartition(":")[0] if ending == "address" and name.count(":") == 1 else name
            found = self._by_pod.get(host) or self._by_address.get(host)
            if found:
                return found
            if host in self.names:
                return (Holding(self.names[host], host),)
        return ()

    def _of_pod(self, labels: Mapping[str, str]) -> tuple[Holding, ...]:
        for prefix in ("exported_", ""):
            pod, namespace = labels.get(f"{prefix}pod"), labels.get(f"{prefix}namespace")
            if pod in self._by_pod and namespace in (None, "", self.namespace):
                return self._by_pod[pod]
        return ()

    def _of_gpu(self, labels: Mapping[str, str]) -> tuple[Holding, ...]:
        uuid = labels.get("UUID", "")
        if uuid in self._by_gpu:
            return self._by_gpu[uuid]
        return tuple(replace(holding, unit=uuid or holding.unit) for holding in self._of_pod(labels))

    @cached_property
    def _by_pod(self) -> dict[str, tuple[Holding, ...]]:
        """Pod name -> holdings without a start: only the end of a pod counts, since its last values linger."""
        return _index(
            (pod.pod, Holding(pod.service, pod.uid or pod.pod, ALWAYS_FROM, pod.span_ns[1])) for pod in self.pods
        )

    @cached_property
    def _by_address(self) -> dict[str, tuple[Holding, ...]]:
        return _index(
            (pod.address, Holding(pod.service, pod.uid or pod.pod, *pod.span_ns)) for pod in self.pods if pod.address
        )

    @cached_property
    def _by_gpu(self) -> dict[str, tuple[Holding, ...]]:
        return _index((gpu, Holding(pod.service, gpu, *pod.span_ns)) for pod in self.pods for gpu in pod.gpus)


def _is_regex(match: LabelMatch) -> bool:
    return any(value.startswith(REGEX_MARK) for value in match.labels.values())


def _index(pairs: Iterable[tuple[str, Holding]]) -> dict[str, tuple[Holding, ...]]:
    found: dict[str, list[Holding]] = defaultdict(list)
    for key, holding in pairs:
        found[key].append(holding)
    return {key: tuple(sorted(holdings, key=lambda h: h.start_ns)) for key, holdings in found.items()}


def merge_pods(stated: Iterable[PodPlacement], seen: Iterable[PodPlacement]) -> tuple[PodPlacement, ...]:
    """Merge the pods known to the deployment with those seen by monitoring, one entry per pod. The deployment counts
    where both have a value; a missing ``start`` or ``end`` is taken from monitoring."""
    merged = list(stated)
    for pod in seen:
        i = next((i for i, known in enumerate(merged) if _same(known, pod)), None)
        if i is None:
            merged.append(pod)
            continue
        known = merged[i]
        merged[i] = replace(
            known,
            uid=known.uid or pod.uid,
            node=known.node or pod.node,
            address=known.address or pod.address,
            start=known.start or pod.start,
            end=known.end or pod.end,
        )
    return tuple(merged)


def _same(one: PodPlacement, other: PodPlacement) -> bool:
    return one.pod == other.pod and (one.uid == other.uid or not one.uid or not other.uid)


def inherit_gpus(pods: tuple[PodPlacement, ...]) -> tuple[tuple[PodPlacement, ...], list[str]]:
    """Give a pod without GPUs those of the pod of its service that it replaced on the same node, unless another pod
    holds them: only the node's device plugin knows whether a service keeps its GPU.

    Returns:
        The pods, and one line for each such assumption.
    """
    result = sorted(pods, key=lambda pod: pod.span_ns)
    assumptions = []
    for i, pod in enumerate(result):
        if pod.gpus or pod.node is None:
            continue
        former = next((o for o in reversed(result[:i]) if o.gpus and _ended_beside(o, pod)), None)
        if former is None:
            continue
        others = [o for o in result if o is not former and o.span_ns[1] > pod.span_ns[0]]
        gpus = tuple(gpu for gpu in former.gpus if not any(gpu in other.gpus for other in others))
        if gpus:
            result[i] = replace(pod, gpus=gpus)
            assumptions.append(f"GPU {', '.join(gpus)} is taken to stay with {pod.service} when its pod was replaced")
    return tuple(result), assumptions


def _ended_beside(former: PodPlacement, pod: PodPlacement) -> bool:
    return (former.service, former.node) == (pod.service, pod.node) and former.end is not None
