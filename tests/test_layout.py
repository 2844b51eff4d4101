"""Which part of ``tasks`` may import which (the map in docs/development.md), and who knows a backend by name."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

FOUNDATIONS = ("system", "kube")
STAGES = (
    "deploy",
    "load",
    "inject",
    "actions",
    "export",
    "backends",
    "campaign",
    "datasets",
    "rca",
    "score",
    "remediate",
    "html",
    "report",
    "dataset_table",
    "study",
    "diagnose",
    "record",
    "compare",
    "commands",
    "cli",
)
"""In the order of the work: each may use what stands before it."""
ON_THE_NODE = "node_agent"
"""Runs in a container of its own; nobody imports it."""
SEAM = ("tasks.backends", "tasks.backends.base")
"""All that anybody but a backend itself knows of the backends."""
SHARED_BY_BACKENDS = ("tasks.inject.faults", "tasks.actions.kinds")
"""A fault kind or an action is one file, with its executors for every backend."""
BUILT_ON = {"kubernetes": ("tasks.backends.attached.faults",)}
"""Backend -> modules of another that build on its executors: faults on pods of somebody else are those on ours."""


@dataclass(frozen=True)
class Import:
    """``by`` imports ``module``: when it is imported itself (``at_once``), when a function runs, or for types only."""

    by: str
    module: str
    at_once: bool
    for_types: bool = False

    def __str__(self) -> str:
        return f"{self.by} imports {self.module}"


Sources = Mapping[str, str]
"""Module -> source; a package has the name of its folder."""


def sources_of(package: Path) -> dict[str, str]:
    files = {".".join(file.relative_to(package.parent).with_suffix("").parts): file for file in package.rglob("*.py")}
    return {name.removesuffix(".__init__"): file.read_text(encoding="utf-8") for name, file in files.items()}


def imports(sources: Sources) -> list[Import]:
    """Every import of one of the modules by another."""
    return [
        each for name, source in sources.items() for each in _imports(ast.parse(source), name, sources, True, False)
    ]


def _imports(node: ast.AST, by: str, sources: Sources, at_once: bool, for_types: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            names = [alias.name for alias in child.names]
        elif isinstance(child, ast.ImportFrom):
            assert not child.level, f"{by}: imports are written out"
            names = [
                whole if (whole := f"{child.module}.{alias.name}") in sources else str(child.module)
                for alias in child.names
            ]
        else:
            later = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            types = isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING")
            yield from _imports(child, by, sources, at_once and not later and not types, for_types or types)
            continue
        yield from (Import(by, name, at_once, for_types) for name in names if name in sources and name != by)


def part_of(module: str) -> str:
    """The stage or foundation that a module belongs to; else ``vocabulary``."""
    if module in SEAM:
        return "seam"
    parts = module.split(".")
    known = (*FOUNDATIONS, *STAGES, ON_THE_NODE)
    return parts[1] if len(parts) > 1 and parts[1] in known else "vocabulary"


def upward_imports(sources: Sources) -> list[str]:
    """The vocabulary and the foundations import no stage, a stage no later one, the seam nothing but ``deploy``."""
    rank = {
        **dict.fromkeys(("vocabulary", *FOUNDATIONS), 0),
        "deploy": 1,
        "seam": 2,
        **{stage: number for number, stage in enumerate(STAGES[1:], start=3)},
    }
    problems = []
    for each in imports(sources):
        by, module = part_of(each.by), part_of(each.module)
        types_of_the_seam = by == "seam" and each.for_types
        registry = by == "vocabulary" and each.module == "tasks.backends"
        if ON_THE_NODE in (by, module):
            allowed = by == ON_THE_NODE and module in (ON_THE_NODE, "vocabulary", *FOUNDATIONS)
        else:
            allowed = types_of_the_seam or registry or rank[module] <= rank[by]
        problems += [] if allowed else [str(each)]
    return problems


def circles(sources: Sources) -> list[str]:
    """Modules that import each other when they are imported; the first circle found."""
    graph: dict[str, set[str]] = {name: set() for name in sources}
    for each in imports(sources):
        if each.at_once:
            graph[each.by].add(each.module)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return [" imports ".join(reversed(error.args[1]))]
    return []


def backend_names(sources: Sources) -> set[str]:
    """A folder in ``tasks/backends`` is a backend."""
    modules = [name.split(".") for name in sources if name.startswith("tasks.backends.")]
    return {parts[2] for parts in modules if len(parts) > 3}


def insiders(sources: Sources) -> list[str]:
    """Imports of a backend's own modules by others than the backend itself."""
    names = backend_names(sources)
    return [
        str(each)
        for each in imports(sources)
        for name in names & set(each.module.split("."))
        if name not in each.by.split(".") and not each.by.startswith((*SHARED_BY_BACKENDS, *BUILT_ON.get(name, ())))
    ]


def choices(sources: Sources) -> list[str]:
    """Comparisons with the name of a backend outside it."""
    names = backend_names(sources)
    return [
        f"{module}:{node.lineno} asks whether something is '{text.value}'"
        for module, source in sources.items()
        if not names & set(module.split("."))
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Compare | ast.MatchValue)
        for text in ast.walk(node)
        if isinstance(text, ast.Constant) and text.value in names
    ]


CHECKS = (upward_imports, circles, insiders, choices)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_code_keeps_its_directions(check: Callable[[Sources], list[str]]) -> None:
    assert check(sources_of(ROOT / "tasks")) == []


def test_every_folder_has_its_place() -> None:
    folders = {each.parent.name for each in (ROOT / "tasks").glob("*/__init__.py")}
    assert folders == {*FOUNDATIONS, *STAGES, ON_THE_NODE} - {"cli"}


GOOD = {
    "tasks": "",
    "tasks.params": "from tasks.backends import find",
    "tasks.system.lock": "",
    "tasks.deploy.errors": "",
    "tasks.backends": "import tasks.deploy.errors\nif TYPE_CHECKING:\n    from tasks.inject.start import inject",
    "tasks.backends.moon": "from tasks.backends.moon.backend import up",
    "tasks.backends.moon.backend": "def up():\n    from tasks.inject.executors.moon import dust",
    "tasks.inject.executors.moon": "",
    "tasks.inject.faults.dust": "from tasks.inject.executors import moon",
    "tasks.inject.start": "from tasks import backends",
    "tasks.score.files": "",
    "tasks.node_agent.agent": "from tasks.system import lock",
}


SCORE, AGENT, DUST = "tasks.score.files", "tasks.node_agent.agent", "tasks.inject.executors.moon"


@pytest.mark.parametrize(
    ("module", "source", "imported"),
    [
        ("tasks.params", "import tasks.score.files", SCORE),
        ("tasks.case", "def f():\n    from tasks.score import files", SCORE),
        ("tasks.case", "if typing.TYPE_CHECKING:\n    import tasks.score.files", SCORE),
        ("tasks.system.lock", "import tasks.deploy.errors", "tasks.deploy.errors"),
        ("tasks.system.lock", "import tasks.backends", "tasks.backends"),
        ("tasks.inject.start", "import tasks.score.files", SCORE),
        ("tasks.backends", "import tasks.inject.start", "tasks.inject.start"),
        ("tasks.deploy.errors", "import tasks.node_agent.agent", AGENT),
        (AGENT, "import tasks.inject.start", "tasks.inject.start"),
    ],
)
def test_an_upward_import_is_found(module: str, source: str, imported: str) -> None:
    assert upward_imports(GOOD) == []
    assert upward_imports({**GOOD, module: source}) == [f"{module} imports {imported}"]


def test_a_circle_is_found() -> None:
    assert circles(GOOD) == []
    (found,) = circles({**GOOD, "tasks.deploy.errors": "import tasks.backends"})
    assert "tasks.deploy.errors imports tasks.backends" in found
    assert circles({**GOOD, "tasks.deploy.errors": "def f():\n    import tasks.backends"}) == []


@pytest.mark.parametrize(
    ("source", "imported"),
    [
        ("from tasks.backends import moon", "tasks.backends.moon"),
        ("from tasks.backends.moon.backend import up", "tasks.backends.moon.backend"),
        ("def f():\n    import tasks.inject.executors.moon", DUST),
    ],
)
def test_an_insider_is_found(source: str, imported: str) -> None:
    assert insiders(GOOD) == []
    assert insiders({**GOOD, "tasks.commands.up": source}) == [f"tasks.commands.up imports {imported}"]


@pytest.mark.parametrize(
    "source",
    ["if params.backend == 'moon': pass", "x = name in ('moon', 'sun')", "match name:\n    case 'moon': pass"],
)
def test_a_choice_by_name_is_found(source: str) -> None:
    assert choices(GOOD) == []
    assert len(choices({**GOOD, "tasks.commands.up": source})) == 1
    assert choices({**GOOD, "tasks.deploy.moon": source}) == []
