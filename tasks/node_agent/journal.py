"""The agent's journal on the node's disk: one file per NodeFault, written before the act, durable and atomic."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from tasks.kube.node_fault import NodeFaultSpec, Saved
from tasks.system.durable import sync, write_durably

log = logging.getLogger(__name__)

SUFFIX = ".json"
LIMITS_FILE = ".found-power-limits"
_LIMITS = TypeAdapter(dict[str, float])
State = Literal["planned", "active", "restored", "refused"]


class Entry(BaseModel):
    """``planned``: the act may be done, half done or not at all; ``active``: it was done and read back; ``restored``;
    ``refused``: nothing was changed, or all was taken back at once. Only the first two need a restore."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    uid: str
    name: str
    namespace: str
    spec: NodeFaultSpec
    state: State
    saved: Saved = Saved()
    applied_at: datetime | None = None
    restored_at: datetime | None = None
    message: str = ""
    problem: str = ""
    """Reason why the last attempt to restore failed; empty once one worked."""

    @property
    def open(self) -> bool:
        return self.state in ("planned", "active")

    def changed(self, **changes: object) -> Entry:
        return self.model_copy(update=changes)


class Journal:
    """Entries on disk. Every method raises OSError when the disk refuses."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def read(self, set_aside: bool = True) -> list[Entry]:
        """Read every entry. ``set_aside``: rename unreadable files; writes are atomic, so no agent wrote them."""
        entries = []
        for path in sorted(self._directory.glob(f"[!.]*{SUFFIX}")):
            try:
                entries.append(Entry.model_validate_json(path.read_bytes()))
            except ValidationError as error:
                log.error("%s cannot be read (%d problems)", path, error.error_count())
                if set_aside:
                    path.replace(path.with_name(path.name + ".unreadable"))
        return entries

    def write(self, entry: Entry) -> None:
        write_durably(self._path(entry.uid), entry.model_dump_json(indent=1).encode())

    def read_limits(self) -> dict[str, float]:
        """Return the power limit (W) that each GPU was first found with, by UUID; empty where none was remembered."""
        try:
            return _LIMITS.validate_json((self._directory / LIMITS_FILE).read_bytes())
        except FileNotFoundError:
            return {}
        except ValidationError:
            log.error("%s cannot be read", self._directory / LIMITS_FILE)
            return {}

    def write_limits(self, limits: Mapping[str, float]) -> None:
        write_durably(self._directory / LIMITS_FILE, _LIMITS.dump_json(dict(limits)))

    def remove(self, uid: str) -> None:
        self._path(uid).unlink(missing_ok=True)
        sync(self._directory)

    def _path(self, uid: str) -> Path:
        return self._directory / f"{Path(uid).name}{SUFFIX}"
