"""The parts that readers of data sets share: a case that is not written yet, its id, its tables."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, Protocol, get_args

import numpy as np
import pandas as pd
import pyarrow as pa

from tasks import __version__
from tasks.case import (
    CALLS,
    METRICS,
    RUNS_ON,
    TIMESTAMP,
    TOPOLOGY,
    CaseRecord,
    Completeness,
    Phase,
    SignalName,
    as_signal,
)
from tasks.errors import EXIT_USAGE, RCArenaError
from tasks.injection import Injection, Interval
from tasks.spans import link_spans, service_calls

STATED = "stated by the data set"
ID_LENGTH = 16
NANOSECONDS = 1_000_000_000


class DatasetError(RCArenaError):
    """A file or directory that is not what the layout asks for. The message names it and says what was expected."""

    exit_status = EXIT_USAGE


@dataclass(frozen=True)
class Overrides:
    """Facts about a case that the user gives because its folder lacks them."""

    service: str | None = None
    fault: str | None = None
    inject_time: float | None = None
    front_end: str | None = None

    @property
    def names_a_case(self) -> bool:
        """True if one of them is given that makes sense for a single case only."""
        return (self.service, self.fault, self.inject_time) != (None, None, None)

    def refuse_all_but(self, *used: str) -> None:
        """Raise DatasetError if something is given that is not among ``used``, the fields that a layout takes."""
        given = [name for name, value in asdict(self).items() if value is not None and name not in used]
        if given:
            options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            raise DatasetError(f"{options}: not for this layout, which says it itself")


@dataclass(frozen=True)
class Draft:
    """A case as it will be written. Signals without a table are declared missing in the record.

    ``left_out``: one line on what its files hold and it does not; empty if that is nothing.
    """

    record: CaseRecord
    tables: Mapping[SignalName, pa.Table]
    left_out: str = ""


class DatasetCase(Protocol):
    """One case of a data set, read when asked. ``origin``: where in the data set, for people."""

    @property
    def origin(self) -> str: ...

    def case_id(self) -> str:
        """Return a hash of everything that makes up the case: it reveals nothing and depends on no path."""
        ...

    def read(self) -> Draft: ...


@dataclass(frozen=True)
class BrokenCase:
    """A place where a case was expected and cannot be told: it counts as one that could not be read."""

    origin: str
    problem: str

    def case_id(self) -> str:
        raise DatasetError(self.problem)

    def read(self) -> Draft:
        raise DatasetError(self.problem)


@dataclass(frozen=True)
class Found:
    """``skipped``: what was seen and left out, one line each with the reason."""

    cases: tuple[DatasetCase, ...]
    skipped: tuple[str, ...] = ()


class Column(NamedTuple):
    """A time series: ``metric`` by our name if the meaning is the same, ``source`` as the data set calls it."""

    service: str
    metric: str
    unit: str | None
    source: str | None


class Digest:
    """Digests of parts, in order; a file counts by its bytes, not by its name or place."""

    def __init__(self) -> None:
        self._files: dict[Path, bytes] = {}

    def case_id(self, dataset: str, parts: Iterable[Path | str]) -> str:
        """``<dataset>-<hash>``. Raises :class:`DatasetError` if a file cannot be read."""
        digest = hashlib.sha256(dataset.encode())
        for part in parts:
            digest.update(self._of_file(part) if isinstance(part, Path) else hashlib.sha256(part.encode()).digest())
        return f"{dataset}-{digest.hexdigest()[:ID_LENGTH]}"

    def _of_file(self, file: Path) -> bytes:
        if file not in self._files:
            try:
                with file.open("rb") as stream:
                    self._files[file] = hashlib.file_digest(stream, "sha256").digest()
            except OSError as error:
                raise DatasetError(f"{file}: cannot be read: {error.strerror}") from error
        return self._files[file]


def versions(importer: str, notes: Mapping[str, str]) -> dict[str, str]:
    """Return what made the case, and ``notes``: decisions of the reader."""
    return {"rcarena": __version__, "importer": importer, **notes}


def moment(nanoseconds: int) -> datetime:
    """UTC, to the microsecond."""
    return pd.Timestamp(nanoseconds, tz="UTC").floor("us").to_pydatetime()


def two_phases(first: int, inject: int, end: int) -> tuple[Phase, Phase]:
    """Baseline and fault; times in ns since the epoch."""
    return (
        Phase(name="baseline", start=moment(first), end=moment(inject)),
        Phase(name="fault", start=moment(inject), end=moment(end)),
    )


def stated_injection(
    kind: str, target: str, inject: int, end: int, metrics: Iterable[str] = (), **parameters: object
) -> Injection:
    """Return an injection that the data set says took place; times are in ns since the epoch."""
    return Injection(
        kind=kind,
        target=target,
        parameters=parameters,
        planned=Interval(start=moment(inject), end=moment(end)),
        verdict="effective",
        reason=STATED,
        metrics=tuple(metrics),
    )


def completeness(
    tables: Mapping[SignalName, pa.Table],
    partial: Mapping[SignalName, str],
    missing: Mapping[SignalName, str] | None = None,
) -> dict[SignalName, Completeness]:
    """Return the completeness of each signal; one without a table is missing.

    ``partial`` and ``missing`` are reasons per signal, used where they apply."""
    reasons = missing or {}
    declared: dict[SignalName, Completeness] = {}
    for signal in get_args(SignalName):
        if signal not in tables:
            declared[signal] = Completeness(status="missing", reason=reasons.get(signal, "not in the data set"))
        elif signal in partial:
            declared[signal] = Completeness(status="partial", reason=partial[signal])
        else:
            declared[signal] = Completeness(status="complete")
    return declared


def metrics_table(times: np.ndarray, columns: Sequence[Column], values: np.ndarray) -> pa.Table:
    """Return the metrics signal of a wide table.

    Args:
        times: (rows,) int64, ns since the epoch.
        values: (rows, columns) float64; a value that is not finite is no sample and gets no row.
    """
    row, column = np.nonzero(np.isfinite(values))
    fields = {
        "time": pa.array(times[row]).cast(TIMESTAMP),
        "value": pa.array(values[row, column]),
        **{name: _named([getattr(each, name) for each in columns], column) for name in Column._fields},
    }
    return pa.table([fields[field.name] for field in METRICS], schema=METRICS)


def _named(names: Sequence[str | None], index: np.ndarray) -> pa.DictionaryArray:
    known = sorted({name for name in names if name is not None})
    position = {name: i for i, name in enumerate(known)}
    code = np.array([position.get(name, -1) if name is not None else -1 for name in names], dtype=np.int32)[index]
    indices = pa.array(code, mask=code < 0) if len(code) else pa.array([], pa.int32())
    return pa.DictionaryArray.from_arrays(indices, pa.array(known, pa.string()))


def topology_table(calls: Iterable[tuple[str, str]], nodes: Mapping[str, str]) -> pa.Table:
    """``calls``: (caller, callee); ``nodes``: service -> where it runs."""
    edges = [(CALLS, caller, callee) for caller, callee in sorted(set(calls))]
    edges += [(RUNS_ON, service, node) for service, node in sorted(nodes.items())]
    return edge_table(edges)


def edge_table(edges: Sequence[tuple[str, str, str]]) -> pa.Table:
    """(relation, source, target) as the topology signal."""
    columns = [[edge[i] for edge in edges] for i in range(len(TOPOLOGY))]
    return as_signal("topology", pa.table(columns, names=TOPOLOGY.names))


def entry_service(spans: pd.DataFrame, preferred: Sequence[str] = ()) -> str | None:
    """Return the service in which most traces begin that reach another service; None if no trace does.

    A trace of one service alone (a health check) does not show who calls whom. Among equals, the first one in
    ``preferred`` wins, then one that nobody calls, then the first by name.
    """
    if spans.empty:
        return None
    linked = link_spans(spans)
    code, services = pd.factorize(spans["service"].astype(str))
    several = pd.Series(code).groupby(linked.trace).nunique().to_numpy() > 1
    begins = spans["parent_span_id"].isna().to_numpy() & several[linked.trace]
    roots = np.bincount(code[begins], minlength=len(services))
    if not roots.any():
        return None
    called = {callee for _, callee in service_calls(spans)}
    best = [str(name) for name in services[roots == roots.max()]]
    ranks = {name: i for i, name in enumerate(preferred)}
    return min(best, key=lambda name: (ranks.get(name, len(ranks)), name in called, name))


def most_common_root(spans: pd.DataFrame) -> str | None:
    """Return the service in which most traces begin."""
    roots = spans.loc[spans["parent_span_id"].isna(), "service"].value_counts()
    return None if roots.empty else min(str(service) for service in roots.index[roots == roots.max()])
