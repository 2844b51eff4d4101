"""Actions on the miniature stack: what they change, that they act once, and what a kill leaves."""

from __future__ import annotations

import multiprocessing
import random
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tasks.actions import act as module
from tasks.actions.act import act, lasting, refusal, undo_action
from tasks.actions.errors import ActionError, ActionRefusedError
from tasks.inject.executors.local.network import egress_residue
from tasks.inject.executors.local.repair import ejected_file
from tasks.inject.journal import Journal, journal_path, read_journal
from tasks.inject.recover import recover, recover_fully, recover_journal, residue
from tasks.system.marked_processes import DEAD_MAN_MARKER, marked_processes
from tests.inject.ministack import CORES, MiniStack, fetch
from tests.inject.once import once
from tests.inject.test_faults import wait_for_state
from tests.slow import first_always
from tests.waiting import until

pytestmark = pytest.mark.privileged
REPLICA = "ray-replicas-0"
LINK = ("ip", "-o", "link", "show", "eth0")


def serves(stack: MiniStack, name: str = REPLICA) -> bool:
    try:
        with stack.connect(name, timeout_s=1) as connection:
            return len(fetch(connection, 1000)) == 1000
    except OSError:
        return False


def pids(stack: MiniStack, name: str = REPLICA) -> set[int]:
    return set(stack.target(name).processes())


def link_of(stack: MiniStack, name: str = REPLICA) -> str:
    """Its MAC address, which a new link draws anew."""
    return stack.target(name).run(*LINK).stdout.partition("link/ether ")[2][:17]


def is_ejected(stack: MiniStack, name: str = REPLICA) -> bool:
    file = ejected_file(stack.target(name))
    assert file is not None
    return file.exists()


def test_a_restart_replaces_every_process_once(clean: MiniStack):
    before = pids(clean)
    first = act(clean.runtime, clean.workspace, "restart", REPLICA, "once")
    until(lambda: serves(clean), "it does not come back")
    after = pids(clean)
    assert not before & after
    assert (first.what, first.state) == ("action", "recovered")
    act(clean.runtime, clean.workspace, "restart", REPLICA, "once")
    assert pids(clean) == after
    act(clean.runtime, clean.workspace, "restart", REPLICA, "another case")
    until(lambda: serves(clean), "it does not come back")
    assert not pids(clean) & after


def test_a_restart_ends_a_freeze(clean: MiniStack):
    with once("frozen", "process-freeze", REPLICA, duration_s=600, start_at=datetime.now(UTC)).start(clean):
        wait_for_state(clean, "frozen", "active")
        act(clean.runtime, clean.workspace, "restart", REPLICA, "freeze")
        until(lambda: serves(clean), "it does not come back")


def test_eject_lasts_until_it_is_undone(clean: MiniStack):
    act(clean.runtime, clean.workspace, "eject", REPLICA, "bad")
    assert act(clean.runtime, clean.workspace, "eject", REPLICA, "bad").state == "active"
    with pytest.raises(ActionRefusedError, match="it is ejected already"):  # the undo of either would undo both
        act(clean.runtime, clean.workspace, "eject", REPLICA, "another case")
    assert is_ejected(clean)
    assert not is_ejected(clean, "ray-replicas-1")
    assert [each.phrase for each in lasting(clean.workspace)] == [f"eject on {REPLICA}"]
    assert any("ejected from routing" in line for line in residue(clean.workspace))
    assert undo_action(clean.workspace, "eject", REPLICA) == [f"bad.{REPLICA}.eject: eject on {REPLICA}: undone"]
    assert not is_ejected(clean)
    assert undo_action(clean.workspace, "eject", REPLICA) == []


def test_recover_readmits_with_and_without_the_journal(clean: MiniStack):
    act(clean.runtime, clean.workspace, "eject", REPLICA, "one")
    act(clean.runtime, clean.workspace, "eject", "ray-replicas-1", "lost")
    journal_path(clean.workspace.journal, "lost.ray-replicas-1.eject").unlink()
    recover_fully(clean.workspace, lambda line: None)
    assert not is_ejected(clean)
    assert not is_ejected(clean, "ray-replicas-1")


def test_restore_ends_a_throttle_and_is_refused_without_one(clean: MiniStack):
    with pytest.raises(ActionRefusedError, match="are as they were at its start"):
        act(clean.runtime, clean.workspace, "restore", REPLICA, "none")
    clean.target().cgroup.set_cpu_cores(0.1)
    act(clean.runtime, clean.workspace, "restore", REPLICA, "slow")
    assert clean.target().cgroup.cpu_cores() == pytest.approx(CORES)


def test_reschedule_leaves_a_slow_link_behind(clean: MiniStack):
    before, old_link = pids(clean), link_of(clean)
    delay = once("late", "network-delay", REPLICA, {"delay_ms": 400}, datetime.now(UTC), 600)
    with delay.start(clean):
        wait_for_state(clean, "late", "active")
        assert egress_residue(clean.target())
        clean.target().cgroup.set_cpu_cores(0.2)
        act(clean.runtime, clean.workspace, "reschedule", REPLICA, "late")
        until(lambda: serves(clean), "it does not come back")
        assert egress_residue(clean.target()) == []
        assert not before & pids(clean)
        assert link_of(clean) != old_link
        assert clean.target().cgroup.cpu_cores() == pytest.approx(CORES)
        began = time.monotonic()
        assert serves(clean)
        assert time.monotonic() - began < 0.4
    again = link_of(clean)
    act(clean.runtime, clean.workspace, "reschedule", REPLICA, "late")
    assert link_of(clean) == again


@pytest.mark.parametrize(
    ("action", "target", "says"),
    [
        ("restrt", REPLICA, "unknown action 'restrt'; did you mean 'restart'?"),
        ("restart", "ray-replicas-7", "unknown service 'ray-replicas-7'; "),
        (
            "eject",
            "nginx-proxy",
            "eject cannot act on 'nginx-proxy' \\(role gateway\\); allowed: ray-replicas-0, ray-r",
        ),
        ("evict", REPLICA, "the local backend has no evict: its replicas have no GPU to share"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(clean: MiniStack, action: str, target: str, says: str):
    with pytest.raises(ActionRefusedError, match=says):
        act(clean.runtime, clean.workspace, action, target, "x")
    assert refusal(clean.runtime, action, target)
    assert refusal(clean.runtime, "restart", REPLICA) is None


def test_of_two_at_the_same_moment_the_second_sees_the_first(clean: MiniStack):
    """Both are allowed by what they have seen; one is left where at most one may be out."""
    together, answers = threading.Barrier(2), []

    def try_to(target: str) -> None:
        assert lasting(clean.workspace) == []
        together.wait(60)
        try:
            answers.append(act(clean.runtime, clean.workspace, "eject", target, "both", one_is_out).state)
        except ActionRefusedError as error:
            answers.append(str(error))

    def one_is_out() -> str | None:
        return "one is out already" if lasting(clean.workspace) else None

    remediators = [threading.Thread(target=try_to, args=(name,)) for name in (REPLICA, "ray-replicas-1")]
    for each in remediators:
        each.start()
    for each in remediators:
        each.join()
    done, refused = sorted(answers)
    assert (done, refused.endswith("one is out already")) == ("active", True)
    (journal,) = lasting(clean.workspace)
    undo_action(clean.workspace, "eject", journal.target.name)


class Killed(BaseException):
    pass


def killed(*_: object, **__: object) -> None:
    raise Killed


def cut_off(stack: MiniStack, action: str, case_id: str) -> Path:
    with pytest.raises(Killed):
        act(stack.runtime, stack.workspace, action, REPLICA, case_id)
    return journal_path(stack.workspace.journal.resolve(), f"{case_id}.{REPLICA}.{action}")


def test_what_did_not_begin_is_not_taken_for_done(clean: MiniStack, monkeypatch: pytest.MonkeyPatch):
    before, remembered = pids(clean), []

    def killed_beside_the_timer(_: Path, journal: Journal) -> None:
        remembered.append((journal.state, journal.began))
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(module, "start_dead_man", killed_beside_the_timer)
        path = cut_off(clean, "restart", "planned")
    assert read_journal(path).state == "planned"
    assert remembered == [("applying", True)]
    assert recover_journal(path) == f"planned.{REPLICA}.restart: restart on {REPLICA}: did not begin"
    assert read_journal(path).reason == "did not begin"
    assert pids(clean) == before
    assert act(clean.runtime, clean.workspace, "restart", REPLICA, "planned").began
    until(lambda: serves(clean), "it does not come back")
    assert not pids(clean) & before


def test_what_was_cut_off_and_has_no_way_back_is_not_undone(clean: MiniStack, monkeypatch: pytest.MonkeyPatch):
    before = pids(clean)
    with monkeypatch.context() as patch:
        patch.setattr(module, "undo", killed)
        path = cut_off(clean, "restart", "begun")
    with pytest.raises(ActionError, match="has no way back; `rcarena inject --recover` finishes it"):
        undo_action(clean.workspace, "restart", REPLICA)
    assert pids(clean) == before
    assert recover_journal(path) == f"begun.{REPLICA}.restart: restart on {REPLICA}: finished"
    until(lambda: serves(clean), "it does not come back")
    assert not pids(clean) & before


def test_the_next_try_ends_the_timer_of_what_lasts(clean: MiniStack, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patch:
        patch.setattr(module, "end_marked", killed)
        path = cut_off(clean, "eject", "timed")
    assert marked_processes(DEAD_MAN_MARKER, path)
    assert act(clean.runtime, clean.workspace, "eject", REPLICA, "timed").state == "active"
    assert not marked_processes(DEAD_MAN_MARKER, path)
    assert is_ejected(clean)
    undo_action(clean.workspace, "eject", REPLICA)


def _act(stack: MiniStack, action: str, case_id: str) -> None:
    module.ACT_S = 0.1
    act(stack.runtime, stack.workspace, action, REPLICA, case_id)


def state_of(stack: MiniStack, action: str) -> Callable[[], object]:
    """What the action changes, to be compared before and after."""
    return {
        "restart": lambda: frozenset(pids(stack)),
        "eject": lambda: is_ejected(stack),
        "restore": lambda: stack.target().cgroup.cpu_cores(),
        "reschedule": lambda: link_of(stack),
    }[action]


@pytest.mark.parametrize("moment", first_always(range(10)))
@pytest.mark.parametrize("action", ["restart", "eject", "restore", "reschedule"])
@pytest.mark.parametrize("helper", first_always(["recover", "the timer"]))
def test_a_kill_leaves_the_state_before_or_the_state_after(clean: MiniStack, action: str, moment: int, helper: str):
    """Helped by ``recover``, or by nobody but the timer that the action has started."""
    draw = random.Random(f"{action}-{moment}")
    case_id = f"killed-{action}-{moment}-{helper.split()[-1]}"
    path = journal_path(clean.workspace.journal, f"{case_id}.{REPLICA}.{action}")
    if action == "restore":
        clean.target().cgroup.set_cpu_cores(0.2)
    before = state_of(clean, action)()
    remediator = multiprocessing.get_context("fork").Process(target=_act, args=(clean, action, case_id))
    remediator.start()
    until(path.exists, "it never began", pause_s=0.002)
    time.sleep(draw.uniform(0, 0.08))
    remediator.kill()
    remediator.join()
    if helper == "recover":
        recover(clean.workspace)
    journals = clean.workspace.journal.resolve()
    until(lambda: not marked_processes(DEAD_MAN_MARKER, journals), "a timer lingers")
    if read_journal(path).state == "active":  # it was killed after its end: the state after, which lasts
        assert is_ejected(clean)
        undo_action(clean.workspace, action, REPLICA)
    elif read_journal(path).applied_at is None and helper == "the timer":  # it did not begin: the state before
        assert state_of(clean, action)() == before  # (``recover`` has swept the throttle by itself)
        recover(clean.workspace)
    began = read_journal(path).applied_at is not None
    assert residue(clean.workspace) == []
    until(lambda: serves(clean), "it does not serve")
    after = state_of(clean, action)()
    if action in ("restart", "reschedule"):
        assert (after != before) == began
    journal = read_journal(path)
    if action == "eject":
        assert after == before
    elif action == "restore":
        assert after == pytest.approx(CORES)
    elif action == "restart":
        assert after == before or not set(before) & set(after)  # type: ignore[call-overload]  # pids
    else:
        assert clean.target().run(*LINK).stdout.count("eth0") == 1
    assert not journal.open
