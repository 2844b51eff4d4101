"""Reads and writes the results repository by the ``git`` command, without touching working tree, index or HEAD."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tasks.record.environment import own_environment
from tasks.record.errors import RecordError

NO_OBJECT = ""
"""Old value for ``git update-ref`` of a ref that must not exist yet."""

STALE_REF_LOCK_S = 10.0
_FIELD, _RECORD = "\x1f", "\x1e"
_TIMEOUT_S = 600.0
_FILES_AT_ONCE = 500

_SETTINGS = (
    *("gc.auto=0", "maintenance.auto=false"),
    *("core.hooksPath=/dev/null", "core.fsmonitor=false"),
    *("core.autocrlf=false", "core.safecrlf=false", "core.sparseCheckout=false", "core.splitIndex=false"),
    *("i18n.commitEncoding=utf-8", "i18n.logOutputEncoding=utf-8", "log.showSignature=false", "trailer.separators=:"),
    *("push.gpgSign=false", "push.followTags=false", "push.recurseSubmodules=no", "fetch.recurseSubmodules=false"),
)
"""Settings that override those of user, machine and clone: no hooks, no byte conversion, plain output."""


class GitError(RecordError):
    """A ``git`` command failed; the message is git's."""


@dataclass(frozen=True)
class Commit:
    """A commit. ``trailers``: name -> value, from the message."""

    sha: str
    subject: str
    time: str
    trailers: Mapping[str, str]

    @property
    def short(self) -> str:
        return self.sha[:10]


@dataclass(frozen=True)
class Git:
    """The clone at ``directory``. ``inherit``: descriptors that children keep open, so that a lock on them lasts until
    the last child of a killed process has ended."""

    directory: Path
    inherit: tuple[int, ...] = field(default=())

    def run(self, *arguments: str, stdin: bytes | None = None, env: Mapping[str, str] | None = None) -> str:
        """Run git and return its standard output without the last line break.

        Raises:
            GitError: git is not installed, or failed.
        """
        return self._bytes(*arguments, stdin=stdin, env=env).decode("utf-8", "replace").rstrip("\n")

    def _bytes(self, *arguments: str, stdin: bytes | None = None, env: Mapping[str, str] | None = None) -> bytes:
        settings = [word for setting in _SETTINGS for word in ("-c", setting)]
        command = ["git", "-C", str(self.directory), *settings, *arguments]
        try:
            done = subprocess.run(
                command,
                input=stdin,
                stdin=subprocess.DEVNULL if stdin is None else None,
                capture_output=True,
                env=own_environment(LC_ALL="C", **(env or {})),
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

    def path(self, *arguments: str) -> Path | None:
        """Return the path that git prints, with its exact bytes; None if it prints nothing."""
        printed = self._bytes(*arguments).removesuffix(b"\n")
        return self.directory / os.fsdecode(printed) if printed else None

    def common_dir(self) -> Path:
        """Return the directory of the clone's objects and refs, which all its worktrees share."""
        place = self.path("rev-parse", "--git-common-dir")
        assert place is not None
        return place.resolve()

    def resolve(self, revision: str) -> str | None:
        """Return the commit that ``revision`` names; None if it names none."""
        try:
            return self.run("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
        except GitError:
            return None

    def show(self, commit: str, path: str) -> bytes | None:
        """Return the content of a file of ``commit``; None if it has no such file."""
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
        """Yield ``tip`` and its first parents, the newest first."""
        form = _FIELD.join(("%H", "%s", "%cI", "%(trailers:only,unfold)")) + _RECORD
        text = self.run("log", "--first-parent", f"--format={form}", tip)
        for entry in filter(None, (part.strip("\n") for part in text.split(_RECORD))):
            sha, subject, moment, trailers = entry.split(_FIELD)
            yield Commit(sha, subject, moment, dict(_trailers(trailers)))

    def checked_out(self, branch: str) -> Path | None:
        """Return the working tree that has ``branch`` checked out, or None."""
        return self.path("for-each-ref", "--format=%(worktreepath)", f"refs/heads/{branch}")

    def export(self, commit: str, directory: Path, index: Path) -> None:
        """Write the files of ``commit`` with their exact bytes below the existing ``directory``, ignoring line-end
        conversion, filters and sparse checkout of the clone; write git's index of them to ``index``.

        Raises:
            GitError: a path leads out of ``directory``, or git failed.
        """
        index.unlink(missing_ok=True)
        self.run("read-tree", commit, env={"GIT_INDEX_FILE": str(index)})
        files = list(self._files(commit))
        for start in range(0, len(files), _FILES_AT_ONCE):
            some = files[start : start + _FILES_AT_ONCE]
            contents = self._blobs([blob for _, blob, _ in some])
            for (mode, _, path), content in zip(some, contents, strict=True):
                place = directory / os.fsdecode(path)
                place.parent.mkdir(parents=True, exist_ok=True)
                if mode == b"120000":
                    place.symlink_to(os.fsdecode(content))
                    continue
                place.write_bytes(content)
                if mode == b"100755":
                    place.chmod(0o755)

    def _files(self, commit: str) -> Iterator[tuple[bytes, bytes, bytes]]:
        """Yield mode, blob and path of each file of ``commit``, without submodules."""
        for entry in self._bytes("ls-tree", "-r", "-z", "--full-tree", commit).split(b"\0")[:-1]:
            described, _, path = entry.partition(b"\t")
            mode, kind, blob = described.split()
            if {b"..", b".git", b""} & set(path.split(b"/")):
                raise GitError(f"{commit[:10]} holds a file that no repository should: {path!r}")
            if kind == b"blob":
                yield mode, blob, path

    def _blobs(self, names: Sequence[bytes]) -> Iterator[bytes]:
        """Yield the contents of objects, in the same order."""
        output = self._bytes("cat-file", "--batch", stdin=b"".join(name + b"\n" for name in names))
        position = 0
        for _ in names:
            end = output.index(b"\n", position)
            size = int(output[position:end].split()[2])
            yield output[end + 1 : end + 1 + size]
            position = end + 1 + size + 1

    def tree(self, index: Path, files: Mapping[str, bytes]) -> str:
        """Write the tree of ``index`` with ``files`` (path -> content) replaced; return its id."""
        env = {"GIT_INDEX_FILE": str(index)}
        for path, content in files.items():
            blob = self.run("hash-object", "-w", "--no-filters", "--stdin", stdin=content)
            self.run("update-index", "--add", "--cacheinfo", f"100644,{blob},{path}", env=env)
        return self.run("write-tree", env=env)

    def commit(self, tree: str, parents: Sequence[str], message: str) -> str:
        """Create a commit without a ref; return its id."""
        parent_options = [option for parent in parents for option in ("-p", parent)]
        return self.run("commit-tree", tree, *parent_options, "-F", "-", stdin=message.encode(), env=self._identity())

    def _identity(self) -> dict[str, str]:
        """Return variables with author and committer where none is configured, as in a pod."""
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
        """Set ``ref`` to ``new`` if it still is ``old`` (None: does not exist); return False otherwise."""
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
        """Fetch and return the tip of ``branch`` at ``remote``; None if the remote lacks the branch."""
        listed = self.run("ls-remote", remote, f"refs/heads/{branch}").split()
        if not listed:
            return None
        self.run("fetch", "--quiet", "--no-tags", "--no-write-fetch-head", remote, f"refs/heads/{branch}")
        return listed[0] if self.resolve(listed[0]) else None


def open_repository(directory: Path) -> Git:
    """Return the clone that contains ``directory``.

    Raises:
        RecordError: no clone, no commit yet, or a shallow clone.
    """
    if not directory.is_dir():
        raise RecordError(f"--repository: {directory} is not a directory")
    try:
        top = Git(directory.absolute()).path("rev-parse", "--show-toplevel")
    except GitError as error:
        raise RecordError(f"--repository: {directory} cannot be used: {error}") from error
    assert top is not None
    git = Git(top)
    if git.resolve("HEAD") is None:
        raise RecordError(f"--repository: {top} has no commit yet")
    if git.run("rev-parse", "--is-shallow-repository") == "true":
        raise RecordError(f"--repository: {top} is a shallow clone: run `git fetch --unshallow` first")
    return git


def _remove_if_stale(lock: Path) -> None:
    """Remove an old lock file: git locks a ref for milliseconds, so its process was killed."""
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
