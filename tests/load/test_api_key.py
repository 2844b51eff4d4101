"""The key reaches the server and nothing else."""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tasks.cli import app
from tasks.errors import ParamsError
from tasks.load.api_key import ApiKey
from tasks.load.run import start_generator
from tasks.load.spec import LoadSpec
from tasks.params import LoadParams
from tests.load.mock_server import MockServer

SECRET = "sk-Zx9-hunter2-7Q"


def drive(server: MockServer, out: Path, variable: str | None = None) -> dict[str, str]:
    """Runs the generator as a child; what its process looked like while it ran, as others may read it."""

    async def scenario() -> dict[str, str]:
        async with server.running():
            spec = LoadSpec(
                params=LoadParams(arrival="constant", rate=20), url=server.url, model="toy", duration_s=0.5, seed=1
            )
            process = start_generator(spec, out, api_key=ApiKey(SECRET), log_file=out.with_suffix(".log"))
            while not server.requests:
                assert process.poll() is None
                await asyncio.sleep(0.01)
            seen = {
                name: Path(f"/proc/{process.pid}/{name}").read_text(errors="replace") for name in ("cmdline", "environ")
            }
            assert await asyncio.to_thread(process.wait, 30) == 0
            return seen

    return asyncio.run(scenario())


def test_it_is_sent_and_left_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", SECRET)
    server = MockServer()
    seen = drive(server, tmp_path / "requests.jsonl")
    assert {received.headers["authorization"] for received in server.requests} == {f"Bearer {SECRET}"}
    assert not any(SECRET in text for text in seen.values())
    assert "OPENBLAS_NUM_THREADS" in seen["environ"]
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert {file.name for file in files} >= {"requests.jsonl", "requests.jsonl.spec.json", "requests.log"}
    assert not any(SECRET in file.read_text() for file in files)
    assert stat.S_IMODE((tmp_path / "requests.jsonl.spec.json").stat().st_mode) == 0o600


def load(tmp_path: Path, *arguments: str) -> Result:
    command = ["load", "--url", "http://127.0.0.1:9", "--model", "m", "--duration", "0.1", *arguments]
    return CliRunner().invoke(app, [*command, "--out", str(tmp_path / "out.parquet")])


@pytest.mark.parametrize("source", ["env", "file"])
def test_from_the_command_line(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[ApiKey | None] = []

    def start(*arguments: object, api_key: ApiKey | None = None, **options: object) -> object:
        given.append(api_key)
        raise OSError("enough seen")

    monkeypatch.setattr("tasks.load.run.start_generator", start)
    monkeypatch.setenv("MY_KEY", f" {SECRET}\n")
    (tmp_path / "key").write_text(f"{SECRET}\n")
    value = "MY_KEY" if source == "env" else str(tmp_path / "key")
    result = load(tmp_path, f"--api-key-{source}", value)
    assert [key.secret for key in given if key] == [SECRET]
    assert SECRET not in result.output
    assert load(tmp_path, "--api-key-env", "MY_KEY", "--api-key-file", str(tmp_path / "key")).exit_code == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ("--api-key-env", SECRET),
        ("--api-key-file", SECRET),
        ("--api-key-file", "."),
        ("--api-key-env", "EMPTY_KEY"),
        ("--api-key-env", "TWO_LINES"),
        ("--api-key-env", "NOT_ASCII"),
        ("--url", f"http://me:{SECRET}@127.0.0.1:9/v1"),
        ("--url", f"http://{SECRET}@127.0.0.1:9/v1"),
        ("--url", f"{SECRET}"),
    ],
)
def test_what_is_refused_and_never_repeated(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMPTY_KEY", " ")
    monkeypatch.setenv("TWO_LINES", f"{SECRET}\r\nX-Other: 1")
    monkeypatch.setenv("NOT_ASCII", f"{SECRET}ü")
    result = load(tmp_path, *arguments)
    assert result.exit_code == 2, result.output
    assert SECRET not in result.output
    assert arguments[0] in result.output
    assert list(tmp_path.iterdir()) == []


def test_no_text_of_the_object_has_it() -> None:
    key = ApiKey.checked(f"{SECRET}\n", "a test")
    assert key.secret == SECRET
    assert SECRET not in f"{key} {key!r} {[key]}"
    assert not hasattr(key, "__dict__")


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(os.urandom(8) + b"\xff\xfe")
    with pytest.raises(ParamsError, match="--api-key-file"):
        ApiKey.of_file(tmp_path / "key")
