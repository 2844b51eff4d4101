"""Find and read the campaigns that are compared, in commits or in the workspace."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tasks.compare.side import Side, read_side
from tasks.params import Params
from tasks.record.campaign import campaign_id
from tasks.record.dvc_cli import PARAMS_FILE
from tasks.record.fetch import fetch
from tasks.record.git import Commit, Git
from tasks.record.history import CAMPAIGN, NAME, find_commit, last_recorded
from tasks.workspace import Workspace


@dataclass(frozen=True)
class Campaigns:
    """``branch``: where campaigns are recorded; ``params``, ``params_text``: of the campaign in ``workspace``."""

    git: Git
    branch: str
    workspace: Workspace
    params_text: str
    params: Params

    @property
    def _store(self) -> Path:
        return self.workspace.root / "compared"

    def recorded(self, revision: str) -> Side:
        """Return a recorded campaign. Raises RecordError: there is none, or its data cannot be had."""
        return self._side(find_commit(self.git, revision, self.branch))

    def later(self, revision: str | None) -> Side:
        """Return the campaign of ``revision``, or the one in the workspace."""
        if revision is not None:
            return self.recorded(revision)
        return read_side(self.workspace.root, self.params_text, f"{self.params.campaign.name} in {self.workspace.root}")

    def previous(self, revision: str | None) -> Side | None:
        """Return the last recorded campaign of the same name before ``revision`` or, without one, the last that is not
        the one in the workspace; None if there is none."""
        if revision is not None:
            commit = find_commit(self.git, revision, self.branch)
            name, identity = commit.trailers.get(NAME, ""), commit.trailers.get(CAMPAIGN, "")
            tip: str | None = commit.sha
        else:
            name, identity = self.params.campaign.name, campaign_id(self.workspace, self.params)
            tip = self.git.resolve(f"refs/heads/{self.branch}")
        found = last_recorded(self.git, tip, name, other_than=identity)
        return None if found is None else self._side(found)

    def _side(self, commit: Commit) -> Side:
        folder = fetch(self.git, commit.sha, self._store)
        label = f"{commit.trailers.get(NAME, commit.subject)} {commit.short} of {commit.time[:10]}"
        return read_side(folder, (folder / PARAMS_FILE).read_text(encoding="utf-8"), label, commit.sha)
