from __future__ import annotations

import json
from typing import Any

import pytest

from tasks.prometheus import PrometheusError, instant_labels, instant_value, raw_samples
from tests.export.emulators import Response, serving


def _answers(document: Any, status: int = 200) -> Response:
    return Response(json.dumps(document).encode(), status)


def _data(result: Any) -> Response:
    return _answers({"status": "success", "data": {"resultType": "vector", "result": result}})


@pytest.mark.parametrize(
    ("result", "value"), [([], 0.0), ([{"metric": {}, "value": [1, "2.5"]}], 2.5), ([{"value": ["1", 3]}], 3.0)]
)
def test_one_figure(result: Any, value: float) -> None:
    with serving(lambda _: _data(result)) as url:
        assert instant_value(url, "x") == value


_ODD = {
    "HTML": Response(b"<html>"),
    "cut": Response(b'{"status":"success","data":{"resul'),
    "null": _answers(None),
    "list": _answers([1]),
    "no data": _answers({"status": "success"}),
    "null data": _answers({"status": "success", "data": None}),
    "no result": _answers({"status": "success", "data": {}}),
    "null result": _data(None),
    "null series": _data([None]),
    "number for a series": _data([5]),
    "series without samples": _data([{"metric": {}}]),
    "null samples": _data([{"metric": {}, "value": None, "values": None}]),
    "sample that is no pair": _data([{"metric": {}, "value": [1], "values": [[1]]}]),
    "sample in letters": _data([{"metric": {}, "value": [1, "much"], "values": [[1, "much"]]}]),
}


@pytest.mark.parametrize("odd", _ODD)
def test_any_odd_answer_is_one_error(odd: str) -> None:
    with serving(lambda _: _ODD[odd]) as url:
        with pytest.raises(PrometheusError, match="Prometheus"):
            instant_value(url, "x")
        with pytest.raises(PrometheusError, match="Prometheus"):
            raw_samples(url, "x", 10)


@pytest.mark.parametrize("document", [{"status": "error", "error": "boom"}, {"status": "error"}, "x", 5])
@pytest.mark.parametrize("status", [200, 422])
def test_errors_are_told(document: Any, status: int) -> None:
    with serving(lambda _: _answers(document, status)) as url, pytest.raises(PrometheusError, match=r"boom|HTTP \d+"):
        raw_samples(url, "x", 10)


def test_labels_in_order() -> None:
    result = [{"metric": {"service": "b"}}, {"metric": {"service": "a"}}, {"metric": {}}]
    with serving(lambda _: _data(result)) as url:
        assert instant_labels(url, "x", "service") == ["", "a", "b"]


def test_samples_in_order_and_each_once() -> None:
    values = [[3, "3"], ["1", 1], [2, "NaN"], [3, "3"], [2.5, "+Inf"]]
    result = [{"metric": {"pod": "p"}, "values": values}, {"metric": {}, "histograms": [[1, {}]]}]
    with serving(lambda _: _data(result)) as url:
        first, second = raw_samples(url, "x", 10)
    assert first.points == ((1.0, 1.0), (2.5, float("inf")), (3.0, 3.0))
    assert second.points == ()
