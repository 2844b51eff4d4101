"""The outcome of a request: whether it failed, the latency that was seen, and the latency that counts.

A request failed when it has an error, a status outside 200-299, or no last token. A missing status alone is no failure:
data sets of other people often do not record it. The tables are those of :data:`tasks.case.REQUESTS`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

TIMEOUT_PARAMETER = "request_timeout_s"
_TIMED_OUT = re.compile(r"time[ds]?[\s_-]?out|deadline", re.IGNORECASE)
_TIME_OUT_STATUS = (408, 504)
_LONGEST_TIME_OUT_S = 1e8
_NAT = np.iinfo(np.int64).min


def failed(requests: pd.DataFrame) -> pd.Series:
    """Return whether each request failed, on the index of ``requests``. An empty error text is no error."""
    error = requests["error"].notna() & (requests["error"] != "")
    bad_status = requests["status"].notna() & ~requests["status"].between(200, 299)
    return error | bad_status | requests["last_token"].isna()


def observed(requests: pd.DataFrame) -> pd.DataFrame:
    """Return ``failed``, ``latency_s`` and ``ttft_s`` of each request as they were seen, on the index of ``requests``.

    Both times are from the scheduled time on, to the last and the first token; NaN where there is none.
    """
    seconds = {
        name: (requests[token] - requests["scheduled"]).dt.total_seconds()
        for name, token in (("latency_s", "last_token"), ("ttft_s", "first_token"))
    }
    return pd.DataFrame({"failed": failed(requests), **seconds}, index=requests.index)


def time_out_s(load_parameters: Mapping[str, Any]) -> float | None:
    """Return the time-out that the load profile of a case (``load.parameters``) sets, None if it does not say."""
    value = load_parameters.get(TIMEOUT_PARAMETER)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        return None
    return min(float(value), _LONGEST_TIME_OUT_S)


def outcomes(
    requests: pd.DataFrame, timeout_s: float | None = None, boundary: pd.Timestamp | None = None
) -> pd.DataFrame:
    """Return ``failed``, ``latency_s``, ``ttft_s`` and ``ended`` of each request as they count.

    ``latency_s`` is from the scheduled time on. A served request counts to its last token. A failed one never answered,
    so it counts as at least its time-out, as the longest served request and as long as it was seen alive: more failures
    never make the latency fall. Without a time-out (None, a data set that does not know it) the other two decide.

    ``ttft_s`` is to the first token. A failed request without one has its ``latency_s``, a served one NaN.

    ``ended`` is the time at which it counts. A served request counts at its last token. One that timed out, or of which
    nothing but its sending is known, counts when its time was over. Any other failure counts at its last sign of life
    (sent, first or last token); if that is before ``boundary`` (the inject time) the request may have been open beyond
    it, so it counts when its time would have been over. So nothing that a fault did counts before the fault.
    """
    lost = failed(requests).to_numpy()
    scheduled, sent, first, last = (_ns(requests[name]) for name in ("scheduled", "sent", "first_token", "last_token"))
    alive = np.maximum.reduce([scheduled, sent, first, last])  # a missing time is the smallest number
    seen_s = (alive - scheduled) / 1e9
    served_s = seen_s[~lost]
    worst_s = max(timeout_s or 0.0, float(served_s.max(initial=0.0)), 0.0)
    latency = np.where(lost, np.maximum(seen_s, worst_s), (last - scheduled) / 1e9)
    has_first = first != _NAT
    ttft = np.where(has_first, (first - scheduled) / 1e9, np.where(lost, latency, np.nan))
    began = np.where(sent == _NAT, scheduled, sent)
    limit_s = worst_s if timeout_s is None else timeout_s
    over = np.maximum(alive, began + round(limit_s * 1e9))
    waits = _open_to_the_end(requests) if lost.any() else np.zeros(len(lost), dtype=bool)
    if boundary is not None:
        waits |= alive < boundary.as_unit("ns").value
    ended = np.where(lost, np.where(waits, over, alive), last)
    return pd.DataFrame(
        {
            "failed": lost,
            "latency_s": latency,
            "ttft_s": ttft,
            "ended": pd.DatetimeIndex(ended).tz_localize("UTC"),
        },
        index=requests.index,
    )


def _open_to_the_end(requests: pd.DataFrame) -> np.ndarray:
    """Return which requests, if they failed, failed by waiting: they timed out, or nothing at all came back."""
    status = requests["status"]
    code, texts = pd.factorize(requests["error"])
    no_text = np.array([text == "" for text in texts] + [True], dtype=bool)
    timed_out = np.array([bool(_TIMED_OUT.search(str(text))) for text in texts] + [False], dtype=bool)
    silent = no_text[code] & (status.isna() & requests["last_token"].isna()).to_numpy()
    return timed_out[code] | silent | status.isin(_TIME_OUT_STATUS).to_numpy()


def _ns(times: pd.Series) -> np.ndarray:
    """Return times as ns since the epoch, the smallest integer where there is none."""
    return pd.DatetimeIndex(times).as_unit("ns").asi8
