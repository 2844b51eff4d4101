from __future__ import annotations

import http.server
import json
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from tasks.export.http import SourceError
from tasks.export.span_files import fetched_span_files

NOW = datetime(2026, 11, 22, 18, 0, tzinfo=UTC)


class FileServer(http.server.ThreadingHTTPServer):
    """Lists and serves ``files`` (name -> time, content) as NGINX does with ``autoindex_format json``."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, tuple[datetime, bytes]] = {}
        self.rotations: list[str] = []
        """Names to which ``spans.jsonl`` is renamed, one at each time that it is asked for."""
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def answer(self, path: str) -> bytes | None:
        self.asked.append(path)
        if path == "/":
            listing = [
                {"name": name, "type": "file", "mtime": format_datetime(at, usegmt=True), "size": len(content)}
                for name, (at, content) in self.files.items()
            ]
            return json.dumps([{"name": "sub", "type": "directory", "mtime": "x"}, *listing]).encode()
        if path == "/spans.jsonl" and self.rotations:
            self.files[self.rotations.pop(0)] = self.files["spans.jsonl"]
            self.files["spans.jsonl"] = (NOW, b"begun anew\n")
        found = self.files.get(path.removeprefix("/"))
        return found[1] if found else None


class _Handler(http.server.BaseHTTPRequestHandler):
    server: FileServer

    def do_GET(self) -> None:
        body = self.server.answer(self.path)
        self.send_response(404 if body is None else 200)
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer() as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield made
        made.shutdown()


def contents(files: tuple[Path, ...]) -> dict[str, str]:
    return {file.name: file.read_text() for file in files}


def test_only_files_written_to_since_the_start_are_fetched(server: FileServer) -> None:
    server.files = {
        "spans-old.jsonl": (NOW - timedelta(seconds=60), b"old\n"),
        "spans-in.jsonl": (NOW + timedelta(seconds=5), b"in\n"),
        "spans.jsonl": (NOW + timedelta(seconds=9), b"last\n"),
    }
    with fetched_span_files(server.url, NOW) as files:
        assert contents(files) == {"spans-in.jsonl": "in\n", "spans.jsonl": "last\n"}
    assert "/spans-old.jsonl" not in server.asked
    assert not files[0].exists()


def test_a_rotation_between_listing_and_fetching_loses_nothing(server: FileServer) -> None:
    server.files = {"spans.jsonl": (NOW, b"first\n")}
    server.rotations = ["spans-1.jsonl", "spans-2.jsonl"]
    with fetched_span_files(server.url, NOW) as files:
        assert set(contents(files)) == {"spans.jsonl", "spans-1.jsonl", "spans-2.jsonl"}
        assert contents(files)["spans-1.jsonl"] == "first\n"


def test_endless_rotation_is_an_error(server: FileServer) -> None:
    server.files = {"spans.jsonl": (NOW, b"first\n")}
    server.rotations = [f"spans-{n}.jsonl" for n in range(9)]
    with pytest.raises(SourceError, match="rotate faster"), fetched_span_files(server.url, NOW):
        pass


def test_an_answer_that_is_no_listing_is_named(server: FileServer) -> None:
    with pytest.raises(SourceError, match="no listing of span files: HTTP 404"):
        with fetched_span_files(f"{server.url}/elsewhere", NOW):
            pass


def test_without_a_server_there_are_no_files() -> None:
    with fetched_span_files(None, NOW) as files:
        assert files == ()


@pytest.mark.skipif(shutil.which("nginx") is None, reason="needs nginx")
def test_real_nginx_lists_and_serves(tmp_path: Path, free_tcp_port: int) -> None:
    spans = tmp_path / "spans"
    spans.mkdir()
    (spans / "spans.jsonl").write_text("now\n")
    config = tmp_path / "nginx.conf"
    config.write_text(
        f"daemon off; worker_processes 1; pid {tmp_path}/pid; error_log stderr;\n"
        "events { worker_connections 8; }\n"
        f"http {{ access_log off; client_body_temp_path {tmp_path}/b; proxy_temp_path {tmp_path}/p;\n"
        f"fastcgi_temp_path {tmp_path}/f; uwsgi_temp_path {tmp_path}/u; scgi_temp_path {tmp_path}/s;\n"
        f"server {{ listen 127.0.0.1:{free_tcp_port}; root {spans}; autoindex on; autoindex_format json; }} }}\n"
    )
    nginx = subprocess.Popen(["nginx", "-c", str(config)], stderr=subprocess.DEVNULL)
    try:
        time.sleep(0.3)
        with fetched_span_files(
            f"http://127.0.0.1:{free_tcp_port}", datetime.now(UTC) - timedelta(seconds=60)
        ) as files:
            assert contents(files) == {"spans.jsonl": "now\n"}
    finally:
        nginx.terminate()
        nginx.wait()
