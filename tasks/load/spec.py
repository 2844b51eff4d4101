"""What one run of the load generator is told."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from urllib.parse import SplitResult, urlsplit

from pydantic import Field, ValidationError, field_validator

from tasks.params import LoadParams
from tasks.validation import Frozen, ParamsError, validation_problems

_PATHS = {"chat": "/v1/chat/completions", "completions": "/v1/completions"}


class LoadSpec(Frozen):
    """One run. ``url``: the server, with or without ``/v1``. ``start_at``: Unix time of the first possible send
    (``None``: as soon as the generator is ready)."""

    params: LoadParams
    url: str
    model: Annotated[str, Field(min_length=1)]
    duration_s: Annotated[float, Field(gt=0, le=7 * 86_400)]
    seed: Annotated[int, Field(ge=0)]
    start_at: float | None = None

    @field_validator("url")
    @classmethod
    def _reachable_form(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("must be http://HOST[:PORT] or https://HOST[:PORT]")
        _ = parts.port  # raises ValueError for a port that is not a number below 65536
        return url

    @property
    def server(self) -> SplitResult:
        return urlsplit(self.url)

    @property
    def path(self) -> str:
        """Request path of the endpoint that the parameters name."""
        prefix = self.server.path.rstrip("/").removesuffix("/v1")
        return prefix + _PATHS[self.params.endpoint]

    def write(self, file: Path) -> None:
        file.write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")


def read_spec(file: Path) -> LoadSpec:
    """Read what ``LoadSpec.write`` wrote.

    Raises:
        ParamsError: unreadable, not JSON, or a value is unknown, missing or wrong; each problem names its key.
    """
    try:
        return LoadSpec.model_validate_json(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ParamsError([f"{file}: cannot be read: {getattr(error, 'strerror', None) or error}"]) from error
    except ValidationError as error:
        raise ParamsError(f"{file}: {problem}" for problem in validation_problems(error, LoadSpec)) from error
