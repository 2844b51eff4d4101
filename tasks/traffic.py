"""What can happen to the load inside a case: its shapes, long prompts, and a recorded trace in place of arrivals.

Times are in seconds from the start of the fault window; before it they are negative.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from tasks.identity import NO_TELEMETRY
from tasks.validation import Frozen, Seconds


@dataclass(frozen=True)
class TokenLimits:
    """The most tokens that an engine takes in a prompt, and in prompt and answer together, chat template included.
    None: not known, or no limit of its own."""

    prompt: int | None = None
    total: int | None = None


TimeInCase = Annotated[float, Field(ge=-86_400, le=86_400)]
Tokens = Annotated[int, Field(ge=1, le=1_000_000)]


class LoadShape(Frozen):
    """A factor on the rate, inside its window and 1 outside; several multiply.

    ``surge`` and ``drop``: ``factor`` (above, below 1). ``burst``: all of the requests in the first 1/``factor`` of
    each period, at ``factor`` times the rate, none in the rest: the mean stays. ``ramp``: linear from 1 to ``factor``,
    which stays afterwards; a second one with 1/``factor`` leads back. ``period_s``: of bursts; a whole number of them
    fits the window, so the nearest period that does is taken.
    """

    kind: Literal["surge", "drop", "ramp", "burst"]
    start_s: TimeInCase
    duration_s: Seconds
    factor: Annotated[float, Field(ge=0, le=1000)]
    period_s: Annotated[float, Field(ge=0.5, le=3600)] = 5

    @model_validator(mode="after")
    def _of_its_kind(self) -> LoadShape:
        wrong = {
            "surge": "must exceed 1" if self.factor <= 1 else "",
            "drop": "must be below 1" if self.factor >= 1 else "",
            "ramp": "must exceed 0" if self.factor <= 0 else "",
            "burst": "must exceed 1" if self.factor <= 1 else "",
        }[self.kind]
        if wrong:
            raise ValueError(f"factor: of a {self.kind} {wrong} (got {self.factor:g})")
        return self

    @property
    def end_s(self) -> float:
        return self.start_s + self.duration_s

    def __str__(self) -> str:
        return f"{self.kind} ×{self.factor:g} from {self.start_s:+g} s for {self.duration_s:g} s"


class LongPrompts(Frozen):
    """A ``share`` of the requests of an interval has prompts of ``tokens`` tokens, whatever the load says."""

    share: Annotated[float, Field(gt=0, le=1)]
    tokens: Tokens
    start_s: TimeInCase
    duration_s: Seconds

    @property
    def end_s(self) -> float:
        return self.start_s + self.duration_s

    def __str__(self) -> str:
        return (
            f"prompts of {self.tokens} tokens in {100 * self.share:g} % from {self.start_s:+g} s "
            f"for {self.duration_s:g} s"
        )


class TraceFile(Frozen):
    """Arrival times and token counts of a recorded load; a relative ``file`` is looked for in the working directory.

    ``start_s``: where in the trace the replay begins, in its own time. ``sha256``: of the content, which cases depend
    on instead of the path; found by itself where the file is. With it, parameters can be used where the file is not.
    """

    file: Annotated[str, Field(min_length=1), NO_TELEMETRY]
    format: Literal["azure-2023", "mooncake", "csv"]
    start_s: Annotated[float, Field(ge=0, le=31_536_000)] = 0
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

    @model_validator(mode="before")
    @classmethod
    def _of_its_content(cls, data: Any) -> Any:
        if not isinstance(data, dict) or not isinstance(data.get("file"), str):
            return data
        given = data.get("sha256")
        try:
            with Path(data["file"]).open("rb") as stream:
                found = hashlib.file_digest(stream, "sha256").hexdigest()
        except (OSError, ValueError) as error:  # a ValueError: no path at all
            if given is not None:
                return data
            raise _at_file(f"cannot be read: {getattr(error, 'strerror', None) or error}", data) from error
        if given is not None and given != found:
            raise _at_file(f"has another content than sha256 says: it is {found}", data)
        return data | {"sha256": found}

    def __str__(self) -> str:
        return f"trace {Path(self.file).name} from {self.start_s:g} s"


def _at_file(problem: str, data: dict[str, Any]) -> ValidationError:
    details = InitErrorDetails(
        type=PydanticCustomError("trace_file", "{problem}", {"problem": problem}), loc=("file",), input=data["file"]
    )
    return ValidationError.from_exception_data("trace", [details])
