"""Fetches the data of a recorded campaign from DVC's cache or remote, without touching a working tree.

Only the inputs of a comparison are fetched: record and requests of each case, the scores, what actions did. They are
cached by the hash of the campaign's description.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tasks.case import MANIFEST_FILE, RECORD_FILE
from tasks.record.dvc_cli import LOCK_FILE, PARAMS_FILE, PIPELINE_FILE, read_settings, require_dvc
from tasks.record.errors import RecordError
from tasks.record.git import Git
from tasks.remediate.stage import EPISODES
from tasks.score.files import METRICS_FILE, TABLES
from tasks.workspace import DEFAULT_WORKSPACE

log = logging.getLogger(__name__)

CASE_FILES = (RECORD_FILE, "requests.parquet", MANIFEST_FILE)
SCORE_FILES = tuple(table.file for table in TABLES if table.first)
_PARALLEL = 8
_FORMAT = "2"


def fetch(git: Git, commit: str, store: Path) -> Path:
    """Return a folder with ``cases/<id>/``, ``scores/``, ``remediation/`` if there were actions, and ``params.yaml`` of
    the campaign recorded by ``commit``.

    Raises:
        RecordError: the commit records no campaign, or its data is neither in the cache nor in the remote.
    """
    lock, params, metrics = (
        git.show(commit, path) for path in (LOCK_FILE, PARAMS_FILE, f"{DEFAULT_WORKSPACE}/scores/{METRICS_FILE}")
    )
    if lock is None or params is None or metrics is None:
        raise RecordError(
            f"{commit[:10]} records no campaign ({LOCK_FILE}, {PARAMS_FILE} or {METRICS_FILE} is missing)"
        )
    key = hashlib.sha256(b"\0".join((_FORMAT.encode(), lock, params, metrics))).hexdigest()[:20]
    kept = store / key
    if kept.is_dir():
        return kept
    store.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{key}.", suffix=".partial", dir=store))
    try:
        (folder / PARAMS_FILE).write_bytes(params)
        (folder / "scores").mkdir()
        (folder / "scores" / METRICS_FILE).write_bytes(metrics)
        _download(git, commit, folder)
        try:
            folder.rename(kept)
        except OSError:
            if not kept.is_dir():
                raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return kept


def _download(git: Git, commit: str, folder: Path) -> None:
    """Fetch by DVC, in a copy of the few files that it needs, so that it does not use git."""
    require_dvc()
    from dvc.exceptions import DvcException
    from dvc.fs.dvc import DVCFileSystem
    from dvc.repo import Repo
    from dvc_data.index import DataIndexDirError

    tree = folder / ".repository"
    tree.mkdir()
    for path in (PIPELINE_FILE, LOCK_FILE, PARAMS_FILE, ".dvcignore"):
        content = git.show(commit, path)
        if content is not None:
            (tree / path).write_bytes(content)
    read_settings(git.directory).write(tree / ".dvc")
    try:
        with Repo(str(tree), config={"core": {"site_cache_dir": str(tree / ".dvc" / "site")}}) as repo:
            files = DVCFileSystem(repo=repo)
            wanted = list(_wanted(files))
            for _, target in wanted:
                (folder / target).parent.mkdir(parents=True, exist_ok=True)
            log.info("fetching %d files of %s", len(wanted), commit[:10])
            with ThreadPoolExecutor(_PARALLEL) as pool:
                list(pool.map(lambda pair: files.get_file(pair[0], str(folder / pair[1])), wanted))
    except (DvcException, DataIndexDirError, FileNotFoundError, ConnectionError, TimeoutError) as error:
        reason = str(error).strip().splitlines()
        raise RecordError(
            f"the data of {commit[:10]} is neither in the cache of {git.directory} nor in its remote"
            + (f": {reason[0]}" if reason else "")
        ) from error
    finally:
        shutil.rmtree(tree, ignore_errors=True)


def _wanted(files: Any) -> Iterator[tuple[str, str]]:
    """Yield (path in the repository, path in the folder) of each file to fetch."""
    for name in SCORE_FILES:
        yield f"/{DEFAULT_WORKSPACE}/scores/{name}", f"scores/{name}"
    episodes = f"/{DEFAULT_WORKSPACE}/remediation/{EPISODES}"
    if files.exists(episodes):
        yield episodes, f"remediation/{EPISODES}"
    cases = f"/{DEFAULT_WORKSPACE}/cases"
    for found in files.find(cases):
        case, _, name = found.removeprefix(f"{cases}/").rpartition("/")
        if name in CASE_FILES and "/" not in case:
            yield found, f"cases/{case}/{name}"
