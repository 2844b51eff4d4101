"""``python -m tests.backends.toy.server DIRECTORY ANSWER_MS SERVICE...``: a gateway with engines behind it."""

from __future__ import annotations

import contextlib
import itertools
import json
import sys
import time
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

DIRECTORY, ANSWER_MS, SERVICES = Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]
GATEWAY, REPLICAS = SERVICES[0], itertools.cycle(SERVICES[2:])


def wait(service: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        time.sleep(float((DIRECTORY / "delays" / service).read_text()) / 1e3)


def chosen() -> str:
    """The next replica that is not ejected; the next of all where none is left."""
    first = each = next(REPLICAS)
    for _ in SERVICES[3:]:
        if not (DIRECTORY / "ejected" / each).exists():
            return each
        each = next(REPLICAS)
    return each if not (DIRECTORY / "ejected" / each).exists() else first


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        wait(self.path.strip("/"))
        self._answer(b"{}")

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        tokens, replica = int(asked["max_tokens"]), chosen()
        for service in (GATEWAY, replica):
            wait(service)
            with (DIRECTORY / "logs" / service / "service.log").open("a") as log:
                log.write(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f}Z INFO {tokens} tokens\n")
        time.sleep(ANSWER_MS / 1e3)
        usage = {"prompt_tokens": 7, "completion_tokens": tokens}
        if not asked.get("stream"):
            self._answer(json.dumps({"choices": [{"text": "x" * tokens}], "usage": usage}).encode())
            return
        text: dict[str, Any] = {"delta": {"content": "x"}} if "chat" in self.path else {"text": "x"}
        chunks = [{"choices": [{"index": 0, "finish_reason": None, **text}]} for _ in range(tokens - 1)]
        chunks += [{"choices": [{"index": 0, "finish_reason": "stop", **text}]}, {"choices": [], "usage": usage}]
        events = [*(json.dumps(each) for each in chunks), "[DONE]"]
        self._answer("".join(f"data: {event}\n\n" for event in events).encode(), "text/event-stream")

    def _answer(self, body: bytes, kind: str = "application/json") -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None: ...


if __name__ == "__main__":
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        (DIRECTORY / "port.new").write_text(str(server.server_port))
        (DIRECTORY / "port.new").rename(DIRECTORY / "port")
        server.serve_forever()
