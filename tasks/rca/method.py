"""The method interface: a function from a :class:`CaseView` and a random generator to a :class:`Ranking`.

A method is one decorated function: in a file of ``metric/``, ``trace/`` or ``multi_source/``, or in another package
that offers it by an entry point of the group ``rcarena.methods`` (:mod:`tasks.plugins`).
"""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Concatenate, Literal, get_args, get_type_hints

import numpy as np
import pandas as pd
from pydantic import ConfigDict, TypeAdapter, ValidationError

from tasks.plugins import Registry
from tasks.rca.view import METRIC_NEED, CaseView
from tasks.text import suggest

Family = Literal["metric", "trace", "multi-source"]
VIEW_SIGNALS = tuple(each.name for each in fields(CaseView) if each.type in ("pd.DataFrame", "pd.Series"))
"""The signals that a method may need: the tables and series of the view."""
FAMILIES: tuple[Family, ...] = get_args(Family)
FAMILY_PACKAGES = tuple(f"{__name__.rpartition('.')[0]}.{family.replace('-', '_')}" for family in FAMILIES)
"""Where the methods of each family are, in the order of ``FAMILIES``."""
Cost = Literal["cheap", "moderate", "expensive"]
COSTS: tuple[Cost, ...] = get_args(Cost)
FindingRole = Literal["root", "victim"]
FINDING_ROLES: tuple[FindingRole, ...] = get_args(FindingRole)
UNKNOWN_KIND = "unknown"
WORKLOAD_KIND = "workload"
"""The kind of a finding whose cause is what is asked of the stack, not a service."""
Run = Callable[Concatenate[CaseView, np.random.Generator, ...], "Ranking"]
"""View, random numbers, then parameters by keyword, each with a default."""


class MethodError(ValueError):
    """A method cannot rank this case, for the reason given. The case scores zero for it."""


@dataclass(frozen=True)
class Evidence:
    """One observation that speaks for a finding.

    ``signal``: the metric, log template or span column. ``sentence``: what it means, for a person. ``before``,
    ``during``: its typical value on the service in the baseline and after the inject time, in ``unit``; ``siblings``:
    that of the services of the same role after the inject time. None: not known or not comparable.
    """

    signal: str
    sentence: str
    unit: str = ""
    before: float | None = None
    during: float | None = None
    siblings: float | None = None


@dataclass(frozen=True)
class Finding:
    """A fault that a method says there is.

    ``service``: None if the common cause is none of the candidates, such as the workload. ``kind``: a fault kind, a
    group of kinds, ``workload`` or ``unknown``. ``significance``: p value, corrected for the number of tests.
    ``role``: ``victim`` if the service broke because of a root. ``onset_s``: seconds after the inject time.
    """

    service: str | None
    kind: str
    significance: float
    role: FindingRole = "root"
    onset_s: float | None = None
    evidence: tuple[Evidence, ...] = ()


@dataclass(frozen=True)
class Coverage:
    """Which evidence a method had, in words for people (``spans``, ``GPU clocks``, ``metrics of ray-head``).

    ``seen``: what it judged by; ``missing``: what it would use and the case does not have.
    """

    seen: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ranking:
    """Suspects with their scores, higher is worse; the order of the tuples does not matter.

    ``services``: (service, score), each service at most once; one that is left out counts as not found.
    ``metrics``: (service, metric, score), for methods that can name the metric. ``findings``: for methods that say how
    many roots there are; empty: there is no fault; None: the method does not say. ``coverage``: which evidence the
    method had; None: it does not say.
    """

    services: tuple[tuple[str, float], ...]
    metrics: tuple[tuple[str, str, float], ...] = ()
    findings: tuple[Finding, ...] | None = None
    coverage: Coverage | None = None

    @classmethod
    def of_services(cls, scores: Mapping[str, float]) -> Ranking:
        return cls(tuple((service, float(score)) for service, score in scores.items()))

    @classmethod
    def of_order(cls, services: Iterable[str]) -> Ranking:
        """Build a ranking from an order, worst first, for methods that give no scores."""
        ordered = list(services)
        return cls(tuple((service, float(len(ordered) - i)) for i, service in enumerate(ordered)))

    @classmethod
    def of_metrics(cls, scores: pd.Series) -> Ranking:
        """Build a ranking from scores indexed by (service, metric). A service scores as its worst metric; a NaN score
        is left out."""
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
    """A keyword-only argument of a method: its default, and the type of the values that may be given instead."""

    default: Any
    annotation: Any

    @property
    def kind(self) -> str:
        """The annotation as a person would write it."""
        return self.annotation.__name__ if isinstance(self.annotation, type) else _plain(self.annotation)

    @cached_property
    def adapter(self) -> TypeAdapter[Any]:
        return TypeAdapter(self.annotation, config=ConfigDict(strict=True, allow_inf_nan=False))

    def problems(self, value: Any) -> list[str]:
        """Return why ``value`` cannot be given, one line each."""
        try:
            self.adapter.validate_python(value)
        except ValidationError as error:
            return [f"{detail['msg']} (got {value!r})" for detail in error.errors()]
        return []


def _plain(annotation: Any) -> str:
    return str(annotation).replace("typing.", "")


@dataclass(frozen=True)
class Method:
    """A registered method.

    ``packages``: import names of optional dependencies. ``module``: where it is defined. ``reference``: it is a
    yardstick for methods rather than one of them, and means over methods leave it out. ``beyond``: it is not one of the
    24 of arXiv 2603.02057; it has means of its own (:func:`tasks.score.tables.score_table`).
    """

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
    beyond: bool = False

    @property
    def missing_packages(self) -> tuple[str, ...]:
        return tuple(package for package in self.packages if importlib.util.find_spec(package) is None)

    @property
    def installed(self) -> bool:
        return not self.missing_packages

    @cached_property
    def parameters(self) -> Mapping[str, Parameter]:
        """The parameters by name, which ``score.method_parameters`` may set."""
        annotations = get_type_hints(self.run, include_extras=True)
        return {
            name: Parameter(argument.default, annotations.get(name, Any))
            for name, argument in inspect.signature(self.run).parameters.items()
            if argument.kind is inspect.Parameter.KEYWORD_ONLY
        }


DOCUMENTED = ("Ranks", "Inputs", "Parameters", "Complexity", "Randomness", "Source", "Deviation")
"""What the docstring of a method must say."""


def method_problems(method: Method) -> list[str]:
    """Return what every method must have and this one lacks, one line each."""
    text = method.run.__doc__ or ""
    lacking = [word for word in DOCUMENTED if word not in text]
    problems = []
    if not method.summary.endswith("."):
        problems.append("its docstring must begin with a line that ends with '.'")
    if lacking:
        problems.append(f"its docstring must say: {', '.join(lacking)}")
    if not (method.paper.title and method.paper.venue and method.paper.year > 1950):
        problems.append("its paper must have a title, a venue and a year")
    if method.family not in FAMILIES:
        problems.append(f"unknown family '{method.family}'; {suggest(method.family, FAMILIES)}")
    if method.cost not in COSTS:
        problems.append(f"unknown cost '{method.cost}'; {suggest(method.cost, COSTS)}")
    for name, parameter in method.parameters.items():
        if parameter.default is inspect.Parameter.empty or parameter.annotation is Any:
            problems.append(f"its parameter '{name}' must have a default and an annotation")
        else:
            problems += [f"the default of '{name}': {problem}" for problem in parameter.problems(parameter.default)]
    return problems


METHODS: Registry[Method] = Registry("method", "rcarena.methods", FAMILY_PACKAGES, method_problems)


def need_problems(needs: Collection[str]) -> list[str]:
    """Return what is wrong with the needs of a method, one line each.

    A need can name only metrics of the vocabulary. A data set may have others: a method that uses one of those looks
    itself whether it is there.
    """
    problems = []
    for need in sorted(needs):
        if not need.startswith(METRIC_NEED):
            if need not in VIEW_SIGNALS:
                problems.append(f"unknown signal '{need}' in needs; {suggest(need, VIEW_SIGNALS)}")
            continue
        from tasks.metrics import METRICS

        metric = need.removeprefix(METRIC_NEED)
        if metric not in METRICS:
            problems.append(f"unknown metric '{metric}' in needs; {suggest(metric, METRICS)}")
    return problems


def method(
    *,
    name: str,
    family: Family,
    needs: Collection[str],
    paper: Paper,
    cost: Cost = "cheap",
    seeded: bool = False,
    packages: tuple[str, ...] = (),
    reference: bool = False,
    beyond: bool = False,
) -> Callable[[Run], Run]:
    """Register a method under ``name``.

    ``needs``: signals without which it cannot run (checked before it is called). ``seeded``: it draws from its
    generator. ``reference``: a yardstick for methods, left out of means over them. ``beyond``: it is not
    one of the 24 of arXiv 2603.02057.

    Keyword-only arguments of the function are parameters, each with a default and an annotation.

    Raises:
        ValueError: another module has registered the name, or a need is no signal and no metric of the metric map.
    """
    problems = need_problems(needs)
    if problems:
        raise ValueError(f"method '{name}': {'; '.join(problems)}")

    def register(run: Run) -> Run:
        summary = (run.__doc__ or "").strip().split("\n")[0]
        defined = Method(
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
            beyond=beyond,
        )
        METHODS.register(name, defined, run.__module__)
        return run

    return register
