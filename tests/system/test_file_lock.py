from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tasks.system.file_lock import FileLock

HOLDER = """
import subprocess, sys
from pathlib import Path
from tasks.system.file_lock import FileLock
with FileLock(Path(sys.argv[1]), RuntimeError("busy")) as lock:
    if "child" in sys.argv:
        child = subprocess.Popen(["sleep", "60"], pass_fds=(lock.descriptor,), stdout=subprocess.DEVNULL)
        print(child.pid, flush=True)
    print("held", flush=True)
    sys.stdin.read()
"""


def holder(file: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLDER, str(file), *words]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def is_free(file: Path, timeout_s: float = 0) -> bool:
    try:
        with FileLock(file, TimeoutError("held"), timeout_s=timeout_s):
            return True
    except TimeoutError:
        return False


def test_one_process_holds_it_and_kill_9_frees_it(tmp_path: Path) -> None:
    file = tmp_path / "new" / "lock"
    with holder(file) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        assert not is_free(file)
        assert not is_free(file, timeout_s=0.1)
        process.kill()
        process.wait()
        assert is_free(file)


def test_a_child_that_inherits_it_keeps_it_after_kill_9(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    with holder(file, "child") as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        assert process.stdout.readline() == "held\n"
        process.kill()
        process.wait()
        assert not is_free(file)
        subprocess.run(["kill", "-9", str(child)], check=True)
        assert is_free(file, timeout_s=30)


def test_other_children_do_not_keep_it(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    with FileLock(file, RuntimeError("busy")):
        sleeper = subprocess.Popen(["sleep", "60"], close_fds=False)
    try:
        assert is_free(file)
    finally:
        sleeper.kill()
        sleeper.wait()


def test_it_waits_for_the_holder(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    with holder(file) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        end = threading.Timer(0.3, process.stdin.close)
        end.start()
        assert is_free(file, timeout_s=30)
        end.join()


def test_a_file_that_cannot_be_opened_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "lock").mkdir()
    with pytest.raises(IsADirectoryError), FileLock(tmp_path / "lock", RuntimeError("busy")):
        pass
