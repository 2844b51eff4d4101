from __future__ import annotations

import json
import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.export.sources.matrix import decode_answer, matrix_series

_GO = {math.inf: "+Inf", -math.inf: "-Inf"}
_VALUES = st.floats(allow_nan=True, allow_infinity=True)
_SAMPLES = st.lists(st.tuples(st.integers(0, 2 * 10**12), _VALUES), min_size=1, max_size=8)
_LABELS = st.dictionaries(
    st.text(max_size=4), st.one_of(st.text(max_size=8), st.just('"values":[[1,"2"]]')), max_size=3
)


def _text(value: float) -> str:
    return "NaN" if math.isnan(value) else _GO.get(value, repr(value))


@settings(deadline=None, max_examples=100)
@given(series=st.lists(st.tuples(_LABELS, _SAMPLES), max_size=4), compact=st.booleans())
def test_whatever_the_labels_and_values(
    series: list[tuple[dict[str, str], list[tuple[int, float]]]], compact: bool
) -> None:
    result = [
        {"metric": labels, "values": [[ms / 1000, _text(value)] for ms, value in samples]} for labels, samples in series
    ]
    document = {"status": "success", "data": {"resultType": "matrix", "result": result}}
    body = json.dumps(document, separators=(",", ":") if compact else None).encode()
    decoded, arrays = decode_answer(body)
    assert len(arrays) == (len(series) if compact else 0)
    found = matrix_series(decoded["data"]["result"], arrays)
    assert [item.labels for item in found] == [labels for labels, _ in series]
    for item, (_, samples) in zip(found, series, strict=True):
        np.testing.assert_array_equal(item.times_ns, [ms * 1_000_000 for ms, _ in samples])
        np.testing.assert_array_equal(item.values, [value for _, value in samples])


def test_what_is_no_answer() -> None:
    cut = b'{"data":{"result":[{"metric":{},"values":[[1,"2"],[2,"'
    assert decode_answer(cut) == (None, [])
    assert decode_answer(b"<html>") == (None, [])
    assert decode_answer(b"[1]") == ([1], [])
    histograms = b'{"data":{"result":[{"metric":{"a":"b"},"histograms":[[1,{}]]}]}}'
    decoded, arrays = decode_answer(histograms)
    (empty,) = matrix_series(decoded["data"]["result"], arrays)
    assert (len(empty.times_ns), len(empty.values)) == (0, 0)
