from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.inject.recover import recover, residue
from tests.inject.ministack import MiniStack, mini_stack


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MiniStack]:
    directory: Path = tmp_path_factory.mktemp("mini") / "workspace"
    with mini_stack(directory) as running:
        yield running


@pytest.fixture
def clean(stack: MiniStack) -> Iterator[MiniStack]:
    """The stack without faults before the test; what the test leaves behind is a failure."""
    assert residue(stack.workspace) == []
    try:
        yield stack
        assert residue(stack.workspace) == []
    finally:
        recover(stack.workspace)
