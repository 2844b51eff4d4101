"""Reads single values and raw samples from the Prometheus of a stack, in few imports and without credentials.

Windows of any length, credentials and other servers: :mod:`tasks.export.sources.prometheus`.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from tasks.errors import RCArenaError

CONNECT_TIMEOUT_S, READ_TIMEOUT_S = 2.0, 4.0


class PrometheusError(RCArenaError):
    """Prometheus does not answer, or not correctly; the message names its URL."""


@dataclass(frozen=True)
class Series:
    """``points`` are (unix seconds, value), by time; NaN is left out."""

    labels: dict[str, str]
    points: tuple[tuple[float, float], ...]


def instant_value(url: str, expression: str) -> float:
    """Return the value of an instant query with one result; 0 when there is no series. Raises PrometheusError."""
    result = _result(url, expression)
    try:
        return float(result[0]["value"][1]) if result != [] else 0.0
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise _odd(url, error) from error


def instant_labels(url: str, expression: str, label: str) -> list[str]:
    """Return a label of each result of an instant query, sorted. Raises PrometheusError."""
    result = _result(url, expression)
    try:
        return sorted(each["metric"].get(label, "") for each in result)
    except (KeyError, AttributeError, TypeError) as error:
        raise _odd(url, error) from error


def raw_samples(url: str, selector: str, seconds: float) -> list[Series]:
    """Return the samples of the last ``seconds`` of each series that ``selector`` matches. Raises PrometheusError."""
    result = _result(url, f"{selector}[{math.ceil(seconds)}s]")
    try:
        return [Series(labels=dict(each["metric"]), points=_points(each)) for each in result]
    except (KeyError, TypeError, ValueError) as error:
        raise _odd(url, error) from error


def _points(series: dict[str, Any]) -> tuple[tuple[float, float], ...]:
    """Return the points in order, each time once; a series of native histograms has none."""
    values = series["values"] if "values" in series or "histograms" not in series else []
    return tuple(sorted({float(at): float(value) for at, value in values if not math.isnan(float(value))}.items()))


def _result(url: str, query: str) -> Any:
    import urllib3

    timeout = urllib3.Timeout(connect=CONNECT_TIMEOUT_S, read=READ_TIMEOUT_S)
    try:
        # No connection is kept: the thread may be in the network of another stack the next time.
        with urllib3.PoolManager(timeout=timeout, retries=False) as pool:
            answer = pool.request("GET", f"{url.rstrip('/')}/api/v1/query?{urlencode({'query': query})}")
        document = json.loads(answer.data)
    except (urllib3.exceptions.HTTPError, ValueError) as error:
        raise PrometheusError(f"Prometheus ({url}): {error}") from error
    status = document.get("status") if isinstance(document, dict) else None
    if answer.status != 200 or status != "success":
        said = document.get("error") if isinstance(document, dict) else None
        raise PrometheusError(f"Prometheus ({url}): {said or f'HTTP {answer.status}'}")
    try:
        return document["data"]["result"]
    except (KeyError, TypeError) as error:
        raise _odd(url, error) from error


def _odd(url: str, error: Exception) -> PrometheusError:
    return PrometheusError(f"Prometheus ({url}): an answer that is not Prometheus's: {type(error).__name__}: {error}")
