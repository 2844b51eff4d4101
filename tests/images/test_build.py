"""images/build.sh by its dry run, and the locks that the images install."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "images/build.sh"
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
NAMES = ["tasks", "gpu-agent", "serve", "serve-cpu", "airflow"]


def build(*arguments: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = os.environ | ({"PATH": path} if path is not None else {})
    return subprocess.run([SCRIPT, *arguments], capture_output=True, text=True, check=False, env=environment)


def commands(*arguments: str) -> list[list[str]]:
    done = build("--dry-run", "--engine", "podman", *arguments)
    assert done.returncode == 0, done.stderr
    return [shlex.split(line) for line in done.stdout.splitlines()]


def option(command: list[str], name: str) -> str:
    return command[command.index(name) + 1]


def test_all_images_are_built_from_their_folders():
    built = commands()
    assert [option(each, "--tag") for each in built] == [f"rcarena/{name}:{VERSION}" for name in NAMES]
    assert all(each[:2] == ["podman", "build"] and each[-1] == "." for each in built)
    assert all((ROOT / option(each, "--file")).is_file() for each in built)
    assert [option(each, "--target") for each in built if "--target" in each] == ["gpu", "cpu"]


def test_every_base_is_passed_on():
    (command,) = commands("tasks")
    given = [command[number + 1] for number, word in enumerate(command) if word == "--build-arg"]
    lines = [line for line in (ROOT / "images/bases.env").read_text().splitlines() if "=" in line and line[0] != "#"]
    assert given[: len(lines)] == lines
    assert f"VERSION={VERSION}" in given


def test_push_names_the_registry_and_the_tag():
    built = commands("--push", "registry.example/team/", "--tag", "1.2.3", "--platform", "linux/amd64", "gpu-agent")
    image = "registry.example/team/rcarena/gpu-agent:1.2.3"
    assert option(built[0], "--tag") == image
    assert option(built[0], "--platform") == "linux/amd64"
    assert built[1] == ["podman", "push", image]


def test_a_pip_configuration_is_a_secret_of_the_build(tmp_path: Path):
    configuration = tmp_path / "pip.conf"
    configuration.write_text("[global]\n")
    (command,) = commands("--pip-conf", str(configuration), "tasks")
    assert option(command, "--secret") == f"id=pip.conf,src={configuration}"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["nginx"], "unknown image 'nginx'; allowed: tasks gpu-agent serve serve-cpu airflow"),
        (["--pull"], "unknown option '--pull'; see --help"),
        (["--push"], "--push needs a value"),
        (["--engine", "lxc", "--dry-run"], "unknown engine 'lxc'; allowed: docker, buildah, podman"),
        (["--pip-conf", "/nowhere", "--engine", "docker", "--dry-run"], "--pip-conf: cannot read /nowhere"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_status_2(arguments: list[str], problem: str):
    done = build(*arguments)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"build.sh: {problem}\n")


def test_help():
    done = build("--help")
    assert done.returncode == 0
    assert all(name in done.stdout for name in NAMES)


def test_the_first_engine_that_is_there_is_used(tmp_path: Path):
    for name in ("buildah", "podman"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    for name in ("bash", "dirname", "sed", "git", "grep", "env"):
        (tmp_path / name).symlink_to(f"/usr/bin/{name}")
    done = build("--dry-run", "tasks", path=str(tmp_path))
    assert done.stdout.startswith("buildah build "), done.stderr


def test_pinning_writes_digests_behind_the_tags(tmp_path: Path):
    digest = f"sha256:{'ab' * 32}"
    copy = tmp_path / "checkout/images"
    copy.mkdir(parents=True)
    for name in ("build.sh", "bases.env"):
        (copy / name).write_bytes((ROOT / "images" / name).read_bytes())
    (copy / "build.sh").chmod(0o755)
    (tmp_path / "checkout/pyproject.toml").write_text('version = "1"\n')
    (tmp_path / "skopeo").write_text(f"#!/bin/sh\necho {digest}\n")
    (tmp_path / "skopeo").chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    for _ in range(2):
        subprocess.run([copy / "build.sh", "--pin"], check=True, capture_output=True, env=environment)
    lines = [line for line in (copy / "bases.env").read_text().splitlines() if not line.startswith("#")]
    before = [line for line in (ROOT / "images/bases.env").read_text().splitlines() if not line.startswith("#")]
    assert lines == [f"{line.partition('@')[0]}@{digest}" for line in before]


def test_the_locks_are_current():
    done = subprocess.run(
        [sys.executable, ROOT / "scripts/image-locks", "--check"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("lock", "needed"), [("image", "dvc ray kubernetes orjson"), ("agent", "kubernetes pydantic typer")]
)
def test_the_locks_are_parts_of_the_whole_without_tools(lock: str, needed: str):
    lines = (ROOT / f"requirements/{lock}.lock").read_text().splitlines()[1:]
    assert set(lines) <= set((ROOT / "requirements/tasks.lock").read_text().splitlines())
    names = {line.split("==")[0].lower() for line in lines}
    assert set(needed.split()) <= names
    assert names.isdisjoint({"pytest", "mypy", "ruff", "hypothesis", "causal-learn", "statsmodels", "pandas-stubs"})
