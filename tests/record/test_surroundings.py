"""The repository that was named is the one that is used: whatever git's variables, the user's settings and hooks, and
the path say."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.record.dvc_cli import DvcSettings, read_settings
from tasks.record.environment import own_environment
from tasks.record.errors import RecordError
from tasks.record.git import GitError, open_repository
from tests.record.campaigns import ROOT, Campaign, git, results_repository

pytestmark = [
    pytest.mark.skipif(not Path(sys.executable).with_name("dvc").exists(), reason="DVC is not in this environment"),
    pytest.mark.timeout(400),
]

NAMES = {
    "spaces": b" a  b ",
    "dash": b"-C",
    "umlaut": "ü".encode(),
    "not UTF-8": b"\xff\xfe",
    "line breaks": b"a\nb\n",
    "carriage return": b"a\rb",
    "quotes": b"a'b\"c",
    "triple quotes": b"a'''b\"\"\"c",
    "config": b"[a]#b;c=d,e%(f)s",
    "shell": b"$HOME`x`*?\\",
    "all": b"-\xff \"'\n\t%(x)s",
}


def contents(repository: Path, branch: str = "results") -> dict[str, bytes]:
    """What the three files of a recording are in the commit, byte by byte."""
    paths = ("params.yaml", "dvc.lock", "workspace/scores/metrics.json")
    show = ["git", "-C", str(repository), "cat-file", "blob"]
    return {path: subprocess.check_output([*show, f"{branch}:{path}"]) for path in paths}


@pytest.mark.usefixtures("pretend_dvc")
@pytest.mark.parametrize("name", NAMES)
def test_recording_in_a_repository_of_any_name(name: str, campaign: Campaign, tmp_path: Path) -> None:
    repository = results_repository(tmp_path / os.fsdecode(NAMES[name]), remote=tmp_path / "store")
    recorded = campaign.record(repository)
    assert recorded.new
    assert git(repository, "rev-parse", "results") == recorded.commit
    assert "differs from" not in git(repository, "log", "-1", "--format=%B", "results")
    assert (
        contents(repository)["workspace/scores/metrics.json"]
        == (campaign.workspace.scores / "metrics.json").read_bytes()
    )
    assert not campaign.record(repository).new
    git(repository, "branch", "taken")
    git(repository, "worktree", "add", "-q", str(tmp_path / "tree"), "taken")
    with pytest.raises(RecordError, match="'taken' is checked out"):
        campaign.record(repository, branch="taken")
    with pytest.raises(RecordError, match="'main' is checked out"):
        campaign.record(tmp_path / "tree", branch="main")


def test_record_and_compare_by_the_real_dvc(campaign: Campaign, tmp_path: Path) -> None:
    """With a remote that the clone names relative to itself, and a name that no settings file of DVC can hold."""
    parent = tmp_path / os.fsdecode(NAMES["all"])
    repository = results_repository(parent / "clone")
    (repository / ".dvc" / "config.local").write_text(
        "[core]\n    remote = s\n['remote \"s\"']\n    url = ../../store\n"
    )
    root = campaign.workspace.root
    options = ["--repository", str(repository), "--workspace", str(root), "--params", str(root.parent / "params.yaml")]
    recorded = _run("record", *options)
    assert recorded.returncode == 0, recorded.stderr
    assert (parent / "store" / "files").is_dir()
    shutil.rmtree(repository / ".dvc" / "cache")
    compared = _run("compare", "results", *options)
    assert compared.returncode == 0, compared.stderr
    assert "nsigma" in compared.stdout
    assert sorted(path.name for path in (root / "compared").iterdir() if path.name.startswith(".")) == []
    shutil.rmtree(parent / "store")
    shutil.rmtree(root / "compared")
    lost = _run("compare", "results", *options)
    assert (lost.returncode, "neither in the cache" in lost.stderr) == (1, True), lost.stderr


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    code = "from tasks.cli import app; app()"
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, errors="replace", env={**os.environ, "LC_ALL": "C.UTF-8"}
    )


@pytest.mark.usefixtures("pretend_dvc")
@pytest.mark.parametrize("relative", ["told", "-told", "./-told/tasks", "."])
def test_relative_names(relative: str, campaign: Campaign, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "-told" if "-told" in relative else "told"
    repository = results_repository(tmp_path / name, remote=tmp_path / "store")
    monkeypatch.chdir(repository if relative == "." else tmp_path)
    recorded = campaign.record(Path(relative))
    assert git(repository, "rev-parse", "results") == recorded.commit


REDIRECTIONS = {
    "GIT_DIR": "{other}/.git",
    "GIT_WORK_TREE": "{other}",
    "GIT_COMMON_DIR": "{other}/.git",
    "GIT_INDEX_FILE": "{other}/.git/index",
    "GIT_OBJECT_DIRECTORY": "{other}/.git/objects",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES": "{other}/.git/objects",
    "GIT_NAMESPACE": "elsewhere",
    "GIT_CEILING_DIRECTORIES": "{told}",
    "GIT_DISCOVERY_ACROSS_FILESYSTEM": "x",
    "GIT_CONFIG": "{other}/.git/config",
    "GIT_CONFIG_PARAMETERS": "'core.worktree'='{other}'",
    "GIT_PREFIX": "tasks/",
    "GIT_SHALLOW_FILE": "{other}/.git/index",
    "GIT_QUARANTINE_PATH": "{other}/.git/objects",
    "GIT_REPLACE_REF_BASE": "refs/heads/",
    "GIT_GRAFT_FILE": "{other}/.git/config",
    "GIT_DEFAULT_HASH": "sha256",
    "GIT_LITERAL_PATHSPECS": "1",
    "GIT_ATTR_SOURCE": "HEAD",
    "GIT_TRACE": "1",
    "GIT_AUTHOR_DATE": "2001-01-01T00:00:00Z",
    "GIT_COMMITTER_DATE": "2001-01-01T00:00:00Z",
    "GIT_REFLOG_ACTION": "x",
}


@pytest.fixture
def other(tmp_path: Path) -> Path:
    directory = tmp_path / "other"
    directory.mkdir()
    (directory / "file").write_text("of another project\n")
    git(directory, "init", "-q", "-b", "main")
    git(directory, "add", "-A")
    git(directory, "commit", "-q", "-m", "another project")
    return directory


def frozen(directory: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in directory.rglob("*") if file.is_file()}


@pytest.mark.usefixtures("pretend_dvc")
@pytest.mark.parametrize("name", [*REDIRECTIONS, "all", "config count"])
def test_git_variables_of_the_caller(
    name: str, repository: Path, other: Path, campaign: Campaign, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, index = frozen(other), (repository / ".git" / "index").read_bytes()
    with monkeypatch.context() as patch:
        for variable, value in REDIRECTIONS.items():
            if name in (variable, "all"):
                patch.setenv(variable, value.format(other=other, told=repository))
        if name in ("config count", "all"):
            patch.setenv("GIT_CONFIG_COUNT", "1")
            patch.setenv("GIT_CONFIG_KEY_0", "core.worktree")
            patch.setenv("GIT_CONFIG_VALUE_0", str(other))
        recorded = campaign.record(repository)
        assert open_repository(repository / "tasks").directory == repository
    assert recorded.new
    assert git(repository, "rev-parse", "results") == recorded.commit
    assert git(repository, "log", "-1", "--format=%cd %ad", "--date=format:%Y", "results") != "2001 2001"
    assert frozen(other) == before
    assert (repository / ".git" / "index").read_bytes() == index


def test_variables_that_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = (
        "GIT_SSH_COMMAND",
        "GIT_ASKPASS",
        "GIT_AUTHOR_NAME",
        "GIT_COMMITTER_EMAIL",
        "GIT_CONFIG_GLOBAL",
        "GIT_SSL_CAINFO",
    )
    for name in (*kept, *REDIRECTIONS, "GIT_CONFIG_COUNT", "GIT_CONFIG_KEY_0", "GIT_CONFIG_VALUE_0"):
        monkeypatch.setenv(name, "x")
    found = {name for name in own_environment(GIT_INDEX_FILE="mine") if name.startswith("GIT_")}
    assert found == {*kept, "GIT_INDEX_FILE", "GIT_TERMINAL_PROMPT"}
    told = subprocess.check_output(["git", "rev-parse", "--local-env-vars"], text=True, env=own_environment()).split()
    assert len(told) > 5
    assert not set(told) & set(own_environment())


HOOKS = ("reference-transaction", "post-index-change", "pre-push", "post-checkout", "pre-commit", "pre-receive-x")
SETTINGS = """
[core]
    autocrlf = true
    safecrlf = true
    eol = crlf
    sparseCheckout = true
    splitIndex = true
    quotePath = true
    hooksPath = {hooks}
    fsmonitor = {hooks}/pre-push
    attributesFile = {attributes}
[commit]
    gpgSign = true
[push]
    gpgSign = true
    followTags = true
[gpg]
    program = false
[log]
    showSignature = true
[color]
    ui = always
[i18n]
    commitEncoding = latin1
    logOutputEncoding = utf-16
[trailer]
    separators = "="
[user]
    useConfigOnly = true
"""


def test_settings_and_hooks_of_the_user(
    campaign: Campaign, pretend_dvc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = results_repository(tmp_path / "repository", remote=tmp_path / "store")
    (repository / ".gitattributes").write_text("* text=auto eol=crlf\n*.py ident\n*.json filter=none-such\n")
    (repository / "script").write_text("#!/bin/sh\n")
    (repository / "script").chmod(0o755)
    (repository / "link").symlink_to("params.yaml")
    (repository / "ümlaut\n").write_text("a name\n")
    git(repository, "add", "-A")
    git(repository, "commit", "-q", "-m", "attributes")
    git(tmp_path, "clone", "-q", "--bare", str(repository), str(tmp_path / "origin.git"))
    git(repository, "remote", "add", "origin", str(tmp_path / "origin.git"))
    git(tmp_path / "origin.git", "config", "core.hooksPath", "/dev/null")  # the remote's own affair
    git(repository, "tag", "-m", "a tag", "v1")
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    for folder in (hooks, repository / ".git" / "hooks"):
        for name in HOOKS:
            (folder / name).write_text(f"#!/bin/sh\necho ran >> {tmp_path}/ran\nexit 1\n")
            (folder / name).chmod(0o755)
    (tmp_path / "attributes").write_text("* text eol=crlf\n")
    (tmp_path / ".gitconfig").write_text(SETTINGS.format(hooks=hooks, attributes=tmp_path / "attributes"))
    (repository / ".git" / "info" / "sparse-checkout").write_text("/tasks/\n")
    with monkeypatch.context() as patch:
        patch.setenv("HOME", str(tmp_path))
        patch.delenv("XDG_CONFIG_HOME", raising=False)
        recorded = campaign.record(repository, git_remote="origin")
        assert not campaign.record(repository, git_remote="origin").new
    assert not (tmp_path / "ran").exists()
    assert recorded.new
    assert git(repository, "rev-parse", "results") == git(tmp_path / "origin.git", "rev-parse", "results")
    assert git(tmp_path / "origin.git", "tag") == ""
    assert git(repository, "log", "-1", "--format=%an <%ae>", "results") == "rcarena <rcarena@localhost>"
    assert "differs from" not in git(repository, "log", "-1", "--format=%B", "results")
    found = contents(repository)
    assert found["params.yaml"] == campaign.text.encode()
    assert found["workspace/scores/metrics.json"] == (campaign.workspace.scores / "metrics.json").read_bytes()
    assert not any(b"\r" in content for content in found.values())
    changed = git(repository, "diff", "--name-only", "main", "results").split()
    assert sorted(changed) == ["dvc.lock", "workspace/scores/metrics.json"]
    assert not list((repository / ".git").glob("sharedindex*"))


@pytest.mark.usefixtures("pretend_dvc")
def test_a_clone_that_turns_line_ends_has_what_dvc_knows(repository: Path, campaign: Campaign, tmp_path: Path) -> None:
    campaign.record(repository)
    clone = tmp_path / "clone"
    git(tmp_path, "-c", "core.autocrlf=true", "clone", "-q", "-b", "results", str(repository), str(clone))
    for path, content in contents(repository).items():
        assert (clone / path).read_bytes() == content
    assert b"\r\n" in (clone / "tasks" / "rca" / "view.py").read_bytes()  # the setting was in force


def test_a_copy_of_a_commit_is_byte_by_byte(repository: Path, tmp_path: Path) -> None:
    (repository / ".gitattributes").write_text("*.txt eol=crlf\n")
    (repository / "line-ends.txt").write_bytes(b"a\nb\n")
    (repository / os.fsdecode(b"\xff\n-")).write_bytes(bytes(range(256)))
    (repository / "run").write_text("#!/bin/sh\n")
    (repository / "run").chmod(0o755)
    (repository / "link").symlink_to("run")
    git(repository, "add", "-A")
    git(repository, "commit", "-q", "-m", "files of every kind")
    copy = tmp_path / "copy"
    copy.mkdir()
    opened = open_repository(repository)
    opened.export("HEAD", copy, tmp_path / "index")
    assert (copy / "line-ends.txt").read_bytes() == b"a\nb\n"
    assert (copy / os.fsdecode(b"\xff\n-")).read_bytes() == bytes(range(256))
    assert stat.S_IMODE((copy / "run").stat().st_mode) & 0o111
    assert (copy / "link").readlink() == Path("run")
    listed = git(repository, "ls-files", "-z").split("\0")
    assert sum(not file.is_dir() for file in copy.rglob("*")) == len([name for name in listed if name])
    assert opened.tree(tmp_path / "index", {}) == git(repository, "rev-parse", "HEAD^{tree}")


def test_a_tree_that_leads_out_of_the_copy(repository: Path, tmp_path: Path) -> None:
    opened = open_repository(repository)
    blob = opened.run("hash-object", "-w", "--stdin", stdin=b"x")
    inner = opened.run("mktree", stdin=f"100644 blob {blob}\tout\n".encode())
    entry = b"40000 ..\0" + bytes.fromhex(inner)
    outer = opened.run("hash-object", "-w", "-t", "tree", "--literally", "--stdin", stdin=entry)
    commit = opened.commit(outer, [], "a commit")
    (tmp_path / "copy").mkdir()
    with pytest.raises(GitError):
        opened.export(commit, tmp_path / "copy", tmp_path / "index")
    assert not (tmp_path / "out").exists()


def test_settings_of_dvc_come_back_as_they_were(tmp_path: Path) -> None:
    for number, name in enumerate(NAMES.values()):
        place = tmp_path / f"copy-{number}" / ".dvc"
        place.parent.mkdir()
        url = str(tmp_path / "stores" / os.fsdecode(name))
        DvcSettings({"remote": {"s": {"url": url, "jobs": "3"}}, "core": {"remote": "s"}}).write(place)
        read = read_settings(place.parent).merged["remote"]["s"]  # type: ignore[index]
        assert int(read["jobs"]) == 3
        assert read["url"] == url or Path(read["url"]).resolve() == Path(url).resolve()
        assert Path(read["url"]).exists() == (read["url"] != url)
    settings = DvcSettings({"remote": {"s": {"password": "hunter2\r"}}})
    with pytest.raises(RecordError, match=r'remote "s"\.password') as caught:
        settings.write(tmp_path / "refused")
    assert "hunter2" not in str(caught.value)


def test_a_hook_of_another_repository(campaign: Campaign, pretend_dvc: Path, other: Path, repository: Path) -> None:
    """As a gate in a hook is run: by git, in the other repository, with its variables."""
    hook = other / ".git" / "hooks" / "post-commit"
    root = campaign.workspace.root
    options = f"--repository {repository} --workspace {root} --params {root.parent / 'params.yaml'}"
    program = f"{sys.executable} -c 'from tasks.cli import app; app()'"
    hook.write_text(f"#!/bin/sh\n{program} compare --gate {options} > {other}/said 2>&1\n")
    hook.chmod(0o755)
    recorded = campaign.record(repository)
    command = [
        "git",
        "-C",
        str(other),
        "-c",
        "user.name=t",
        "-c",
        "user.email=t@t",
        "commit",
        "-q",
        "--allow-empty",
        "-m",
        "x",
    ]
    subprocess.run(command, check=True)
    assert (other / "said").read_text().startswith("no earlier campaign 'synthetic' on 'results'")
    assert recorded.new


def test_a_branch_by_another_name(repository: Path, campaign: Campaign, pretend_dvc: Path) -> None:
    git(repository, "checkout", "-q", "-b", "second")
    git(repository, "checkout", "-q", "main")
    for name in ("@{-1}", "-x", "a b", "a\nb", "", "refs/../x"):
        with pytest.raises(RecordError, match="no name for a branch"):
            campaign.record(repository, branch=name)
    assert campaign.record(repository, branch="ergebnisse/ü").new
    assert git(repository, "log", "-1", "--format=%s", "ergebnisse/ü").startswith("Campaign synthetic")


def test_a_workspace_that_no_library_can_read_is_refused(tmp_path: Path) -> None:
    place = tmp_path / os.fsdecode(b"w\xff")
    for command in (["record"], ["compare", "results"]):
        done = _run(*command, "--workspace", str(place), "--params", str(ROOT / "params.yaml"))
        assert (done.returncode, "must be a path in UTF-8" in done.stderr) == (2, True), done.stderr
