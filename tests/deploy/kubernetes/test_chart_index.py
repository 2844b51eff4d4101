"""What chart repositories say of the pinned versions."""

from __future__ import annotations

import gzip
import http.server
import json
import re
import threading
from collections.abc import Iterator

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tasks.deploy.kubernetes.chart_index import chart_versions, check_charts, read_index
from tasks.deploy.kubernetes.charts import PinnedChart, pinned_charts
from tests.command import rcarena_here

INDEX = """apiVersion: v1
entries:
  loki-stack:
  - version: 2.9.0
    name: loki-stack
    dependencies:
    - name: loki
      version: 2.0.0
  loki:
  - apiVersion: v2
    name: loki
    version: 18.11.0
    description: |
      some text

      version: 99.0.0
  - name: loki
    version: 19.0.0-rc.1
  - name: loki
    version: 9.3.7
  zipkin:
  - version: v0.1.2
generated: "2026-11-01T00:00:00Z"
"""


def pinned(chart: str, version: str, repo: str = "https://example.org/charts") -> PinnedChart:
    return PinnedChart(chart, repo, chart, version, "here")


def test_versions_are_those_of_the_chart_alone() -> None:
    assert chart_versions(INDEX, "loki") == ["18.11.0", "19.0.0-rc.1", "9.3.7"]
    assert chart_versions(INDEX, "loki-stack") == ["2.9.0"]
    assert chart_versions(INDEX, "lok") == []


@pytest.mark.parametrize("style", ["json", "indented", "flow", "crlf"])
def test_every_way_to_write_an_index_is_read(style: str) -> None:
    document = yaml.safe_load(INDEX)
    text = {
        "json": json.dumps(document),
        "indented": re.sub(r"(?m)^(?=  - |    )", "  ", INDEX),
        "flow": yaml.safe_dump(document, default_flow_style=True),
        "crlf": INDEX.replace("\n", "\r\n"),
    }[style]
    assert chart_versions(text, "loki") == ["18.11.0", "19.0.0-rc.1", "9.3.7"]


@given(st.text())
def test_what_is_no_index_is_not_taken_for_an_empty_one(text: str) -> None:
    assert chart_versions(text, "loki") is None


def test_a_finding_names_the_version_that_is_there_instead() -> None:
    found, missing, prefixed, unknown = check_charts(
        [pinned("loki", "18.11.0"), pinned("loki", "12.0.1"), pinned("zipkin", "0.1.2"), pinned("tempo", "1.0.0")],
        lambda repo: INDEX,
    )
    assert (found.found, str(found)) == (True, "loki 18.11.0: there")
    assert missing.found is False
    assert str(missing) == "loki 12.0.1: not in the index of https://example.org/charts; newest is 18.11.0"
    assert prefixed.found is True
    assert str(unknown).endswith("it has no chart of that name")


def test_each_repository_is_asked_once_and_one_that_fails_is_no_missing_chart() -> None:
    asked = []

    def read(repo: str) -> str:
        asked.append(repo)
        if "down" in repo:
            raise OSError("refused")
        return "<html>sign in</html>" if "portal" in repo else INDEX

    charts = [
        pinned("loki", "9.3.7"),
        pinned("loki", "1.0.0", "https://down.example"),
        pinned("zipkin", "0.1.2"),
        pinned("loki", "1.0.0", "https://portal.example"),
        pinned("loki", "1.0.0", "oci://example.org/charts"),
    ]
    assert [each.found for each in check_charts(charts, read)] == [True, None, True, None, None]
    assert sorted(asked) == ["https://down.example", "https://example.org/charts", "https://portal.example"]


@pytest.fixture
def repository() -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/charts/index.yaml" else 404)
            self.send_header("Content-Encoding", "gzip")
            self.end_headers()
            self.wfile.write(gzip.compress(INDEX.encode()))

        def log_message(self, format: str, *args: object) -> None:
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_the_index_comes_over_http(repository: str) -> None:
    assert read_index(f"{repository}/charts/") == INDEX
    with pytest.raises(OSError, match=r"/index\.yaml: HTTP status 404"):
        read_index(repository)
    with pytest.raises(OSError, match="refused"):
        read_index("http://127.0.0.1:9")


def test_the_command_lists_every_chart_without_a_network() -> None:
    listed = json.loads(rcarena_here("deploy", "charts", "--json").stdout)
    assert [row["name"] for row in listed] == [each.name for each in pinned_charts()]
    assert all(row["seen"] for row in listed)
