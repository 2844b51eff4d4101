"""Records a campaign: its data in DVC's remote, its description as one commit on the results branch.

The order makes it safe to kill: data first, the commit last. Nothing is recorded until the branch moves, then all is. A
campaign on the branch is not recorded again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tasks.params import Params
from tasks.record.campaign import CheckedCases, campaign_id, check_cases
from tasks.record.dvc_cli import LOCK_FILE, OFFLINE_STAGES, PARAMS_FILE, DvcSettings, read_settings
from tasks.record.errors import RecordError
from tasks.record.git import Commit, Git, GitError, open_repository
from tasks.record.history import CASES, DATA, PUSHED, find_campaign
from tasks.record.message import Provenance, commit_message
from tasks.record.outputs import foreign_code, stale_report_reason, stale_scores_reason
from tasks.record.staging import Staging, staged, take_outputs
from tasks.score.files import METRICS_FILE
from tasks.system.file_lock import FileLock
from tasks.text import some
from tasks.workspace import DEFAULT_WORKSPACE, Workspace

METRICS_PATH = f"{DEFAULT_WORKSPACE}/scores/{METRICS_FILE}"
_ATTEMPTS = 5

Say = Callable[[str], None]


@dataclass(frozen=True)
class RecordOptions:
    """Options. ``git_remote``: remote to which the branch is also pushed; ``rescored``: record a campaign again if its
    scores differ; ``wait_s``: how long to wait for another recording."""

    repository: Path
    branch: str = "results"
    push: bool = True
    git_remote: str | None = None
    allow_missing: bool = False
    rescored: bool = False
    wait_s: float = 900


@dataclass(frozen=True)
class Recorded:
    """Result. ``new``: False if the campaign was already on the branch; ``ran_again``: offline stage that ran ->
    reason; ``differs``: it is on the branch with other scores than the workspace's."""

    campaign_id: str
    commit: str
    branch: str
    new: bool
    pushed: bool
    cases: int
    missing: int
    ran_again: dict[str, str]
    differs: bool


def record_campaign(
    params: Params, params_text: str, workspace: Workspace, options: RecordOptions, say: Say
) -> Recorded:
    """Record the campaign of ``params`` from ``workspace``; do nothing if it is recorded.

    ``params_text``: content of the parameter file, for the commit.

    Raises:
        RecordError: nothing is recorded; the call can be repeated.
    """
    git = open_repository(options.repository)
    settings = read_settings(git.directory)
    _check(git, settings, options)
    with _only_recording(git, workspace, options) as locked:
        return _Recording(locked, settings, params, params_text, workspace, options, say).run()


def _check(git: Git, settings: DvcSettings, options: RecordOptions) -> None:
    try:
        git.run("check-ref-format", f"refs/heads/{options.branch}")
        git.run("check-ref-format", "--branch", options.branch)
    except GitError as error:
        raise RecordError(f"--branch: '{options.branch}' is no name for a branch") from error
    place = git.checked_out(options.branch)
    if place is not None:
        raise RecordError(f"--branch: '{options.branch}' is checked out in {place}; nobody's own branch is written to")
    if options.push and settings.default_remote is None:
        raise RecordError(
            "DVC has no default remote to push the data to: `dvc remote add --default NAME URL` (a directory, s3://…), "
            "or keep it in this clone's cache (--no-push)"
        )
    if options.git_remote is not None and options.git_remote not in git.run("remote").splitlines():
        raise RecordError(f"--git-remote: the repository has no remote '{options.git_remote}'")


@contextmanager
def _only_recording(git: Git, workspace: Workspace, options: RecordOptions) -> Iterator[Git]:
    """Lock the workspace and the clone. Yields a ``git`` whose children keep the locks, so that the next recording
    waits for children of a killed one."""
    files = (workspace.root / ".record.lock", git.common_dir() / "rcarena" / "record.lock")
    with ExitStack() as held:
        locks = tuple(
            held.enter_context(FileLock(file, _busy(file, options), timeout_s=options.wait_s)) for file in files
        )
        yield dataclasses.replace(git, inherit=tuple(lock.descriptor for lock in locks))


def _busy(file: Path, options: RecordOptions) -> RecordError:
    return RecordError(
        f"another process is recording ({file}) and did not end within {options.wait_s:g} s; run again later"
    )


class _Recording:
    def __init__(
        self,
        git: Git,
        settings: DvcSettings,
        params: Params,
        params_text: str,
        workspace: Workspace,
        options: RecordOptions,
        say: Say,
    ) -> None:
        self.git, self.settings, self.options, self.say = git, settings, options, say
        self.params, self.params_text, self.workspace = params, params_text, workspace
        self.ref = f"refs/heads/{options.branch}"

    def run(self) -> Recorded:
        identity = campaign_id(self.workspace, self.params)
        tip = self._tip()
        found = find_campaign(self.git, tip, identity)
        scores = self._metrics_of_workspace()
        if found is not None and self.options.rescored and scores not in (None, self._metrics_of(found)):
            identity = f"{identity}-{self.git.run('hash-object', '--no-filters', '--stdin', stdin=scores)[:8]}"
            found = find_campaign(self.git, tip, identity)
        if found is not None:
            return self._known(identity, found, scores)
        return self._new(identity)

    def _metrics_of_workspace(self) -> bytes | None:
        file = self.workspace.scores / METRICS_FILE
        return file.read_bytes() if file.is_file() else None

    def _metrics_of(self, commit: Commit) -> bytes | None:
        return self.git.show(commit.sha, METRICS_PATH)

    def _tip(self) -> str | None:
        """Return the local tip of the branch after fast-forwarding it to the remote's. Raises RecordError."""
        tip = self.git.resolve(self.ref)
        if self.options.git_remote is None:
            return tip
        theirs = self.git.remote_tip(self.options.git_remote, self.options.branch)
        if theirs is None or theirs == tip or (tip and self.git.is_ancestor(theirs, tip)):
            return tip
        if tip is not None and not self.git.is_ancestor(tip, theirs):
            raise RecordError(
                f"'{self.options.branch}' here and at {self.options.git_remote} have gone different ways; bring one "
                "onto the other first (`git rebase`)"
            )
        if not self.git.swap(self.ref, theirs, tip, "rcarena: from the remote"):
            raise RecordError(f"'{self.options.branch}' moved meanwhile; run again")
        return theirs

    def _known(self, identity: str, found: Commit, scores: bytes | None) -> Recorded:
        self.say(f"record: campaign {identity} is recorded already: {found.short}")
        differs = scores is not None and scores != self._metrics_of(found)
        if differs:
            self.say(
                f"record: {self.workspace.scores} differs from the scores of {found.short}: the code has changed; "
                "--rescored records them, too"
            )
        pushed = found.trailers.get(DATA) == PUSHED
        if self.options.push and not pushed:
            with staged(self.git, found.sha, self.settings, self.workspace) as staging:
                self.say("record: pushing its data, which was not pushed")
                staging.dvc.push()
            pushed = True
        if self.options.git_remote is not None:
            self._publish_to_remote(self.git.resolve(self.ref) or found.sha)
        count, _, planned = found.trailers.get(CASES, "0 of 0").partition(" of ")
        return Recorded(
            identity, found.sha, self.options.branch, new=False, pushed=pushed, cases=int(count),
            missing=int(planned) - int(count), ran_again={}, differs=differs,
        )  # fmt: skip

    def _new(self, identity: str) -> Recorded:
        code = self.git.resolve("HEAD")
        assert code is not None
        with staged(self.git, code, self.settings, self.workspace) as staging:
            take_outputs(self.workspace, staging, self.params_text)
            place = staging.workspace
            checked = check_cases(place.cases, self.params, allow_missing=self.options.allow_missing)
            self.say(f"record: {len(checked.cases)} of {checked.planned} cases, all whole")
            foreign = foreign_code(staging.tree)
            if foreign:
                self.say(f"record: the code at work differs from {code[:10]} in {some(foreign)}; the commit says so")
            ran_again = self._versions(staging)
            if self.options.push:
                self.say(f"record: pushing to {self.settings.default_remote}")
                staging.dvc.push()
            facts = Provenance(code, foreign, ran_again, self.options.push)
            message = commit_message(identity, self.params, checked, place.scores, facts)
            tree = self.git.tree(staging.index, staging.content((PARAMS_FILE, LOCK_FILE, METRICS_PATH)))
            commit, new = self._publish(identity, tree, message, code)
        self.say(f"record: {commit[:10]} on {self.options.branch}: campaign {identity}")
        return self._result(identity, commit, new, checked, ran_again)

    def _result(
        self, identity: str, commit: str, new: bool, checked: CheckedCases, ran_again: dict[str, str]
    ) -> Recorded:
        return Recorded(
            identity, commit, self.options.branch, new=new, pushed=self.options.push, cases=len(checked.cases),
            missing=len(checked.missing), ran_again=ran_again, differs=False,
        )  # fmt: skip

    def _versions(self, staging: Staging) -> dict[str, str]:
        """Write ``dvc.lock`` and the cache, running stale offline stages; return those that ran -> reason."""
        place = staging.workspace
        doubts: dict[str, str] = {}
        if doubt := stale_scores_reason(place, self.params):
            doubts["score"] = doubt
        if doubt := ("its scores are made again" if doubts else stale_report_reason(place, self.params)):
            doubts["report"] = doubt
        for stage, doubt in doubts.items():
            self.say(f"record: {stage} runs again: {doubt}")
        trusted = [stage for stage in OFFLINE_STAGES if stage not in doubts]
        staging.dvc.commit(*staging.recorded_stages, *trusted)
        before = self._metrics_of_workspace()
        ran = staging.dvc.reproduce(*OFFLINE_STAGES)
        unexpected = [stage for stage in ran if stage not in doubts]
        if unexpected:
            self.say(f"record: {', '.join(unexpected)} ran again, although nothing had changed: see dvc.yaml")
        reasons = {stage: doubts.get(stage, "DVC saw a change") for stage in ran}
        if "score" in reasons and before is not None:
            same = (staging.workspace.scores / METRICS_FILE).read_bytes() == before
            outcome = "the scores are the same" if same else "the scores are others than those in the workspace"
            self.say(f"record: {outcome}")
            reasons["score"] += f"; {outcome}"
        return reasons

    def _publish(self, identity: str, tree: str, message: str, code: str) -> tuple[str, bool]:
        """Publish the commit; return the campaign's commit and whether it is ours: another clone may be faster."""
        for _ in range(_ATTEMPTS):
            tip = self._tip()
            found = find_campaign(self.git, tip, identity)
            if found is not None:
                self.say(f"record: another recording was faster: {found.short}")
                return found.sha, False
            commit = self.git.commit(tree, [tip or code], message)
            if self.options.git_remote is not None and not self._publish_to_remote(commit):
                continue
            if self.git.swap(self.ref, commit, tip, f"rcarena: campaign {identity}"):
                return commit, True
        raise RecordError(f"'{self.options.branch}' keeps moving; run again")

    def _publish_to_remote(self, commit: str) -> bool:
        """Push the commit; return False if another recording was faster: the remote's branch moved, or is at an equal
        commit (recorded within the same second)."""
        remote = self.options.git_remote
        assert remote is not None
        before = self.git.remote_tip(remote, self.options.branch)
        if before is not None and not self.git.is_ancestor(before, commit):
            return False
        try:
            said = self.git.run("push", "--porcelain", remote, f"{commit}:{self.ref}")
        except GitError:
            if self.git.remote_tip(remote, self.options.branch) == before:
                raise
            return False
        return not any(line.startswith("=") for line in said.splitlines())
