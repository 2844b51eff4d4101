"""The same small stack as the faults' tests."""

from __future__ import annotations

from tests.inject.conftest import clean, stack

__all__ = ["clean", "stack"]
