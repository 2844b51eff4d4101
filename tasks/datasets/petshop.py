"""PetShop: Hardt et al., "The PetShop Dataset: Finding Causes of Performance Issues across Microservices", CLeaR 2024.

A *scenario* is a directory with ``graph.csv`` (adjacency, a row calls a column), ``noissue/metrics.csv`` (the baseline,
recorded on its own over two days), and ``train`` and ``test`` with folders ``issue_<n>``: ``metrics.csv`` (the abnormal
rows) and ``target.json`` (the node and metric whose objective is violated, the root cause, the command that caused it).

* The baseline is moved in time so that it ends one step before the first abnormal row. How far is in ``versions``.
* The inject time is the first abnormal row: every row of an issue is abnormal, none of the baseline is.
* The front end is the node whose objective is violated: PetShop's own evaluation tells it to the methods.
* The fault kind is the violated metric (``latency`` or ``availability``), as PetShop groups its results.
* The candidates are the nodes of the graph.
* Requests are counts per step. A recording of one row has no step of its own: that of the other one counts, else
  ``STEP_S``, which is PetShop's.
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
from tasks.datasets.left_out import CaseLeftOut
from tasks.datasets.tables import (
    Table,
    in_order,
    is_hidden,
    plausible,
    read_csv,
    read_header,
    read_json,
    visible_files,
)
from tasks.left_out import LeftOut
from tasks.metrics import AVAILABILITY, LATENCY_MEAN, LATENCY_P50, LATENCY_P90, LATENCY_P95, LATENCY_P99, REQUEST_RATE

IMPORTER = "petshop 1"
STEP_S = 300
HEADER_LINES = 3
"""Node, metric, statistic; a fourth line names the time column."""
SPLITS = ("train", "test")
EXPECTED = "expected the scenarios of PetShop: directories with graph.csv, noissue/metrics.csv, train/ and test/"

_METRICS = {
    ("latency", "Average"): LATENCY_MEAN,
    ("latency", "p50"): LATENCY_P50,
    ("latency", "p90"): LATENCY_P90,
    ("latency", "p95"): LATENCY_P95,
    ("latency", "p99"): LATENCY_P99,
    ("requests", "Sum"): REQUEST_RATE,
    ("availability", "Average"): AVAILABILITY,
}
"""Metric and statistic -> what we call it."""


def find(directory: Path, overrides: Overrides) -> Found:
    """Find the issues of every scenario below ``directory``. The layout takes no ``overrides``."""
    overrides.refuse_all_but()
    scenarios = [_Scenario(graph.parent, Digest()) for graph in visible_files(directory, "**/graph.csv")]
    cases: list[PetShopIssue] = []
    skipped = []
    for scenario in scenarios:
        issues = [path for split in SPLITS for path in _issues(scenario.path / split)]
        if not scenario.baseline_file.is_file():
            skipped.append(f"{scenario.path.name}: {len(issues)} issues skipped: no baseline, noissue/metrics.csv")
            continue
        cases += [PetShopIssue(path, scenario) for path in issues]
    if not cases and not skipped:
        raise DatasetError(f"{directory}: {EXPECTED}")
    return Found(tuple(cases), tuple(skipped))


def _issues(split: Path) -> list[Path]:
    found = (path for path in split.glob("issue_*") if path.is_dir() and not is_hidden(path, split))
    return sorted(found, key=_number)


def _number(issue: Path) -> tuple[int, str]:
    digits = issue.name.removeprefix("issue_")
    return (int(digits) if digits.isdecimal() else 0, issue.name)


@dataclass(frozen=True)
class _Series:
    """A column of a metrics file, in the file's own unit."""

    node: str
    metric: str
    statistic: str


@dataclass(frozen=True)
class _Recording:
    """``times``: (rows,) int64 ns; ``values``: (rows, columns), in the file's units."""

    times: np.ndarray
    series: tuple[_Series, ...]
    values: np.ndarray
    left_out: LeftOut

    @property
    def step(self) -> int | None:
        """ns; None if there is one row only."""
        return int(np.median(np.diff(self.times))) if len(self.times) > 1 else None

    def table(self, shift: int, step: int) -> pa.Table:
        """Return the metrics signal in our units, its times moved by ``shift``."""
        found = [_our_metric(each.metric, each.statistic, step / NANOSECONDS) for each in self.series]
        columns = [
            Column(each.node, name, unit, f"{each.metric} {each.statistic}")
            for each, (name, unit, _) in zip(self.series, found, strict=True)
        ]
        factors = np.array([factor for _, _, factor in found])
        return metrics_table(self.times + shift, columns, self.values * factors)


class _Scenario:
    """The files that the issues of one scenario share; each is read once."""

    def __init__(self, path: Path, digest: Digest) -> None:
        self.path = path
        self.digest = digest
        self.graph_file = path / "graph.csv"
        self.baseline_file = path / "noissue" / "metrics.csv"
        self.graph_left_out = LeftOut()

    @cached_property
    def baseline(self) -> _Recording:
        return _read_metrics(self.baseline_file)

    @cached_property
    def graph(self) -> tuple[tuple[str, ...], list[tuple[str, str]]]:
        """Nodes, and the edges caller -> callee."""
        table = read_csv(self.graph_file, self.graph_left_out)
        callees, callers = table.names[1:], ["" if name is None else str(name) for name in table.text(0)]
        if not callees or not callers:
            raise DatasetError(f"{self.graph_file}: expected a row and a column per node")
        found = [table.numbers_if_any(i + 1) for i in range(len(callees))]
        weights = np.column_stack([np.zeros(table.rows) if each is None else each for each in found])
        edges = [(callers[i], callees[j]) for i, j in np.argwhere(weights > 0).tolist() if callers[i] != callees[j]]
        return tuple(sorted({*callers, *callees} - {""})), [edge for edge in edges if all(edge)]


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
        step = issue.step or baseline.step or STEP_S * NANOSECONDS
        baseline_step = baseline.step or step
        inject, end = int(issue.times[0]), int(issue.times[-1]) + step
        shift = inject - step - int(baseline.times[-1])
        metrics = pa.concat_tables([baseline.table(shift, baseline_step), issue.table(0, step)]).unify_dictionaries()
        tables: dict[SignalName, pa.Table] = {"metrics": metrics, "topology": topology_table(calls, {})}
        services = sorted({*nodes, *(each.node for each in (*baseline.series, *issue.series))})
        for role, node in (("root_cause", target.root_cause), ("target", target.node)):
            if node not in services:
                raise DatasetError(f"{target_file}: {role}.node '{node}' is neither in the graph nor in the metrics")
        left_out = CaseLeftOut()
        for recording in (baseline, issue):
            left_out.of("metrics").update(recording.left_out)
        left_out.of("topology").update(self.scenario.graph_left_out)
        record = CaseRecord(
            case_id=self.case_id(),
            campaign=f"PetShop {self.scenario.path.name}",
            stack=Stack(backend="aws", services=tuple(Service(name=name, role="service") for name in services)),
            front_end=target.node,
            phases=two_phases(int(baseline.times[0]) + shift, inject, end),
            injections=(
                stated_injection(
                    target.metric, target.root_cause, inject, end, _named_metrics(target, issue), command=target.command
                ),
            ),
            completeness=completeness(tables, left_out.reasons()),
            versions=versions(
                IMPORTER,
                {
                    "origin": self.origin,
                    "baseline": f"recorded on its own from {moment(int(baseline.times[0])).isoformat()}; moved by "
                    f"{shift // NANOSECONDS} s to end one step before the issue",
                },
            ),
        )
        return Draft(record, tables, left_out.summary())


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
            stated = (target["node"], target["metric"], cause["node"])
            named, metadata = cause.get("metric"), document.get("metadata")
        except (KeyError, TypeError, AttributeError):
            stated, named, metadata = (None, None, None), None, None
        if not all(isinstance(each, str) and each for each in stated):
            raise DatasetError(f"{file}: expected target.node, target.metric and root_cause.node")
        how = metadata.get("reproducibility") if isinstance(metadata, dict) else None
        command = how.get("command") if isinstance(how, dict) else None
        return cls(
            node=stated[0],
            metric=stated[1],
            root_cause=stated[2],
            cause_metric=named if isinstance(named, str) else None,
            command="" if command is None else str(command),
        )


def _named_metrics(target: _Target, issue: _Recording) -> list[str]:
    """Return our names of every statistic of the metric that is stated as the root cause; most issues state none."""
    return [
        _our_metric(each.metric, each.statistic, STEP_S)[0]
        for each in issue.series
        if each.node == target.root_cause and each.metric == target.cause_metric
    ]


def _read_metrics(file: Path) -> _Recording:
    nodes, metrics, statistics = (row[1:] for row in read_header(file, HEADER_LINES))
    if not len(nodes) == len(metrics) == len(statistics):
        raise DatasetError(f"{file}: expected three header lines of equal length: node, metric, statistic")
    left_out = LeftOut()
    table = _without_title(read_csv(file, left_out, header_lines=HEADER_LINES))
    if not table.rows:
        raise DatasetError(f"{file}: no row of metrics")
    found: dict[_Series, np.ndarray] = {}
    for i, each in enumerate(_Series(*parts) for parts in zip(nodes, metrics, statistics, strict=True)):
        if not (each.node and each.metric and each.statistic):
            left_out.count(file, "a column without a node, a metric or a statistic")
        elif each in found:
            left_out.count(file, "a column that is there twice")
        else:
            values = table.numbers_if_any(i + 1)
            if values is not None:
                found[each] = values
    if not found:
        raise DatasetError(f"{file}: no column of metrics")
    times, known = table.times(0)
    known = plausible(times, known)
    if not known.any():
        raise DatasetError(f"{file}: no row has a time; expected seconds since 1970")
    times, values = in_order(times, np.column_stack(list(found.values())), left_out, file, known)
    return _Recording(times, tuple(found), values, left_out)


def _without_title(table: Table) -> Table:
    """Leave out a first line that only says ``unix_timestamp``."""
    first = table.text(0)[:1]
    titled = len(first) == 1 and first[0] is not None and str(first[0]).replace("_", "").isalpha()
    return table.slice(1) if titled else table


def _our_metric(metric: str, statistic: str, step_s: float) -> tuple[str, str | None, float]:
    """Name, unit and factor. Requests are counts per step, availability is a percentage."""
    ours = _METRICS.get((metric, statistic))
    if ours is None:
        return f"{metric}_{statistic}".lower(), None, 1.0
    return ours.name, ours.unit, {REQUEST_RATE: 1.0 / step_s, AVAILABILITY: 0.01}.get(ours, 1.0)
