"""Stand-ins for what pods leave behind: a results repository and workspaces with synthetic cases and real scores."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from tasks.campaign.plan import plan_campaign
from tasks.case import CaseWriter, read_case
from tasks.params import Params, load_params
from tasks.record.record import Recorded, RecordOptions, record_campaign
from tasks.report.page import write_report
from tasks.score.campaign import score_campaign
from tasks.score.store import PairStore
from tasks.workspace import Workspace
from tests.stage_code import copy_stage_code
from tests.synthetic import synthetic_case

ROOT = Path(__file__).parents[2]
METHODS = ("random", "nsigma")
IDENTITY = ("-c", "user.name=t", "-c", "user.email=t@t")


def git(directory: Path, *arguments: str) -> str:
    command = ["git", "-C", str(directory), *IDENTITY, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


REPLICAS = ("ray-replicas-0", "ray-replicas-1", "ray-replicas-2")


def params_text(targets: Sequence[str] = REPLICAS, **score: Any) -> str:
    """Seven cases: one fault on each replica, twice, and a fault-free one."""
    document = yaml.safe_load((ROOT / "params.yaml").read_text())
    document["campaign"] |= {"name": "synthetic", "repetitions": 2}
    document["inject"]["faults"] = [{"kind": "cpu-stress", "targets": list(targets), "parameters": {"workers": 2}}]
    document["score"] |= {"methods": list(METHODS), "bootstrap_samples": 200} | score
    return yaml.safe_dump(document, sort_keys=False)


def results_repository(directory: Path, *, remote: Path | None = None) -> Path:
    """A git clone with DVC and the code whose scores are recorded; no outputs."""
    directory.mkdir(parents=True)
    for name in ("dvc.yaml", ".gitignore", ".gitattributes", ".dvcignore"):
        shutil.copy(ROOT / name, directory / name)
    (directory / "params.yaml").write_text(params_text())
    (directory / ".dvc").mkdir()
    shutil.copy(ROOT / ".dvc" / "config", directory / ".dvc" / "config")
    if remote is not None:
        set_remote(directory, remote)
    copy_stage_code(directory)
    git(directory, "init", "-q", "-b", "main")
    (directory / ".git" / "info" / "exclude").write_text("/.dvc/config.local\n/.dvc/cache\n/.dvc/tmp\n")
    git(directory, "add", "-A")
    git(directory, "commit", "-q", "-m", "code")
    return directory


def set_remote(repository: Path, remote: Path) -> None:
    lines = ["[core]", "    remote = store", "['remote \"store\"']", f"    url = {remote}"]
    (repository / ".dvc" / "config.local").write_text("\n".join(lines) + "\n")


@dataclass(frozen=True)
class Campaign:
    """A finished campaign in ``workspace``, scored and reported; ``text``: its parameter file."""

    workspace: Workspace
    text: str
    params: Params = field(repr=False)

    def record(self, repository: Path, lines: list[str] | None = None, **options: Any) -> Recorded:
        say = (lines if lines is not None else []).append
        return record_campaign(self.params, self.text, self.workspace, RecordOptions(repository, **options), say)

    def score(self) -> None:
        store = PairStore(self.workspace.pairs)
        score_campaign(self.workspace.cases, self.params.score, self.workspace.scores, store=store, workers=1)
        self.report()

    def report(self) -> None:
        place, title = self.workspace, self.params.report.title
        recovery = place.remediation
        write_report(place.cases, place.scores, place.report, title=title, params=self.params, recovery_dir=recovery)


def finished_campaign(directory: Path, text: str | None = None, *, seed: int = 0, **case: Any) -> Campaign:
    """``case``: see ``synthetic_case``; the telemetry differs by ``seed``."""
    text = text or params_text()
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "params.yaml").write_text(text)
    params = load_params(directory / "params.yaml")
    place = Workspace(directory / "workspace")
    for number, plan in enumerate(plan_campaign(params)):
        kind = plan.injections[0].kind if plan.injections else None
        target = plan.injections[0].target if plan.injections else "ray-replicas-0"
        synthetic_case(place.cases, plan.case_id, kind=kind, target=target, seed=100 * seed + number, **case)
    campaign = Campaign(place, text, params)
    campaign.score()
    return campaign


def change_requests(campaign: Campaign, factor: float = 1.0, *, seed: int = 0) -> None:
    """Every request takes ``factor`` times as long, give or take a tenth: as measured another night."""
    rng = np.random.default_rng(seed)
    for path in sorted(campaign.workspace.cases.iterdir()):
        case = read_case(path)
        tables = {name: case.table(name) for name in ("metrics", "requests", "logs", "spans", "topology")}
        requests = tables["requests"]
        times = factor * rng.uniform(0.9, 1.1, len(requests))
        for column in ("first_token", "last_token"):
            requests[column] = requests["scheduled"] + (requests[column] - requests["scheduled"]) * times
        with CaseWriter(path.parent, path.name) as writer:
            for name, table in tables.items():
                writer.write(name, table)
            writer.finish(case.record)


def spoil_rankings(campaign: Campaign, method: str) -> None:
    """``method`` now names the true service last."""
    file = campaign.workspace.scores / "rankings.parquet"
    rankings = pd.read_parquet(file)
    of_method = rankings["method"] == method
    last = rankings[of_method].groupby("case_id")["rank"].transform("max")
    rankings.loc[of_method, "rank"] = last + 1 - rankings.loc[of_method, "rank"]
    rankings.to_parquet(file, index=False)
    file = campaign.workspace.scores / "scores.parquet"
    scores = pd.read_parquet(file)
    scores.loc[scores["method"] == method, ["value", "low", "high"]] = 0.2
    scores.to_parquet(file, index=False)
