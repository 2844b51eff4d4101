"""Checks of a load against the case that it is for."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tasks.errors import ParamsError
from tasks.load.intensity import intensity
from tasks.load.schedule import played
from tasks.load.trace import read_trace
from tasks.params import LoadParams, TokenCount, Windows
from tasks.traffic import TokenLimits

MAX_RATE = 10_000
CHAT_TEMPLATE_TOKENS = 16
"""So many tokens more than the words of a prompt are left for the chat template of a model."""


def load_problems(load: LoadParams, windows: Windows, limits: TokenLimits, key: str = "load") -> list[str]:
    """Return what is wrong with ``load`` in a case, one line each, naming the key.

    Args:
        windows: of the case; shapes and long prompts must lie within them, a trace must last as long.
        limits: of the engine; held against prompts that are long on purpose and those of a trace.
        key: where the parameters of the load are.
    """
    before, after = windows.warmup_s + windows.baseline_s, windows.fault_s + windows.recovery_s
    parts = {f"shapes[{number}]": shape for number, shape in enumerate(load.shapes)}
    problems = [
        f"{key}.{name}: must lie between {-before:g} s (the start of the warm-up) and {after:g} s (the end of the "
        f"recovery), but is from {part.start_s:g} to {part.end_s:g} s"
        for name, part in (parts | ({"long_prompts": load.long_prompts} if load.long_prompts else {})).items()
        if part.start_s < -before or part.end_s > after
    ]
    shape = intensity(load.shapes, before)
    if load.rate * shape.peak > MAX_RATE:
        problems.append(f"{key}.shapes: reach {load.rate * shape.peak:g} requests/s; at most {MAX_RATE}")
    problems += _too_long(load, limits, key)
    if load.trace is not None and Path(load.trace.file).exists():
        try:
            played(load, read_trace(load.trace), float(shape.operational(np.array([before + after]))[0]))
        except ParamsError as error:
            problems += [f"{key}{problem.removeprefix('load')}" for problem in error.problems]
    return problems


def _too_long(load: LoadParams, limits: TokenLimits, key: str) -> list[str]:
    output = _most(load.output_tokens)
    wanted = {"long_prompts.tokens": load.long_prompts.tokens} if load.long_prompts else {}
    wanted |= {"prompt_tokens.max": load.prompt_tokens.max} if load.trace else {}
    problems = []
    for name, prompt in wanted.items():
        if limits.prompt is not None and prompt > limits.prompt - CHAT_TEMPLATE_TOKENS:
            problems.append(
                f"{key}.{name}: {prompt} tokens are too long for the engine, which takes prompts of {limits.prompt} "
                f"with the chat template: at most {limits.prompt - CHAT_TEMPLATE_TOKENS}"
            )
        elif limits.total is not None and prompt + output > limits.total - CHAT_TEMPLATE_TOKENS:
            problems.append(
                f"{key}.{name}: {prompt} tokens and {output} of the answer do not fit the model, which takes "
                f"{limits.total} with the chat template: at most {limits.total - CHAT_TEMPLATE_TOKENS - output}"
            )
    return problems


def _most(tokens: TokenCount) -> int:
    return round(tokens.mean) if tokens.distribution == "constant" else tokens.max
