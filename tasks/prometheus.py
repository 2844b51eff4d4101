"""Reads raw samples from Prometheus, with their times."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from tasks.inject.errors import FaultError

if TYPE_CHECKING:
    import urllib3

CONNECT_TIMEOUT_S, READ_TIMEOUT_S = 2.0, 4.0


@dataclass(frozen=True)
class Series:
    """``points`` are (unix seconds, value), by time; NaN is left out."""

    labels: dict[str, str]
    points: tuple[tuple[float, float], ...]


def raw_samples(url: str, selector: str, seconds: float) -> list[Series]:
    """Return the samples of the last ``seconds`` of each series that ``selector`` matches.

    Raises:
        FaultError: Prometheus at ``url`` does not answer correctly.
    """
    import urllib3

    query = urlencode({"query": f"{selector}[{math.ceil(seconds)}s]"})
    try:
        answer = _pool().request("GET", f"{url.rstrip('/')}/api/v1/query?{query}")
        document = json.loads(answer.data)
    except (urllib3.exceptions.HTTPError, ValueError) as error:
        raise FaultError(f"Prometheus ({url}): {error}") from error
    status = document.get("status") if isinstance(document, dict) else None
    if answer.status != 200 or status != "success":
        said = document.get("error") if isinstance(document, dict) else None
        raise FaultError(f"Prometheus ({url}): {said or f'HTTP {answer.status}'}")
    try:
        return [Series(labels=dict(each["metric"]), points=_points(each)) for each in document["data"]["result"]]
    except (KeyError, TypeError, ValueError) as error:
        raise FaultError(
            f"Prometheus ({url}): an answer that is not Prometheus's: {type(error).__name__}: {error}"
        ) from error


def _points(series: dict[str, Any]) -> tuple[tuple[float, float], ...]:
    """Return the points in order, each time once; a series of native histograms has none."""
    values = series["values"] if "values" in series or "histograms" not in series else []
    return tuple(sorted({float(at): float(value) for at, value in values if not math.isnan(float(value))}.items()))


@cache
def _pool() -> urllib3.PoolManager:
    import urllib3

    timeout = urllib3.Timeout(connect=CONNECT_TIMEOUT_S, read=READ_TIMEOUT_S)
    return urllib3.PoolManager(timeout=timeout, retries=False)
