"""Reads single values from Prometheus, to decide whether a case may start."""

from __future__ import annotations

import json
import urllib.parse

from tasks.deploy.health import DIRECT

TIMEOUT_S = 10.0


def instant_value(url: str, expression: str) -> float:
    """Return the value of an instant query with one result; 0 when there is no series.

    Raises:
        OSError, ValueError: Prometheus does not answer, or the answer is malformed.
    """
    with DIRECT.open(
        f"{url}/api/v1/query?{urllib.parse.urlencode({'query': expression})}", timeout=TIMEOUT_S
    ) as answer:
        document = json.load(answer)
    try:
        result = document["data"]["result"]
        return float(result[0]["value"][1]) if result != [] else 0.0
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError(f"an answer that is not Prometheus's: {type(error).__name__}: {error}") from error
