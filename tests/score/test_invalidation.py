"""A kept ranking is good until its code or its data changes, and no longer: edits in a copy of the package."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.imports import code_of
from tasks.rca.registry import list_methods
from tests.command import ROOT
from tests.synthetic import synthetic_case

METHODS = ["random", "nsigma", "baro", "microrank@llm"]
SCRIPT = """
import sys
from pathlib import Path
import tasks
from tasks.score.campaign import rank_campaign
from tasks.score import campaign
from tasks.score.store import PairStore
from tests.rca.views import score_params
from tests.score.processes import InThisProcess

assert Path(tasks.__file__).is_relative_to(sys.argv[1]), tasks.__file__

class Pool(InThisProcess):
    def __init__(self, limits, workers=None):
        super().__init__(limits)

    def start(self, job):
        print("ran", job.name, flush=True)
        super().start(job)

campaign.LocalPool = Pool
rank_campaign(Path(sys.argv[2]), score_params(methods=sys.argv[4:], profile="paper"), PairStore(Path(sys.argv[3])))
"""


@pytest.fixture
def ranked(tmp_path: Path) -> Callable[[], list[str]]:
    """Ranks one case with the copy of the package, and says which methods ran."""
    shutil.copytree(ROOT / "tasks", tmp_path / "copy" / "tasks", ignore=shutil.ignore_patterns("__pycache__"))
    synthetic_case(tmp_path / "cases", "c0")
    path = os.pathsep.join([str(tmp_path / "copy"), str(ROOT), *(entry for entry in sys.path if entry)])

    def run() -> list[str]:
        process = subprocess.run(
            [
                sys.executable,
                "-P",
                "-c",
                SCRIPT,
                *(str(tmp_path / name) for name in ("copy", "cases", "kept")),
                *METHODS,
            ],
            env={**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert process.returncode == 0, process.stderr
        return sorted(line.split()[1] for line in process.stdout.splitlines() if line.startswith("ran "))

    return run


@pytest.mark.timeout(400)
def test_an_edit_invalidates_what_it_may_change_and_no_more(ranked: Callable[[], list[str]], tmp_path: Path) -> None:
    def add(file: str, text: str) -> None:
        path = tmp_path / "copy" / "tasks" / file
        path.write_text(path.read_text() + text)

    def edit(file: str, old: str, new: str) -> None:
        path = tmp_path / "copy" / "tasks" / file
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new, 1))

    assert ranked() == sorted(METHODS)
    add("rca/run/local_pool.py", "\n# A remark.\n")
    assert ranked() == []
    for file in ("rca/run/ray_pool.py", "rca/run/runner.py", "rca/metric/rcd.py", "params.py", "score/tables.py"):
        add(file, "\nMORE = 1\n")
    for file in ("rca/metric/nsigma.py", "rca/features/deviation.py", "metrics.py"):
        add(file, "\n# A remark.\n")
        edit(file, '"""', '"""Other words. ')
    assert ranked() == []
    add("rca/metric/nsigma.py", "\nMORE = 1\n")
    assert ranked() == ["nsigma"]
    add("rca/features/deviation.py", "\nMORE = 1\n")
    assert ranked() == sorted(name for name in METHODS if name != "random")
    edit("metrics.py", 'ALL_ROLES, "paper", key=True', 'ALL_ROLES, "llm", key=True')
    assert ranked() == sorted(METHODS)
    add("rca/run/pair.py", "\nMORE = 1\n")
    assert ranked() == sorted(METHODS)


def test_data_decide_too(ranked: Callable[[], list[str]], tmp_path: Path) -> None:
    assert ranked() == sorted(METHODS)
    shutil.rmtree(tmp_path / "cases")
    synthetic_case(tmp_path / "cases", "c0", seed=1)
    assert ranked() == sorted(METHODS)


def test_the_code_of_a_method_is_what_it_imports() -> None:
    nsigma = code_of("tasks.rca.metric.nsigma")
    assert {"tasks", "tasks.rca", "tasks.rca.metric.nsigma", "tasks.rca.features.deviation", "tasks.rca.view"} <= nsigma
    for method in list_methods():
        if method.module.startswith("tasks."):
            others = code_of(method.module) & {"tasks.rca.run.runner", "tasks.rca.run.local_pool", "tasks.params"}
            assert not others, method.name


def test_imports_of_every_kind_are_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "some_package"
    (package / "inner").mkdir(parents=True)
    sources = {
        "__init__": "",
        "inner/__init__": "from . import deep\n",
        "inner/deep": "from ..up import x as y\n",
        "up": "x = 1\ndef f():\n    import some_package.late as late\n",
        "late": "import numpy\n",
        "types_only": "",
        "stranger": "",
        "start": "from typing import TYPE_CHECKING\nfrom some_package import inner\n"
        "if TYPE_CHECKING:\n    from some_package import types_only\n",
    }
    for name, source in sources.items():
        (package / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    found = {name.removeprefix("some_package").lstrip(".") for name in code_of("some_package.start")}
    assert found == {"", "start", "inner", "inner.deep", "up", "late"}
