"""The specification of a run of the load generator."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from urllib.parse import SplitResult, quote, urlsplit

from pydantic import ConfigDict, Field, ValidationError, field_validator

from tasks.errors import ParamsError
from tasks.params import LoadParams
from tasks.system.durable import owner_only
from tasks.validation import Frozen, validation_problems

_PATHS = {"chat": "/v1/chat/completions", "completions": "/v1/completions"}
_IN_PATH = "/%:@!$&'()*+,;=~"


class LoadSpec(Frozen):
    """A run. ``url``: the server, with or without ``/v1``, or the endpoint itself; a ``?query`` is kept.
    ``start_at``: Unix time of the first possible send (``None``: as soon as the generator is ready).
    ``fault_start_s``: second of the run from which the shapes of the load count, the start of a case's fault window.
    """

    model_config = ConfigDict(hide_input_in_errors=True)

    params: LoadParams
    url: str
    model: Annotated[str, Field(min_length=1)]
    duration_s: Annotated[float, Field(gt=0, le=7 * 86_400)]
    seed: Annotated[int, Field(ge=0)]
    start_at: float | None = None
    fault_start_s: Annotated[float, Field(ge=0, le=7 * 86_400)] = 0

    @field_validator("url")
    @classmethod
    def _reachable_form(cls, url: str) -> str:
        problem = url_problem(url)
        if problem is not None:
            raise ValueError(problem)
        return url

    @property
    def server(self) -> SplitResult:
        return urlsplit(self.url)

    @property
    def target(self) -> str:
        """Return the request target: the path of the endpoint that the parameters name, with the query of ``url``."""
        endpoint = _PATHS[self.params.endpoint]
        path = self.server.path.rstrip("/")
        if not path.endswith(endpoint.removeprefix("/v1")):
            path = path.removesuffix("/v1") + endpoint
        query = self.server.query
        return quote(path, safe=_IN_PATH) + (f"?{quote(query, safe=_IN_PATH + '?')}" if query else "")

    def write(self, file: Path) -> None:
        """Write a file that only its owner can read: a query may hold a credential."""
        file.unlink(missing_ok=True)
        with open(file, "x", encoding="utf-8", opener=owner_only) as stream:
            stream.write(self.model_dump_json(indent=1) + "\n")


def url_problem(url: str) -> str | None:
    """Say why ``url`` is not the address of a server, without repeating it; None if it is one."""
    form = "must be http://HOST[:PORT] or https://HOST[:PORT]"
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises ValueError for a port that is not a number below 65536
        (parts.hostname or "").encode("idna")
        _ = url.encode()
    except ValueError:  # a UnicodeError, too
        return form
    if "@" in parts.netloc:
        return "must not hold a user or password; a key is given by --api-key-env or --api-key-file"
    if parts.scheme not in ("http", "https") or not parts.hostname or not parts.netloc.isascii():
        return form
    if any(character <= " " or character == "\x7f" for character in url):
        return "must not hold spaces or control characters"
    return None


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
