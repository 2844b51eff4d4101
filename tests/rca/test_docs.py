"""The example of docs/add-a-method.md works as printed."""

from __future__ import annotations

import re
import runpy
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks.plugins import Registry
from tasks.rca.context import Context, ServiceFacts, SignalFacts
from tasks.rca.method import METHODS, Method
from tasks.rca.run.findings import finding_problem
from tasks.rca.run.pair import run_pair
from tests.plugin_packages import install
from tests.rca.views import view_of

DOCS = Path(__file__).parents[2] / "docs"


def test_the_example_package_offers_a_method_that_passes_its_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (DOCS / "add-a-method.md").read_text()
    method_code, test_code, *_ = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (project,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    described = tomllib.loads(project)["project"]
    (tmp_path / "acme_rca").mkdir()
    (tmp_path / "acme_rca" / "__init__.py").touch()
    (tmp_path / "acme_rca" / "mean_shift.py").write_text(method_code)
    (tmp_path / "example_test.py").write_text(test_code)
    install(tmp_path, described["name"], described["entry-points"], described["version"])
    monkeypatch.syspath_prepend(tmp_path)
    registry: Registry[Method] = Registry("method", METHODS.group, METHODS.packages, METHODS.check)
    monkeypatch.setattr(registry, "registered", METHODS.registered)
    try:
        runpy.run_path(str(tmp_path / "example_test.py"))["test_known_answer"]()
        assert registry.problem("mean_shift") == ""
        assert str(registry.origin("mean_shift")) == "acme-rca 0.1"
        assert f"{METHODS.registered['mean_shift'].summary} (from acme-rca 0.1)" in text
    finally:
        METHODS.registered.pop("mean_shift", None)
        for name in ("acme_rca", "acme_rca.mean_shift"):
            sys.modules.pop(name, None)


def test_the_example_for_llm_stacks_ranks(tmp_path: Path) -> None:
    _, _, code, _ = re.findall(r"```python\n(.*?)```", (DOCS / "add-a-method.md").read_text(), re.DOTALL)
    (tmp_path / "kv_pressure.py").write_text(code)
    try:
        runpy.run_path(str(tmp_path / "kv_pressure.py"))
        view = view_of(
            {("a", "kv_cache_usage"): [0.1, 0.1, 0.2], ("b", "kv_cache_usage"): [0.1, 0.2, 0.9]}, normal_rows=2
        )
        sizes = {"a": ServiceFacts(kv_cache_bytes=1e9), "b": ServiceFacts(kv_cache_bytes=1e8)}
        context = Context(services=sizes, signals={"metrics": SignalFacts("complete", 6)})
        result = run_pair(METHODS.registered["kv_pressure"], replace(view, context=context), seed=1)
        assert [suspect.service for suspect in result.suspects] == ["a", "b"]
        other = view_of({("a", "latency_p90"): [1.0, 2.0]}, normal_rows=1)
        assert run_pair(METHODS.registered["kv_pressure"], other, seed=1).status == "missing"
    finally:
        METHODS.registered.pop("kv_pressure", None)


def test_the_example_of_a_finding_is_a_valid_answer() -> None:
    *_, code = re.findall(r"```python\n(.*?)```", (DOCS / "add-a-method.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(code, "add-a-method.md", "exec"), names)
    ranking = names["ranking"]
    assert finding_problem(ranking.findings, [service for service, _ in ranking.services]) == ""
    assert ranking.findings[0].evidence[0].during == 3.9
