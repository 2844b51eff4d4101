"""Receives the webhooks of Alertmanager.

Format: https://prometheus.io/docs/alerting/latest/configuration/#webhook_config, version 4. Only what fires counts;
repetitions of an alert are recognised by its fingerprint and start.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import logging
import queue
import threading
import time
from collections import OrderedDict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from pydantic import AwareDatetime, BaseModel, Field, ValidationError

from tasks.diagnose.diagnosis import Alert
from tasks.errors import ParamsError

log = logging.getLogger(__name__)

OWN_ALERT = "RCArenaDiagnosis"
"""Name of the alerts that a diagnosis is posted as. They ask for no diagnosis."""
MOST_WAITING = 1000
MOST_REMEMBERED = 5000
MOST_BYTES = 2**20
REQUEST_TIMEOUT_S = 10.0


class _Alert(BaseModel):
    status: str
    labels: dict[str, str] = Field(default={})
    startsAt: AwareDatetime  # noqa: N815 (Alertmanager's name)
    fingerprint: str = ""


class _Webhook(BaseModel):
    alerts: list[_Alert]


def _printable(name: str) -> str:
    """A name from outside, as a terminal may show it."""
    return "".join(each if each.isprintable() else " " for each in name)[:200]


class Inbox:
    """Alerts that wait for a diagnosis, and the memory of those that came already; both are bounded."""

    def __init__(self) -> None:
        self._waiting: queue.Queue[Alert] = queue.Queue(MOST_WAITING)
        self._known: OrderedDict[bytes, None] = OrderedDict()
        self._lock = threading.Lock()
        self.dropped = 0

    def put(self, document: bytes) -> int:
        """Take the firing alerts of a webhook that are new; return how many. Raises ValidationError."""
        taken = 0
        for each in _Webhook.model_validate_json(document).alerts:
            name = each.labels.get("alertname", "an alert")
            key = _key(each)
            if each.status == "firing" and name != OWN_ALERT and self._is_new(key):
                try:
                    self._waiting.put_nowait(Alert(name=_printable(name), started=each.startsAt, labels=each.labels))
                    taken += 1
                except queue.Full:
                    self.dropped += 1
                    self._forget(key)
        return taken

    def wait(self, timeout_s: float) -> tuple[Alert, ...]:
        """Return every alert that waits; if none does, the next one within ``timeout_s``."""
        found = []
        try:
            found.append(self._waiting.get(timeout=max(0.0, timeout_s)))
            while True:
                found.append(self._waiting.get_nowait())
        except queue.Empty:
            return tuple(found)

    def storm(self, quiet_s: float, most_s: float) -> tuple[Alert, ...]:
        """Return the alerts that come until none came for ``quiet_s``, or ``most_s`` are over."""
        found: tuple[Alert, ...] = ()
        end = time.monotonic() + most_s
        while more := self.wait(min(quiet_s, end - time.monotonic())):
            found += more
        return found

    def _is_new(self, key: bytes) -> bool:
        with self._lock:
            if key in self._known:
                return False
            self._known[key] = None
            while len(self._known) > MOST_REMEMBERED:
                self._known.popitem(last=False)
        return True

    def _forget(self, key: bytes) -> None:
        """Forget an alert that was dropped: when it comes again, it is new."""
        with self._lock:
            self._known.pop(key, None)


def _key(alert: _Alert) -> bytes:
    text = f"{alert.fingerprint or json.dumps(alert.labels, sort_keys=True)} {alert.startsAt.isoformat()}"
    return hashlib.sha256(text.encode()).digest()


class Receiver:
    """An HTTP server: POST /alerts takes webhooks, GET /health says that it lives.

    ``token_file``: the bearer token that a sender must have, read for every request.

    Raises:
        ParamsError: the address cannot be used.
    """

    def __init__(self, address: str, inbox: Inbox, token_file: Path | None = None) -> None:
        host, port = address_of(address)
        try:
            self._server = ThreadingHTTPServer((host, port), _handler(inbox, token_file))
        except OSError as error:
            raise ParamsError([f"--alerts: {address}: {error.strerror or error}"]) from None
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="alerts", daemon=True)

    @property
    def url(self) -> str:
        host, port = self._server.server_address[:2]
        return f"http://{host if isinstance(host, str) else host.decode()}:{port}/alerts"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def address_of(text: str) -> tuple[str, int]:
    """Return host and port of ``HOST:PORT`` or ``PORT`` (then this machine alone). Raises ParamsError."""
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or int(port) > 65_535:
        raise ParamsError([f"--alerts: '{text}' is no address; write it as 127.0.0.1:9095"])
    return host or "127.0.0.1", int(port)


def _length(text: str) -> int | None:
    """Return the number of bytes that a header announces, None if it is none."""
    try:
        return int(text) if text.isdecimal() else None
    except ValueError:  # more digits than int() takes
        return None


def _handler(inbox: Inbox, token_file: Path | None) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = REQUEST_TIMEOUT_S

        def do_GET(self) -> None:
            self._answer(200 if self.path == "/health" else 404, {})

        def do_POST(self) -> None:
            given = self.headers.get("Content-Length")
            length = _length(given or "")
            if self.path != "/alerts":
                self._answer(404, {"error": "post to /alerts"})
            elif not self._allowed():
                self._answer(401, {"error": "the bearer token is missing or wrong"})
            elif given is None:
                self._answer(411, {"error": "Content-Length is needed"})
            elif length is None:
                self._answer(400, {"error": "Content-Length is no number"})
            elif length > MOST_BYTES:
                self._answer(413, {"error": f"at most {MOST_BYTES} bytes"})
                with contextlib.suppress(OSError):  # who still sends would not see the answer
                    self.rfile.read(min(length, 2 * MOST_BYTES))
            else:
                try:
                    self._answer(202, {"taken": inbox.put(self.rfile.read(length))})
                except ValidationError as error:
                    self._answer(400, {"error": f"no webhook of Alertmanager: {error.errors()[0]['msg']}"})

        def _allowed(self) -> bool:
            if token_file is None:
                return True
            try:
                wanted = token_file.read_text(encoding="ascii").strip()
            except (OSError, UnicodeDecodeError) as error:
                log.error("diagnose.token_file: %s: cannot be read: %s", token_file, error)
                return False
            given = self.headers.get("Authorization", "").removeprefix("Bearer ").strip()
            return bool(wanted) and hmac.compare_digest(given.encode(), wanted.encode())

        def _answer(self, status: int, document: dict[str, Any]) -> None:
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: Any) -> None:
            log.info(format, *arguments)

    return Handler
