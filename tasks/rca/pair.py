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
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tasks.rca.method import Method, MethodError, Ranking
from tasks.rca.view import CaseView

Status = Literal["ok", "missing", "error", "invalid", "timeout", "memory", "crash"]
TIE_TOLERANCE = 1e-9
"""Scores that differ by less than this share of their size are a tie: rounding must not decide."""


@dataclass(frozen=True)
class Suspect:
    """One line of a ranking. ``metric``: the service's worst metric, where the method names metrics."""

    rank: int
    service: str
    score: float
    tied: bool
    metric: str | None


@dataclass(frozen=True)
class PairResult:
    """``status`` other than ``ok`` is a failure: no suspects, and ``message`` says why.

    ``missing``: the case lacks a signal the method needs; ``error``: it raised; ``invalid``: it returned no ranking.
    """

    status: Status
    message: str = ""
    suspects: tuple[Suspect, ...] = ()
    wall_s: float = 0.0
    cpu_s: float = 0.0
    peak_mb: float = 0.0
    traceback: str = ""


def pair_rng(seed: int, method: str, content_key: str, purpose: str) -> np.random.Generator:
    """Random numbers for one purpose within one pair, the same in every process."""
    digest = hashlib.sha256(f"{seed}|{method}|{content_key}|{purpose}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))


def run_pair(method: Method, view: CaseView, seed: int) -> PairResult:
    """Rank ``view`` with ``method`` in this process, without limits. Never raises for what the method does."""
    missing = view.missing(method.needs)
    if missing:
        return PairResult("missing", f"needs {', '.join(missing)}: the case has none")
    _seed_global_generators(pair_rng(seed, method.name, view.content_key, "global"))
    wall, cpu = time.perf_counter(), time.process_time()
    status: Status
    trace = ""
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            ranking = method.run(view, pair_rng(seed, method.name, view.content_key, "method"))
        problem = _ranking_problem(ranking, view.services)
        status, message = ("invalid", problem) if problem else ("ok", "")
    except MethodError as error:
        status, message = "error", _steady(str(error))
    except MemoryError:
        status, message = "memory", ""
    except Exception as error:  # noqa: BLE001 (the boundary: a bug of a method is that method's failure, not the run's)
        status, message, trace = "error", _steady(f"{type(error).__name__}: {error}"), traceback.format_exc()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    suspects: tuple[Suspect, ...] = ()
    if status == "ok":
        suspects = order(ranking, view.services, pair_rng(seed, method.name, view.content_key, "ties"))
    return PairResult(status, message, suspects, wall, cpu, traceback=trace)


def order(ranking: Ranking, services: Sequence[str], rng: np.random.Generator) -> tuple[Suspect, ...]:
    """Suspects by falling score; equal scores in random order, marked as tied."""
    scores = dict(ranking.services)
    listed = [service for service in services if service in scores]
    lot = dict(zip(listed, rng.permutation(len(listed)).tolist(), strict=True))
    groups: list[list[str]] = []
    for service in sorted(listed, key=lambda service: -scores[service]):
        if groups and math.isclose(scores[groups[-1][0]], scores[service], rel_tol=TIE_TOLERANCE):
            groups[-1].append(service)
        else:
            groups.append([service])
    worst_metric = _worst_metrics(ranking)
    suspects: list[Suspect] = []
    for group in groups:
        for service in sorted(group, key=lot.__getitem__):
            suspects.append(
                Suspect(
                    rank=len(suspects) + 1,
                    service=service,
                    score=scores[service],
                    tied=len(group) > 1,
                    metric=worst_metric.get(service),
                )
            )
    return tuple(suspects)


def _worst_metrics(ranking: Ranking) -> dict[str, str]:
    worst: dict[str, str] = {}
    for service, metric, _ in sorted(ranking.metrics, key=lambda entry: (-entry[2], entry[1])):
        worst.setdefault(service, metric)
    return worst


def _ranking_problem(ranking: object, services: Sequence[str]) -> str:
    """What is wrong with what a method returned; empty if nothing."""
    if not isinstance(ranking, Ranking):
        return f"returned {type(ranking).__name__}, not a Ranking"
    try:
        names = [service for service, _ in ranking.services]
        scores = [score for _, score in ranking.services] + [score for _, _, score in ranking.metrics]
        finite = all(math.isfinite(score) for score in scores)
        owners = set(names) | {service for service, _, _ in ranking.metrics}
    except (TypeError, ValueError) as error:
        return f"returned a malformed Ranking: {_steady(str(error))}"
    if not finite:
        return "returned a score that is not finite"
    strangers = sorted(str(name) for name in owners - set(services))
    if strangers:
        return f"returned '{strangers[0]}', which is not a candidate service"
    if len(set(names)) != len(names):
        return "returned a service twice"
    return ""


def _seed_global_generators(rng: np.random.Generator) -> None:
    """For libraries that draw from the generators of the interpreter and cannot be told otherwise."""
    random.seed(int(rng.integers(2**32)))
    np.random.seed(int(rng.integers(2**32)))


def _steady(message: str) -> str:
    """One short line without memory addresses, so that results do not differ between runs."""
    return re.sub(r"0x[0-9a-fA-F]+", "0x…", " ".join(message.split()))[:300]
