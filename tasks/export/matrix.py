"""Prometheus's range answers, decoded without an object per sample.

An answer is mostly ``"values":[[seconds,"value"],...]``. Those lists are cut out and parsed as one array of text each;
what is left is a small JSON document. That takes half the time and a tenth of the memory of decoding it all as JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

VALUES, OPEN, CLOSE = b'"values":', b"[[", b"]]"
"""Within a JSON string a quote is escaped: the first two together can only be the key."""
_COMMA = ord(",")


@dataclass(frozen=True)
class Series:
    """Samples of one series: ``times_ns`` (n,) int64 and ``values`` (n,) float64, NaN where Prometheus said NaN."""

    labels: Mapping[str, str]
    times_ns: np.ndarray
    values: np.ndarray


def decode_answer(body: bytes) -> tuple[Any, list[np.ndarray]]:
    """The answer as JSON with each list of samples replaced by its place in a list of arrays (2 n,): seconds and value
    in turn. None if the body is not JSON."""
    pieces, arrays, at = [], list[np.ndarray](), 0
    while (start := body.find(VALUES + OPEN, at)) >= 0 and (end := body.find(CLOSE, start)) >= 0:
        first = start + len(VALUES)
        pieces += [body[at:first], b"%d" % len(arrays)]
        arrays.append(_numbers(body[first:end]))
        at = end + len(CLOSE)
    try:
        return orjson.loads(b"".join([*pieces, body[at:]])), arrays
    except orjson.JSONDecodeError:
        return None, []


def matrix_series(result: list[dict[str, Any]], arrays: list[np.ndarray]) -> list[Series]:
    return [_series(item["metric"], item.get("values", []), arrays) for item in result]


def _series(labels: Mapping[str, str], samples: int | list[list[Any]], arrays: list[np.ndarray]) -> Series:
    """``samples``: a place in ``arrays``, or the list itself where a server writes its JSON in another way."""
    flat = arrays[samples] if isinstance(samples, int) else np.array(list(chain.from_iterable(samples)), dtype=float)
    milliseconds = np.rint(flat[0::2] * 1000).astype(np.int64)
    return Series(labels, milliseconds * 1_000_000, flat[1::2].copy())


def _numbers(text: bytes) -> np.ndarray:
    """The figures of a list of samples; infinities and NaN as Go writes them."""
    fields = text.translate(None, b'[]" ')
    commas = np.flatnonzero(np.frombuffer(fields, np.uint8) == _COMMA)
    offsets = np.zeros(len(commas) + 2, np.int32)
    offsets[1:-1] = commas - np.arange(len(commas))
    offsets[-1] = len(fields) - len(commas)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(fields.translate(None, b","))]
    return pa.Array.from_buffers(pa.string(), len(commas) + 1, buffers).cast(pa.float64()).to_numpy()
