"""One of two compared campaigns, as values per case."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import ValidationError

from tasks.case import Case, CaseError, mixed, read_cases
from tasks.compare.errors import CompareError
from tasks.compare.recovery import Recovered, read_recovered
from tasks.identity import canonical, leaves
from tasks.injection import Injection
from tasks.params import Params
from tasks.record.message import stack_line
from tasks.requests import observed
from tasks.score.accuracy import COMPARED_SCORES, ranking_scores
from tasks.score.errors import ScoreError
from tasks.score.files import ScoreFiles, number, read_score_files
from tasks.score.set_tables import ALL
from tasks.yaml_core import YamlError, load

SAID_SCORES = ("set_f1", "kind_accuracy")
FALSE_ALARMS = "false_alarms"


@dataclass(frozen=True)
class HealthyRequests:
    """Requests of one case scheduled while no fault acted: all of a fault-free case, else those of the baseline.

    ``latency_s``, ``ttft_s``: of answered requests, from the scheduled time; ``failed``: number of the others.
    """

    fault_free: bool
    latency_s: NDArray[np.float64]
    ttft_s: NDArray[np.float64]
    failed: int

    @property
    def total(self) -> int:
        return len(self.latency_s) + self.failed


@dataclass(frozen=True)
class Estimate:
    """Mean over the scored cases with its interval, written by the score stage."""

    value: float | None
    low: float | None
    high: float | None
    chance: float | None


@dataclass(frozen=True)
class Side:
    """``scores``: method -> score -> case id -> value, service level, scored cases only; ``estimates``: method ->
    score; ``sets``: method -> case id -> F1 of the roots that it names, only of methods that say how many there are;
    ``said``: the same methods -> score of sets, or ``false_alarms``; ``references``: reference methods (not compared);
    ``failures``: method -> status and reason -> cases; ``parameters``: dotted key -> value; ``recovery``: policy ->
    what it did, empty without the experiment."""

    label: str
    simulated: bool
    commit: str | None
    campaign: str
    stack: str
    cases: tuple[str, ...]
    scores: Mapping[str, Mapping[str, Mapping[str, float]]]
    estimates: Mapping[str, Mapping[str, Estimate]]
    sets: Mapping[str, Mapping[str, float]]
    said: Mapping[str, Mapping[str, Estimate]]
    references: frozenset[str]
    failures: Mapping[str, Mapping[str, int]]
    requests: Mapping[str, HealthyRequests]
    injections: Mapping[str, tuple[Injection, ...]]
    versions: Mapping[str, str]
    parameters: Mapping[str, str]
    recovery: Mapping[str, Recovered] = field(default_factory=dict)

    @property
    def scored(self) -> int:
        return len(next(iter(self.scores.values()), {}).get(COMPARED_SCORES[0], {}))


def read_side(folder: Path, params_text: str, label: str, commit: str | None = None) -> Side:
    """Read one side from ``folder``, a workspace or a folder made by ``fetch``.

    Raises:
        CompareError: the folder has no scores, or a case cannot be read.
    """
    try:
        cases = read_cases(folder / "cases")
        files = read_score_files(folder / "scores")
    except (CaseError, ScoreError) as error:
        raise CompareError(f"{label}: {error}") from error
    if not cases or files is None:
        raise CompareError(f"{label}: {folder} has no {'scores' if cases else 'case'}")
    if mix := mixed(cases):
        raise CompareError(f"{label}: {mix}")
    return Side(
        label=label,
        simulated=cases[0].record.stack.simulated,
        commit=commit,
        campaign=", ".join(sorted({case.record.campaign for case in cases})),
        stack=stack_line(cases),
        cases=tuple(case.record.case_id for case in cases),
        scores=_scores(files.rankings),
        estimates=_estimates(files),
        sets=_sets(files),
        said=_said(files),
        references=frozenset(files.rankings.loc[files.rankings["reference"], "method"].astype(str)),
        failures=_failures(files.rankings),
        requests={case.record.case_id: healthy_requests(Case(case.path, case.record)) for case in cases},
        injections={case.record.case_id: case.record.injections for case in cases},
        versions=_versions(cases),
        parameters=flat_parameters(params_text),
        recovery=read_recovered(folder / "remediation"),
    )


def _scores(rankings: pd.DataFrame) -> dict[str, dict[str, dict[str, float]]]:
    counted = rankings[rankings["excluded"] == ""]
    right = counted["correct"].fillna(value=False).astype(bool) & (counted["status"] == "ok")
    truths: dict[tuple[str, str], int] = {}
    ranks: dict[tuple[str, str], list[int]] = {}
    columns = (counted[name] for name in ("method", "case_id", "truth", "rank"))
    for method, case, truth, rank, is_right in zip(*columns, right, strict=True):
        pair = str(method), str(case)
        truths.setdefault(pair, len(str(truth).split("+")))
        of_pair = ranks.setdefault(pair, [])
        if is_right:
            of_pair.append(int(rank))
    found: dict[str, dict[str, dict[str, float]]] = {}
    for (method, case), of_pair in ranks.items():
        values = ranking_scores(of_pair, truths[method, case])
        for score in COMPARED_SCORES:
            found.setdefault(method, {}).setdefault(score, {})[case] = values[score]
    return found


def _estimates(files: ScoreFiles) -> dict[str, dict[str, Estimate]]:
    table = files.overall
    found: dict[str, dict[str, Estimate]] = {}
    for row in table[table["score"].isin(COMPARED_SCORES)].to_dict("records"):
        estimate = Estimate(*(number(row[name]) for name in ("value", "low", "high", "chance")))
        found.setdefault(str(row["method"]), {})[str(row["score"])] = estimate
    return found


def _sets(files: ScoreFiles) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for row in [] if files.sets is None else files.sets.dropna(subset="answers").to_dict("records"):
        f1 = 2 * int(row["hits"]) / (int(row["answers"]) + int(row["truths"]))
        found.setdefault(str(row["method"]), {})[str(row["case_id"])] = f1
    return found


def _said(files: ScoreFiles) -> dict[str, dict[str, Estimate]]:
    found: dict[str, dict[str, Estimate]] = {}
    if files.set_scores is not None:
        table = files.set_scores
        for row in table[(table["level"] == "overall") & table["score"].isin(SAID_SCORES)].to_dict("records"):
            found.setdefault(str(row["method"]), {})[str(row["score"])] = _said_value(row, "value")
    if files.negatives is not None:
        for row in files.negatives[files.negatives["group"] == ALL].to_dict("records"):
            found.setdefault(str(row["method"]), {})[FALSE_ALARMS] = _said_value(row, "share")
    return found


def _said_value(row: Mapping[Any, Any], name: str) -> Estimate:
    return Estimate(number(row[name]), number(row["low"]), number(row["high"]), None)


def _failures(rankings: pd.DataFrame) -> dict[str, dict[str, int]]:
    failed = rankings[rankings["status"] != "ok"].drop_duplicates(["case_id", "method"])
    found: dict[str, dict[str, int]] = {}
    for method, status in zip(failed["method"], failed["status"], strict=True):
        by_status = found.setdefault(str(method), {})
        by_status[str(status)] = by_status.get(str(status), 0) + 1
    return found


def healthy_requests(case: Case) -> HealthyRequests:
    requests = case.requests
    fault_free = case.record.undisturbed
    scheduled = requests["scheduled"]
    inside = np.zeros(len(requests), dtype=bool)
    for phase in case.record.phases:
        if fault_free or phase.name == "baseline":
            inside |= ((scheduled >= phase.start) & (scheduled < phase.end)).to_numpy(bool)
    seen = observed(requests)
    failed = seen["failed"].to_numpy(bool)
    latency_s, ttft_s = (seen[name].to_numpy(float)[inside & ~failed] for name in ("latency_s", "ttft_s"))
    return HealthyRequests(fault_free, latency_s, ttft_s[~np.isnan(ttft_s)], failed=int(failed[inside].sum()))


def _versions(cases: list[Case]) -> dict[str, str]:
    """Return software -> version, joined by `` | `` where cases differ."""
    found: dict[str, set[str]] = {}
    for case in cases:
        for name, value in _named_versions(case):
            found.setdefault(name, set()).add(value)
    return {name: " | ".join(sorted(values)) for name, values in sorted(found.items())}


def _named_versions(case: Case) -> Iterator[tuple[str, str]]:
    stack = case.record.stack
    yield from case.record.versions.items()
    yield from ((f"stack: {name}", version) for name, version in stack.versions.items())
    yield from ((f"stack: parallelism {name}", str(size)) for name, size in stack.parallelism.items())
    yield "stack: backend", stack.backend
    if stack.model:
        yield "stack: model", stack.model
    if stack.engine:
        yield "stack: engine", stack.engine


def flat_parameters(text: str) -> dict[str, str]:
    """Return all parameters with defaults filled in; as written when this version rejects them.

    Raises:
        CompareError: the text is not YAML.
    """
    try:
        document = load(text)
    except YamlError as error:
        raise CompareError(f"the recorded parameters: {error}") from error
    with contextlib.suppress(ValidationError):
        document = Params.model_validate(document).model_dump(mode="json")
    return {
        key: ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        for key, value in leaves(canonical(document), "")
        if value != {}
    }
