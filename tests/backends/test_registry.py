"""What a backend must have to be found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import pytest

from tasks.backends import BACKENDS, UnknownBackendError, backend_problems, find, published, running
from tasks.backends.base import Backend
from tasks.backends.local.backend import LocalBackend
from tasks.deploy.errors import StackNotRunningError
from tasks.deploy.local.params import LocalDeployParams
from tasks.stack import StackParams


class OtherParams(StackParams):
    backend: Literal["other"]


class Unfinished(Backend[OtherParams]):
    name = "unfinished"
    parameters = OtherParams


@pytest.mark.parametrize("name", ["kubernetes", "local"])
def test_ours_are_whole(name: str) -> None:
    assert name in BACKENDS.names()
    assert backend_problems(find(name)) == []
    assert find(name).name == name


def test_what_is_missing_is_named() -> None:
    problems = backend_problems(Unfinished)
    assert "it has no up" in problems
    assert "it has no faults" in problems
    assert problems[-1] == "in its parameters `backend` must be the literal 'unfinished'"


def test_an_unknown_backend_is_named_with_those_there_are() -> None:
    with pytest.raises(UnknownBackendError, match="unknown backend 'locl'; did you mean 'local'"):
        find("locl")


@pytest.mark.parametrize("content", ["", "[]", "{}", "torn", '{"backend": "local"}'])
def test_what_is_no_published_stack_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "runtime.json").write_text(content)
    assert published(tmp_path) is None
    with pytest.raises(StackNotRunningError, match="rcarena deploy up"):
        running(tmp_path)


def test_a_command_that_a_backend_lacks_names_those_that_have_it(tmp_path: Path) -> None:
    from tasks.errors import ParamsError
    from tasks.workspace import Workspace

    local = LocalBackend(LocalDeployParams(backend="local", replicas=1), Workspace(tmp_path))
    with pytest.raises(ParamsError, match=r"^deploy\.backend: `deploy plan` needs .*kubernetes.* \(got local\)$"):
        local.plan()
    assert json.loads(json.dumps(local.status(local.workspace, None).document))["state"] == "down"
