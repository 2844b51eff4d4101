"""One (method, case) pair: call the method, check what it returns, put it in order.

The same pair gives the same result in every process: its random numbers depend on the seed, the method and the content
of the case.
"""

from __future__ import annotations

import hashlib
import math
import random
import re
import time
import traceback
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np

from tasks.rca.method import Coverage, Finding, Method, MethodError, Ranking
from tasks.rca.run.findings import coverage_problem, finding_problem, ordered_findings, plain_coverage
from tasks.rca.run.needs import lacking
from tasks.rca.view import CaseView, column_names

Status = Literal["ok", "missing", "error", "invalid", "timeout", "memory", "crash"]
TIE_TOLERANCE = 1e-9
"""Scores that differ by less than this share of their size are a tie: rounding must not decide."""

Named = TypeVar("Named")


@dataclass(frozen=True, slots=True)
class Suspect:
    """One line of a ranking. ``metric``: what the method found worst about the service, if it says so: one of its
    metrics, or a count of its log lines or spans."""

    rank: int
    service: str
    score: float
    tied: bool
    metric: str | None


@dataclass(frozen=True, slots=True)
class MetricSuspect:
    """One line of a ranking of metrics, for methods that rank metrics."""

    rank: int
    service: str
    metric: str
    score: float
    tied: bool


@dataclass(frozen=True)
class PairResult:
    """The result of one pair. A ``status`` other than ``ok`` is a failure, without suspects; ``message`` says why.

    ``findings``: roots first, then by significance; None: the method does not say how many roots there are.
    ``coverage``: which evidence it had; None: it does not say.
    ``missing``: the case lacks what the method needs; ``error``: it raised; ``invalid``: it returned no valid ranking.
    ``wall_s`` and ``cpu_s`` are the method's alone. ``peak_mb``: greatest resident size of the process while it ran;
    ``grown_mb``: by how much the method raised it.
    """

    status: Status
    message: str = ""
    suspects: tuple[Suspect, ...] = ()
    metrics: tuple[MetricSuspect, ...] = ()
    findings: tuple[Finding, ...] | None = None
    coverage: Coverage | None = None
    wall_s: float = 0.0
    cpu_s: float = 0.0
    peak_mb: float = 0.0
    grown_mb: float = 0.0
    traceback: str = ""


def pair_rng(seed: int, method: str, content_key: str, purpose: str) -> np.random.Generator:
    """Return random numbers for one purpose within one pair, the same in every process."""
    digest = hashlib.sha256(f"{seed}|{method}|{content_key}|{purpose}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))


def run_pair(method: Method, view: CaseView, seed: int, parameters: Mapping[str, Any] | None = None) -> PairResult:
    """Rank ``view`` with ``method`` in this process, without limits. Never raises for what the method does."""
    missing = view.missing(method.needs)
    if missing:
        return PairResult("missing", lacking(view, missing))
    _seed_global_generators(pair_rng(seed, method.name, view.content_key, "global"))
    wall, cpu = time.perf_counter(), time.process_time()
    status: Status
    trace = ""
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            ranking = method.run(view, pair_rng(seed, method.name, view.content_key, "method"), **(parameters or {}))
        problem = _ranking_problem(ranking, view.services)
        status, message = ("invalid", problem) if problem else ("ok", "")
    except MethodError as error:
        status, message = "error", _steady(str(error))
    except MemoryError:
        status, message = "memory", ""
    except Exception as error:  # noqa: BLE001 (the boundary: a bug of a method is that method's failure, not the run's)
        status, message, trace = "error", _steady(f"{type(error).__name__}: {error}"), traceback.format_exc()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    if status != "ok":
        return PairResult(status, message, wall_s=wall, cpu_s=cpu, traceback=trace)
    return PairResult(
        "ok",
        suspects=order(ranking, view.services, pair_rng(seed, method.name, view.content_key, "ties")),
        metrics=order_metrics(
            ranking, column_names(view.metrics), pair_rng(seed, method.name, view.content_key, "metrics")
        ),
        findings=ordered_findings(ranking.findings, view.services),
        coverage=plain_coverage(ranking.coverage),
        wall_s=wall,
        cpu_s=cpu,
    )


def order(ranking: Ranking, services: Sequence[str], rng: np.random.Generator) -> tuple[Suspect, ...]:
    """Return suspects by falling score; equal scores are in random order and marked as tied."""
    scores = dict(ranking.services)
    listed = [service for service in services if service in scores]
    worst_metric = _worst_metrics(ranking)
    return tuple(
        Suspect(rank, service, float(scores[service]), tied, worst_metric.get(service))
        for rank, (service, tied) in enumerate(_falling(listed, [scores[service] for service in listed], rng), 1)
    )


def order_metrics(
    ranking: Ranking, columns: Sequence[tuple[str, str]], rng: np.random.Generator
) -> tuple[MetricSuspect, ...]:
    """Return the metrics that a method ranks by falling score; equal scores are in random order and marked as tied.

    ``columns`` are those of the view, in its order. What else a method scores, such as counts of log lines, shows on
    its service, but is no metric of the case and takes no rank.
    """
    scores = {(service, str(metric)): float(score) for service, metric, score in ranking.metrics}
    listed = [column for column in columns if column in scores]
    return tuple(
        MetricSuspect(rank, *named, scores[named], tied)
        for rank, (named, tied) in enumerate(_falling(listed, [scores[named] for named in listed], rng), 1)
    )


def _falling(names: Sequence[Named], scores: Sequence[float], rng: np.random.Generator) -> list[tuple[Named, bool]]:
    """Return names by falling score, each with whether it is tied with another.

    Ties are drawn by lot. The order of ``names`` decides which lot a name gets, so it must not depend on the names.
    """
    lots = rng.permutation(len(names))
    groups: list[list[int]] = []
    for i in sorted(range(len(names)), key=lambda i: -scores[i]):
        if groups and math.isclose(scores[groups[-1][0]], scores[i], rel_tol=TIE_TOLERANCE):
            groups[-1].append(i)
        else:
            groups.append([i])
    return [(names[i], len(group) > 1) for group in groups for i in sorted(group, key=lots.__getitem__)]


def _worst_metrics(ranking: Ranking) -> dict[str, str]:
    worst: dict[str, str] = {}
    for service, metric, _ in sorted(ranking.metrics, key=lambda entry: (-entry[2], entry[1])):
        worst.setdefault(service, str(metric))
    return worst


def _ranking_problem(ranking: object, services: Sequence[str]) -> str:
    """Return what is wrong with a method's return value; empty if nothing is."""
    if not isinstance(ranking, Ranking):
        return f"returned {type(ranking).__name__}, not a Ranking"
    try:
        names = [service for service, _ in ranking.services]
        scores = [score for _, score in ranking.services] + [score for _, _, score in ranking.metrics]
        finite = all(math.isfinite(score) for score in scores)
        owners = set(names) | {service for service, _, _ in ranking.metrics}
        said = finding_problem(ranking.findings, services) or coverage_problem(ranking.coverage)
    except (TypeError, ValueError) as error:
        return f"returned a malformed Ranking: {_steady(str(error))}"
    if not finite:
        return "returned a score that is not finite"
    strangers = sorted(str(name) for name in owners - set(services))
    if strangers:
        return f"returned '{strangers[0]}', which is not a candidate service"
    if len(set(names)) != len(names):
        return "returned a service twice"
    if len({(service, metric) for service, metric, _ in ranking.metrics}) != len(ranking.metrics):
        return "returned a metric twice"
    return said


def _seed_global_generators(rng: np.random.Generator) -> None:
    """Seed the interpreter's generators, for libraries that use them and take no generator."""
    random.seed(int(rng.integers(2**32)))
    np.random.seed(int(rng.integers(2**32)))


def _steady(message: str) -> str:
    """Shorten a message to one line without memory addresses, so that results do not differ between runs."""
    return re.sub(r"0x[0-9a-fA-F]+", "0x…", " ".join(message.split()))[:300]
