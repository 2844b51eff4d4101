"""The common parts of pages: frame, template filters, figures with the plotting library, and writing the file."""

from __future__ import annotations

import base64
import functools
import gzip
import json
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from tasks.html import formatting
from tasks.system.durable import write_durably
from tasks.text import short_p

FIGURE_CLASS = 'class="figure-data"'
"""Marks the data of a figure; a page with a figure embeds the plotting library."""


def templates(package: str, *folders: str) -> jinja2.Environment:
    """Return the templates in ``folders`` of ``package``, and the shared ones, with the filters that all pages have."""
    loaders = [jinja2.PackageLoader(package, folder) for folder in folders]
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader([*loaders, jinja2.PackageLoader("tasks.html")]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Callable[..., str]] = {
        "coordinate": lambda value: f"{value:.4g}",
        "p_value": formatting.p_value,
        "short_p": short_p,
        "quantity": formatting.quantity,
        "score": formatting.score,
        "seconds": formatting.seconds,
        "short": formatting.short_difference,
        "signed": formatting.difference,
    }
    environment.filters |= filters
    return environment


def page(title: str, body: Markup, *, style: str = "", script: str = "") -> str:
    """Return a whole page, with ``style`` and ``script`` after the common ones."""
    return _frame().render(
        title=title,
        body=body,
        style=_trusted(asset("tasks.html", "templates/page.css") + style),
        script=_trusted(asset("tasks.html", "templates/page.js") + script),
        plotting_library=_plotting_library() if FIGURE_CLASS in body else "",
    )


@functools.cache
def _frame() -> jinja2.Template:
    return templates("tasks.html").get_template("frame.html.j2")


def _trusted(text: str) -> Markup:
    """Return one of our own style sheets or scripts, which needs no escaping."""
    return Markup(text)  # noqa: S704 (our own files)


def asset(package: str, name: str) -> str:
    """Return the text of a file that is part of ``package``."""
    return (resources.files(package) / name).read_text(encoding="utf-8")


@functools.cache
def _plotting_library() -> str:
    from plotly.offline import get_plotlyjs

    return packed(get_plotlyjs().encode())


def packed(document: bytes) -> str:
    """Compress to gzip + base64, which needs no escaping in HTML. Deterministic."""
    return base64.b64encode(gzip.compress(document, compresslevel=9, mtime=0)).decode("ascii")


def figure_data(document: Mapping[str, Any]) -> Markup:
    """Return the script element that holds the data of a figure."""
    text = packed(json.dumps(document, separators=(",", ":"), allow_nan=False).encode())
    return Markup(f'<script type="application/octet-stream" {FIGURE_CLASS}>{text}</script>')  # noqa: S704 (base64)


def figure(traces: Sequence[Mapping[str, Any]], layout: Mapping[str, Any]) -> Markup:
    """Return a figure of Plotly traces and layout; colours may name style sheet variables, such as ``--text``."""
    place = Markup('<div class="plot" data-figure><p class="needs-script">The figure needs JavaScript.</p></div>\n')
    return place + figure_data({"traces": traces, "layout": layout})


def write(html: str, file: Path) -> None:
    """Write a page atomically."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_durably(file, html.encode())
