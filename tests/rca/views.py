"""Views for the tests of methods."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from tasks.case import SIGNALS, Case, CaseRecord, SignalName
from tasks.params import ScoreParams
from tasks.rca.view import CaseView
from tests.copies import copied

_SERVICE_COLUMNS = {
    "metrics": ["service"],
    "requests": [],
    "logs": ["service"],
    "spans": ["service"],
    "topology": ["source", "target"],
}
T0 = pd.Timestamp("2026-01-02T03:04:05Z")


def score_params(**changes: object) -> ScoreParams:
    return ScoreParams.model_validate({"methods": ["random"], "profile": "llm", **changes})


def view_of(columns: Mapping[tuple[str, str], list[float]], *, normal_rows: int) -> CaseView:
    """A view with the given metric columns, one row per second, whose fault begins after ``normal_rows`` rows."""
    rows = len(next(iter(columns.values())))
    index = pd.DatetimeIndex(T0 + pd.to_timedelta(np.arange(rows), unit="s"), name="time")
    metrics = pd.DataFrame(dict(columns), index=index, dtype=float)
    metrics.columns = pd.MultiIndex.from_tuples(columns, names=["service", "metric"])
    services = tuple(dict.fromkeys(service for service, _ in columns))
    empty = {name: schema.empty_table().to_pandas() for name, schema in SIGNALS.items()}
    return CaseView(
        services=services,
        roles=dict.fromkeys(services, "replica"),
        front_end=services[0],
        inject_time=index[0] + pd.Timedelta(seconds=normal_rows),
        metrics=metrics,
        sli=pd.Series(np.nan, index=index, name="sli"),
        logs=empty["logs"],
        spans=empty["spans"],
        requests=empty["requests"].drop(columns="request_id"),
        topology=empty["topology"],
        content_key="key",
    )


def rewritten(case: Case, cases_dir: Path, names: Mapping[str, str], *, seed: int) -> Case:
    """The same case with its services renamed, and its services and rows in another order."""
    rng = np.random.default_rng(seed)
    document = case.record.model_dump(mode="json")
    document["case_id"] += "-rewritten"
    document["front_end"] = names[document["front_end"]]
    for service in document["stack"]["services"]:
        service["name"] = names[service["name"]]
    rng.shuffle(document["stack"]["services"])
    for injection in document["injections"]:
        injection["target"] = names[injection["target"]]
    record = CaseRecord.model_validate_json(json.dumps(document))
    tables: dict[SignalName, pd.DataFrame] = {}
    for signal in SIGNALS:
        table = case.table(signal)
        for column in {"service", "source", "target"} & set(table.columns) - (
            {"source"} if signal == "metrics" else set()
        ):
            table[column] = table[column].astype(str).map(lambda name: names.get(name, name))
        tables[signal] = table.sample(frac=1, random_state=seed)
    return copied(case, record, tables, cases_dir)
