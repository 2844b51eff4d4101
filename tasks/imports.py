"""Find the code that a module depends on: itself, what it imports, directly or not, and the libraries that it uses.

What decides a result is found this way and never kept as a list. Code is compared by its statements, without comments,
docstrings and layout.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from pathlib import Path

_OURS = __name__.partition(".")[0]


@cache
def version_of(distribution: str) -> str:
    """Return its version; empty if it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


@cache
def code_digest(*modules: str) -> str:
    """Return a digest of the statements of ``code_of(*modules)``."""
    found = hashlib.sha256()
    for name in sorted(code_of(*modules)):
        part = f"{name} {_statements(name)}".encode()
        found.update(len(part).to_bytes(8, "little") + part)
    return found.hexdigest()


def code_of(*modules: str) -> set[str]:
    """Return ``modules`` and what they import, directly or not, as far as it is source that no version stands for.

    From our package only our package is followed. From a module of somebody else: our package, all of its own
    distribution, and what belongs to no distribution.
    """
    found: set[str] = set()
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name in found or source_of(name) is None:
            continue
        found.add(name)
        parent = [name.rpartition(".")[0]] if "." in name else []
        waiting += [each for each in (*imports_of(name), *parent) if _is_followed(each, name)]
    return found


def imported_packages(*modules: str) -> set[str]:
    """Return the top-level packages that ``code_of(*modules)`` imports and that are not part of it."""
    code = code_of(*modules)
    imported = {(each, name) for name in code for each in imports_of(name)}
    packages = {_top(each) for each, name in imported if not _is_followed(each, name)}
    return packages - sys.stdlib_module_names


def library_versions(module: str) -> dict[str, str]:
    """Return by distribution the versions of the libraries that a module of another package uses, and of its own.

    Our own modules have none: what they use is the same for all (``tasks.rca.run.environment``).
    """
    if _top(module) == _OURS:
        return {}
    others = {name for name in code_of(module) if _top(name) != _OURS}
    used = {_top(each) for name in others for each in imports_of(name)} | {_top(module)}
    distributions = {_distribution(package) for package in used - sys.stdlib_module_names - {_OURS}}
    return {name: version_of(name) for name in sorted(distributions) if name}


def _top(module: str) -> str:
    return module.partition(".")[0]


def _is_followed(imported: str, by: str) -> bool:
    package, own = _top(imported), _top(by)
    if package in (_OURS, own):
        return True
    if own == _OURS or package in sys.stdlib_module_names:
        return False
    return _distribution(package) in ("", _distribution(own))


def _distribution(package: str) -> str:
    """Return the distribution that a top-level package belongs to; empty if none says so."""
    if version_of(package):
        return package
    return next(iter(_distributions().get(package, ())), "")


@cache
def _distributions() -> dict[str, list[str]]:
    return dict(metadata.packages_distributions())


@cache
def source_of(module: str) -> Path | None:
    """Return the source file of a module; None if it has none or is no module, such as a function imported by name."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    is_source = spec is not None and spec.origin is not None and spec.origin.endswith(".py")
    return Path(str(spec.origin)) if spec is not None and is_source else None


def _tree(module: str) -> ast.Module:
    file = source_of(module)
    return ast.parse(file.read_bytes() if file is not None else b"")


@cache
def _statements(module: str) -> str:
    """Return a digest of the module's code in one form, whatever its comments, docstrings and layout."""
    tree = _tree(module)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            node.body = [line for line in node.body if not _is_text(line)]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


def _is_text(statement: ast.stmt) -> bool:
    """Tell whether a statement is a docstring of a module, class, function or constant: text that does nothing."""
    value = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


@cache
def imports_of(module: str) -> tuple[str, ...]:
    """Return what the module imports when it runs, wherever in it; not what it imports for type checkers only."""
    return tuple(_imported(module))


def _imported(module: str) -> Iterator[str]:
    file = source_of(module)
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
