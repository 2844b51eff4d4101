"""Parametrised tests of which one value always runs and the others with ``make test-all``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def first_always(values: Iterable[Any]) -> list[Any]:
    """The values of one argument of ``parametrize``: all but the first are marked ``slow``."""
    first, *others = values
    return [first, *(pytest.param(each, marks=pytest.mark.slow) for each in others)]
