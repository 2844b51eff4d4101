"""A stand-in for the ``dvc`` command: keeps the promises that recording builds on, in milliseconds instead of seconds.

``dvc.lock`` names every file below the outputs by its content; ``push`` copies the contents to the store. The real
command is used in ``test_record.py``.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import yaml

from tasks.record.dvc_cli import Dvc
from tasks.record.errors import RecordError


class PretendDvc(Dvc):
    store: Path
    """Where ``push`` puts data; a file in its place means that the remote is down."""

    def commit(self, *stages: str) -> None:
        files = {
            str(file.relative_to(self.directory)): _digest(file)
            for file in sorted(_outputs(self.directory / "workspace"))
        }
        (self.directory / "dvc.lock").write_text(yaml.safe_dump({"stages": list(stages), "files": files}))

    def reproduce(self, *stages: str) -> tuple[str, ...]:
        return tuple(stage for stage in stages if stage not in self._lock()["stages"])

    def push(self) -> None:
        if self.store.is_file():
            raise RecordError("dvc push failed:\nERROR: the remote is down")
        self.store.mkdir(exist_ok=True)
        for path, digest in self._lock()["files"].items():
            if not (self.store / digest).exists():
                partial = self.store / f".{digest}.{uuid4()}"
                shutil.copy(self.directory / path, partial)
                partial.rename(self.store / digest)

    def _lock(self) -> dict:
        return yaml.safe_load((self.directory / "dvc.lock").read_text())


def pushed(lock: str, store: Path) -> bool:
    """Whether the store has all that this ``dvc.lock`` names."""
    return all((store / digest).is_file() for digest in yaml.safe_load(lock)["files"].values())


def _outputs(workspace: Path) -> Iterator[Path]:
    for name in ("cases", "scores", "remediation", "report"):
        yield from (file for file in (workspace / name).rglob("*") if file.is_file())


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
