"""The example of docs/add-a-method.md works as printed."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest

from tasks.rca import metric
from tasks.rca.method import REGISTRY
from tasks.rca.registry import list_methods

DOCS = Path(__file__).parents[2] / "docs"


def test_the_example_method_registers_and_passes_its_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    method_code, test_code = re.findall(r"```python\n(.*?)```", (DOCS / "add-a-method.md").read_text(), re.DOTALL)
    (tmp_path / "mean_shift.py").write_text(method_code)
    (tmp_path / "example_test.py").write_text(test_code)
    monkeypatch.setattr(metric, "__path__", [*metric.__path__, str(tmp_path)])
    try:
        runpy.run_path(str(tmp_path / "example_test.py"))["test_known_answer"]()
        assert REGISTRY["mean_shift"].summary.startswith("Metrics by how far")
    finally:
        REGISTRY.pop("mean_shift", None)
        sys.modules.pop("tasks.rca.metric.mean_shift", None)


def test_every_method_has_its_line_in_the_table() -> None:
    table = (DOCS / "methods.md").read_text()
    for known in list_methods():
        if known.module.startswith("tasks."):
            assert f"| `{known.name}` | {known.family} |" in table
