"""The ``dvc`` command, on a copy of the repository that is no git checkout.

Each call costs about two seconds, whatever it does: few calls.
"""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from tasks.record.errors import RecordError

log = logging.getLogger(__name__)

LIVE_STAGE = "collect"
OFFLINE_STAGES = ("score", "report")
_RUNNING = re.compile(r"^Running stage '([^']+)'", re.MULTILINE)
_LAST_LINES = 6


class DvcError(RecordError):
    """A ``dvc`` command failed; the message is its own."""


@dataclass(frozen=True)
class Dvc:
    """``directory``: the top of the copy; ``inherit``: descriptors that the child keeps open (see ``lock``)."""

    directory: Path
    inherit: tuple[int, ...] = field(default=())

    def commit(self, *stages: str) -> None:
        """Record what is there as the outputs of ``stages``, without running them."""
        self._run("commit", "--force", "--no-relink", *stages)

    def reproduce(self, *stages: str) -> tuple[str, ...]:
        """Run those of ``stages`` (and of no other) that changed; which ones ran."""
        return tuple(_RUNNING.findall(self._run("repro", "--single-item", *stages)))

    def push(self) -> None:
        """Put all that ``dvc.lock`` names into the default remote."""
        self._run("push")

    def _run(self, command: str, *arguments: str) -> str:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        environment = {**os.environ, "PATH": path, "DVC_NO_ANALYTICS": "1", "NO_COLOR": "1"}
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
            raise DvcError("\n".join([f"dvc {command} failed:", *lines[-_LAST_LINES:]]))
        return done.stdout + done.stderr


def require_dvc() -> None:
    """Raises:
    RecordError: DVC is not installed.
    """
    if find_spec("dvc") is None:
        raise RecordError("DVC is not installed: pip install 'rcarena[dvc]'")


@dataclass(frozen=True)
class DvcSettings:
    """The settings of a clone as DVC would use them there: all levels merged, every path absolute."""

    merged: dict[str, object]

    @property
    def default_remote(self) -> str | None:
        core = self.merged.get("core")
        return str(core["remote"]) if isinstance(core, dict) and core.get("remote") else None

    def write(self, dvc_dir: Path) -> None:
        """Put them into force for the copy whose ``.dvc`` this is: it is no git checkout. They may hold credentials."""
        from configobj import ConfigObj

        document = ConfigObj()
        for section, values in self.merged.items():
            if section in ("remote", "machine", "db") and isinstance(values, dict):
                document.update({f'{section} "{name}"': dict(entries) for name, entries in values.items()})
            elif values and isinstance(values, dict):
                document[section] = dict(values)
        document.setdefault("core", {}).update({"no_scm": True, "autostage": False, "analytics": False})
        dvc_dir.mkdir(exist_ok=True)
        with open(dvc_dir / "config.local", "wb", opener=_private) as stream:
            document.write(stream)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def read_settings(repository: Path) -> DvcSettings:
    """Of the clone at ``repository``, the user's own and the system's included.

    Raises:
        RecordError: it is no DVC repository, or its settings cannot be read.
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
