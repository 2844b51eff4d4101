"""What decides a result besides its input: code and libraries. Two processes that share it give the same results.

Code is what a module imports, directly or not, as far as it is ours: its statements, without comments, docstrings and
layout. Which code decides what is so never kept as a list.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import pkgutil
import platform
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from pathlib import Path

from tasks.rca.method import FAMILY_PACKAGES

_LIBRARIES = ("numpy", "pandas", "pyarrow", "scipy", "scikit-learn")
_OURS = __name__.partition(".")[0]
_WORKER = "tasks.rca.run.worker"


def libraries() -> dict[str, str]:
    """By name: the interpreter, the machine's kind, and the versions of the libraries that all methods share."""
    versions = {library: version_of(library) for library in _LIBRARIES}
    return {"python": platform.python_version(), "machine": platform.machine()} | versions


@cache
def _environment() -> tuple[tuple[str, str], ...]:
    methods = [
        f"{family}.{module.name}"
        for family in FAMILY_PACKAGES
        for module in pkgutil.iter_modules(importlib.import_module(family).__path__)
    ]
    return tuple(({"rcarena's RCA code": code_digest(_WORKER, *methods)[:12]} | libraries()).items())


def environment() -> dict[str, str]:
    """By name: a digest of the code that runs methods and of the methods, and ``libraries``."""
    return dict(_environment())


@cache
def version_of(distribution: str) -> str:
    """Empty if it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


@cache
def code_digest(*modules: str) -> str:
    """Of the statements of ``modules`` and of all that they import from our package or from their own."""
    found = hashlib.sha256()
    for name in sorted(code_of(*modules)):
        part = f"{name} {_statements(name)}".encode()
        found.update(len(part).to_bytes(8, "little") + part)
    return found.hexdigest()


def code_of(*modules: str) -> set[str]:
    """The modules that ``code_digest`` is of."""
    roots = {_OURS, *(module.partition(".")[0] for module in modules)}
    found: set[str] = set()
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name in found or name.partition(".")[0] not in roots or _file(name) is None:
            continue
        found.add(name)
        waiting += [*_imports(name), *([name.rpartition(".")[0]] if "." in name else [])]
    return found


@cache
def _file(module: str) -> Path | None:
    """None if there is no such module (what is imported from a module may be a function of it) or it has no source."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    is_source = spec is not None and spec.origin is not None and spec.origin.endswith(".py")
    return Path(str(spec.origin)) if spec is not None and is_source else None


def _tree(module: str) -> ast.Module:
    file = _file(module)
    return ast.parse(file.read_bytes() if file is not None else b"")


@cache
def _statements(module: str) -> str:
    """A digest of the module's code in one form, whatever its comments, docstrings and layout."""
    tree = _tree(module)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            node.body = [line for line in node.body if not _is_text(line)]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


def _is_text(statement: ast.stmt) -> bool:
    """A docstring, of a module, class, function or constant: text that nothing is done with."""
    value = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


@cache
def _imports(module: str) -> tuple[str, ...]:
    """What the module imports when it runs, wherever in it; not what it imports for type checkers only."""
    return tuple(_imported(module))


def _imported(module: str) -> Iterator[str]:
    file = _file(module)
    is_package = file is not None and file.name == "__init__.py"
    waiting: list[ast.AST] = [_tree(module)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            waiting += node.orelse
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = module.split(".")[: len(module.split(".")) - node.level + is_package] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            yield source
            yield from (f"{source}.{alias.name}" for alias in node.names)
        waiting += ast.iter_child_nodes(node)
