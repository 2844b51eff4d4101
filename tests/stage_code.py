"""The code of the offline stages, for repositories of tests."""

from __future__ import annotations

import shutil
from pathlib import Path

from tasks.record.stage_code import PACKAGES, stage_code
from tests.command import ROOT


def copy_stage_code(repository: Path) -> None:
    """Copy what ``dvc.yaml`` names as code."""
    for path in {path for stage in PACKAGES for path in stage_code(stage)}:
        target = repository / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / path).is_dir():
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / path, target, dirs_exist_ok=True, ignore=ignore)
        else:
            shutil.copy(ROOT / path, target)
