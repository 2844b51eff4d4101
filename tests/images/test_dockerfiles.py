"""Checks of the Dockerfiles that need no container engine."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "images"
FOLDERS = sorted(path.parent for path in IMAGES.glob("*/Dockerfile"))
FINAL = {"airflow": [None], "gpu-agent": [None], "serve": ["cpu", "gpu"], "tasks": [None]}
LABELS = {"title", "description", "licenses", "version", "revision"}
ROOT_USERS = {"gpu-agent"}
SECRET = re.compile(
    r"(?i)(hf_[a-z0-9]{10,}|aws_secret|password\s*=|api[_-]?key\s*=|token\s*=|BEGIN [A-Z ]*PRIVATE KEY)"
)


@dataclass(frozen=True)
class Stage:
    base: str
    name: str | None
    steps: tuple[tuple[str, str], ...]

    def values(self, instruction: str) -> list[str]:
        return [value for word, value in self.steps if word == instruction]


def parse(folder: Path) -> tuple[list[str], list[Stage]]:
    """Arguments before the first FROM, and the stages."""
    text = (folder / "Dockerfile").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    arguments: list[str] = []
    stages: list[Stage] = []
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        word, _, value = line.strip().partition(" ")
        if word == "FROM":
            base, _, name = value.partition(" AS ")
            stages.append(Stage(base, name or None, ()))
        elif not stages:
            assert word == "ARG", line
            arguments.append(value)
        else:
            last = stages[-1]
            stages[-1] = Stage(last.base, last.name, (*last.steps, (word, value.strip())))
    return arguments, stages


def bases() -> dict[str, str]:
    lines = (IMAGES / "bases.env").read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def final_stages(folder: Path) -> list[Stage]:
    stages = parse(folder)[1]
    return [
        stages[-1] if name is None else next(each for each in stages if each.name == name)
        for name in FINAL[folder.name]
    ]


def test_there_is_a_folder_for_every_image():
    assert [folder.name for folder in FOLDERS] == sorted(FINAL)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_bases_are_pinned_in_one_place(folder: Path):
    arguments, stages = parse(folder)
    names = {stage.name for stage in stages}
    for stage in stages:
        variable = re.fullmatch(r"\$\{(\w+)\}", stage.base)
        assert variable or stage.base in names, stage.base
        if variable:
            assert variable[1] in arguments
            assert variable[1] in bases()


@pytest.mark.parametrize("image", bases().values())
def test_a_base_has_a_version(image: str):
    tag = image.partition("@")[0].rpartition(":")[2]
    assert re.search(r"\d+\.\d+\.\d+", tag), image
    assert "latest" not in image


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_final_stages_have_user_labels_and_health(folder: Path):
    for stage in final_stages(folder):
        user = stage.values("USER")[-1].partition(":")[0]
        assert (user in ("0", "root")) == (folder.name in ROOT_USERS)
        labels = {
            name for value in stage.values("LABEL") for name in re.findall(r"org\.opencontainers\.image\.(\w+)=", value)
        }
        assert labels == LABELS
        (health,) = stage.values("HEALTHCHECK")
        assert "CMD [" in health


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_no_secrets_and_nothing_from_the_net_without_a_package_manager(folder: Path):
    text = (folder / "Dockerfile").read_text(encoding="utf-8")
    assert not SECRET.search(text)
    assert not re.search(r"\bADD\b|curl |wget http|\| *sh\b", text)
    for stage in parse(folder)[1]:
        for command in stage.values("RUN"):
            assert "apt-get install" not in command or "rm -rf /var/lib/apt/lists/*" in command
            assert "pip install" not in command or "--no-deps" in command


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_what_is_copied_exists_and_is_in_the_context(folder: Path):
    stages = parse(folder)[1]
    names = {stage.name for stage in stages}
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for stage in stages:
        for value in stage.values("COPY"):
            words = shlex.split(value)
            origin = next((word.removeprefix("--from=") for word in words if word.startswith("--from=")), None)
            sources = [word for word in words if not word.startswith("--")][:-1]
            if origin is not None:
                assert origin in names
                continue
            for source in sources:
                assert (ROOT / source).exists(), source
                assert any(source == each or source.startswith(f"{each}/") for each in allowed), source


def test_the_serve_image_has_the_toy_model_in_both_flavours():
    for stage in final_stages(IMAGES / "serve"):
        assert "rcarena-toy-model /opt/rcarena/models/toy" in stage.values("RUN")
