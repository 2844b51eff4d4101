"""The figures of a table over several data sets, read from scores, kept as JSON, compared with an earlier table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import pandas as pd
from pydantic import ValidationError

from tasks.errors import ParamsError
from tasks.score.errors import ScoreError
from tasks.score.files import ScoreFiles, number, read_score_files
from tasks.score.references import REFERENCES
from tasks.system.durable import write_durably
from tasks.validation import Frozen, validation_problems

SHOWN = ("ac1", "avg5", "mrr")
COMPARED = {"ac1": "AC@1", "avg5": "Avg@5"}
CHANGE = 0.05
"""A change of more is told."""


class Values(Frozen):
    """Means over the scored cases; None: the score stage that wrote them did not know it."""

    ac1: float | None = None
    avg5: float | None = None
    mrr: float | None = None


class MethodFigures(Frozen):
    """``scores``: lists as given; ``tail``: with a random tail. ``failures``: scored cases on which it failed, which
    score zero. ``cpu_s``: CPU seconds per case that it ran on; None: it ran on none, or nobody measured."""

    scores: Values
    tail: Values = Values()
    failures: int
    cpu_s: float | None = None


class DatasetFigures(Frozen):
    """``cases``: all that the methods saw; ``scored``: those with a truth. ``references``: chance and others."""

    cases: int
    scored: int
    references: dict[str, Values]
    methods: dict[str, MethodFigures]


class DatasetTable(Frozen):
    """``settings``: of the section ``score`` that decides the figures."""

    schema_version: Literal[1] = 1
    settings: dict[str, str | int | float | bool | None]
    datasets: dict[str, DatasetFigures]

    def write(self, file: Path) -> None:
        write_durably(file, (self.model_dump_json(indent=1, exclude_none=True) + "\n").encode())

    @classmethod
    def read(cls, file: Path) -> DatasetTable:
        """Raises ParamsError: not such a file."""
        try:
            return cls.model_validate_json(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise ParamsError([f"{file}: {error.strerror}"]) from error
        except ValidationError as error:
            raise ParamsError(f"{file}: {problem}" for problem in validation_problems(error, cls)) from error


def read_figures(scores_dir: Path) -> DatasetFigures:
    """What the score stage wrote, an older one too.

    Raises:
        ScoreError: nothing was scored there, or its files cannot be read.
    """
    files = read_score_files(scores_dir)
    if files is None:
        raise ScoreError(f"{scores_dir}: there are no scores")
    table = files.overall
    by_method = {str(method): rows.set_index("score") for method, rows in table.groupby("method", sort=False)}
    rankings = files.rankings.drop_duplicates("case_id")
    first = next(iter(by_method.values()), pd.DataFrame())
    return DatasetFigures(
        cases=len(rankings),
        scored=int((rankings["excluded"] == "").sum()),
        references={name: _values(first, name) for name in REFERENCES if name in first},
        methods={method: _method(files, method, rows) for method, rows in by_method.items()},
    )


def _method(files: ScoreFiles, method: str, rows: pd.DataFrame) -> MethodFigures:
    cases, rate = int(rows["cases"].iloc[0]), number(rows.loc["failure_rate", "value"]) or 0.0
    known = files.costs is not None and method in files.costs.index
    costs = files.costs.loc[method] if known and files.costs is not None else pd.Series(dtype=float)
    ran = number(costs.get("cases", float("nan")))
    return MethodFigures(
        scores=_values(rows, "value"),
        tail=_values(rows, "tail") if "tail" in rows else Values(),
        failures=round(rate * cases),
        cpu_s=number(costs.get("cpu_s_mean", float("nan"))) if ran else None,
    )


def _values(rows: pd.DataFrame, column: str) -> Values:
    return Values(**{score: number(rows.loc[score, column]) for score in SHOWN})


def changes(before: DatasetTable, after: DatasetTable) -> list[str]:
    """One line per method and data set of both whose AC@1 or Avg@5 moved by more than ``CHANGE``, the largest first in
    each data set; then what only one of them has, and settings that differ."""
    lines = []
    for name, new in after.datasets.items():
        old = before.datasets.get(name)
        if old is None:
            continue
        moved: list[tuple[float, str]] = []
        for method, figures in new.methods.items():
            if method in old.methods:
                moved += _moved(method, old.methods[method].scores, figures.scores)
        moved += [
            change
            for reference, values in new.references.items()
            if reference in old.references
            for change in _moved(f"({reference})", old.references[reference], values)
        ]
        lines += [f"{name}: {text}" for _, text in sorted(moved, key=lambda change: -change[0])]
        for label, one, other in (("new", new, old), ("gone", old, new)):
            only = [method for method in one.methods if method not in other.methods]
            if only:
                lines.append(f"{name}: {label}: {', '.join(only)}")
        if (old.cases, old.scored) != (new.cases, new.scored):
            lines.append(f"{name}: {old.scored} of {old.cases} cases scored → {new.scored} of {new.cases}")
    lines += _only("data sets not there before", after.datasets, before.datasets)
    lines += _only("data sets not there any more", before.datasets, after.datasets)
    keys = dict.fromkeys((*before.settings, *after.settings))
    differ = [key for key in keys if before.settings.get(key) != after.settings.get(key)]
    lines += [f"setting {key}: {before.settings.get(key)} → {after.settings.get(key)}" for key in differ]
    return lines


def _moved(name: str, old: Values, new: Values) -> Iterator[tuple[float, str]]:
    pairs = {
        label: (before, after)
        for score, label in COMPARED.items()
        if (before := getattr(old, score)) is not None and (after := getattr(new, score)) is not None
    }
    largest = max((abs(after - before) for before, after in pairs.values()), default=0.0)
    if round(largest, 9) > CHANGE:
        text = ", ".join(f"{label} {before:.2f} → {after:.2f}" for label, (before, after) in pairs.items())
        yield largest, f"{name}: {text}"


def _only(what: str, these: Mapping[str, object], others: Mapping[str, object]) -> Sequence[str]:
    only = [name for name in these if name not in others]
    return [f"{what}: {', '.join(only)}"] if only else []
