from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tasks.system.scratch import scratch_directory

HOLDER = (
    "import sys, time; from pathlib import Path\n"
    "from tasks.system.scratch import scratch_directory\n"
    "with scratch_directory('import', Path(sys.argv[1])) as directory:\n"
    "    (directory / 'deep').mkdir(); (directory / 'deep' / 'file').touch()\n"
    "    print(directory, flush=True); time.sleep(600)\n"
)


def holder(parent: Path) -> tuple[subprocess.Popen[str], Path]:
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(parent)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_it_is_empty_private_and_gone_at_the_end(tmp_path: Path) -> None:
    with scratch_directory("import", tmp_path) as directory:
        assert list(directory.iterdir()) == []
        assert directory.stat().st_mode & 0o777 == 0o700
        (directory / "file").touch()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path) -> None:
    process, left = holder(tmp_path)
    with scratch_directory("import", tmp_path):
        assert (left / "deep" / "file").exists(), "it is still in use"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert (left / "deep" / "file").exists()
    with scratch_directory("ray", tmp_path):
        assert left.exists(), "of another purpose"
    with scratch_directory("import", tmp_path) as directory:
        assert list(tmp_path.iterdir()) == [directory]


def test_what_is_not_ours_stays(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (tmp_path / "rcarena-import-0123456789ab").symlink_to(precious)
    (tmp_path / "rcarena-import-0123456789ac").touch()
    (tmp_path / "rcarena-import-my-notes").mkdir()
    before = set(tmp_path.iterdir())
    with scratch_directory("import", tmp_path):
        pass
    assert set(tmp_path.iterdir()) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make what another user owns")
def test_what_another_user_left_stays(tmp_path: Path) -> None:
    theirs = tmp_path / "rcarena-import-0123456789ab"
    theirs.mkdir()
    os.chown(theirs, 65534, 65534)
    with scratch_directory("import", tmp_path):
        assert theirs.exists()


def test_many_at_once_do_not_remove_each_others(tmp_path: Path) -> None:
    def use(runs: int) -> None:
        for _ in range(runs):
            with scratch_directory("import", tmp_path) as directory:
                (directory / "file").touch()
                (directory / "file").unlink()

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(use, [50] * 4))
    assert list(tmp_path.iterdir()) == []
