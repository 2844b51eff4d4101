"""``rcarena dashboard``."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import unquote

import typer

from tasks.commands.options import ParamsFile, StackIndex, WorkspaceDir, checked_params, one_stack, workspace_at
from tasks.errors import ParamsError, RCArenaError
from tasks.params import DEFAULT_PARAMS_FILE
from tasks.workspace import DEFAULT_WORKSPACE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from tasks.case import Case

LOOK_BACK_S, LOOKS = 600, 30
TIMEOUT_S = 10.0
IN_GRAFANA = "/var/lib/grafana/dashboards/rcarena"


class GrafanaError(RCArenaError):
    """Grafana does not answer, or refuses."""


def dashboard(
    params: ParamsFile = DEFAULT_PARAMS_FILE,
    workspace: WorkspaceDir = DEFAULT_WORKSPACE,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Where the files go.")] = Path("grafana"),
    folder: Annotated[
        str, typer.Option("--folder", metavar="PATH", help="Where Grafana sees the dashboards.")
    ] = IN_GRAFANA,
    prometheus: Annotated[
        str | None,
        typer.Option(
            "--prometheus", metavar="URL", help="Prometheus as Grafana reaches it (default: as RCArena does)."
        ),
    ] = None,
    annotate: Annotated[
        str | None,
        typer.Option(
            "--annotate", metavar="URL", help="Grafana that is told of the workspace's injections and diagnoses."
        ),
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option("--token-file", metavar="FILE", help="Holds a token of Grafana for --annotate.")
    ] = None,
    stack: StackIndex = None,
) -> None:
    """Write a Grafana dashboard of the running stack, and the files that provision it.

    A panel per canonical metric that its Prometheus fills; injections and diagnoses are marked.
    """
    import json

    from tasks.backends import backend_of
    from tasks.case import read_cases
    from tasks.diagnose.incidents import read_all
    from tasks.diagnose.notify import annotation
    from tasks.export.base import ExportContext, ExportError
    from tasks.export.dashboard import dashboard as dashboard_of
    from tasks.export.dashboard import provisioning
    from tasks.export.grid import TimeGrid
    from tasks.export.sources.http import RefusedError
    from tasks.system.durable import write_durably
    from tasks.yaml_core import dump

    checked = checked_params(params)
    place = one_stack(checked, workspace_at(workspace), stack)
    for option, url in (("--annotate", annotate), ("--prometheus", prometheus)):
        if url is not None and not url.startswith(("http://", "https://")):
            raise ParamsError([f"{option}: must be a URL (got {_without_login(url)})"])
    if prometheus is not None and _login(prometheus):
        raise ParamsError(["--prometheus: must not hold a password, which would stand in a file"])
    if token_file is not None and annotate is None:
        raise ParamsError(["--token-file: needs --annotate"])
    live = backend_of(checked, place).live()
    live.enter()
    sources = live.sources()
    if sources.prometheus_url is None:
        raise ExportError("the stack has no Prometheus")
    now = datetime.now(UTC)
    window = (now - timedelta(seconds=LOOK_BACK_S), now)
    context = ExportContext(sources, *window, checked.export, live.describe())
    grid = TimeGrid.aligned(*window, max(checked.export.step_s, LOOK_BACK_S / LOOKS))
    name = checked.campaign.name
    with context.prometheus() as client:

        def ask(expression: str) -> list[Mapping[str, str]]:
            try:
                return [series.labels for part in client.query_range(expression, grid) for series in part]
            except RefusedError as error:
                typer.echo(f"left out: {error}", err=True)
                return []

        document = dashboard_of(name, sources, checked.export, context.series_names, ask)
    files = {f"dashboards/{name}.json": json.dumps(document, indent=1)}
    provided = provisioning(folder, name, prometheus or sources.prometheus_url, checked.deploy.slowest_scrape_s)
    files |= {f"provisioning/{path}": dump(content) for path, content in provided.items()}
    for path, text in files.items():
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        write_durably(out / path, text.encode())
        typer.echo(str(out / path))
    panels = sum(panel["type"] != "row" for panel in document["panels"])
    typer.echo(f"{panels} panels")
    if annotate is not None:
        cases = read_cases(place.cases) if place.cases.is_dir() else ()
        injections = _annotate(annotate, token_file, _injections(cases))
        diagnoses = _annotate(
            annotate, token_file, ((each.incident, annotation(each)) for each in read_all(place.incidents))
        )
        typer.echo(f"{_without_login(annotate)}: {injections} injections, {diagnoses} diagnoses marked")


def _injections(cases: Iterable[Case]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the case and the mark of every injection."""
    from tasks.export.dashboard import injection_annotation

    for case in cases:
        record = case.record
        for each in record.injections:
            times = each.observed or each.planned
            start, end = (round(moment.timestamp() * 1000) for moment in (times.start, times.end))
            verdict = str(each.verdict)
            yield (
                record.case_id,
                injection_annotation(record.campaign, record.case_id, start, end, each.kind, each.target, verdict),
            )


def _annotate(url: str, token_file: Path | None, marks: Iterable[tuple[str, Mapping[str, Any]]]) -> int:
    """Set every mark once; return how many were not there yet. Raises GrafanaError, SourceError.

    Args:
        marks: a tag that finds it again, and what Grafana is told.
    """
    import json

    import urllib3

    from tasks.export.dashboard import TAG
    from tasks.export.sources.http import HttpAccess, SecretSource

    access = HttpAccess(token=SecretSource(file=token_file) if token_file else None)
    headers = {"Content-Type": "application/json", **_login(url), **access.headers()}
    place = f"{_without_login(url).rstrip('/')}/api/annotations"
    known: dict[str, set[tuple[Any, Any]]] = {}
    marked = 0
    with urllib3.PoolManager(timeout=TIMEOUT_S, retries=urllib3.Retry(2, backoff_factor=0.5)) as pool:
        for tag, body in marks:
            if tag not in known:
                found = _ask(pool, "GET", place, headers, access, fields=[("tags", TAG), ("tags", tag)])
                try:
                    known[tag] = {(each.get("time"), each.get("text")) for each in json.loads(found) or ()}
                except (ValueError, TypeError, AttributeError):
                    raise GrafanaError(f"{place}: answers no annotations: is this Grafana?") from None
            if (body["time"], body["text"]) not in known[tag]:
                _ask(pool, "POST", place, headers, access, body=json.dumps(body))
                marked += 1
    return marked


def _without_login(url: str) -> str:
    """Return a URL for messages, without ``user:password@``, query and fragment."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url.rpartition("@")[2]
    return f"{scheme}://{re.split('[?#]', rest.rpartition('@')[2])[0]}"


def _login(url: str) -> dict[str, str]:
    import urllib3

    login, at, _ = url.partition("://")[2].rpartition("@")
    return urllib3.util.make_headers(basic_auth=unquote(login)) if at else {}


def _ask(pool: Any, method: str, url: str, headers: dict[str, str], access: Any, **what: Any) -> bytes:
    import urllib3

    try:
        answer = pool.request(method, url, headers=headers, **what)
    except (urllib3.exceptions.HTTPError, ValueError) as error:
        raise GrafanaError(f"{url}: does not answer ({type(error).__name__})") from None
    if answer.status in (401, 403):
        raise GrafanaError(f"{url}: HTTP {answer.status}: {access.refusal}")
    if not 200 <= answer.status < 300:
        raise GrafanaError(f"{url}: HTTP {answer.status}")
    body: bytes = answer.data
    return body
