"""Send requests to the API server with time-outs, retries with back-off, a deadline and renewed credentials."""

from __future__ import annotations

import json
import logging
import random
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

from tasks.kube.address import ClusterAddress, load_configuration
from tasks.kube.errors import UnreachableError, error_of, message_of

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

logger = logging.getLogger(__name__)

FIELD_MANAGER = "rcarena"
JSON = "application/json"
CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 30.0
DEADLINE_S = 60.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 5.0
TRANSIENT = frozenset({429, 500, 502, 503, 504})
_OBJECT_IN_TEXT = re.compile(r"^<?\w[\w.]*(?: object at 0x[0-9a-f]+>|\([^)]*\)): ")


@dataclass(frozen=True)
class Request:
    """``action`` names the request in messages. ``repeatable``: sending it twice does no harm."""

    method: str
    path: str
    action: str
    query: dict[str, str] = field(default_factory=dict)
    body: dict[str, Any] | None = None
    content_type: str = JSON
    repeatable: bool = True

    @property
    def target(self) -> str:
        given = {key: value for key, value in self.query.items() if value}
        return f"{self.path}?{urlencode(given)}" if given else self.path


@dataclass(frozen=True)
class _Answer:
    status: int
    body: bytes
    retry_after_s: float


class _NoAnswerError(Exception):
    """An attempt brought no complete answer. ``final``: another attempt cannot help."""

    def __init__(self, problem: str, final: bool = False) -> None:
        super().__init__(problem)
        self.final = final


class Transport:
    """HTTP to one API server; safe to use from several threads."""

    def __init__(
        self, address: ClusterAddress, *, deadline_s: float, connect_timeout_s: float, read_timeout_s: float
    ) -> None:
        self._address = address
        self._deadline_s = deadline_s
        self._connect_timeout_s = connect_timeout_s
        self._read_timeout_s = read_timeout_s
        self._lock = threading.Lock()
        self._client: ApiClient = _open(address)

    @property
    def host(self) -> str:
        parts = urlsplit(str(self._client.configuration.host))
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"

    @property
    def label(self) -> str:
        return f"{self._address.label}, {self.host}"

    def close(self) -> None:
        self._client.rest_client.pool_manager.clear()

    def send(self, request: Request, parse: Callable[[bytes], Any]) -> Any:
        """Return the parsed answer, retrying until the deadline; ``parse`` raises ValueError for one that was cut off.

        Raises:
            UnreachableError: no usable answer until the deadline.
            ClusterError: the server refused; the class says how.
        """
        data = None if request.body is None else json.dumps(request.body).encode()
        deadline = time.monotonic() + self._deadline_s
        pause, renewed = FIRST_PAUSE_S, False
        while True:
            client, wait_s, repeat = self._client, pause * random.uniform(0.5, 1), request.repeatable
            try:
                answer = self._attempt(client, request, data, deadline)
                if answer.status < 300:
                    return parse(answer.body)
                if answer.status == 401 and not renewed:
                    renewed = True
                    self._renew(client)
                    continue
                if answer.status not in TRANSIENT:
                    raise error_of(answer.status, answer.body, request.action, self.label)
                problem = f"HTTP {answer.status}: {message_of(answer.status, answer.body)}"
                wait_s = max(wait_s, answer.retry_after_s)
                repeat = repeat or answer.status == 429
            except ValueError:
                problem = "the answer is cut off"
            except _NoAnswerError as error:
                problem = str(error)
                repeat = repeat and not error.final
            if not repeat or time.monotonic() + wait_s >= deadline:
                raise UnreachableError(f"{request.action}: no usable answer: {problem} ({self.label})")
            logger.info("%s: %s; asking again in %.1f s", request.action, problem, wait_s)
            time.sleep(wait_s)
            pause = min(pause * 2, LONGEST_PAUSE_S)

    def _attempt(self, client: ApiClient, request: Request, data: bytes | None, deadline: float) -> _Answer:
        """Send once, over the connection pool of the client library, which knows certificates and proxies."""
        import urllib3

        left = max(0.1, deadline - time.monotonic())
        timeout = urllib3.Timeout(connect=min(self._connect_timeout_s, left), read=min(self._read_timeout_s, left))
        headers = {"Accept": "application/json, */*", "User-Agent": FIELD_MANAGER, **_auth_headers(client)}
        if data is not None:
            headers["Content-Type"] = request.content_type
        try:
            response = client.rest_client.pool_manager.request(
                request.method,
                str(client.configuration.host) + request.target,
                body=data,
                headers=headers,
                timeout=timeout,
                retries=False,
            )
        except urllib3.exceptions.SSLError as error:
            raise _NoAnswerError(f"TLS: {_cause(error)}", final=True) from error
        except urllib3.exceptions.LocationParseError as error:
            raise _NoAnswerError(f"not a server address: {error}", final=True) from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise _NoAnswerError(_cause(error)) from error
        return _Answer(response.status, response.data, _seconds(response.headers.get("Retry-After")))

    def _renew(self, refused: ApiClient) -> None:
        """Read the credentials again, unless another thread just did."""
        with self._lock:
            if self._client is refused:
                self._client = _open(self._address)


def _open(address: ClusterAddress) -> ApiClient:
    from kubernetes.client import ApiClient

    return ApiClient(load_configuration(address))


def _auth_headers(client: ApiClient) -> dict[str, str]:
    """Return auth headers, refreshing an expiring credential. Raises _NoAnswerError."""
    from kubernetes.config import ConfigException

    try:
        settings = client.configuration.auth_settings().values()
    except (ConfigException, OSError) as error:  # the pod's token file, or a plugin of the kubeconfig
        raise _NoAnswerError(f"no credentials: {error}") from error
    return {each["key"]: each["value"] for each in settings if each["in"] == "header" and each["value"]}


def _cause(error: Exception) -> str:
    """Return the cause in one line, without the Python object that urllib3 puts in front of it."""
    text = str(error.args[-1] if error.args else error).strip()
    return _OBJECT_IN_TEXT.sub("", text).splitlines()[0] if text else type(error).__name__


def _seconds(retry_after: str | None) -> float:
    return float(retry_after) if retry_after and retry_after.isdigit() else 0.0
