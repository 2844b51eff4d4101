"""Reads single values from Prometheus, to decide whether a case may start."""

from __future__ import annotations

import json
import urllib.parse
from typing import Any

from tasks.deploy.health import DIRECT

TIMEOUT_S = 10.0


def instant_value(url: str, expression: str) -> float:
    """Return the value of an instant query with one result; 0 when there is no series.

    Raises:
        OSError, ValueError: Prometheus does not answer, or the answer is malformed.
    """
    result = _query(url, expression)
    try:
        return float(result[0]["value"][1]) if result != [] else 0.0
    except (KeyError, IndexError, TypeError) as error:
        raise _not_prometheus(error) from error


def instant_labels(url: str, expression: str, label: str) -> list[str]:
    """Return a label of each result of an instant query, sorted. Raises as ``instant_value`` does."""
    try:
        return sorted(each["metric"].get(label, "") for each in _query(url, expression))
    except (KeyError, AttributeError, TypeError) as error:
        raise _not_prometheus(error) from error


def _query(url: str, expression: str) -> Any:
    with DIRECT.open(
        f"{url}/api/v1/query?{urllib.parse.urlencode({'query': expression})}", timeout=TIMEOUT_S
    ) as answer:
        document = json.load(answer)
    try:
        return document["data"]["result"]
    except (KeyError, TypeError) as error:
        raise _not_prometheus(error) from error


def _not_prometheus(error: Exception) -> ValueError:
    return ValueError(f"an answer that is not Prometheus's: {type(error).__name__}: {error}")
