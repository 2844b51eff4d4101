"""A private Prometheus per test, and a scripted HTTP server that stands in for a failing one."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

ScriptedAnswer = Callable[[BaseHTTPRequestHandler], None]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def start_prometheus(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """``start(openmetrics="", config="", lookback="5m") -> url``: a real Prometheus, filled with the given samples.

    Imported series do not end with a marker, as scraped ones do: ``lookback`` is how long they linger.
    """
    if shutil.which("prometheus") is None:
        pytest.skip("prometheus is not installed")
    processes: list[subprocess.Popen[bytes]] = []

    def start(openmetrics: str = "", config: str = "", lookback: str = "5m") -> str:
        data = tmp_path / "tsdb"
        if openmetrics:
            source = tmp_path / "samples.om"
            source.write_text(openmetrics + "# EOF\n")
            command = ["promtool", "tsdb", "create-blocks-from", "openmetrics", str(source), str(data)]
            subprocess.run(command, check=True, capture_output=True, timeout=60)
        config_file = tmp_path / "prometheus.yml"
        config_file.write_text(config)
        port = _free_port()
        command = [
            "prometheus",
            f"--config.file={config_file}",
            f"--storage.tsdb.path={data}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--storage.tsdb.retention.time=50y",
            "--log.level=error",
            f"--query.lookback-delta={lookback}",
        ]
        processes.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 30
        while True:
            try:
                urllib.request.urlopen(f"{url}/-/ready", timeout=2).close()
                return url
            except (urllib.error.URLError, OSError):
                assert time.monotonic() < deadline, "Prometheus did not become ready"
                time.sleep(0.1)

    yield start
    for process in processes:
        process.kill()
        process.wait()


@pytest.fixture
def scripted_server() -> Iterator[Callable[[list[ScriptedAnswer]], tuple[str, list[str]]]]:
    """``start(answers) -> (url, paths)``: the n-th request gets the n-th answer, the last one repeats."""
    servers: list[ThreadingHTTPServer] = []

    def start(answers: list[ScriptedAnswer]) -> tuple[str, list[str]]:
        paths: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                paths.append(self.path)
                answers[min(len(paths), len(answers)) - 1](self)

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_address[1]}", paths

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
