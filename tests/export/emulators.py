"""Stand-ins for telemetry servers: servers with Prometheus's API, Loki, DeepFlow's querier, the collector's files. They
hold what a test puts in and answer as the real ones do, page limits and failures included."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import orjson


@dataclass(frozen=True)
class Request:
    path: str
    fields: dict[str, list[str]]
    headers: dict[str, str]

    def one(self, name: str) -> str:
        return self.fields[name][0]


@dataclass(frozen=True)
class Response:
    body: bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut_after: int | None = None
    """Send only so many bytes of the body and hang up."""


Handle = Callable[[Request], Response]


def json_response(document: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(document), status, {"Content-Type": "application/json"})


@contextmanager
def serving(handle: Handle, host: str = "127.0.0.1", port: int = 0) -> Iterator[str]:
    """Base URL of a server that answers with ``handle``; ``port`` 0: one that is free."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # one packet per answer: a second one waits 40 ms for the first one's acknowledgement

        def do_GET(self) -> None:
            self._answer(parse_qs(urlsplit(self.path).query, keep_blank_values=True))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            self._answer(parse_qs(body, keep_blank_values=True))

        def _answer(self, fields: dict[str, list[str]]) -> None:
            response = handle(Request(unquote(urlsplit(self.path).path), fields, dict(self.headers)))
            self.send_response(response.status)
            for name, value in response.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(response.body)))
            self.end_headers()
            self.wfile.write(response.body[: response.cut_after])
            if response.cut_after is not None:
                self.close_connection = True

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer((host, port), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://{host}:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def failing_first(handle: Handle, failures: list[Response]) -> Handle:
    """The first requests get the failures, one each."""
    left = list(failures)
    return lambda request: left.pop(0) if left else handle(request)


@dataclass
class PrometheusEmulator:
    """``value``: (labels, milliseconds) -> the value at that time. The asked times are moved as the server would.

    Args:
        series: labels of every series.
        aligned: "never"; "for its cache", as VictoriaMetrics does from 50 points on unless it is told ``nocache``;
            "always", as the query frontends of Thanos, Mimir and Cortex do where so configured.
        limit: points per series that one answer may have; beyond, the answer is ``refusal``.
        further: keys beside ``data``.
        prefix: path before ``/api/v1``.
        tenant: the only one that is let in; None: everybody.
    """

    value: Callable[[dict[str, str], int], float]
    series: list[dict[str, str]] = field(default_factory=lambda: [{"service": "a", "pod": "p"}])
    aligned: str = "never"
    limit: int = 11_000
    refusal: Response = field(default_factory=lambda: Response(b"", 422))
    further: dict[str, Any] = field(default_factory=dict)
    prefix: str = ""
    tenant: str | None = None
    asked: list[dict[str, str]] = field(default_factory=list)

    def __call__(self, request: Request) -> Response:
        if self.tenant is not None and request.headers.get("X-Scope-OrgID") != self.tenant:
            return Response(b"no org id", 401)
        if request.path != f"{self.prefix}/api/v1/query_range":
            return Response(b"404 page not found", 404)
        fields = {key: values[0] for key, values in request.fields.items()}
        self.asked.append(fields)
        start, end, step = (round(float(fields[key]) * 1000) for key in ("start", "end", "step"))
        points = (end - start) // step + 1
        if points > self.limit:
            return self.refusal
        if self.aligned == "always":
            start, end = start - start % step, end - end % step
        elif self.aligned == "for its cache" and points >= 50 and fields.get("nocache") != "1":
            start -= start % step
            end = start + (points - 1) * step
        result = [
            {"metric": labels, "values": [[t / 1000, repr(self.value(labels, t))] for t in range(start, end + 1, step)]}
            for labels in self.series
        ]
        data = {"resultType": "matrix", "result": result}
        return json_response({"status": "success", "data": data, **self.further})


@dataclass
class LokiEmulator:
    """``streams``: labels and (nanoseconds, line). One page holds ``max_entries`` lines over all streams that match,
    the oldest first; ``refusal`` makes the answer that says so from the asked and the granted figure. A question for
    more than ``longest_ns`` is refused with ``too_long``. ``third``: what comes behind each line's text."""

    streams: list[tuple[dict[str, str], list[tuple[int, str]]]]
    max_entries: int = 5000
    warnings: tuple[str, ...] = ()
    refusal: Callable[[int, int], Response] = lambda asked, granted: Response(
        f"max entries limit per query exceeded, limit > max_entries_limit ({asked} > {granted})".encode(), 400
    )
    longest_ns: int = 2**62
    too_long: Response = field(default_factory=lambda: Response(b"", 400))
    third: tuple[Any, ...] = ()
    queries: list[Request] = field(default_factory=list)

    def __call__(self, request: Request) -> Response:
        start, end = int(request.one("start")), int(request.one("end"))
        if request.path == "/loki/api/v1/series":
            found = [
                labels
                for labels, entries in self._matching(request.one("match[]"))
                if any(start <= time_ns < end for time_ns, _ in entries)
            ]
            return json_response({"status": "success", "data": found})
        assert request.path == "/loki/api/v1/query_range"
        assert request.one("direction") == "forward"
        self.queries.append(request)
        limit = int(request.one("limit"))
        if limit > self.max_entries:
            return self.refusal(limit, self.max_entries)
        if end - start > self.longest_ns + 1:
            return self.too_long
        query = request.one("query")
        wanted = [orjson.loads(f'"{text}"') for text in re.findall(r'\|= "((?:[^"\\]|\\.)*)"', query)]
        lines = [
            (time_ns, number, line)
            for number, (_, entries) in enumerate(self._matching(query))
            for time_ns, line in entries
            if start <= time_ns < end and all(text in line for text in wanted)
        ]
        page = sorted(lines, key=lambda entry: entry[0])[:limit]
        matching = self._matching(query)
        result = [
            {
                "stream": matching[number][0],
                "values": [[str(time_ns), line, *self.third] for time_ns, n, line in page if n == number],
            }
            for number in dict.fromkeys(n for _, n, _ in page)
        ]
        document = {"status": "success", "data": {"resultType": "streams", "result": result}}
        return json_response({**document, "warnings": self.warnings} if self.warnings else document)

    def _matching(self, query: str) -> list[tuple[dict[str, str], list[tuple[int, str]]]]:
        matchers = re.findall(r'([A-Za-z_]\w*)="((?:[^"\\]|\\.)*)"', query[: query.index("}") + 1])
        assert matchers
        return [
            (labels, entries)
            for labels, entries in self.streams
            if all(labels.get(name, "") == orjson.loads(f'"{value}"') for name, value in matchers)
        ]


@dataclass
class DeepFlowEmulator:
    """``rows`` of l7_flow_log as dicts with ``time`` in seconds; answers the filters on time, namespace and LIMIT."""

    rows: list[dict[str, Any]]
    statements: list[str] = field(default_factory=list)

    def __call__(self, request: Request) -> Response:
        assert (request.path, request.one("db")) == ("/v1/query/", "flow_log")
        sql = request.one("sql")
        self.statements.append(sql)
        columns = [column.strip() for column in sql.removeprefix("SELECT ").split(" FROM ")[0].split(",")]
        first, last = (int(re.search(rf"time {sign} (\d+)", sql)[1]) for sign in (">=", "<="))  # type: ignore[index]
        namespace = re.search(r"pod_ns_1 = '([^']*)'", sql)
        points = re.findall(r"observation_point = '([^']*)'", sql)
        limit, offset = (int(m[1]) if (m := re.search(rf"{word} (\d+)", sql)) else 0 for word in ("LIMIT", "OFFSET"))
        found = [
            row
            for row in sorted(self.rows, key=lambda row: row["_id"])
            if first <= row["time"] <= last
            and row["observation_point"] in points
            and (namespace is None or row["pod_ns_1"] == namespace[1])
        ]
        values = [[row[column] for column in columns] for row in found[offset : offset + limit]]
        document = {"OPT_STATUS": "SUCCESS", "DESCRIPTION": "", "result": {"columns": columns, "values": values}}
        return json_response(document)


@dataclass
class FilesEmulator:
    """A directory over HTTP as NGINX serves it: a JSON list at ``/``, byte ranges of the files.

    ``rotate_at``: before the request of that number the current file is renamed and an empty one begun.
    """

    files: dict[str, bytes]
    modified_s: dict[str, float] = field(default_factory=dict)
    current: str = "spans.jsonl"
    rotate_at: int | None = None
    requests: int = 0

    def __call__(self, request: Request) -> Response:
        self.requests += 1
        if self.requests == self.rotate_at:
            self.files["spans-rotated.jsonl"] = self.files[self.current]
            self.files[self.current] = b""
        if request.path == "/":
            names = sorted(self.files)
            return json_response([self._entry(name) for name in names] + [{"name": "old", "type": "directory"}])
        content = self.files.get(request.path.removeprefix("/"))
        if content is None:
            return Response(b"", 404)
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers["Range"])
        assert match
        first, last = int(match[1]), int(match[2])
        if first >= len(content):
            return Response(b"", 416)
        return Response(content[first : last + 1], 206)

    def _entry(self, name: str) -> dict[str, Any]:
        mtime = formatdate(self.modified_s.get(name, 4e9), usegmt=True)
        return {"name": name, "type": "file", "mtime": mtime, "size": len(self.files[name])}
