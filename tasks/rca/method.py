"""The method interface: a function from a :class:`CaseView` and a random generator to a :class:`Ranking`.

A new method is one new file in ``metric/``, ``trace/`` or ``multi_source/`` with one decorated function.
"""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Concatenate, Literal, get_args, get_type_hints

import numpy as np
import pandas as pd

from tasks.rca.view import METRIC_NEED, CaseView
from tasks.validation import suggest

Family = Literal["metric", "trace", "multi-source"]
Signal = Literal["metrics", "sli", "ttft", "error_rate", "logs", "spans", "requests", "topology"]
Cost = Literal["cheap", "moderate", "expensive"]
Run = Callable[Concatenate[CaseView, np.random.Generator, ...], "Ranking"]
"""View, random numbers, then parameters by keyword, each with a default."""


class MethodError(ValueError):
    """A method cannot rank this case, for the reason given. The case scores zero for it."""


@dataclass(frozen=True)
class Ranking:
    """Suspects with their scores, higher is worse; the order of the tuples does not matter.

    ``services``: (service, score), each service at most once; one that is left out counts as not found.
    ``metrics``: (service, metric, score), for methods that can name the metric.
    """

    services: tuple[tuple[str, float], ...]
    metrics: tuple[tuple[str, str, float], ...] = ()

    @classmethod
    def of_services(cls, scores: Mapping[str, float]) -> Ranking:
        return cls(tuple((service, float(score)) for service, score in scores.items()))

    @classmethod
    def of_order(cls, services: Iterable[str]) -> Ranking:
        """For methods that give an order and no scores; first is worst."""
        ordered = list(services)
        return cls(tuple((service, float(len(ordered) - i)) for i, service in enumerate(ordered)))

    @classmethod
    def of_metrics(cls, scores: pd.Series) -> Ranking:
        """Scores indexed by (service, metric). A service scores as its worst metric; a NaN score is left out."""
        known = scores.dropna()
        values = known.to_numpy(dtype=float).tolist()
        metrics = tuple((str(service), str(name), v) for (service, name), v in zip(known.index, values, strict=True))
        worst: dict[str, float] = {}
        for service, _, score in metrics:
            worst[service] = max(score, worst.get(service, score))
        return cls(tuple(worst.items()), metrics)


@dataclass(frozen=True)
class Paper:
    title: str
    venue: str
    year: int


@dataclass(frozen=True)
class Parameter:
    """A keyword-only argument of a method: its default and what may be given instead."""

    default: Any
    annotation: Any

    @property
    def kind(self) -> str:
        """The annotation as a person would write it."""
        return self.annotation.__name__ if isinstance(self.annotation, type) else _plain(self.annotation)


def _plain(annotation: Any) -> str:
    return str(annotation).replace("typing.", "")


@dataclass(frozen=True)
class Method:
    """A registered method. ``packages``: import names of optional dependencies; ``module``: where it is defined.
    ``reference``: a yardstick for methods rather than one of them; means over methods leave it out."""

    name: str
    family: Family
    needs: frozenset[str]
    paper: Paper
    cost: Cost
    seeded: bool
    packages: tuple[str, ...]
    summary: str
    module: str
    run: Run
    reference: bool = False

    @property
    def missing_packages(self) -> tuple[str, ...]:
        return tuple(package for package in self.packages if importlib.util.find_spec(package) is None)

    @property
    def installed(self) -> bool:
        return not self.missing_packages

    @cached_property
    def parameters(self) -> Mapping[str, Parameter]:
        """By name: what ``score.method_parameters`` may set."""
        annotations = get_type_hints(self.run, include_extras=True)
        return {
            name: Parameter(argument.default, annotations.get(name, Any))
            for name, argument in inspect.signature(self.run).parameters.items()
            if argument.kind is inspect.Parameter.KEYWORD_ONLY
        }


REGISTRY: dict[str, Method] = {}


def need_problems(needs: Collection[str]) -> list[str]:
    """What is wrong with the needs of a method, one line each. Metrics are those of the metric map: a data set may have
    others, and a method that uses one of those looks itself whether it is there."""
    problems = []
    for need in sorted(needs):
        if not need.startswith(METRIC_NEED):
            known = get_args(Signal)
            if need not in known:
                problems.append(f"unknown signal '{need}' in needs; {suggest(need, known)}")
            continue
        from tasks.export.metric_map import SPECS

        metric = need.removeprefix(METRIC_NEED)
        if metric not in SPECS:
            problems.append(f"unknown metric '{metric}' in needs; {suggest(metric, SPECS)}")
    return problems


def method(
    *,
    name: str,
    family: Family,
    needs: Collection[Signal | str],
    paper: Paper,
    cost: Cost = "cheap",
    seeded: bool = False,
    packages: tuple[str, ...] = (),
    reference: bool = False,
) -> Callable[[Run], Run]:
    """Register a method under ``name``.

    ``needs``: signals without which it cannot run (checked before it is called). ``seeded``: it draws from its
    generator. ``reference``: a yardstick for methods, left out of means over them.

    Keyword-only arguments of the function are parameters, each with a default and an annotation.

    Raises:
        ValueError: another module has registered the name, or a need is no signal and no metric of the metric map.
    """
    problems = need_problems(needs)
    if problems:
        raise ValueError(f"method '{name}': {'; '.join(problems)}")

    def register(run: Run) -> Run:
        known = REGISTRY.get(name)
        if known is not None and known.module != run.__module__:
            raise ValueError(f"method '{name}' is registered twice: in {known.module} and {run.__module__}")
        summary = (run.__doc__ or "").strip().split("\n")[0]
        REGISTRY[name] = Method(
            name=name,
            family=family,
            needs=frozenset(needs),
            paper=paper,
            cost=cost,
            seeded=seeded,
            packages=packages,
            summary=summary,
            module=run.__module__,
            run=run,
            reference=reference,
        )
        return run

    return register
