"""The table as Markdown, and where it stands in a page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tasks.dataset_table.figures import DatasetFigures, DatasetTable, MethodFigures, Values
from tasks.errors import ParamsError
from tasks.score.references import REFERENCE_LABELS
from tasks.system.durable import write_durably

BEGIN, END = "<!-- benchmark: made by `rcarena benchmark`, do not edit -->", "<!-- /benchmark -->"
_SAME = 0.005
"""Scores that are closer look the same in the table."""


def markdown(benchmark: DatasetTable) -> str:
    """A row per reference and method, a column per data set; then the methods whose lists leave out services."""
    names = list(benchmark.datasets)
    methods = list(dict.fromkeys(m for dataset in benchmark.datasets.values() for m in dataset.methods))
    settings = ", ".join(f"`{key}: {_plain(value)}`" for key, value in benchmark.settings.items())
    lines = [
        f"{len(methods)} methods; {settings}. AC@1 / Avg@5 of lists as given (what a list leaves out is not found), "
        "CPU seconds per case. In brackets: cases on which the method failed, which score zero. First rows: "
        "[orders drawn at random](scores.md#chance-and-other-references).",
        "",
        f"| method | {' | '.join(f'{name} ({benchmark.datasets[name].scored})' for name in names)} |",
        "|---" * (len(names) + 1) + "|",
    ]
    for reference, label in REFERENCE_LABELS.items():
        cells = [_pair(benchmark.datasets[name].references.get(reference)) for name in names]
        if any(cells):
            lines.append(f"| {label} | {' | '.join(cells)} |")
    for method in methods:
        cells = [_cell(benchmark.datasets[name], method) for name in names]
        lines.append(f"| `{method}` | {' | '.join(cells)} |")
    tails = list(_tails(benchmark, methods))
    if tails:
        lines += [
            "",
            "Where it makes a difference, the same if what a list leaves out followed it in random order:",
            "",
            f"| method | {' | '.join(names)} |",
            "|---" * (len(names) + 1) + "|",
            *tails,
        ]
    return "\n".join(lines)


def _tails(benchmark: DatasetTable, methods: list[str]) -> Iterator[str]:
    for method in methods:
        cells = []
        for dataset in benchmark.datasets.values():
            figures = dataset.methods.get(method)
            cells.append(_pair(figures.tail) if figures and _tail_matters(figures) else "")
        if any(cells):
            yield f"| `{method}` | {' | '.join(cells)} |"


def _tail_matters(figures: MethodFigures) -> bool:
    pairs = [(getattr(figures.scores, score), getattr(figures.tail, score)) for score in ("ac1", "avg5")]
    return any(given is not None and tail is not None and abs(given - tail) >= _SAME for given, tail in pairs)


def _cell(dataset: DatasetFigures, method: str) -> str:
    figures = dataset.methods.get(method)
    if figures is None:
        return "not run" if dataset.scored else "no case scored"
    if figures.failures == dataset.scored:
        return "failed, all"
    failed = f" ({figures.failures} failed)" if figures.failures else ""
    seconds = "" if figures.cpu_s is None else f", {_seconds(figures.cpu_s)}"
    return f"{_pair(figures.scores)}{seconds}{failed}"


def _pair(values: Values | None) -> str:
    if values is None or values.ac1 is None or values.avg5 is None:
        return ""
    return f"{_score(values.ac1)} / {_score(values.avg5)}"


def _score(value: float) -> str:
    """``.62``, ``1.0``."""
    text = f"{value:.2f}"
    return "1.0" if text == "1.00" else text.removeprefix("0")


def _seconds(value: float) -> str:
    """Two digits that count, at least milliseconds."""
    return f"{value:.3f}" if value < 0.1 else f"{value:.2f}" if value < 1 else f"{value:.1f}"


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def write_into(page: Path, table: str) -> None:
    """Put ``table`` between the markers of ``page``.

    Raises:
        ParamsError: it does not have each marker once, in this order.
    """
    before, after = _split(page)
    write_durably(page, f"{before}{BEGIN}\n\n{table}\n\n{END}{after}".encode())


def check_markers(page: Path) -> None:
    """Raises ParamsError: as ``write_into`` would."""
    _split(page)


def _split(page: Path) -> tuple[str, str]:
    try:
        text = page.read_text(encoding="utf-8")
    except OSError as error:
        raise ParamsError([f"--page: {page}: {error.strerror}"]) from error
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ParamsError([f"--page: {page}: needs one line '{BEGIN}' and, after it, one line '{END}'"])
    return before, after
