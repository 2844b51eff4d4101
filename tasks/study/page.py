"""Fills the tables of a study into the page that a person wrote around them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import jinja2

from tasks.errors import RCArenaError
from tasks.score.sets import roots_named
from tasks.study.data import StudyData
from tasks.study.drawing import case_svg
from tasks.study.recovery import RecoveryTables
from tasks.study.tables import Failure, Tables
from tasks.system.durable import write_durably

NOTE = "<!-- made by `rcarena study` from {template}: change that, not this -->"


class PageError(RCArenaError):
    """The template cannot be filled in; the message says where and why."""


def write_page(data: StudyData) -> Path:
    """Write the page of the study and its figures; return the page.

    The template is Markdown with Jinja: ``t`` has the tables (:class:`tasks.study.tables.Tables`), ``recovery`` those
    of experiments with actions (:class:`tasks.study.recovery.RecoveryTables`), ``figures(split)`` draws the first
    failures of the compared method. Same scores, same bytes.

    Raises:
        PageError: the template is wrong.
    """
    params = data.study.params
    template, page = data.study.path(params.template), data.study.path(params.page)
    environment = jinja2.Environment(  # noqa: S701 (Markdown, not HTML)
        loader=jinja2.FileSystemLoader(template.parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    tables = Tables(data)
    recovery = RecoveryTables(
        {label: data.study.path(folder) for label, folder in params.recovery.items()}, params.goals
    )
    try:
        text = environment.get_template(template.name).render(
            t=tables, recovery=recovery, figures=_figures(data, tables, page)
        )
    except (jinja2.TemplateError, TypeError, KeyError) as error:
        line = getattr(error, "lineno", None)
        raise PageError(f"{template}{f':{line}' if line else ''}: {type(error).__name__}: {error}") from error
    write_durably(page, f"{NOTE.format(template=template.name)}\n{text}".encode())
    return page


def _figures(data: StudyData, tables: Tables, page: Path) -> Callable[[str], str]:
    folder = data.study.path(data.study.params.figures)

    def figures(split: str) -> str:
        for old in sorted(folder.glob(f"{split}-*.svg")):
            old.unlink()
        lines = []
        for number, failure in enumerate(_first(tables.failures(split), data.study.params.figures_at_most), 1):
            svg = case_svg(failure.outcome.case, _blamed(failure))
            if svg is None:
                continue
            folder.mkdir(parents=True, exist_ok=True)
            file = folder / f"{split}-{number}.svg"
            write_durably(file, svg.encode())
            case = failure.outcome.case
            link = Path(os.path.relpath(file, page.parent)).as_posix()
            lines += [f"`{case.case_id}`: {case.truth}. `{data.method}`: {failure.said} ({failure.error}).", ""]
            lines += [f"![{case.truth}]({link})", ""]
        return "\n".join(lines).rstrip() or "*None.*"

    return figures


def _blamed(failure: Failure) -> list[str]:
    named = [service for service, _ in roots_named(failure.outcome.findings)]
    return list(dict.fromkeys([*named, *([failure.outcome.first] if not failure.outcome.right else [])]))


def _first(failures: list[Failure], most: int) -> list[Failure]:
    """Return so many failures, one of each group of cases and error before a second of the same."""
    seen: dict[tuple[str, str], int] = {}
    order = []
    for place, failure in enumerate(failures):
        kind = failure.outcome.case.group, failure.error.split(" ")[0]
        seen[kind] = seen.get(kind, 0) + 1
        order.append((seen[kind], place, failure))
    return [failure for _, _, failure in sorted(order, key=lambda entry: entry[:2])[:most]]
