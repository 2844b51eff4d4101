"""PetShop: Hardt et al., "The PetShop Dataset: Finding Causes of Performance Issues across Microservices", CLeaR 2024.

A *scenario* is a directory with ``graph.csv`` (adjacency, a row calls a column), ``noissue/metrics.csv`` (the baseline,
recorded on its own over two days), and ``train`` and ``test`` with folders ``issue_<n>``: ``metrics.csv`` (the abnormal
rows) and ``target.json`` (the node and metric whose objective is violated, the root cause, the command that caused it).

* The baseline is moved in time so that it ends one step before the first abnormal row. How far is in ``versions``.
* The inject time is the first abnormal row: every row of an issue is abnormal, none of the baseline is.
* The front end is the node whose objective is violated: PetShop's own evaluation tells it to the methods.
* The fault kind is the violated metric (``latency`` or ``availability``), as PetShop groups its results.
* The candidates are the nodes of the graph.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tasks.case import CaseRecord, Service, SignalName, Stack
from tasks.datasets.dataset import (
    NANOSECONDS,
    Column,
    DatasetError,
    Digest,
    Draft,
    Found,
    Overrides,
    completeness,
    metrics_table,
    moment,
    stated_injection,
    topology_table,
    two_phases,
    versions,
)
from tasks.datasets.tables import Table, read_csv, read_header, read_json

IMPORTER = "petshop 1"
HEADER_LINES = 3
"""Node, metric, statistic; a fourth line names the time column."""
SPLITS = ("train", "test")
EXPECTED = "expected the scenarios of PetShop: directories with graph.csv, noissue/metrics.csv, train/ and test/"

_LATENCIES = {"Average": "latency_mean", **{f"p{q}": f"latency_p{q}" for q in (50, 90, 95, 99)}}


def find(directory: Path, overrides: Overrides) -> Found:
    """The issues of every scenario below ``directory``. ``overrides`` are not used."""
    scenarios = [_Scenario(graph.parent, Digest()) for graph in sorted(directory.rglob("graph.csv"))]
    cases: list[PetShopIssue] = []
    skipped = []
    for scenario in scenarios:
        issues = [path for split in SPLITS for path in sorted((scenario.path / split).glob("issue_*"), key=_number)]
        if not scenario.baseline_file.is_file():
            skipped.append(f"{scenario.path.name}: {len(issues)} issues skipped: no baseline, noissue/metrics.csv")
            continue
        cases += [PetShopIssue(path, scenario) for path in issues]
    if not cases and not skipped:
        raise DatasetError(f"{directory}: {EXPECTED}")
    return Found(tuple(cases), tuple(skipped))


def _number(issue: Path) -> tuple[int, str]:
    digits = issue.name.removeprefix("issue_")
    return (int(digits) if digits.isdecimal() else 0, issue.name)


@dataclass(frozen=True)
class _Recording:
    """``times``: (rows,) int64 ns; ``values``: (rows, columns), in our units."""

    times: np.ndarray
    columns: tuple[Column, ...]
    values: np.ndarray

    @property
    def step(self) -> int:
        return int(np.median(np.diff(self.times))) if len(self.times) > 1 else 0


class _Scenario:
    """What the issues of one scenario share; read once."""

    def __init__(self, path: Path, digest: Digest) -> None:
        self.path = path
        self.digest = digest
        self.graph_file = path / "graph.csv"
        self.baseline_file = path / "noissue" / "metrics.csv"

    @cached_property
    def baseline(self) -> _Recording:
        return _read_metrics(self.baseline_file)

    @cached_property
    def graph(self) -> tuple[tuple[str, ...], list[tuple[str, str]]]:
        """Nodes, and the edges caller -> callee."""
        table = read_csv(self.graph_file)
        callees, callers = table.names[1:], [str(name) for name in table.text(0)]
        weights = np.column_stack([table.numbers(i + 1) for i in range(len(callees))])
        edges = [(callers[i], callees[j]) for i, j in np.argwhere(weights > 0).tolist() if callers[i] != callees[j]]
        return tuple(sorted({*callers, *callees})), edges


@dataclass(frozen=True)
class PetShopIssue:
    path: Path
    scenario: _Scenario

    @property
    def origin(self) -> str:
        return "/".join((self.scenario.path.name, *self.path.parts[-2:]))

    @property
    def _files(self) -> tuple[Path, Path]:
        return self.path / "metrics.csv", self.path / "target.json"

    def case_id(self) -> str:
        parts: list[str | Path] = [IMPORTER, self.scenario.graph_file, self.scenario.baseline_file, *self._files]
        return self.scenario.digest.case_id("petshop", parts)

    def read(self) -> Draft:
        metrics_file, target_file = self._files
        target = _Target.read(target_file)
        baseline, issue = self.scenario.baseline, _read_metrics(metrics_file)
        nodes, calls = self.scenario.graph
        step = issue.step or baseline.step
        inject, end = int(issue.times[0]), int(issue.times[-1]) + step
        shift = inject - step - int(baseline.times[-1])
        moved = _Recording(baseline.times + shift, baseline.columns, baseline.values)
        tables: dict[SignalName, pa.Table] = {"metrics": _joined(moved, issue), "topology": topology_table(calls, {})}
        services = sorted({*nodes, *(column.service for column in (*baseline.columns, *issue.columns))})
        for role, node in (("root_cause", target.root_cause), ("target", target.node)):
            if node not in services:
                raise DatasetError(f"{target_file}: {role}.node '{node}' is neither in the graph nor in the metrics")
        record = CaseRecord(
            case_id=self.case_id(),
            campaign=f"PetShop {self.scenario.path.name}",
            stack=Stack(backend="aws", services=tuple(Service(name=name, role="service") for name in services)),
            front_end=target.node,
            phases=two_phases(int(moved.times[0]), inject, end),
            injections=(
                stated_injection(
                    target.metric, target.root_cause, inject, end, _named_metrics(target, issue), command=target.command
                ),
            ),
            completeness=completeness(tables, {}),
            versions=versions(
                IMPORTER,
                {
                    "origin": self.origin,
                    "baseline": f"recorded on its own from {moment(int(baseline.times[0])).isoformat()}; moved by "
                    f"{shift // NANOSECONDS} s to end one step before the issue",
                },
            ),
        )
        return Draft(record, tables)


@dataclass(frozen=True)
class _Target:
    node: str
    metric: str
    root_cause: str
    cause_metric: str | None
    command: str

    @classmethod
    def read(cls, file: Path) -> _Target:
        document: Any = read_json(file)
        try:
            target, cause = document["target"], document["root_cause"]
            metadata = document.get("metadata") or {}
            command = (metadata.get("reproducibility") or {}).get("command") or ""
            named = cause.get("metric")
            return cls(
                node=str(target["node"]),
                metric=str(target["metric"]),
                root_cause=str(cause["node"]),
                cause_metric=None if named is None else str(named),
                command=str(command),
            )
        except (KeyError, TypeError, AttributeError):
            raise DatasetError(f"{file}: expected target.node, target.metric and root_cause.node") from None


def _named_metrics(target: _Target, issue: _Recording) -> list[str]:
    """By our names, every statistic of the metric that is stated as the root cause; mostly none is."""
    return [
        column.metric
        for column in issue.columns
        if column.service == target.root_cause and str(column.source).split()[0] == target.cause_metric
    ]


def _read_metrics(file: Path) -> _Recording:
    nodes, metrics, statistics = (row[1:] for row in read_header(file, HEADER_LINES))
    if not len(nodes) == len(metrics) == len(statistics):
        raise DatasetError(f"{file}: expected three header lines of equal length: node, metric, statistic")
    names = ["time", *(f"{node} {metric}" for node, metric in zip(nodes, metrics, strict=True))]
    table = read_csv(file, skip_lines=HEADER_LINES, names=names)
    table = _without_title(table)
    if not table.rows:
        raise DatasetError(f"{file}: no row of metrics")
    times = table.seconds(0)
    if (np.diff(times) <= 0).any():
        raise DatasetError(f"{file}: the times must ascend")
    step_s = float(np.median(np.diff(times))) / NANOSECONDS if len(times) > 1 else np.nan
    columns, values = [], []
    for i, (node, metric, statistic) in enumerate(zip(nodes, metrics, statistics, strict=True)):
        name, unit, factor = _our_metric(metric, statistic, step_s)
        columns.append(Column(node, name, unit, f"{metric} {statistic}"))
        values.append(table.numbers(i + 1) * factor)
    return _Recording(times, tuple(columns), np.column_stack(values))


def _without_title(table: Table) -> Table:
    """Without the line that only says ``unix_timestamp``."""
    first = table.text(0)[:1]
    titled = len(first) == 1 and str(first[0]).replace("_", "").isalpha()
    return Table(table.file, table.data.slice(1)) if titled else table


def _our_metric(metric: str, statistic: str, step_s: float) -> tuple[str, str | None, float]:
    """Name, unit and factor. Requests are counts per step, availability is a percentage."""
    if metric == "latency" and statistic in _LATENCIES:
        return _LATENCIES[statistic], "s", 1.0
    if (metric, statistic) == ("requests", "Sum") and step_s > 0:
        return "request_rate", "requests/s", 1.0 / step_s
    if (metric, statistic) == ("availability", "Average"):
        return "availability", "ratio", 0.01
    return f"{metric}_{statistic}".lower(), None, 1.0


def _joined(*recordings: _Recording) -> pa.Table:
    """The metrics of all, in order of time; they need not have the same columns."""
    return pa.concat_tables(
        [metrics_table(each.times, each.columns, each.values) for each in recordings]
    ).unify_dictionaries()
