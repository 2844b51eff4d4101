"""A client of DeepFlow's SQL API: requests seen by eBPF.

A request observed at a server's process (or at its network card, without a process) becomes a span of that service, and
its two ends become a call edge. These spans replace those of services without a tracer; they carry no engine times.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from datetime import datetime
from typing import Any, Unpack

import numpy as np
import orjson
import pandas as pd

from tasks.export.sources.http import Connection, SourceError, TelemetryClient, one_line
from tasks.export.sources.otlp import span_frame
from tasks.export.sources.placement import Placement
from tasks.export.values import LARGEST_INT64
from tasks.left_out import LeftOut

DATABASE = "flow_log"
COLUMNS = (
    "_id",
    "start_time",
    "trace_id",
    "span_id",
    "request_type",
    "request_resource",
    "response_code",
    "response_duration",
    "pod_0",
    "pod_1",
    "ip_0",
    "ip_1",
    "observation_point",
    "l7_protocol_str",
)
SERVER_PROCESS, SERVER_CARD = "s-p", "s"
PAGE_ROWS = 5000
LONGEST_REQUEST_S = 1e7
_CELL = str | int | float | None
FLUSH_S = 60
"""DeepFlow dates a row by the end of the response, up to this long after the request."""


class DeepFlowClient(TelemetryClient):
    """Client of one DeepFlow server (querier) over a kept-open connection; retries transient failures.

    Attributes:
        left_out: unusable parts of the answers.
    """

    def __init__(self, url: str, *, page_rows: int = PAGE_ROWS, **connection: Unpack[Connection]) -> None:
        super().__init__(url, **connection)
        self._page_rows = page_rows
        self.left_out = LeftOut()

    @staticmethod
    def empty() -> pd.DataFrame:
        return pd.DataFrame(columns=list(COLUMNS))

    def flows(self, start: datetime, end: datetime, namespace: str | None) -> pd.DataFrame:
        """Return requests to pods of the namespace, observed at their servers, each once: ``COLUMNS``.

        Raises:
            SourceError: DeepFlow does not answer, or refuses the query.
        """
        first, last = math.floor(start.timestamp()), math.ceil(end.timestamp()) + FLUSH_S
        rows = [row for page in self._between(first, last, namespace) for row in page]
        usable = [row for row in rows if len(row) == len(COLUMNS) and all(isinstance(cell, _CELL) for cell in row)]
        self.left_out.count("DeepFlow", "a row of another form", len(rows) - len(usable))
        frame = pd.DataFrame.from_records(usable, columns=list(COLUMNS)) if usable else self.empty()
        frame = frame.drop_duplicates("_id")
        timed = _starts_ns(frame["start_time"]).notna()
        self.left_out.count("DeepFlow", "a row whose start is no time", int((~timed).sum()))
        return frame[timed].reset_index(drop=True)

    def _between(self, first_s: int, last_s: int, namespace: str | None) -> Iterator[list[list[Any]]]:
        """Yield pages of the rows dated from ``first_s`` to ``last_s``, both included. A period with more rows than a
        page is halved; a single second is paged by row."""
        page = self._page(first_s, last_s, namespace, 0)
        if len(page) < self._page_rows:
            yield page
        elif first_s < last_s:
            middle = (first_s + last_s) // 2
            yield from self._between(first_s, middle, namespace)
            yield from self._between(middle + 1, last_s, namespace)
        else:
            offset = 0
            while page:
                yield page
                offset += len(page)
                page = self._page(first_s, last_s, namespace, offset) if len(page) == self._page_rows else []

    def _page(self, first_s: int, last_s: int, namespace: str | None, offset: int) -> list[list[Any]]:
        where = [f"time >= {first_s}", f"time <= {last_s}"]
        where.append(f"(observation_point = '{SERVER_PROCESS}' OR observation_point = '{SERVER_CARD}')")
        if namespace:
            where.append(f"pod_ns_1 = '{_checked(namespace)}'")
        sql = f"SELECT {', '.join(COLUMNS)} FROM l7_flow_log WHERE {' AND '.join(where)}"  # noqa: S608 (all checked)
        sql += f" ORDER BY _id LIMIT {self._page_rows}" + (f" OFFSET {offset}" if offset else "")
        answer = self._http.request("/v1/query/", {"db": DATABASE, "sql": sql}, post=True)
        document = answer.json()
        if not isinstance(document, dict) or "OPT_STATUS" not in document:
            raise SourceError(f"{self._http.url}: HTTP {answer.status} with a body that is not DeepFlow's")
        if answer.status != 200 or document["OPT_STATUS"] != "SUCCESS":
            message = one_line(document.get("DESCRIPTION") or document["OPT_STATUS"])
            raise SourceError(f"{self._http.url}: HTTP {answer.status}: {message}")
        result = document.get("result") or {}
        columns, values = (
            (result.get(key) or () for key in ("columns", "values")) if isinstance(result, dict) else (5, 5)
        )
        if not isinstance(columns, list | tuple) or not isinstance(values, list | tuple):
            raise SourceError(f"{self._http.url}: expected a table: {answer.excerpt!r}")
        missing = [column for column in COLUMNS if columns and column not in columns]
        if missing:
            raise SourceError(f"{self._http.url}: a table without the column {missing[0]}")
        places = [columns.index(column) for column in COLUMNS] if columns else list(range(len(COLUMNS)))
        return [
            [row[place] for place in places] if isinstance(row, list) and len(row) > max(places) else []
            for row in values
        ]


def _checked(namespace: str) -> str:
    if not namespace.replace("-", "").isalnum():
        raise SourceError(f"namespace '{namespace}' is not a name that Kubernetes allows")
    return namespace


def deepflow_calls(flows: pd.DataFrame, placement: Placement) -> tuple[tuple[str, str], ...]:
    """Return distinct (caller, callee) of requests between two services."""
    callers, callees = _services(flows, 0, placement), _services(flows, 1, placement)
    pairs = {(a, b) for a, b in zip(callers, callees, strict=True) if a and b and a != b}
    return tuple(sorted(pairs))


def deepflow_spans(flows: pd.DataFrame, placement: Placement) -> pd.DataFrame:
    """Return requests as spans of the service that answered, in the form of ``spans.read_spans``.

    DeepFlow's span id is the caller's, taken from the request: it becomes the parent id.
    """
    flows = flows.assign(service=pd.Series(_services(flows, 1, placement), index=flows.index, dtype="string"))
    flows = flows[flows["service"].notna()]
    by_process = flows["observation_point"].eq(SERVER_PROCESS)
    flows = flows[by_process | ~flows["service"].isin(flows["service"][by_process])]
    starts = _starts_ns(flows["start_time"]).to_numpy(dtype=np.int64)
    durations = pd.to_numeric(flows["response_duration"], errors="coerce").astype("float64") / 1e6
    durations = durations.where(durations.between(0, LONGEST_REQUEST_S), 0.0)
    codes = pd.to_numeric(flows["response_code"], errors="coerce").astype("float64").replace(0, np.nan)
    records = (dict(zip(flows.columns, row, strict=True)) for row in flows.itertuples(index=False, name=None))
    return span_frame(
        _row(record, start, duration, code)
        for record, start, duration, code in zip(records, starts, durations, codes, strict=True)
    )


def _row(record: dict[str, Any], start_ns: int, duration_s: float, code: float) -> tuple[Any, ...]:
    digest = hashlib.sha256(str(record["_id"]).encode()).hexdigest()
    attributes = {
        "span.kind": "server",
        "deepflow.observation_point": record["observation_point"],
        "deepflow.protocol": record["l7_protocol_str"],
        "deepflow.client": record["pod_0"] or record["ip_0"],
    }
    return (
        record["trace_id"] or digest[:32],
        digest[32:48],
        record["span_id"] or None,
        record["service"],
        f"{record['request_type'] or ''} {record['request_resource'] or ''}".strip() or "request",
        start_ns,
        duration_s,
        None if math.isnan(code) else code,
        orjson.dumps(attributes, default=str).decode(),
        np.nan,
    )


def _services(flows: pd.DataFrame, side: int, placement: Placement) -> list[str | None]:
    names = placement.names
    pods, addresses = flows[f"pod_{side}"], flows[f"ip_{side}"]
    return [names.get(str(pod)) or names.get(str(ip)) for pod, ip in zip(pods, addresses, strict=True)]


def _starts_ns(times: pd.Series) -> pd.Series:
    """Convert microseconds since the epoch, or text (UTC unless it names a zone), to nanoseconds (Int64); null for
    anything else."""
    numbers = pd.to_numeric(times, errors="coerce").astype("float64")
    possible = numbers.between(1, LARGEST_INT64 / 1000, inclusive="left")
    counted = numbers.where(possible).round().astype("Int64") * 1000
    texts = times.where(numbers.isna() & times.map(lambda time: isinstance(time, str)))
    dated = pd.to_datetime(texts.astype("string"), utc=True, errors="coerce", format="ISO8601").dt.as_unit("ns")
    return counted.fillna(dated.astype("int64").astype("Int64").where(dated.notna()))
