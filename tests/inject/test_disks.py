"""A disk that is full, read-only or gone: the fault is undone all the same, and nothing else is claimed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tasks.inject import recover as recovery
from tasks.inject.errors import FaultError
from tasks.inject.journal import Journal, read_journal, write_journal
from tasks.inject.recover import recover, residue, stack_residue
from tasks.inject.start import ActiveInjection
from tasks.system.marked_processes import DEAD_MAN_MARKER, MARKER, end_marked, marked_processes
from tasks.workspace import Workspace
from tests.inject.ministack import MiniStack
from tests.inject.once import Once
from tests.inject.test_faults import plan
from tests.waiting import HANG_S, until

pytestmark = pytest.mark.privileged


@contextmanager
def small_disk(place: Path) -> Iterator[Workspace]:
    """A workspace of its own whose journals lie on a small tmpfs, beside the stack's workspace."""
    workspace = Workspace(place)
    workspace.journal.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", workspace.journal], check=True)
    try:
        yield workspace
    finally:
        journals = workspace.journal.resolve()
        end_marked(MARKER, journals)
        end_marked(DEAD_MAN_MARKER, journals)
        subprocess.run(["umount", "--lazy", workspace.journal], check=True)


def fill(workspace: Workspace) -> Path:
    """Leave no byte on the disk of the journals."""
    filler = workspace.journal / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as stream:
        while True:
            stream.write(bytes(4096))
    with pytest.raises(OSError, match="No space left"):
        (workspace.journal / "more").write_bytes(b"x")
    return filler


def start(stack: MiniStack, workspace: Workspace, *plans: Once) -> list[ActiveInjection]:
    """Start them and wait until they are active."""
    running = [each.start(stack, workspace) for each in plans]
    for injection in running:
        until(
            lambda path=injection.path: read_journal(path).state == "active",  # type: ignore[misc]
            lambda path=injection.path: path.read_text(encoding="utf-8"),  # type: ignore[misc]
        )
    return running


def kill_guardian(injection: ActiveInjection) -> None:
    guardian = read_journal(injection.path).guardian
    assert guardian is not None
    guardian.kill(signal.SIGKILL)
    assert guardian.wait_gone(5)


def test_a_full_disk_keeps_no_fault_alive(clean: MiniStack, tmp_path: Path):
    """One fault has its guardian, the other only its dead-man; both are closed when there is room again."""
    with small_disk(tmp_path) as workspace:
        guarded = plan("guarded", "network-delay", "ray-replicas-0", lead_s=0, duration_s=8)
        orphan = plan("orphan", "process-freeze", "ray-replicas-1", lead_s=0, duration_s=8)
        first, second = start(clean, workspace, guarded, orphan)
        filler = fill(workspace)
        kill_guardian(second)
        assert len(stack_residue(clean.runtime)) >= 2
        until(lambda: not stack_residue(clean.runtime), lambda: stack_residue(clean.runtime))
        with pytest.raises(FaultError, match=r"journal guarded\.json cannot be written: No space left"):
            first.wait(HANG_S)
        with pytest.raises(FaultError, match="No space left"):
            recover(workspace)
        assert marked_processes(DEAD_MAN_MARKER, workspace.journal.resolve())
        filler.unlink()
        until(lambda: not residue(workspace), lambda: residue(workspace))
        assert {read_journal(each.path).state for each in (first, second)} == {"recovered"}
        assert "the dead-man timer" in {read_journal(each.path).recovered_by for each in (first, second)}


def test_stop_and_recover_undo_on_a_full_disk(clean: MiniStack, tmp_path: Path):
    with small_disk(tmp_path) as workspace:
        stopped = plan("stopped", "network-delay", "ray-replicas-0", lead_s=0, duration_s=60)
        left = plan("left", "accelerator-throttle", "ray-replicas-1", lead_s=0, duration_s=60)
        first, second = start(clean, workspace, stopped, left)
        filler = fill(workspace)
        with pytest.raises(FaultError, match=r"journal stopped\.json cannot be written: No space left"):
            first.stop()
        kill_guardian(second)
        with pytest.raises(FaultError, match=r"journal left\.json cannot be written: No space left"):
            recover(workspace)
        assert stack_residue(clean.runtime) == []
        filler.unlink()
        assert len(recover(workspace)) == 2
        assert residue(workspace) == []


def test_a_deleted_workspace_ends_its_faults(clean: MiniStack, tmp_path: Path):
    """At once where the guardian lives, by the dead-man's memory where it is dead."""
    workspace = Workspace(tmp_path / "deleted")
    guarded = plan("guarded", "network-delay", "ray-replicas-0", lead_s=0, duration_s=600)
    orphan = plan("orphan", "process-freeze", "ray-replicas-1", lead_s=0, duration_s=8)
    first, second = start(clean, workspace, guarded, orphan)
    journals = workspace.journal.resolve()
    kill_guardian(second)
    shutil.rmtree(workspace.root)
    until(lambda: not stack_residue(clean.runtime), lambda: stack_residue(clean.runtime))
    until(lambda: not marked_processes(DEAD_MAN_MARKER, journals), "a dead-man lingers")
    for injection in (first, second):
        with pytest.raises(FaultError, match=f"{injection.path.stem} is undone, but its record is lost"):
            injection.wait(HANG_S)


@pytest.mark.parametrize("failing", ["write_journal", "journal_lock"])
def test_recover_reaches_the_sweep_whatever_the_disk_does(
    clean: MiniStack, monkeypatch: pytest.MonkeyPatch, failing: str
):
    """Faults under a journal and one that no journal knows: both are gone, and the trouble is named."""
    (injection,) = start(clean, clean.workspace, plan("known", "accelerator-throttle", lead_s=0, duration_s=60))
    kill_guardian(injection)
    other = clean.target("ray-replicas-1")
    other.cgroup.set_memory_limit(2**30)

    def broken(path: Path, journal: Journal | None = None) -> None:
        raise OSError(30, os.strerror(30), str(path))

    with monkeypatch.context() as patched:
        patched.setattr(recovery, failing, broken)
        if failing == "write_journal":
            with pytest.raises(FaultError, match=r"known\.json cannot be written: Read-only file system"):
                recover(clean.workspace)
        else:
            assert len(recover(clean.workspace)) == 2
        assert stack_residue(clean.runtime) == []
    recover(clean.workspace)
    assert injection.wait(HANG_S).verdict == "ineffective"


def test_a_write_that_fails_leaves_the_old_journal_and_no_litter(clean: MiniStack, tmp_path: Path):
    with small_disk(tmp_path) as workspace:
        (injection,) = start(clean, workspace, plan("kept", "process-freeze", lead_s=0, duration_s=60))
        filler = fill(workspace)
        before, names = injection.path.read_bytes(), set(workspace.journal.iterdir())
        with pytest.raises(OSError, match="No space left"):
            write_journal(injection.path, read_journal(injection.path))
        assert injection.path.read_bytes() == before
        assert set(workspace.journal.iterdir()) == names
        filler.unlink()
        injection.stop()
