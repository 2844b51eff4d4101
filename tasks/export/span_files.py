"""The OpenTelemetry collector's span files, fetched over HTTP.

An NGINX beside the collector lists its directory as JSON (``autoindex_format json``) and serves the files. The
collector renames the file that it writes when that is full and begins a new one under the old name, so a file may
change its name while others are fetched: then all is fetched once more.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import quote

from tasks.export.http import NO_ACCESS, HttpAccess, HttpClient, SourceError

ROUNDS = 3
"""How often a rotation may come in between."""
TIMEOUT_S = 60.0


@contextmanager
def fetched_span_files(url: str | None, start: datetime, access: HttpAccess = NO_ACCESS) -> Iterator[tuple[Path, ...]]:
    """Copies of the files that were written to since ``start``, in a temporary directory; none without ``url``.

    Raises:
        SourceError: the server does not answer, its answer is no listing, or files rotate faster than they are fetched.
    """
    if url is None:
        yield ()
        return
    with TemporaryDirectory(prefix="rcarena-spans-") as directory:
        client = HttpClient(url, timeout_s=TIMEOUT_S, retries=5, backoff_s=0.5, access=access)
        try:
            yield _fetch(client, start, Path(directory))
        finally:
            client.close()


def _fetch(client: HttpClient, start: datetime, directory: Path) -> tuple[Path, ...]:
    names = _written_since(client, start)
    for _ in range(ROUNDS):
        copies = [copy for name in names if (copy := _copy(client, name, directory)) is not None]
        listed = _written_since(client, start)
        if listed <= names and len(copies) == len(names):
            return tuple(sorted(copies))
        names = listed
    raise SourceError(f"{client.url}: span files rotate faster than they can be fetched")


def _written_since(client: HttpClient, start: datetime) -> set[str]:
    answer = client.request("/", {})
    entries = answer.json()
    try:
        if answer.status != 200 or not isinstance(entries, list):
            raise ValueError
        return {
            str(entry["name"])
            for entry in entries
            if entry["type"] == "file" and parsedate_to_datetime(entry["mtime"]).timestamp() >= int(start.timestamp())
        }
    except (KeyError, TypeError, ValueError):
        raise SourceError(f"{client.url}: no listing of span files: HTTP {answer.status}: {answer.excerpt}") from None


def _copy(client: HttpClient, name: str, directory: Path) -> Path | None:
    """None when the file was renamed since it was listed."""
    answer = client.request(f"/{quote(name)}", {})
    if answer.status == 404:
        return None
    if answer.status != 200:
        raise SourceError(f"{client.url}/{name}: HTTP {answer.status}: {answer.excerpt}")
    copy = directory / Path(name).name
    copy.write_bytes(answer.body)
    return copy
