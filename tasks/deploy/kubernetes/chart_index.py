"""Asks the chart repositories whether the pinned versions exist, before helm fails on them one by one."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import urllib3
import yaml
from urllib3.exceptions import HTTPError

from tasks.deploy.kubernetes.charts import SAFE_LOADER, PinnedChart

TIMEOUT_S = 20.0
MAX_INDEX_BYTES = 256 * 2**20
PARALLEL = 8
_NUMBERS = re.compile(r"\d+")

ReadIndex = Callable[[str], str]
"""Repository URL -> text of its ``index.yaml``. Raises OSError when it cannot be read."""


@dataclass(frozen=True)
class ChartFinding:
    """Result of looking up one chart in its repository.

    ``found``: the pinned version exists; None when the repository could not be asked (``problem`` says why).
    ``newest``: the highest released version in the repository, empty when unknown.
    """

    chart: PinnedChart
    found: bool | None
    newest: str = ""
    problem: str = ""

    def __str__(self) -> str:
        what = f"{self.chart.chart} {self.chart.version}"
        if self.found:
            newer = "" if _same_version(self.newest, self.chart.version) else f", newest is {self.newest}"
            return f"{what}: there{newer}"
        if self.found is None:
            return f"{what}: {self.problem}"
        newest = f"newest is {self.newest}" if self.newest else "it has no chart of that name"
        return f"{what}: not in the index of {self.chart.repo}; {newest}"


def read_index(repo: str) -> str:
    """Return ``index.yaml`` of the repository at the URL ``repo``. Raises OSError with a one-line reason."""
    url = f"{repo.rstrip('/')}/index.yaml"
    retries = urllib3.Retry(total=2, connect=0, backoff_factor=0.5, status_forcelist=(429, 500, 502, 503, 504))
    try:
        with urllib3.PoolManager(timeout=TIMEOUT_S, retries=retries) as http:
            answer = http.request("GET", url, preload_content=False, headers={"Accept-Encoding": "gzip"})
            body = answer.read(MAX_INDEX_BYTES, decode_content=True)
    except HTTPError as error:
        reason = str(getattr(error, "reason", None) or error).splitlines()[0]
        raise OSError(f"{url}: {re.sub(r'^HTTPS?Connection[^)]*[)]: ', '', reason)}") from error
    if answer.status != 200:
        raise OSError(f"{url}: HTTP status {answer.status}")
    return body.decode("utf-8", errors="replace")


def check_charts(charts: Sequence[PinnedChart], read: ReadIndex | None = None) -> tuple[ChartFinding, ...]:
    """Look up ``charts``, reading each repository's index once, in parallel; return one finding per chart, in order.

    OCI registries have no index: their charts get ``found`` None.
    """
    read = read or read_index
    repos = dict.fromkeys(chart.repo for chart in charts if not _is_oci(chart.repo))
    with ThreadPoolExecutor(max_workers=PARALLEL) as pool:
        answers = dict(zip(repos, pool.map(lambda repo: _read_or_error(read, repo), repos), strict=True))
    return tuple(_finding(chart, answers.get(chart.repo)) for chart in charts)


def _is_oci(repo: str) -> bool:
    return repo.startswith("oci://")


def _read_or_error(read: ReadIndex, repo: str) -> str | OSError:
    try:
        return read(repo)
    except OSError as error:
        return error


def _finding(chart: PinnedChart, answer: str | OSError | None) -> ChartFinding:
    if answer is None:
        return ChartFinding(chart, None, problem=f"{chart.repo} is an OCI registry, which has no index")
    if isinstance(answer, OSError):
        return ChartFinding(chart, None, problem=f"the repository cannot be asked: {answer}")
    versions = chart_versions(answer, chart.chart)
    if versions is None:
        return ChartFinding(chart, None, problem=f"{chart.repo}/index.yaml is no index of a chart repository")
    released = [version for version in versions if "-" not in version]
    newest = max(released or versions, key=_version_key, default="")
    return ChartFinding(chart, any(_same_version(version, chart.version) for version in versions), newest)


def chart_versions(index: str, chart: str) -> list[str] | None:
    """Return the versions of ``chart`` in the text of an ``index.yaml``; None when that is no index.

    Indexes have up to 100 MB: only the chart's block is parsed where indentation delimits it.
    """
    block = re.search(rf"(?m)^(?P<indent> +){re.escape(chart)}:[ \t]*\n(?:(?P=indent)[ -].*\n?|\n)*", index)
    versions = _versions(_parse(block.group()), chart) if block else None
    if versions:
        return versions
    whole = _parse(index)
    return _versions(whole.get("entries"), chart) if isinstance(whole, dict) else None


def _parse(text: str) -> Any:
    try:
        return yaml.load(text, SAFE_LOADER)  # noqa: S506 (a safe loader)
    except yaml.YAMLError:
        return None


def _versions(entries: Any, chart: str) -> list[str] | None:
    if not isinstance(entries, dict):
        return None
    listed = entries.get(chart)
    return [
        str(entry["version"])
        for entry in (listed if isinstance(listed, list) else ())
        if isinstance(entry, dict) and entry.get("version") is not None
    ]


def _same_version(one: str, other: str) -> bool:
    """Return whether two versions are equal; the leading ``v`` of some repositories does not count."""
    return one.removeprefix("v") == other.removeprefix("v")


def _version_key(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in _NUMBERS.findall(version.partition("+")[0]))
