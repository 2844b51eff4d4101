"""Keeps finished pairs on disk, so that a run that was killed continues where it stopped.

One file per pair, per view and per case, named by the key of its content (:mod:`tasks.score.fingerprint`). A file
appears whole or not at all, holds its own checksum, and is ignored if that does not fit. Several runs may use the same
folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from dataclasses import asdict, fields
from operator import attrgetter
from pathlib import Path
from typing import Any

from tasks.rca.method import Coverage, Evidence, Finding
from tasks.rca.run.builder import ViewFacts
from tasks.rca.run.pair import MetricSuspect, PairResult, Suspect
from tasks.score.traits import CaseTraits

NOT_KEPT = frozenset({"timeout", "memory", "crash"})
_FORMAT = b"2"
_VIEWS = "views"
_TRAITS = "traits"
_SUSPECT = attrgetter(*(field.name for field in fields(Suspect)))
_METRIC_SUSPECT = attrgetter(*(field.name for field in fields(MetricSuspect)))


class PairStore:
    """Finished pairs in ``folder``; None keeps nothing. ``fresh``: write, but do not read."""

    def __init__(self, folder: Path | None, *, fresh: bool = False) -> None:
        self._folder = folder
        self._fresh = fresh

    def view(self, key: str) -> ViewFacts | None:
        document = self._read(_VIEWS, key)
        if document is None:
            return None
        columns = tuple((str(service), str(metric)) for service, metric in document["columns"])
        return ViewFacts(columns, document["inject_time"], document["problem"], document["profile"])

    def keep_view(self, key: str, facts: ViewFacts) -> None:
        self._write(_VIEWS, key, asdict(facts))

    def traits(self, key: str) -> CaseTraits | None:
        document = self._read(_TRAITS, key)
        return None if document is None else CaseTraits.of_document(document)

    def keep_traits(self, key: str, traits: CaseTraits) -> None:
        self._write(_TRAITS, key, traits.document())

    def pair(self, method: str, key: str) -> PairResult | None:
        document = self._read(method, key)
        if document is None:
            return None
        suspects = tuple(Suspect(*_interned(row)) for row in document.pop("suspects"))
        metrics = tuple(MetricSuspect(*_interned(row)) for row in document.pop("metrics"))
        findings = _findings(document.pop("findings"))
        coverage = _coverage(document.pop("coverage", None))
        return PairResult(**document, suspects=suspects, metrics=metrics, findings=findings, coverage=coverage)

    def keep_pair(self, method: str, key: str, result: PairResult) -> None:
        """Keep a result, unless its failure may have come from outside: the machine was short of memory, somebody
        killed the process, or it hung. The next run tries that pair again."""
        if result.status in NOT_KEPT:
            return
        document = {field.name: getattr(result, field.name) for field in fields(PairResult)}
        document["suspects"] = [_SUSPECT(suspect) for suspect in result.suspects]
        document["metrics"] = [_METRIC_SUSPECT(suspect) for suspect in result.metrics]
        if result.findings is not None:
            document["findings"] = [asdict(finding) for finding in result.findings]
        if result.coverage is not None:
            document["coverage"] = asdict(result.coverage)
        self._write(method, key, document)

    def _read(self, group: str, key: str) -> dict[str, Any] | None:
        if self._folder is None or self._fresh:
            return None
        try:
            digest, _, content = (self._folder / group / f"{key}.json").read_bytes().partition(b"\n")
        except FileNotFoundError:
            return None
        if digest != _checksum(content):
            return None
        document: dict[str, Any] = json.loads(content)
        return document

    def _write(self, group: str, key: str, document: dict[str, Any]) -> None:
        if self._folder is None:
            return
        content = json.dumps(document).encode()
        folder = self._folder / group
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f".{key}.{os.getpid()}.partial"
        partial.write_bytes(_checksum(content) + b"\n" + content)
        partial.replace(folder / f"{key}.json")


def _interned(row: list[Any]) -> list[Any]:
    """Return the row with one copy of each name: thousands of rankings have the same few."""
    return [sys.intern(value) if type(value) is str else value for value in row]


def _findings(rows: list[dict[str, Any]] | None) -> tuple[Finding, ...] | None:
    if rows is None:
        return None
    return tuple(Finding(**row | {"evidence": tuple(Evidence(**each) for each in row["evidence"])}) for row in rows)


def _coverage(document: dict[str, Any] | None) -> Coverage | None:
    return None if document is None else Coverage(tuple(document["seen"]), tuple(document["missing"]))


def _checksum(content: bytes) -> bytes:
    return hashlib.sha256(_FORMAT + content).hexdigest().encode()
