"""The layouts that can be imported."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from tasks.datasets.dataset import Found, Overrides

    Reader: TypeAlias = Callable[[Path, Overrides], Found]


class Layout(StrEnum):
    """Each is a module of this package with a function ``find(directory, overrides)``."""

    RCAEVAL = "rcaeval"
    PETSHOP = "petshop"
    NEZHA = "nezha"


class ExportLayout(StrEnum):
    """The layouts that cases can be exported to."""

    RCAEVAL = "rcaeval"


def reader(layout: Layout) -> Reader:
    found: Reader = import_module(f"tasks.datasets.{layout.value}").find
    return found
