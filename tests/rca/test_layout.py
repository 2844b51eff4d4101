"""What each part of ``tasks/rca`` may import."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tasks.imports import imports_of, source_of
from tests.command import ROOT

PACKAGE = ROOT / "tasks" / "rca"
CONTRACT = {"tasks.rca.view", "tasks.rca.method", "tasks.rca.context"}
VOCABULARY = {"tasks.metrics", "tasks.spans", "tasks.requests", "tasks.case"}
"""Of ``tasks.case`` only what the last test allows."""
METHODS = ("metric", "trace", "multi_source")


def modules(*folders: str) -> list[str]:
    files = [file for folder in folders for file in sorted((PACKAGE / folder).glob("*.py"))]
    return [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files if file.name != "__init__.py"]


def imported(module: str) -> set[str]:
    """Our modules that it imports, without the packages around them."""
    found = {name for name in imports_of(module) if name.startswith("tasks.") and source_of(name) is not None}
    return {name for name in found if not any(other.startswith(f"{name}.") for other in found)}


@pytest.mark.parametrize("module", modules(*METHODS))
def test_a_method_needs_the_contract_and_building_blocks_alone(module: str) -> None:
    """So a package of somebody else can have the same."""
    allowed = CONTRACT | VOCABULARY | set(modules("features", "graph"))
    assert imported(module) <= allowed


@pytest.mark.parametrize("module", modules("features", "graph"))
def test_building_blocks_know_no_method_and_nothing_that_runs_them(module: str) -> None:
    assert imported(module) <= CONTRACT | VOCABULARY | set(modules("features", "graph"))


@pytest.mark.parametrize("module", ["tasks.rca.view", "tasks.rca.method", "tasks.rca.context", "tasks.rca.registry"])
def test_the_contract_knows_no_method_and_nothing_that_runs_them(module: str) -> None:
    assert not [name for name in imported(module) if name.startswith(("tasks.rca.run", "tasks.rca.graph"))]


@pytest.mark.parametrize("module", modules("run"))
def test_what_runs_methods_finds_them_by_name(module: str) -> None:
    assert not set(modules(*METHODS)) & imported(module)


def test_only_what_builds_views_reads_cases() -> None:
    """A case holds the answer; elsewhere ``tasks.case`` gives the names of relations and nothing more."""
    taken: dict[str, set[str]] = {}
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_bytes())):
            if isinstance(node, ast.ImportFrom) and node.module == "tasks.case":
                taken.setdefault(str(Path(file).relative_to(PACKAGE)), set()).update(name.name for name in node.names)
            elif isinstance(node, ast.Import):
                assert "tasks.case" not in {name.name for name in node.names}, file
    readers = {name for name, names in taken.items() if not names <= {"CALLS", "RUNS_ON"}}
    assert readers == {"run/build_view.py", "run/build_context.py", "run/builder.py"}
