"""Finds recorded campaigns in the history of a results branch by commit trailers."""

from __future__ import annotations

from tasks.record.errors import RecordError
from tasks.record.git import Commit, Git

CAMPAIGN, NAME, CASES, CODE, DATA = (f"RCArena-{word}" for word in ("Campaign", "Name", "Cases", "Code", "Data"))
"""Trailers of a commit that records a campaign."""

PUSHED, NOT_PUSHED = "pushed", "not-pushed"
_SHORTEST_ID = 4


def find_campaign(git: Git, tip: str | None, identity: str) -> Commit | None:
    """Return the newest commit from ``tip`` back that records the campaign with this id."""
    for commit in git.history(tip) if tip else ():
        if commit.trailers.get(CAMPAIGN) == identity:
            return commit
    return None


def find_commit(git: Git, revision: str, branch: str) -> Commit:
    """Return the commit that ``revision`` names: a git revision, or the beginning of a campaign id on ``branch``.

    Raises:
        RecordError: there is none.
    """
    commit = git.resolve(revision)
    if commit is not None:
        return next(git.history(commit))
    tip = git.resolve(f"refs/heads/{branch}")
    for found in git.history(tip) if tip else ():
        if len(revision) >= _SHORTEST_ID and found.trailers.get(CAMPAIGN, "").startswith(revision):
            return found
    raise RecordError(f"'{revision}': neither a revision nor a campaign id on '{branch}'")


def last_recorded(git: Git, tip: str | None, name: str, *, other_than: str) -> Commit | None:
    """Return the newest campaign called ``name``, from ``tip`` back, that is not ``other_than`` (rescored or not)."""
    for commit in git.history(tip) if tip else ():
        identity = commit.trailers.get(CAMPAIGN, "")
        same = identity.partition("-")[0] == other_than.partition("-")[0]
        if identity and commit.trailers.get(NAME) == name and not same:
            return commit
    return None
