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
    """The stack without faults; what a test leaves behind is its failure, and is removed for the next one."""
    yield stack
    left = residue(stack.workspace)
    if left:
        recover(stack.workspace)
    assert left == []
