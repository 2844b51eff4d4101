"""Runs the ``dvc`` command on a copy of the repository that is no git checkout.

Each call takes at least two seconds.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from tasks.record.environment import own_environment
from tasks.record.errors import RecordError
from tasks.system.durable import owner_only

log = logging.getLogger(__name__)

PARAMS_FILE, LOCK_FILE, PIPELINE_FILE = "params.yaml", "dvc.lock", "dvc.yaml"
LIVE_STAGE, ACTION_STAGE = "collect", "remediate"
OFFLINE_STAGES = ("score", "report")
_RUNNING = re.compile(r"^Running stage '([^']+)'", re.MULTILINE)
_LAST_LINES = 6
_NAMED_SECTIONS = ("remote", "machine", "db")
_PLAIN = re.compile(r"(?!.*(?:%\(|\'\'\'|\"\"\"))[!-~](?:[ -~]*[!-~])?")
"""Values that DVC's settings file preserves: printable ASCII without interpolation or triple quotes."""


@dataclass(frozen=True)
class Dvc:
    """The command in ``directory``, the top of the copy; ``inherit``: descriptors that the child keeps open (locks)."""

    directory: Path
    inherit: tuple[int, ...] = field(default=())

    def commit(self, *stages: str) -> None:
        """Record the present files as the outputs of ``stages``, without running them."""
        self._run("commit", "--force", "--no-relink", *stages)

    def reproduce(self, *stages: str) -> tuple[str, ...]:
        """Run the changed ones of ``stages``, and no others; return those that ran."""
        return tuple(_RUNNING.findall(self._run("repro", "--single-item", *stages)))

    def push(self) -> None:
        """Push all data named by ``dvc.lock`` to the default remote."""
        self._run("push")

    def _run(self, command: str, *arguments: str) -> str:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        environment = own_environment(PATH=path, DVC_NO_ANALYTICS="1", NO_COLOR="1")
        log.info("dvc %s %s", command, " ".join(arguments))
        done = subprocess.run(
            [sys.executable, "-m", "dvc", command, *arguments],
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            env=environment,
            pass_fds=self.inherit,
            check=False,
        )
        if done.returncode:
            lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
            raise RecordError("\n".join([f"dvc {command} failed:", *lines[-_LAST_LINES:]]))
        return done.stdout + done.stderr


def require_dvc() -> None:
    """Check that DVC is installed. Raises RecordError."""
    if find_spec("dvc") is None:
        raise RecordError("DVC is not installed: pip install 'rcarena[dvc]'")


@dataclass(frozen=True)
class DvcSettings:
    """DVC's effective settings in a clone: all levels merged, every path absolute."""

    merged: dict[str, object]

    @property
    def default_remote(self) -> str | None:
        core = self.merged.get("core")
        return str(core["remote"]) if isinstance(core, dict) and core.get("remote") else None

    def write(self, dvc_dir: Path) -> None:
        """Write them, credentials included, as the settings of the copy with the folder ``dvc_dir`` (``.dvc``).

        A path that DVC's file format cannot represent is replaced by a link to it.

        Raises:
            RecordError: another value cannot be represented; the message names its key, not the value.
        """
        from configobj import ConfigObj

        dvc_dir.mkdir(exist_ok=True)
        document = ConfigObj(encoding="utf-8")
        for section, values in self.merged.items():
            if section in _NAMED_SECTIONS and isinstance(values, dict):
                named = {f'{section} "{name}"': entries for name, entries in values.items()}
            else:
                named = {section: values}
            for title, entries in named.items():
                if entries and isinstance(entries, dict):
                    document[title] = {key: _writable(f"{title}.{key}", v, dvc_dir) for key, v in entries.items()}
        document.setdefault("core", {}).update({"no_scm": True, "autostage": False, "analytics": False})
        with open(dvc_dir / "config.local", "wb", opener=owner_only) as stream:
            document.write(stream)


def _writable(key: str, value: object, dvc_dir: Path) -> object:
    if not isinstance(value, str) or _PLAIN.fullmatch(value):
        return value
    if not Path(value).is_absolute():
        raise RecordError(f"the setting {key} of DVC holds characters that its file format cannot")
    folder = dvc_dir / "outside"
    folder.mkdir(exist_ok=True)
    link = folder / str(len(list(folder.iterdir())))
    link.symlink_to(value)
    if key.endswith((".dir", ".url")):  # DVC creates missing folders, but not behind a link
        with contextlib.suppress(FileExistsError):
            Path(value).mkdir(parents=True)
    return str(link.relative_to(dvc_dir))


def read_settings(repository: Path) -> DvcSettings:
    """Return the settings of the clone at ``repository``, merged with those of user and system.

    Raises:
        RecordError: no DVC repository, or its settings cannot be read.
    """
    require_dvc()
    from dvc.config import Config
    from dvc.exceptions import DvcException

    dvc_dir = repository / ".dvc"
    if not dvc_dir.is_dir():
        raise RecordError(f"--repository: {repository} has no .dvc directory: it is no DVC repository")
    try:
        merged = Config(str(dvc_dir)).load_config_to_level()
    except DvcException as error:
        raise RecordError(f"{dvc_dir}/config: {error}") from error
    cache = merged.setdefault("cache", {})
    cache.setdefault("dir", str(dvc_dir / "cache"))
    return DvcSettings({section: values for section, values in merged.items() if isinstance(values, dict)})
