"""Builds a private copy of the repository with the workspace's outputs, in which DVC works without touching user files.

The copy lies in the workspace, so that data is hard-linked. Every recording rebuilds it, so that a killed one does no
harm.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from tasks.case import finished_cases
from tasks.record.dvc_cli import (
    ACTION_STAGE,
    LIVE_STAGE,
    LOCK_FILE,
    OFFLINE_STAGES,
    PARAMS_FILE,
    PIPELINE_FILE,
    Dvc,
    DvcSettings,
)
from tasks.record.errors import RecordError
from tasks.record.git import Git
from tasks.remediate.stage import publish_nothing, read_tables
from tasks.system.file_lock import FileLock
from tasks.workspace import DEFAULT_WORKSPACE, Workspace

_FOLDER, _INDEX = ".recording.partial", ".recording.index"


@dataclass(frozen=True)
class Staging:
    """``tree``: the copy of the repository; ``index``: git's index of its files."""

    tree: Path
    index: Path
    dvc: Dvc

    @property
    def workspace(self) -> Workspace:
        return Workspace(self.tree / DEFAULT_WORKSPACE)

    @property
    def recorded_stages(self) -> tuple[str, ...]:
        """The stages that are not run again; a pipeline of an older version has no actions."""
        stages = yaml.safe_load((self.tree / PIPELINE_FILE).read_text(encoding="utf-8"))["stages"]
        return tuple(stage for stage in (LIVE_STAGE, ACTION_STAGE) if stage in stages)

    def content(self, paths: Iterator[str] | tuple[str, ...]) -> dict[str, bytes]:
        return {path: (self.tree / path).read_bytes() for path in paths}


@contextlib.contextmanager
def staged(git: Git, commit: str, settings: DvcSettings, workspace: Workspace) -> Iterator[Staging]:
    """Yield the files of ``commit`` with the clone's settings and no outputs; remove them at the end."""
    workspace.root.mkdir(parents=True, exist_ok=True)
    staging = Staging(
        workspace.root / _FOLDER, workspace.root / _INDEX, Dvc(workspace.root / _FOLDER, inherit=git.inherit)
    )
    _clear(staging)
    try:
        staging.tree.mkdir()
        git.export(commit, staging.tree, staging.index)
        _check_pipeline(staging.tree / PIPELINE_FILE)
        settings.write(staging.tree / ".dvc")
        yield staging
    finally:
        _clear(staging)


def _clear(staging: Staging) -> None:
    if staging.tree.exists():
        shutil.rmtree(staging.tree)
    staging.index.unlink(missing_ok=True)


def _check_pipeline(file: Path) -> None:
    try:
        stages = yaml.safe_load(file.read_text(encoding="utf-8"))["stages"]
        absent = [stage for stage in (LIVE_STAGE, *OFFLINE_STAGES) if stage not in stages]
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise RecordError(f"{file.name} of the repository cannot be used: {error}") from error
    if absent:
        raise RecordError(f"{file.name} of the repository has no stage {', '.join(absent)}")


def take_outputs(workspace: Workspace, staging: Staging, params_text: str) -> None:
    """Link the finished cases, scores, results of actions and report into the copy, consistent with each other.

    Raises:
        RecordError: cases or scores are being written.
    """
    place = staging.workspace
    (staging.tree / PARAMS_FILE).write_text(params_text, encoding="utf-8")
    (staging.tree / LOCK_FILE).unlink(missing_ok=True)
    if place.root.exists():
        shutil.rmtree(place.root)
    place.cases.mkdir(parents=True)
    collecting = RecordError(f"a campaign is being collected in {workspace.root}; record it when it is done")
    scoring = RecordError(f"scores are being written in {workspace.root}; record them when that is done")
    with FileLock(workspace.root / ".campaign.lock", collecting), FileLock(workspace.root / ".scores.lock", scoring):
        for case in finished_cases(workspace.cases):
            _link_tree(case, place.cases / case.name)
        for source, target in ((workspace.scores, place.scores), (workspace.report, place.report)):
            if source.is_dir():
                _link_tree(source, target)
        if read_tables(workspace.remediation) is None:
            publish_nothing(place.remediation)
        else:
            _link_tree(workspace.remediation, place.remediation)
    workspace.pairs.mkdir(exist_ok=True)
    place.pairs.symlink_to(workspace.pairs, target_is_directory=True)


def _link_tree(source: Path, target: Path) -> None:
    shutil.copytree(source, target, copy_function=_link, ignore=shutil.ignore_patterns(".*"))


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
