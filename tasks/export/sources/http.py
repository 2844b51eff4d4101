"""HTTP requests to telemetry servers: retries, credentials, private CA, client certificate."""

from __future__ import annotations

import json
import os
import random
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypedDict, Unpack
from urllib.parse import parse_qsl, unquote, urlsplit, urlunsplit

import orjson
import urllib3
from urllib3.exceptions import HTTPError, MaxRetryError

from tasks.errors import RCArenaError

RETRIED_STATUS = frozenset({429, 500, 502, 503, 504})
LONGEST_PAUSE_S = 10.0
LONGEST_URL_QUERY = 4000
"""Longer fields go into the body of a POST: proxies refuse long URLs."""


class SourceError(RCArenaError):
    """A telemetry server does not answer, or refuses the request."""


class RefusedError(SourceError):
    """The server refuses the request for good: retrying does not help."""


@dataclass(frozen=True)
class SecretSource:
    """The place of a secret: a file, or a variable of the environment. Exactly one is set."""

    file: Path | None = None
    variable: str | None = None

    @property
    def place(self) -> str:
        return f"${self.variable}" if self.file is None else str(self.file)

    def read(self, what: str) -> str:
        """Return the secret; ``what`` names it in errors. Raises SourceError: it is not there, or empty."""
        whose = f"{what} {self.place}" if self.file is None else f"{what} file {self.file}"
        if self.file is None:
            found = os.environ.get(self.variable or "")
            if found is None:
                raise SourceError(f"{whose}: is not set")
        else:
            try:
                found = self.file.read_text(encoding="ascii")
            except (OSError, UnicodeDecodeError) as error:
                reason = error.strerror if isinstance(error, OSError) else "is not text"
                raise SourceError(f"{whose}: {reason}") from None
        secret = found.strip()
        if not secret:
            raise SourceError(f"{whose}: is empty")
        if not secret.isprintable() or not secret.isascii():
            raise SourceError(f"{whose}: holds more than one line of text")
        return secret


@dataclass(frozen=True)
class HttpAccess:
    """Credentials for a server. Secrets are read for every request, since they may be rotated.

    Args:
        token: bearer token.
        ca_file: PEM of the authority that signed the server's certificate; None: the system's authorities.
        tenant: value of ``X-Scope-OrgID`` (Loki and Mimir with several tenants).
        user, password: basic authentication.
        certificate_file, key_file: PEM of this client's certificate and of its key.
        further: further headers -> their values.
    """

    token: SecretSource | None = None
    ca_file: Path | None = None
    tenant: str | None = None
    user: str | None = None
    password: SecretSource | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None
    further: Mapping[str, SecretSource] = field(default_factory=dict)

    def headers(self) -> dict[str, str]:
        """Return auth headers. Raises SourceError when a secret cannot be read or is empty."""
        headers = {"X-Scope-OrgID": self.tenant} if self.tenant else {}
        headers |= {name: secret.read(f"header {name}") for name, secret in self.further.items()}
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token.read('bearer token')}"
        elif self.user is not None and self.password is not None:
            login = f"{self.user}:{self.password.read('password')}"
            headers["Authorization"] = urllib3.util.make_headers(basic_auth=login)["authorization"]
        return headers

    def certificates(self) -> dict[str, str]:
        """Return arguments for ``urllib3``. Raises SourceError when a file does not exist."""
        files = {"ca_certs": self.ca_file, "cert_file": self.certificate_file, "key_file": self.key_file}
        names = {"ca_certs": "CA file", "cert_file": "certificate file", "key_file": "key file"}
        for name, path in files.items():
            if path is not None and not path.is_file():
                raise SourceError(f"{names[name]} {path}: does not exist")
        return {name: str(path) for name, path in files.items() if path is not None}

    @property
    def refusal(self) -> str:
        """Why a server may have refused these credentials, in words that hold none of them."""
        if self.token is not None:
            return f"the bearer token in {self.token.place} is refused: expired, or without the right to read"
        if self.user is not None and self.password is not None:
            return f"user '{self.user}' with the password in {self.password.place} is refused"
        if self.further:
            return f"the server refuses what {', '.join(self.further)} holds, or asks for other credentials"
        return "the server asks for credentials, and no bearer token file is set"


NO_ACCESS = HttpAccess()


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes

    def json(self) -> Any:
        """Return the body as JSON, None if it is not JSON."""
        try:
            return orjson.loads(self.body)
        except orjson.JSONDecodeError:
            return None

    @property
    def excerpt(self) -> str:
        return " ".join(self.body[:200].decode("utf-8", "replace").split())[:120]


class HttpClient:
    """HTTP client of one server over kept-open connections.

    Connection errors, time-outs, truncated answers, 429 and 5xx are tried again with growing pauses (``Retry-After`` is
    honoured); 401, 403 and failures of TLS are final; 401 and 403 name
    the place of the credentials.

    Args:
        url: base URL, such as ``http://10.0.0.2:9090``, perhaps with a path. Its query (``?dedup=false``) is added to
            every request; ``user:password@`` becomes basic authentication and appears in no message.
        timeout_s: for connecting, and for each wait for data.
        retries: further tries after the first.
        backoff_s: pause before the first retry; doubles each time.
        connections: kept open, for as many threads.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = 60,
        retries: int = 5,
        backoff_s: float = 0.2,
        access: HttpAccess = NO_ACCESS,
        connections: int = 1,
    ) -> None:
        self.url, self._own_pairs, self._login = _address(url)
        self._access = access
        self._retries = retries
        self._backoff_s = backoff_s
        secret = [*urllib3.Retry.DEFAULT_REMOVE_HEADERS_ON_REDIRECT, "X-Scope-OrgID", *access.further]
        self._pool = urllib3.PoolManager(
            num_pools=1,
            maxsize=connections,
            timeout=urllib3.Timeout(connect=timeout_s, read=timeout_s),
            retries=urllib3.Retry(
                connect=0,
                read=0,
                other=0,
                status=0,
                redirect=2,
                raise_on_status=False,
                remove_headers_on_redirect=secret,
            ),
            headers={"Accept-Encoding": "identity", "User-Agent": "rcarena-export"},
            **access.certificates(),
        )

    def close(self) -> None:
        self._pool.clear()

    def request(
        self,
        path: str,
        fields: Mapping[str, str | list[str]],
        *,
        final: Callable[[Answer], bool] = lambda _: False,
        post: bool = False,
        headers: Mapping[str, str] | None = None,
        as_sent: bool = False,
    ) -> Answer:
        """Send form fields and return the answer; the caller judges a status other than 200.

        Args:
            final: returns whether a failure must not be retried.
            post: send the fields as a form, however short they are.
            as_sent: do not undo a ``Content-Encoding``.

        Raises:
            SourceError: no answer after all retries, or the credentials are refused.
        """
        pairs = self._own_pairs + [
            (k, v) for k, values in fields.items() for v in ([values] if isinstance(values, str) else values)
        ]
        post = post or sum(len(k) + len(v) for k, v in pairs) > LONGEST_URL_QUERY
        for attempt in range(self._retries + 1):
            wait_s = min(LONGEST_PAUSE_S, self._backoff_s * 2**attempt)
            try:
                response = self._send(path, pairs, post, headers or {}, decode=not as_sent)
            except HTTPError as error:
                problem = _cause(error)
                if _is_tls(error):
                    raise SourceError(f"{self.url}: TLS: {problem}") from None
            else:
                if response.status in (401, 403):
                    raise SourceError(f"{self.url}: HTTP {response.status}: {self._access.refusal}")
                answer = Answer(response.status, response.data)
                if answer.status not in RETRIED_STATUS or final(answer):
                    return answer
                problem = f"HTTP {answer.status}: {answer.excerpt}"
                wait_s = _retry_after(response.headers.get("Retry-After"), wait_s)
            if attempt < self._retries:
                time.sleep(wait_s * random.uniform(0.8, 1.0))
        raise SourceError(f"{self.url}: no answer after retries: {problem}")

    def _send(
        self, path: str, pairs: list[tuple[str, str]], post: bool, further: Mapping[str, str], decode: bool
    ) -> urllib3.BaseHTTPResponse:
        headers = {**self._pool.headers, **self._login, **self._access.headers(), **further}
        try:
            address = f"{self.url}{path}"
            if post:
                return self._pool.request(
                    "POST", address, fields=pairs, headers=headers, encode_multipart=False, decode_content=decode
                )
            return self._pool.request("GET", address, fields=pairs, headers=headers, decode_content=decode)
        except (ValueError, ssl.SSLError) as error:  # an address that urllib3 cannot parse, a file that is no PEM
            raise SourceError(f"{self.url}: {error}") from None


def _address(url: str) -> tuple[str, list[tuple[str, str]], dict[str, str]]:
    """Return the URL without login, query and last slash, the fields of its query, and the header for its login."""
    scheme, host, path, query, _ = urlsplit(url)
    login, at, host = host.rpartition("@")
    headers = urllib3.util.make_headers(basic_auth=unquote(login)) if at else {}
    return urlunsplit((scheme, host, path.rstrip("/"), "", "")), parse_qsl(query, keep_blank_values=True), headers


def _cause(error: HTTPError) -> str:
    reason = error.reason if isinstance(error, MaxRetryError) else error
    return " ".join(f"{type(reason).__name__}: {reason}".split()) if reason else str(error)


def _is_tls(error: HTTPError) -> bool:
    """Return whether certificates are what fails: trying again does not help."""
    return isinstance(error.reason if isinstance(error, MaxRetryError) else error, urllib3.exceptions.SSLError)


def _retry_after(value: str | None, otherwise: float) -> float:
    return min(LONGEST_PAUSE_S, float(value)) if value and value.isdecimal() else otherwise


def one_line(text: object) -> str:
    """Return ``text`` for an error message: white space joined, at most 300 characters."""
    return " ".join((text if isinstance(text, str) else json.dumps(text)).split())[:300]


def message_lines(messages: object) -> list[str]:
    """Return a server's warnings (a list, one text, or none), one line each."""
    if not messages:
        return []
    return [one_line(text) for text in (messages if isinstance(messages, list) else [messages])]


class Patience(TypedDict, total=False):
    """How long a client waits, and how often it tries."""

    timeout_s: float
    retries: int
    backoff_s: float


class Connection(Patience, total=False):
    """Arguments of ``HttpClient`` that the client of a telemetry server passes on."""

    access: HttpAccess
    connections: int


class TelemetryClient:
    """Asks one telemetry server over a kept-open connection."""

    def __init__(self, url: str, **connection: Unpack[Connection]) -> None:
        self._http = HttpClient(url, **connection)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._http.close()
