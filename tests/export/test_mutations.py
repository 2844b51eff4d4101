"""Good documents of every source with one node of them replaced by anything: nothing but the named errors comes out."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.case import SPANS, as_signal
from tasks.export.grid import TimeGrid, on_grid
from tasks.export.queries.join import join_buckets, join_series
from tasks.export.sources.access_log import access_entries, gateway_spans
from tasks.export.sources.matrix import OddAnswerError, decode_answer, matrix_series
from tasks.export.sources.otlp import SpanFilter, SpanReader, span_frame
from tasks.export.sources.placement import Placement, PodPlacement
from tasks.export.sources.spans import link_gateway
from tasks.left_out import LeftOut
from tasks.spans import span_ends
from tests.export.sources.test_otlp import DOCUMENTS, NAMES
from tests.export.test_derived_metrics import T0, _access_line

_NUMBERS = st.one_of(
    st.integers(-(2**70), 2**70), st.floats(), st.sampled_from([0, -1, 2**31, 2**63, 2**64, 1e300, 5e-324])
)
_TEXTS = st.one_of(
    st.text(max_size=5),
    st.sampled_from(["", "NaN", "+Inf", "-1", "1.5", "9" * 40, "0x10", "1_0", "é", "z" * 32, "values", "]]", "[[1"]),
)
_SCALARS = st.one_of(st.none(), st.booleans(), _NUMBERS, _TEXTS)
ANYTHING = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXTS, inner, max_size=3), max_leaves=5
)


def _paths(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    inner = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in inner:
        yield from _paths(value, (*path, key))


def _replaced(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    result = copy.deepcopy(document)
    parent = result
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = value
    return result


_SERIES = [
    {
        "metric": {"pod": pod, "le": bound, "vmrange": "1e0...2e0"},
        "values": [[T0 + i, str(i)] for i in range(4)],
        "histograms": [],
    }
    for pod in ("p", "q")
    for bound in ("1", "+Inf")
]
_ANSWER = {"status": "success", "data": {"resultType": "matrix", "result": _SERIES}}
_PLACEMENT = Placement(("a",), (PodPlacement("a", "p"), PodPlacement("a", "q")))


@settings(deadline=None, max_examples=150)
@given(path=st.sampled_from(list(_paths(_ANSWER["data"]))), value=ANYTHING, compact=st.booleans())  # type: ignore[index]
def test_answers_of_prometheus(path: tuple[Any, ...], value: Any, compact: bool) -> None:
    data = _replaced(_ANSWER["data"], path, value)  # type: ignore[index]
    body = json.dumps({"status": "success", "data": data}, separators=(",", ":") if compact else None).encode()
    decoded, arrays = decode_answer(body)
    if not isinstance(decoded, dict) or not isinstance(decoded["data"], dict):
        return
    try:
        series = matrix_series(decoded["data"].get("result"), arrays)
    except OddAnswerError:
        return
    grid = TimeGrid(int(T0) * 1000, 1000, 4)
    for item in on_grid(series, grid):
        assert set(item.times_ns.tolist()) <= set(grid.times_ns.tolist())
    join_series(series, grid, _PLACEMENT, "pod", "sum")
    join_buckets(series, grid, _PLACEMENT, "pod", 0.9)


@settings(deadline=None, max_examples=150)
@given(path=st.sampled_from(list(_paths(DOCUMENTS[2]))), value=ANYTHING)
def test_lines_of_otlp(path: tuple[Any, ...], value: Any) -> None:
    lines = [json.dumps(document).encode() for document in (DOCUMENTS[0], _replaced(DOCUMENTS[2], path, value))]
    left_out = LeftOut()
    reader = SpanReader(SpanFilter(NAMES), "file", left_out)
    frame = span_frame([row for line in lines for row in reader.line_rows(line)])
    as_signal("spans", link_gateway(frame, "ray-head")[SPANS.names])
    span_ends(frame)
    assert len(frame) == 2 or len(left_out) >= 1 or value is None or not _holds_spans(lines[1])


def _holds_spans(line: bytes) -> bool:
    """Whether the line has a span at the place of spans."""
    try:
        groups = orjson.loads(line)["resourceSpans"][0]["scopeSpans"][0]["spans"]
    except (orjson.JSONDecodeError, KeyError, IndexError, TypeError):
        return False
    return bool(groups)


@settings(deadline=None, max_examples=150)
@given(key=st.sampled_from([*json.loads(_access_line()), "span_id"]), value=ANYTHING)
def test_entries_of_the_access_log(key: str, value: Any) -> None:
    lines = [_access_line(), _access_line(**{key: value}), _access_line(request_id="ab" * 16)]
    found = access_entries(lines, int((T0 - 100) * 1e9), int((T0 + 100) * 1e9))
    spans = gateway_spans(found, "nginx-proxy")
    as_signal("spans", link_gateway(spans, "nginx-proxy")[SPANS.names])
    assert len(spans) >= 2
    assert (spans["duration"] >= 0).all()
