from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tasks.deploy.local.cgroups import Cgroup, CgroupError, detect_hierarchy
from tests.cgroups import own_name
from tests.waiting import HANG_S


@pytest.fixture
def v2(tmp_path: Path) -> Path:
    """A cgroup v2 tree of plain files."""
    for directory in (tmp_path, tmp_path / "stack", tmp_path / "stack" / "service"):
        directory.mkdir(exist_ok=True)
        (directory / "cgroup.controllers").write_text("cpu memory pids\n")
        (directory / "cgroup.subtree_control").write_text("\n")
    leaf = tmp_path / "stack" / "service"
    (leaf / "cpu.max").write_text("max 100000\n")
    (leaf / "memory.max").write_text("max\n")
    (leaf / "memory.current").write_text("4096\n")
    (leaf / "cpu.stat").write_text("usage_usec 1500000\nthrottled_usec 250000\n")
    return tmp_path


def test_version_2_is_preferred_when_its_controllers_are_usable(v2: Path) -> None:
    assert detect_hierarchy(v2) == {"unified": v2}


def test_version_1_is_used_when_the_controllers_are_mounted_there(tmp_path: Path) -> None:
    for name in ("cpu", "cpuacct", "memory", "freezer"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "cgroup.procs").write_text("")
    assert set(detect_hierarchy(tmp_path)) == {"cpu", "cpuacct", "memory", "freezer"}


def test_a_machine_without_controllers_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(CgroupError, match="no usable cgroup controllers"):
        detect_hierarchy(tmp_path)


def test_figures_and_limits_of_version_2(v2: Path) -> None:
    cgroup = Cgroup.create("stack", "service", root=v2)
    assert cgroup.cpu_cores() is None
    cgroup.set_cpu_cores(0.25)
    assert cgroup.cpu_cores() == 0.25
    cgroup.set_cpu_cores(None)
    assert (v2 / "stack/service/cpu.max").read_text() == "max 100000"
    cgroup.set_memory_limit(10_000)
    assert cgroup.memory_limit() == 10_000
    assert cgroup.memory_usage() == 4096
    assert cgroup.throttled_seconds() == 0.25


@pytest.fixture
def real() -> Iterator[Cgroup]:
    cgroup = Cgroup.create(own_name(), "service")
    yield cgroup
    cgroup.kill_all()
    cgroup.parent.remove()
    assert not cgroup.parent.exists


@pytest.mark.privileged
def test_what_a_killed_run_of_the_tests_left_is_removed_by_the_next() -> None:
    killed = "import os; from tasks.deploy.local.cgroups import Cgroup; from tests.cgroups import own_name\n"
    killed += "Cgroup.create(name := own_name(), 'service'); print(name, flush=True); os.kill(os.getpid(), 9)"
    done = subprocess.run([sys.executable, "-c", killed], stdout=subprocess.PIPE, text=True)
    left = [mount / done.stdout.strip() for mount in detect_hierarchy().values()]
    assert all((each / "service").is_dir() for each in left)
    own_name()
    assert not any(each.exists() for each in left)


def start_inside(cgroup: Cgroup, tracker: Cgroup | None, code: str) -> subprocess.Popen[bytes]:
    files = [str(file) for file in cgroup.member_files(tracker)]
    join = f"for f in {files!r}: open(f, 'w').write('0')\n"
    return subprocess.Popen([sys.executable, "-c", join + "print('in', flush=True)\n" + code], stdout=subprocess.PIPE)


def used_seconds(process: subprocess.Popen[bytes]) -> float:
    times = psutil.Process(process.pid).cpu_times()
    return times.user + times.system


@pytest.mark.privileged
def test_a_quota_slows_and_a_tracker_ends_only_its_own(real: Cgroup) -> None:
    tracker = real.tracker("stressors")
    idle = start_inside(real, None, "import time; time.sleep(60)")
    with idle as quiet, start_inside(real, tracker, "while True: pass") as busy:
        for process in (quiet, busy):
            assert process.stdout is not None
            process.stdout.readline()
        assert {quiet.pid, busy.pid} <= real.pids()
        assert tracker.pids() == {busy.pid}
        real.set_cpu_cores(0.1)
        assert real.cpu_cores() == pytest.approx(0.1)
        before, throttled, began = used_seconds(busy), real.throttled_seconds(), time.monotonic()
        time.sleep(2)
        assert used_seconds(busy) - before < 0.3 * (time.monotonic() - began), "0.1 cores, and what one period can add"
        assert real.throttled_seconds() > throttled
        assert tracker.kill_all()
        assert busy.wait(HANG_S) == -9
        assert quiet.poll() is None
        assert real.kill_all()
