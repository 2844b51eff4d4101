"""Reads a page back, for tests."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser


@dataclass
class Table:
    """Text and attributes of every cell; head rows first."""

    rows: list[list[str]] = field(default_factory=list)
    attributes: list[list[dict[str, str | None]]] = field(default_factory=list)


class Page(HTMLParser):
    """Tags with their attributes, the text outside of scripts and styles, and tables.

    ``tables``: the first of each name; a name is the id of the section it stands in, then ``/`` and its number (from
    1) after the first. ``data``: JSON scripts by id.
    """

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.tables: dict[str, Table] = {}
        self.data: dict[str, str] = {}
        self._hidden = ""
        self._script = ""
        self._section = ""
        self._table: Table | None = None
        self._cell = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append((tag, found))
        if tag in ("script", "style"):
            self._hidden, self._script = tag, found.get("id") or ""
        if tag == "section" and found.get("id"):
            self._section = found["id"] or ""
        if tag == "details" and found.get("class") == "case":
            self._section = found["id"] or ""
        if tag == "table":
            name, number = self._section, 1
            while name in self.tables:
                number += 1
                name = f"{self._section}/{number}"
            self._table = self.tables[name] = Table()
        if tag == "tr" and self._table:
            self._table.rows.append([])
            self._table.attributes.append([])
        if tag in ("td", "th") and self._table:
            self._table.rows[-1].append("")
            self._table.attributes[-1].append(found)
            self._cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag == self._hidden:
            self._hidden = ""
        if tag in ("td", "th") and self._table:
            self._table.rows[-1][-1] = " ".join(self._table.rows[-1][-1].split())
            self._cell = False
        if tag == "table":
            self._table = None

    def handle_data(self, data: str) -> None:
        if self._hidden:
            self.data[self._script] = data
            return
        self.text.append(data)
        if self._cell and self._table:
            self._table.rows[-1][-1] += data

    def count(self, tag: str, **attributes: str) -> int:
        return sum(tag == name and attributes.items() <= found.items() for name, found in self.tags)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())
