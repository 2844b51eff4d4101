"""The schedule of requests: drawn in advance, a pure function of the parameters, the duration and the seed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tasks.errors import ParamsError
from tasks.load.intensity import intensity
from tasks.load.trace import Trace, read_trace
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


def draw_schedule(
    params: LoadParams, duration_s: float, seed: int, pool_words: int, fault_start_s: float = 0
) -> Schedule:
    """Draw the whole run. Each column has its own random stream, and a longer run begins with the shorter one.

    Args:
        duration_s: length of the run in seconds; no request is scheduled at or after it.
        pool_words: size of the word pool that ``prompt_start`` points into.
        fault_start_s: second of the run at which the fault window begins; shapes and long prompts count from it.

    Raises:
        ParamsError: the trace cannot be used, or ends before the run.
    """
    arrivals, prompts, outputs, starts, long = (
        np.random.default_rng(each) for each in np.random.SeedSequence(seed).spawn(5)
    )
    shape = intensity(params.shapes, fault_start_s) if params.shapes else None
    needed_s = duration_s if shape is None else float(shape.operational(np.array([duration_s]))[0])
    trace = None
    if params.trace is not None:
        trace = read_trace(params.trace)
        offset_s, first = played(params, trace, needed_s)
    elif params.arrival == "constant":
        beyond = int(shape is not None)  # what rounding in the inverse may bring below the duration
        offset_s = np.arange(math.ceil(needed_s * params.rate) + beyond) / params.rate
    else:
        offset_s = _poisson_arrivals(params.rate, needed_s, arrivals)
    if shape is not None:
        offset_s = shape.real(offset_s)
    offset_s = offset_s[offset_s < duration_s]
    count = len(offset_s)
    if trace is None:
        prompt_tokens = draw_token_counts(params.prompt_tokens, count, prompts)
        output_tokens = draw_token_counts(params.output_tokens, count, outputs)
    else:
        of_run = slice(first, first + count)
        prompt_tokens = _clipped(trace.prompt_tokens[of_run], params.prompt_tokens)
        output_tokens = _clipped(trace.output_tokens[of_run], params.output_tokens)
    if (some := params.long_prompts) is not None:
        since = offset_s - (fault_start_s + some.start_s)
        is_long = (long.random(count) < some.share) & (since >= 0) & (since < some.duration_s)
        prompt_tokens = np.where(is_long, np.int32(some.tokens), prompt_tokens)
    return Schedule(
        offset_ns=(offset_s * _NS).astype(np.int64),
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        prompt_start=starts.integers(0, pool_words, size=count, dtype=np.int32),
    )


def played(params: LoadParams, trace: Trace, needed_s: float) -> tuple[npt.NDArray[np.float64], int]:
    """Return the arrivals of ``trace`` from its ``start_s`` on, in seconds at ``params.rate``, and the first's index.

    Raises:
        ParamsError: it ends before ``needed_s``.
    """
    assert params.trace is not None
    begin = params.trace.start_s
    first = int(np.searchsorted(trace.arrival_s, begin))
    offset_s = (trace.arrival_s[first:] - begin) * (trace.mean_rate / params.rate)
    lasts_s = float(offset_s[-1]) if len(offset_s) else 0.0
    if lasts_s < needed_s:
        raise ParamsError(
            [
                f"load.trace.file: {params.trace.file}: lasts {lasts_s:.1f} s from start_s ({begin:g}) on at load.rate "
                f"({params.rate:g}/s; its own is {trace.mean_rate:.3g}/s), but the load needs {needed_s:.1f} s"
            ]
        )
    return offset_s, first


def _clipped(counts: npt.NDArray[np.int64], limits: TokenCount) -> npt.NDArray[np.int32]:
    return np.clip(counts, limits.min, limits.max).astype(np.int32)


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
