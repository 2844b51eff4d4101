"""The sources of a canonical metric: PromQL questions, and how each answer becomes a figure per service."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from tasks.export.sources.placement import Join, Units
from tasks.metrics import HEAD, Metric, Source
from tasks.stack import ALL_ROLES, Role

Combine = Literal["sum", "mean", "max", "min"]
Accelerator = Literal["any", "gpu", "none"]

_SERIES = re.compile(r"([A-Za-z_:][A-Za-z0-9_:]*)\{")


@dataclass(frozen=True)
class Variant:
    """One way to get a metric from Prometheus.

    Args:
        source: named in the column ``source``.
        promql: ``$window`` stands for the rate window, ``$window_s`` for its length in seconds, ``$namespace`` for the
            stack's; every name of a series is followed by ``{``.
        join: what tells the service of a series: its label ``service`` where services are processes, else its pod.
        combine: how the units (pods, GPUs) of a service make one figure.
        divisor: PromQL; the figure is ``promql`` by service divided by this by service.
        quantile: ``promql`` gives the buckets of a histogram, the figure is this quantile.
        scale: the figure in units of the canonical metric is this many times what the question yields.
        accelerator: asked only of stacks with GPUs, or only of stacks without.
        optional: nobody misses it where it does not answer.
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

    def queries(self, window_s: float, namespace: str | None) -> tuple[str, ...]:
        """Return one question, or two: the dividend and the divisor."""
        parts = (self.promql, self.divisor) if self.divisor else (self.promql,)
        return tuple(_filled(part, window_s, namespace) for part in parts)

    @property
    def series(self) -> tuple[str, ...]:
        """Names of the series that it reads, without those that say whether a target is up."""
        names = dict.fromkeys(_SERIES.findall(f"{self.promql} {self.divisor}"))
        return tuple(name for name in names if name != "up")

    def is_asked(self, units: Units, gpus: bool) -> bool:
        fits = (self.join == "service") == (units == "processes")
        return fits and self.accelerator in ("any", "gpu" if gpus else "none")


@dataclass(frozen=True)
class MetricSpec:
    """What a canonical metric is made of.

    ``span_roles``: the services for which it is derived from spans; the variants are asked only where there are none.

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
        """Return the roles that are expected to have the metric. Where services are pods nobody calls the head: the
        gateway reaches Ray Serve's proxies in the replicas' pods."""
        by_spans = self.span_roles - HEAD if units == "pods" else self.span_roles
        return by_spans.union(*(v.roles for v in self.variants_of(units, gpus) if not v.optional))


def _filled(promql: str, window_s: float, namespace: str | None) -> str:
    text = promql.replace("$window_s", f"{window_s:g}").replace("$window", f"{round(window_s * 1000)}ms")
    scope = f'namespace="{namespace}"' if namespace else ""
    return text.replace("$scope", scope).replace(",}", "}").replace("{,", "{")
