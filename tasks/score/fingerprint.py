"""Keys of kept results: the same key means the same result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.case import MANIFEST_FILE
from tasks.identity import canonical
from tasks.imports import code_digest, library_versions, version_of
from tasks.metrics import Profile
from tasks.params import ScoreParams
from tasks.rca.method import Method
from tasks.rca.run.environment import libraries

_VIEW_CODE = "tasks.rca.run.builder"
"""What makes a view of a case."""
_TRAITS_CODE = "tasks.score.traits"
"""What makes the traits of a case."""
_RESULT_CODE = "tasks.rca.run.pair"
"""What makes a result of a method's answer."""


def traits_key(case: Path) -> str:
    """Return the key of the traits of a finished case."""
    return _key({"manifest": _manifest(case), "libraries": libraries(), "code": code_digest(_TRAITS_CODE)})


def view_key(case: Path, params: ScoreParams, profile: Profile | None = None) -> str:
    """Return the key of the view that methods get of a finished case, under ``profile`` or that of the parameters."""
    seen = {name: getattr(params, name) for name in ("inject_time", "baseline_s", "fault_s", "include_ineffective")}
    seen["profile"] = profile or params.profile
    if params.inject_time_error_s:  # keys of results from before it was there stay as they are
        seen["inject_time_error_s"] = params.inject_time_error_s
    return _key({"manifest": _manifest(case), "view": seen, "libraries": libraries(), "code": code_digest(_VIEW_CODE)})


def pair_key(view: str, method: Method, parameters: Mapping[str, Any], params: ScoreParams) -> str:
    """Return the key of a method on the view with the key ``view``."""
    return _key(
        {
            "view": view,
            "method": method.name,
            "parameters": parameters,
            "source": code_digest(method.module),
            "result": code_digest(_RESULT_CODE),
            "packages": library_versions(method.module) | {name: version_of(name) for name in method.packages},
            "seed": params.seed,
            "limits": [params.timeout_s, params.memory_mb],
        }
    )


def _manifest(case: Path) -> str:
    return hashlib.sha256((case / MANIFEST_FILE).read_bytes()).hexdigest()


def _key(what: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(canonical(what), sort_keys=True, default=str).encode()).hexdigest()[:40]
