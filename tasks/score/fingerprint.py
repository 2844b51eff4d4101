"""What decides the result of a pair, as a short key: same key, same result."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from tasks.case import MANIFEST_FILE
from tasks.identity import canonical
from tasks.params import ScoreParams
from tasks.rca.environment import digest, environment, version_of
from tasks.rca.method import Method
from tasks.rca.profile import Profile

_METHOD_PACKAGES = tuple(f"tasks.rca.{family}." for family in ("metric", "trace", "multi_source"))


def view_key(case: Path, params: ScoreParams, profile: Profile | None = None) -> str:
    """Of the view that the methods get of a finished case, under ``profile`` or that of the parameters."""
    manifest = hashlib.sha256((case / MANIFEST_FILE).read_bytes()).hexdigest()
    seen = {name: getattr(params, name) for name in ("inject_time", "baseline_s", "fault_s", "include_ineffective")}
    seen["profile"] = profile or params.profile
    return _key({"manifest": manifest, "view": seen, "environment": environment()})


def pair_key(view: str, method: Method, parameters: Mapping[str, Any], params: ScoreParams) -> str:
    """Of a method on the view with the key ``view``."""
    return _key(
        {
            "view": view,
            "method": method.name,
            "parameters": parameters,
            "source": _source_digest(method.module),
            "packages": {package: version_of(package) for package in method.packages},
            "seed": params.seed,
            "limits": [params.timeout_s, params.memory_mb],
        }
    )


def _key(what: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(canonical(what), sort_keys=True, default=str).encode()).hexdigest()[:40]


@cache
def _source_digest(module: str) -> str:
    """Of the module and of the other methods' modules that it imports, directly or not; what all share is in
    ``environment``."""
    found: dict[str, bytes] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        source = _source(name)
        if name in found or source is None:
            continue
        found[name] = source
        waiting += [imported for imported in _imports(source) if imported.startswith(_METHOD_PACKAGES)]
    return digest(found[name] for name in sorted(found))


def _source(module: str) -> bytes | None:
    """None if there is no such module: what is imported from a module may be a function of it."""
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        return None
    return Path(spec.origin).read_bytes() if spec is not None and spec.origin is not None else None


def _imports(source: bytes) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
