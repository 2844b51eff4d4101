"""The schedule of requests: drawn in advance, a pure function of the parameters, the duration and the seed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tasks.params import LoadParams, TokenCount

_NS = 1_000_000_000


@dataclass(frozen=True)
class Schedule:
    """Equally long columns, one entry per request, in the order of sending.

    ``offset_ns``: nanoseconds after the start of the run, not decreasing, below the duration. ``prompt_tokens`` and
    ``output_tokens``: wanted counts. ``prompt_start``: where in the word pool the prompt begins.
    """

    offset_ns: npt.NDArray[np.int64]
    prompt_tokens: npt.NDArray[np.int32]
    output_tokens: npt.NDArray[np.int32]
    prompt_start: npt.NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.offset_ns)


def draw_schedule(params: LoadParams, duration_s: float, seed: int, pool_words: int) -> Schedule:
    """Draw the whole run. Each column has its own random stream, and a longer run begins with the shorter one.

    Args:
        duration_s: length of the run in seconds; no request is scheduled at or after it.
        pool_words: size of the word pool that ``prompt_start`` points into.
    """
    arrivals, prompts, outputs, starts = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(4))
    if params.arrival == "constant":
        offset_s = np.arange(math.ceil(duration_s * params.rate)) / params.rate
    else:
        offset_s = _poisson_arrivals(params.rate, duration_s, arrivals)
    offset_s = offset_s[offset_s < duration_s]
    count = len(offset_s)
    return Schedule(
        offset_ns=(offset_s * _NS).astype(np.int64),
        prompt_tokens=draw_token_counts(params.prompt_tokens, count, prompts),
        output_tokens=draw_token_counts(params.output_tokens, count, outputs),
        prompt_start=starts.integers(0, pool_words, size=count, dtype=np.int32),
    )


def _poisson_arrivals(rate: float, duration_s: float, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Draw arrival times in seconds with exponential gaps, at least up to ``duration_s``."""
    expected = rate * duration_s
    block = math.ceil(expected + 6 * math.sqrt(expected)) + 16
    gaps = rng.exponential(1 / rate, size=block)
    while gaps.sum() < duration_s:
        gaps = np.concatenate([gaps, rng.exponential(1 / rate, size=block)])
    return np.cumsum(gaps)


def draw_token_counts(tokens: TokenCount, count: int, rng: np.random.Generator) -> npt.NDArray[np.int32]:
    """Draw ``count`` whole numbers in ``[min, max]``; ``mean`` and ``stdev`` apply before rounding and clipping."""
    if tokens.distribution == "uniform":
        return rng.integers(tokens.min, tokens.max, size=count, endpoint=True, dtype=np.int32)
    if tokens.distribution == "constant":
        values = np.full(count, tokens.mean)
    elif tokens.distribution == "normal":
        values = rng.normal(tokens.mean, tokens.stdev, size=count)
    else:
        variance_of_log = math.log1p((tokens.stdev / tokens.mean) ** 2)
        mean_of_log = math.log(tokens.mean) - variance_of_log / 2
        values = rng.lognormal(mean_of_log, math.sqrt(variance_of_log), size=count)
    return np.clip(np.rint(values), tokens.min, tokens.max).astype(np.int32)
