"""Builds the commit message of a recorded campaign: text for people, trailers for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from tasks.case import Case
from tasks.injection import FAULT_FREE
from tasks.params import Params
from tasks.record.campaign import CheckedCases
from tasks.record.history import CAMPAIGN, CASES, CODE, DATA, NAME, NOT_PUSHED, PUSHED
from tasks.score.files import ScoreFiles, read_score_files
from tasks.text import some

_BEST = 3
_VERSIONS = ("vllm", "ray", "nginx")


@dataclass(frozen=True)
class Provenance:
    """Origin of the results. ``code``: commit of the recorded files; ``foreign``: source files in which the running
    code differs from it; ``ran_again``: stage -> reason."""

    code: str
    foreign: tuple[str, ...]
    ran_again: Mapping[str, str]
    pushed: bool


def commit_message(identity: str, params: Params, checked: CheckedCases, scores_dir: Path, facts: Provenance) -> str:
    files = read_score_files(scores_dir)
    leaders, chance = _leaders(files) if files else ([], None)
    headline = f", {leaders[0][0]} Avg@5 {leaders[0][2]}" if leaders else ""
    against = f" (chance {chance['avg5']:.2f})" if chance else ""
    lines = [
        f"Campaign {params.campaign.name}: {len(checked.cases)} cases{headline}{against}",
        "",
        f"stack: {stack_line(checked.cases)}",
        f"cases: {_cases_line(checked, files)}",
    ]
    if checked.missing:
        lines.append(f"missing: {some([plan.short_label for plan in checked.missing])}")
    if files and leaders and chance:
        lines += [
            "",
            f"best of {len(_methods(files))} methods, AC@1 and Avg@5 with {params.score.confidence:.0%} intervals:",
        ]
        width = max(len(name) for name, *_ in leaders)
        lines += [f"  {name:<{width}}  {ac1}  {avg5}" for name, ac1, avg5 in leaders]
        lines.append(f"  {'chance':<{width}}  {chance['ac1']:.2f}  {chance['avg5']:.2f}")
    if files is not None:
        failed = files.rankings[files.rankings["status"] != "ok"].drop_duplicates(["case_id", "method"])
        lines.append(f"failed rankings: {len(failed)}")
    lines += [f"{stage} ran again while recording: {reason}" for stage, reason in facts.ran_again.items()]
    if facts.foreign:
        lines.append(f"the code at work differs from {facts.code[:10]} in {some(facts.foreign)}")
    return "\n".join([*lines, "", *_trailers(identity, params, checked, facts)]) + "\n"


def _trailers(identity: str, params: Params, checked: CheckedCases, facts: Provenance) -> list[str]:
    return [
        f"{CAMPAIGN}: {identity}",
        f"{NAME}: {params.campaign.name}",
        f"{CASES}: {len(checked.cases)} of {checked.planned}",
        f"{CODE}: {facts.code}",
        f"{DATA}: {PUSHED if facts.pushed else NOT_PUSHED}",
    ]


def stack_line(cases: Sequence[Case]) -> str:
    """Return the stacks of the cases, such as ``local: falcon-h1 on vllm 0.32.0, 3 replicas``."""
    return "; ".join(sorted({_stack(case) for case in cases}))


def _stack(case: Case) -> str:
    stack = case.record.stack
    replicas = sum(service.role == "replica" for service in stack.services)
    what = " on ".join(filter(None, (stack.model, stack.engine)))
    versions = ", ".join(f"{name} {stack.versions[name]}" for name in _VERSIONS if name in stack.versions)
    return f"{stack.backend}: " + ", ".join(filter(None, (what, versions, f"{replicas} replicas")))


def _cases_line(checked: CheckedCases, files: ScoreFiles | None) -> str:
    line = f"{len(checked.cases)} of {checked.planned}"
    if files is None:
        return line
    kinds = files.rankings.drop_duplicates("case_id")["excluded"]
    scored, fault_free = int((kinds == "").sum()), int((kinds == FAULT_FREE).sum())
    return f"{line}: {scored} scored, {fault_free} {FAULT_FREE}, {len(kinds) - scored - fault_free} ineffective"


def _methods(files: ScoreFiles) -> list[str]:
    """Return the methods without the references."""
    rankings = files.rankings
    return [str(name) for name in rankings.loc[~rankings["reference"], "method"].unique()]


def _leaders(files: ScoreFiles) -> tuple[list[tuple[str, str, str]], dict[str, float] | None]:
    """Return the best methods by Avg@5 with their AC@1 and Avg@5, and the scores of chance."""
    table = files.overall
    if table.empty:
        return [], None
    rows = {score: table[table["score"] == score].set_index("method") for score in ("ac1", "avg5")}
    ranked = rows["avg5"].sort_values("value", ascending=False, kind="stable").index
    order = ranked[ranked.isin(_methods(files))][:_BEST]
    best = [(str(name), _estimate(rows["ac1"].loc[name]), _estimate(rows["avg5"].loc[name])) for name in order]
    return best, {score: float(rows[score]["chance"].iloc[0]) for score in rows}


def _estimate(row: pd.Series) -> str:
    interval = "" if pd.isna(row["low"]) else f" [{row['low']:.2f}, {row['high']:.2f}]"
    return f"{row['value']:.2f}{interval}"
