"""The results repository, through the ``git`` command. Nothing here touches a working tree, an index or HEAD."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tasks.record.errors import RecordError

NO_OBJECT = "0" * 40
STALE_REF_LOCK_S = 10.0
_FIELD, _RECORD = "\x1f", "\x1e"
_TIMEOUT_S = 600.0


class GitError(RecordError):
    """A ``git`` command failed; the message is its own."""


@dataclass(frozen=True)
class Commit:
    """``trailers``: by name, as the message has them."""

    sha: str
    subject: str
    time: str
    trailers: Mapping[str, str]

    @property
    def short(self) -> str:
        return self.sha[:10]


@dataclass(frozen=True)
class Git:
    """``directory``: the top of a clone. ``inherit``: descriptors that children keep open, so that a lock on them
    lasts until the last child of a killed process has ended."""

    directory: Path
    inherit: tuple[int, ...] = field(default=())

    def run(self, *arguments: str, stdin: bytes | None = None, env: Mapping[str, str] | None = None) -> str:
        """Standard output of ``git`` without the last line break.

        Raises:
            GitError: git is not installed, or said no.
        """
        return self._bytes(*arguments, stdin=stdin, env=env).decode("utf-8", "replace").rstrip("\n")

    def _bytes(self, *arguments: str, stdin: bytes | None = None, env: Mapping[str, str] | None = None) -> bytes:
        environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C", **(env or {})}
        command = ["git", "-C", str(self.directory), "-c", "gc.auto=0", "-c", "maintenance.auto=false", *arguments]
        try:
            done = subprocess.run(
                command,
                input=stdin,
                stdin=subprocess.DEVNULL if stdin is None else None,
                capture_output=True,
                env=environment,
                pass_fds=self.inherit,
                timeout=_TIMEOUT_S,
                check=False,
            )
        except FileNotFoundError as error:
            raise GitError("git is not installed") from error
        except subprocess.TimeoutExpired as error:
            raise GitError(f"git {arguments[0]} did not answer within {_TIMEOUT_S:g} s") from error
        if done.returncode:
            reason = done.stderr.decode("utf-8", "replace").strip() or f"exit status {done.returncode}"
            raise GitError(f"git {arguments[0]}: {reason}")
        return done.stdout

    def common_dir(self) -> Path:
        """Where the clone keeps its objects and refs, the same for all its worktrees."""
        return (self.directory / self.run("rev-parse", "--git-common-dir")).resolve()

    def resolve(self, revision: str) -> str | None:
        """The commit that ``revision`` names; None if it names none."""
        try:
            return self.run("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
        except GitError:
            return None

    def show(self, commit: str, path: str) -> bytes | None:
        """The content of a file of ``commit``; None if it has no such file."""
        try:
            return self._bytes("cat-file", "blob", f"{commit}:{path}")
        except GitError:
            return None

    def is_ancestor(self, older: str, newer: str) -> bool:
        try:
            self.run("merge-base", "--is-ancestor", older, newer)
        except GitError:
            return False
        return True

    def history(self, tip: str) -> Iterator[Commit]:
        """``tip`` and its first parents, the newest first."""
        form = _FIELD.join(("%H", "%s", "%cI", "%(trailers:only,unfold)")) + _RECORD
        text = self.run("log", "--first-parent", f"--format={form}", tip)
        for entry in filter(None, (part.strip("\n") for part in text.split(_RECORD))):
            sha, subject, moment, trailers = entry.split(_FIELD)
            yield Commit(sha, subject, moment, dict(_trailers(trailers)))

    def checked_out(self, branch: str) -> Path | None:
        """The working tree that has ``branch`` checked out."""
        place = None
        for line in self.run("worktree", "list", "--porcelain").splitlines():
            key, _, value = line.partition(" ")
            if key == "worktree":
                place = Path(value)
            elif key == "branch" and value == f"refs/heads/{branch}":
                return place
        return None

    def export(self, commit: str, directory: Path, index: Path) -> None:
        """Write the files of ``commit`` below ``directory`` (which exists); ``index`` is left describing them."""
        index.unlink(missing_ok=True)
        env = {"GIT_INDEX_FILE": str(index)}
        self.run("read-tree", commit, env=env)
        self.run("checkout-index", "--all", "--quiet", "--force", f"--prefix={directory}/", env=env)

    def tree(self, index: Path, files: Mapping[str, bytes]) -> str:
        """The tree of ``index`` with ``files`` (path -> content) in place of what it has there."""
        env = {"GIT_INDEX_FILE": str(index)}
        for path, content in files.items():
            blob = self.run("hash-object", "-w", "--stdin", stdin=content)
            self.run("update-index", "--add", "--cacheinfo", f"100644,{blob},{path}", env=env)
        return self.run("write-tree", env=env)

    def commit(self, tree: str, parents: Sequence[str], message: str) -> str:
        """A commit that no ref names yet."""
        parent_options = [option for parent in parents for option in ("-p", parent)]
        return self.run("commit-tree", tree, *parent_options, "-F", "-", stdin=message.encode(), env=self._identity())

    def _identity(self) -> dict[str, str]:
        """Of commits where nobody has set a name: pods."""
        try:
            self.run("var", "GIT_COMMITTER_IDENT")
            self.run("var", "GIT_AUTHOR_IDENT")
        except GitError:
            return {
                f"GIT_{role}_{what}": value
                for role in ("AUTHOR", "COMMITTER")
                for what, value in (("NAME", "rcarena"), ("EMAIL", "rcarena@localhost"))
            }
        return {}

    def swap(self, ref: str, new: str, old: str | None, reason: str) -> bool:
        """Set ``ref`` to ``new`` if it still is ``old`` (None: does not exist); False if it is something else."""
        lock = self.common_dir() / f"{ref}.lock"
        deadline = time.monotonic() + 2 * STALE_REF_LOCK_S
        while True:
            try:
                self.run("update-ref", "--create-reflog", "-m", reason, ref, new, old or NO_OBJECT)
            except GitError:
                if self.resolve(ref) != old:
                    return False
                if not lock.exists() or time.monotonic() > deadline:
                    raise
                _remove_if_stale(lock)
                time.sleep(0.2)
            else:
                return True

    def remote_tip(self, remote: str, branch: str) -> str | None:
        """The tip of ``branch`` at ``remote``, fetched; None if it has no such branch."""
        listed = self.run("ls-remote", remote, f"refs/heads/{branch}").split()
        if not listed:
            return None
        self.run("fetch", "--quiet", "--no-tags", "--no-write-fetch-head", remote, f"refs/heads/{branch}")
        return listed[0] if self.resolve(listed[0]) else None


def open_repository(directory: Path) -> Git:
    """The clone that ``directory`` is in.

    Raises:
        RecordError: it is in none, has no commit, or only part of the history.
    """
    if not directory.is_dir():
        raise RecordError(f"--repository: {directory} is not a directory")
    try:
        top = Git(directory).run("rev-parse", "--show-toplevel")
    except GitError as error:
        raise RecordError(f"--repository: {directory} cannot be used: {error}") from error
    git = Git(Path(top))
    if git.resolve("HEAD") is None:
        raise RecordError(f"--repository: {top} has no commit yet")
    if git.run("rev-parse", "--is-shallow-repository") == "true":
        raise RecordError(f"--repository: {top} is a shallow clone: run `git fetch --unshallow` first")
    return git


def _remove_if_stale(lock: Path) -> None:
    """A ref is locked for milliseconds: an old lock belongs to a process that was killed."""
    try:
        if time.time() - lock.stat().st_mtime > STALE_REF_LOCK_S:
            lock.unlink()
    except FileNotFoundError:
        return


def _trailers(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        name, colon, value = line.partition(": ")
        if colon:
            yield name, value
