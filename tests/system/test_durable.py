from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tasks.system.durable import create_once, publish_directory, write_durably


def test_a_write_replaces_the_whole_content(tmp_path: Path) -> None:
    file = tmp_path / "state.json"
    write_durably(file, b"a long old content")
    write_durably(file, b"new")
    assert file.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [file]


def test_a_write_that_fails_keeps_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "state.json"
    write_durably(file, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_durably(file, b"new")
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_of_many_creators_one_wins_and_all_read_the_same(tmp_path: Path) -> None:
    file = tmp_path / "owner"
    won: list[bool] = []
    threads = [
        threading.Thread(target=lambda name=name: won.append(create_once(file, name)))
        for name in (b"%d" % number * 1000 for number in range(8))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == [False] * 7 + [True]
    assert len(file.read_bytes()) == 1000
    assert len(set(file.read_bytes())) == 1
    assert list(tmp_path.iterdir()) == [file]


def test_a_published_directory_takes_the_place_of_an_older_one(tmp_path: Path) -> None:
    staging, final = tmp_path / ".case.partial", tmp_path / "case"
    for directory, name in ((final, "old"), (staging, "new")):
        directory.mkdir()
        (directory / name).write_text(name)
    publish_directory(staging, final)
    assert [file.relative_to(tmp_path) for file in tmp_path.rglob("*")] == [Path("case"), Path("case/new")]
