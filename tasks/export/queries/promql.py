"""PromQL sources of a canonical metric, and how their answers become a value per service."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from tasks.export.sources.placement import Join, Units
from tasks.metrics import HEAD, Metric, Source
from tasks.stack import ALL_ROLES, Role

Combine = Literal["sum", "mean", "max", "min"]
Accelerator = Literal["any", "gpu", "none"]

LEAST_HOLD_S = 30.0
"""A gauge that is exported only while it is set holds for so long, or for the rate window: two scrapes or more."""

_SERIES = re.compile(r"([A-Za-z_:][A-Za-z0-9_:]*)\{")


@dataclass(frozen=True)
class LabelScope:
    """The labels by which an owner tells the services apart: ``by``, their names, and ``matchers``, PromQL that leaves
    the series of others out."""

    by: tuple[str, ...]
    matchers: str = ""


@dataclass(frozen=True)
class Variant:
    """One way to get a metric from Prometheus.

    Args:
        source: named in the column ``source``.
        promql: ``$window`` stands for the rate window, ``$window_s`` for its length in seconds, ``$hold`` for how
            long a gauge holds, ``$scope`` for the matchers of the stack's series, ``$by`` for the labels that tell
            services apart; every name of a series is followed by ``{``.
        join: identifies the service of a series: by its label ``service`` where services are processes, else its pod.
        combine: how the values of a service's units (pods, GPUs) are combined.
        divisor: PromQL; ``promql`` is divided by it, service by service.
        quantile: ``promql`` returns the buckets of a histogram, of which this quantile is taken.
        scale: factor from the answer's unit to the canonical metric's.
        accelerator: query only stacks with GPUs, or only stacks without.
        optional: the metric is not reported as missing where this variant has no answer.
    """

    source: Source
    promql: str
    roles: frozenset[Role] = ALL_ROLES
    join: Join = "service"
    combine: Combine = "sum"
    divisor: str = ""
    quantile: float | None = None
    scale: float = 1.0
    accelerator: Accelerator = "any"
    optional: bool = False

    def query(self, window_s: float, namespace: str | None = None) -> str:
        return _filled(self.promql, window_s, namespace)

    def queries(self, window_s: float, namespace: str | None, within: LabelScope | None = None) -> tuple[str, ...]:
        """Return one query, or two: the dividend and the divisor. ``within``: for the join ``labels``."""
        parts = (self.promql, self.divisor) if self.divisor else (self.promql,)
        if within is None:
            return tuple(_filled(part, window_s, namespace) for part in parts)
        by = ", ".join(within.by)
        return tuple(_filled(part.replace("$by", by), window_s, scope=within.matchers) for part in parts)

    @property
    def series(self) -> tuple[str, ...]:
        """Names of the series that it reads, except ``up``."""
        names = dict.fromkeys(_SERIES.findall(f"{self.promql} {self.divisor}"))
        return tuple(name for name in names if name != "up")

    def is_asked(self, units: Units, gpus: bool) -> bool:
        return _UNITS[self.join] == units and self.accelerator in ("any", "gpu" if gpus else "none")


_UNITS: dict[Join, Units] = {
    "service": "processes",
    "pod": "pods",
    "gpu": "pods",
    "callee": "pods",
    "labels": "labelled",
}


@dataclass(frozen=True)
class MetricSpec:
    """The sources of a canonical metric.

    ``span_roles``: roles for which it is derived from spans; variants are queried where no spans exist.

    Raises:
        ValueError: it is filled for a role that the vocabulary does not expect.
    """

    metric: Metric
    variants: tuple[Variant, ...] = ()
    span_roles: frozenset[Role] = frozenset()

    def __post_init__(self) -> None:
        filled = self.span_roles.union(*(variant.roles for variant in self.variants if not variant.optional))
        if filled - self.metric.roles:
            raise ValueError(f"{self.metric}: not expected of {', '.join(sorted(filled - self.metric.roles))}")

    @property
    def name(self) -> str:
        return self.metric.name

    def variants_of(self, units: Units, gpus: bool = True) -> tuple[Variant, ...]:
        return tuple(variant for variant in self.variants if variant.is_asked(units, gpus))

    def roles_of(self, units: Units, gpus: bool = True) -> frozenset[Role]:
        """Return the roles that are expected to have the metric. Where services are pods the gateway calls Ray Serve's
        proxies in the replicas' pods, never the head. A stack that somebody else deployed need not have spans."""
        by_spans = {"pods": self.span_roles - HEAD, "labelled": frozenset[Role]()}.get(units, self.span_roles)
        return by_spans.union(*(v.roles for v in self.variants_of(units, gpus) if not v.optional))


def _filled(promql: str, window_s: float, namespace: str | None = None, scope: str = "") -> str:
    text = promql.replace("$window_s", f"{window_s:g}").replace("$window", f"{round(window_s * 1000)}ms")
    text = text.replace("$hold", f"{round(max(LEAST_HOLD_S, window_s) * 1000)}ms")
    scope = f'namespace="{namespace}"' if namespace else scope
    return text.replace("$scope", scope) if scope else text.replace("$scope,", "").replace("$scope", "")
