"""What the layout of RCAEval cannot say of a case that we exported: ``rcarena.json`` beside its files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tasks.case import CaseRecord
from tasks.datasets.dataset import Column, DatasetError
from tasks.datasets.tables import read_json

SIDECAR_FILE = "rcarena.json"


@dataclass(frozen=True)
class Sidecar:
    """``columns``: column of the metrics file -> what it is. ``services``: name in the files -> name in the case.
    ``topology``: (relation, source, target).
    """

    record: CaseRecord
    columns: Mapping[str, Column]
    services: Mapping[str, str]
    topology: Sequence[tuple[str, str, str]]

    def document(self) -> dict[str, Any]:
        return {
            "record": self.record.model_dump(mode="json"),
            "columns": {name: list(column) for name, column in self.columns.items()},
            "services": dict(self.services),
            "topology": [list(edge) for edge in self.topology],
        }

    @classmethod
    def read(cls, file: Path) -> Sidecar | None:
        """None if there is none. Raises :class:`DatasetError` if it is not as ``document`` says."""
        if not file.is_file():
            return None
        document: Any = read_json(file)
        try:
            return cls(
                record=CaseRecord.model_validate(document["record"]),
                columns={str(name): Column(*parts) for name, parts in document["columns"].items()},
                services={str(short): str(name) for short, name in document["services"].items()},
                topology=[(str(relation), str(a), str(b)) for relation, a, b in document["topology"]],
            )
        except (KeyError, TypeError, AttributeError, ValidationError, ValueError):
            raise DatasetError(
                f"{file}: expected what `rcarena export rcaeval` writes; remove it to do without"
            ) from None
