"""Finds the code that the offline stages of ``dvc.yaml`` run, as paths of the repository.

Follows imports. ``dvc.yaml`` lists the same paths as deps, so that DVC runs a stage again when its
code changes; ``scripts/generate`` writes them there.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import tasks
from tasks.imports import code_of, source_of

PACKAGES = {"score": ("rca", "score"), "report": ("html", "report")}
"""Stage -> the packages that its code starts from."""
REPOSITORY = Path(str(tasks.__file__)).parents[1]


@cache
def stage_code(stage: str) -> tuple[str, ...]:
    """Return the folders of the stage's packages and every other file that they import, relative to the repository."""
    folders = [REPOSITORY / "tasks" / package for package in PACKAGES[stage]]
    own = [_module(file) for folder in folders for file in folder.rglob("*.py")]
    files = {file for module in code_of(*own) if (file := source_of(module)) is not None}
    others = {file for file in files if not any(file.is_relative_to(folder) for folder in folders)}
    return tuple(str(path.relative_to(REPOSITORY)) for path in (*folders, *sorted(others)))


def _module(file: Path) -> str:
    return ".".join(file.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")
