"""Asks the chart repositories whether the pinned versions are there, before helm finds out one by one."""

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
LONGEST_INDEX = 256 * 2**20
PARALLEL = 8
_NUMBERS = re.compile(r"\d+")

ReadIndex = Callable[[str], str]
"""The text of ``index.yaml`` of a repository, by its URL. Raises OSError when it cannot be read."""


@dataclass(frozen=True)
class ChartFinding:
    """What a repository said about one chart.

    ``found``: whether the pinned version is there; None when the repository could not be asked, for the reason in
    ``problem``. ``newest``: the highest released version there, empty when none is known.
    """

    chart: PinnedChart
    found: bool | None
    newest: str = ""
    problem: str = ""

    def __str__(self) -> str:
        what = f"{self.chart.chart} {self.chart.version}"
        if self.found:
            newer = "" if _same(self.newest, self.chart.version) else f", newest is {self.newest}"
            return f"{what}: there{newer}"
        if self.found is None:
            return f"{what}: {self.problem}"
        newest = f"newest is {self.newest}" if self.newest else "it has no chart of that name"
        return f"{what}: not in the index of {self.chart.repo}; {newest}"


def read_index(repo: str) -> str:
    """Fetch ``index.yaml`` of the repository at the URL ``repo``. Raises OSError, with the reason in one line."""
    url = f"{repo.rstrip('/')}/index.yaml"
    retries = urllib3.Retry(total=2, connect=0, backoff_factor=0.5, status_forcelist=(429, 500, 502, 503, 504))
    try:
        with urllib3.PoolManager(timeout=TIMEOUT_S, retries=retries) as http:
            answer = http.request("GET", url, preload_content=False, headers={"Accept-Encoding": "gzip"})
            body = answer.read(LONGEST_INDEX, decode_content=True)
    except HTTPError as error:
        reason = str(getattr(error, "reason", None) or error).splitlines()[0]
        raise OSError(f"{url}: {re.sub(r'^HTTPS?Connection[^)]*[)]: ', '', reason)}") from error
    if answer.status != 200:
        raise OSError(f"{url}: HTTP status {answer.status}")
    return body.decode("utf-8", errors="replace")


def check_charts(charts: Sequence[PinnedChart], read: ReadIndex | None = None) -> tuple[ChartFinding, ...]:
    """Ask each repository once, in parallel, for all of ``charts``; the findings come in their order.

    Charts in OCI registries have no index: they count as not asked.
    """
    read = read or read_index
    repos = dict.fromkeys(chart.repo for chart in charts if not _is_oci(chart.repo))
    with ThreadPoolExecutor(max_workers=PARALLEL) as pool:
        answers = dict(zip(repos, pool.map(lambda repo: _asked(read, repo), repos), strict=True))
    return tuple(_finding(chart, answers.get(chart.repo)) for chart in charts)


def _is_oci(repo: str) -> bool:
    return repo.startswith("oci://")


def _asked(read: ReadIndex, repo: str) -> str | OSError:
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
    newest = max(released or versions, key=_order, default="")
    return ChartFinding(chart, any(_same(version, chart.version) for version in versions), newest)


def chart_versions(index: str, chart: str) -> list[str] | None:
    """The versions of ``chart`` in the text of an ``index.yaml``; None when that is no index.

    Indexes have up to 100 MB, most of it about other charts: where the block of the chart can be cut out by its
    indentation, only that is parsed.
    """
    block = re.search(rf"(?m)^(?P<indent> +){re.escape(chart)}:[ \t]*\n(?:(?P=indent)[ -].*\n?|\n)*", index)
    cut_out = _versions(_parsed(block.group()), chart) if block else None
    if cut_out:
        return cut_out
    whole = _parsed(index)
    return _versions(whole.get("entries"), chart) if isinstance(whole, dict) else None


def _parsed(text: str) -> Any:
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


def _same(one: str, other: str) -> bool:
    """Some repositories write ``v26.7.0`` where others write ``26.7.0``."""
    return one.removeprefix("v") == other.removeprefix("v")


def _order(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in _NUMBERS.findall(version.partition("+")[0]))
