"""kill -9 at any moment, torn journals, dead stacks: no fault outlives its window by more than ten seconds."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from tasks.deploy.local.layout import RAY_METRICS_PORT
from tasks.inject import catalogue
from tasks.inject.errors import JournalError
from tasks.inject.executors.local.network import drop_from_fabric
from tasks.inject.executors.local.undo import withheld_file
from tasks.inject.journal import journal_path, read_journal
from tasks.inject.recover import recover, residue, stack_residue
from tasks.system.marked_processes import DEAD_MAN_MARKER, MARKER, marked_processes
from tests.inject.ministack import CORES, ENGINES, ROLES, MiniStack, mini_stack
from tests.inject.once import Once
from tests.inject.test_faults import CASES, ENDING, plan, wait_for_state
from tests.inject.test_journal import OLD
from tests.slow import first_always
from tests.waiting import HANG_S, until

pytestmark = pytest.mark.privileged

SERVICES = ["nginx-proxy", "ray-replicas-0", "ray-replicas-1"]
REVERSIBLE = [kind for kind in CASES if kind not in ENDING]


def own(stack: MiniStack, plans: list[Once]) -> None:
    """An owner like the campaign: start, wait, go on."""
    running = [each.start(stack) for each in plans]
    for injection in running:
        injection.wait()


def start_owner(stack: MiniStack, plans: list[Once]) -> BaseProcess:
    owner = multiprocessing.get_context("fork").Process(target=own, args=(stack, plans))
    owner.start()
    return owner


def kill_guardians(stack: MiniStack, plans: list[Once]) -> None:
    for each in plans:
        path = journal_path(stack.workspace.journal, each.injection_id)
        with suppress(JournalError):
            guardian = read_journal(path).guardian
            if guardian is not None:
                guardian.kill(signal.SIGKILL)
        for pid in marked_processes(MARKER, path.resolve()):
            with suppress(FileNotFoundError, ProcessLookupError):
                if b"tasks.inject.guardian" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    os.kill(pid, signal.SIGKILL)


def kill_both(owner: BaseProcess, stack: MiniStack, plans: list[Once]) -> None:
    """The owner is stopped first: neither can undo what becomes of the other."""
    assert owner.pid is not None
    os.kill(owner.pid, signal.SIGSTOP)
    kill_guardians(stack, plans)
    owner.kill()
    owner.join()


def plans_of_round(seed: int, draw: random.Random) -> list[Once]:
    """Three faults at once, one on each service, of a kind that suits it."""
    plans = []
    for service in SERVICES:
        fitting = [each for each in REVERSIBLE if ROLES[service] in catalogue.fault_kind(each).roles_on("local")]
        fitting = [each for each in fitting if each != "engine-stall" or service in ENGINES]
        kind = draw.choice(fitting)
        plans.append(plan(f"round-{seed}-{service}", kind, service, lead_s=0.9, duration_s=1.3))
    return plans


@pytest.mark.parametrize("seed", first_always(range(4)))
@pytest.mark.parametrize("victim", ["owner", "guardians"])
def test_kill_of_one_at_any_moment(clean: MiniStack, victim: str, seed: int):
    draw = random.Random(f"{victim}-{seed}")
    plans = plans_of_round(seed, draw)
    owner = start_owner(clean, plans)
    try:
        time.sleep(draw.uniform(0.1, 2.6))
        if victim == "owner":
            owner.kill()
        else:
            kill_guardians(clean, plans)
        until(lambda: not residue(clean.workspace), lambda: residue(clean.workspace))
    finally:
        owner.kill()
        owner.join()
    journals = clean.workspace.journal.resolve()
    until(lambda: not marked_processes(DEAD_MAN_MARKER, journals), "a dead-man lingers")


@pytest.mark.parametrize("seed", first_always(range(6)))
def test_kill_of_both_at_any_moment_then_recover(clean: MiniStack, seed: int):
    """What a restarted campaign does first."""
    draw = random.Random(seed)
    plans = plans_of_round(seed, draw)
    owner = start_owner(clean, plans)
    time.sleep(draw.uniform(0.1, 2.6))
    owner.kill()
    kill_guardians(clean, plans)
    recover(clean.workspace)
    assert residue(clean.workspace) == []
    assert recover(clean.workspace) == []
    owner.join()


def test_kill_of_both_leaves_the_undo_to_the_dead_man(clean: MiniStack):
    plans = [
        plan("dead-0", "network-delay", "nginx-proxy", lead_s=0, duration_s=15),
        plan("dead-1", "accelerator-throttle", "ray-replicas-0", lead_s=0, duration_s=15),
        plan("dead-2", "process-freeze", "ray-replicas-1", lead_s=0, duration_s=15),
        plan("dead-3", "telemetry-loss", "ray-replicas-0", lead_s=0, duration_s=15),
        plan("dead-4", "engine-stall", "ray-replicas-0", lead_s=0, duration_s=15),
    ]
    owner = start_owner(clean, plans)
    for each in plans:
        wait_for_state(clean, each.injection_id, "active")
    kill_both(owner, clean, plans)
    assert stack_residue(clean.runtime)
    until(lambda: not residue(clean.workspace), lambda: residue(clean.workspace))
    recovered_by = {
        read_journal(journal_path(clean.workspace.journal, each.injection_id)).recovered_by for each in plans
    }
    assert "the dead-man timer" in recovered_by


@pytest.mark.parametrize(
    "kinds",
    first_always(
        [
            ("process-freeze", "cpu-stress", "network-delay"),
            ("network-loss", "memory-stress", "accelerator-throttle"),
            ("network-partition", "network-bandwidth", "process-freeze"),
            ("telemetry-loss", "engine-stall", "telemetry-loss"),
        ]
    ),
)
def test_recover_ends_active_faults_of_a_living_owner(clean: MiniStack, kinds: tuple[str, ...]):
    plans = [
        plan(f"live-{kind}-{service}", kind, service, lead_s=0, duration_s=600)
        for kind, service in zip(kinds, SERVICES, strict=True)
    ]
    running = [each.start(clean) for each in plans]
    for each in plans:
        wait_for_state(clean, each.injection_id, "active")
    done = "\n".join(recover(clean.workspace))
    assert all(f"{each.injection_id}: " in done for each in plans)
    assert residue(clean.workspace) == []
    assert {injection.wait(HANG_S).verdict for injection in running} == {"ineffective"}


def test_a_dead_man_hides_behind_no_name(clean: MiniStack):
    with plan("hidden", "cpu-stress", lead_s=0, duration_s=30).start(clean):
        wait_for_state(clean, "hidden", "active")
        pids = marked_processes(DEAD_MAN_MARKER, clean.workspace.journal.resolve())
        assert len(pids) == 1
        for pid in pids:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            assert b"rcarena" not in command
            assert str(clean.workspace.root).encode() not in command
            assert os.getsid(pid) == pid


@pytest.mark.parametrize("content", [b"", b"{", b"\x00\xff garbage", b'{"state": "active"}'])
def test_an_unreadable_journal_is_residue_until_recovered(clean: MiniStack, content: bytes):
    path = journal_path(clean.workspace.journal, "torn")
    path.write_bytes(content)
    assert any("journal torn.json" in line for line in residue(clean.workspace))
    assert recover(clean.workspace) == ["torn.json: not readable, kept as torn.json.unreadable"]
    assert path.with_name("torn.json.unreadable").read_bytes() == content
    assert recover(clean.workspace) == []


def test_a_journal_torn_under_an_active_fault(clean: MiniStack):
    """The worst case: the owner and the guardian are dead and the journal says nothing. Looking finds it all."""
    plans = [
        plan("torn-0", "network-delay", "nginx-proxy", lead_s=0, duration_s=20),
        plan("torn-1", "cpu-stress", "ray-replicas-0", lead_s=0, duration_s=20),
        plan("torn-2", "accelerator-throttle", "ray-replicas-0", lead_s=0, duration_s=20),
        plan("torn-3", "process-freeze", "ray-replicas-1", lead_s=0, duration_s=20),
        plan("torn-4", "telemetry-loss", "nginx-proxy", lead_s=0, duration_s=20),
        plan("torn-5", "engine-stall", "ray-replicas-0", lead_s=0, duration_s=20),
    ]
    owner = start_owner(clean, plans)
    for each in plans:
        wait_for_state(clean, each.injection_id, "active")
    kill_both(owner, clean, plans)
    for each in plans:
        journal_path(clean.workspace.journal, each.injection_id).write_bytes(b"{")
    recover(clean.workspace)
    assert residue(clean.workspace) == []
    assert marked_processes(DEAD_MAN_MARKER, clean.workspace.journal.resolve()) == {}


def test_faults_made_by_hand_are_found_and_removed(clean: MiniStack):
    target = clean.target()
    target.cgroup.set_cpu_cores(0.1)
    target.cgroup.set_memory_limit(2**30)
    target.run("tc", "qdisc", "add", "dev", "eth0", "root", "tbf", "rate", "1mbit", "burst", "3000", "latency", "1s")
    target.cgroup.tracker("fault-old")
    for pid in target.processes():
        os.kill(pid, signal.SIGSTOP)
    withheld = withheld_file(target)
    assert withheld is not None
    withheld.parent.mkdir(exist_ok=True)
    withheld.touch()
    drop_from_fabric(target, RAY_METRICS_PORT)
    found = "\n".join(residue(clean.workspace))
    for trace in (
        "CPU quota is 0.1 cores",
        "memory limit is",
        "discipline tbf",
        "sub-group fault-old",
        "is stopped",
        "are withheld",
        "clsact on link1",
    ):
        assert trace in found
    assert len(recover(clean.workspace)) >= 5
    assert residue(clean.workspace) == []


def test_a_stack_that_dies_under_faults_takes_them_along(tmp_path: Path):
    with mini_stack(tmp_path / "workspace") as stack:
        plans = [
            plan("gone-0", "network-delay", "nginx-proxy", lead_s=0.5, duration_s=30),
            plan("gone-1", "cpu-stress", "ray-replicas-0", lead_s=0.5, duration_s=30),
            plan("gone-2", "process-freeze", "ray-replicas-1", lead_s=0.5, duration_s=30),
        ]
        running = [each.start(stack) for each in plans]
        for each in plans:
            wait_for_state(stack, each.injection_id, "active")
        stack.kill()
        for injection in running:
            record = injection.wait(HANG_S)
            assert record.verdict == "ineffective"
            assert record.reason.startswith("the stack ended during the fault")
        assert residue(stack.workspace) == []
        assert recover(stack.workspace) == []


def test_a_journal_of_an_earlier_boot_is_closed_without_touching_anything(clean: MiniStack):
    boot = plan("boot", "accelerator-throttle", lead_s=1, duration_s=1)
    with boot.start(clean) as injection:
        assert injection.wait(HANG_S).observed is not None
    journal = read_journal(injection.path)
    old = journal.target.model_copy(update={"boot_id": "another"})
    left_open = journal.model_copy(update={"state": "active", "target": old, "guardian": None, "notes": []})
    injection.path.write_text(left_open.model_dump_json(), encoding="utf-8")
    assert recover(clean.workspace) == ["boot: accelerator-throttle on ray-replicas-0: undone"]
    assert "the stack was gone" in read_journal(injection.path).notes[0]
    assert timedelta(0) <= datetime.now(UTC) - (read_journal(injection.path).undone_at or datetime.now(UTC))


def test_an_open_journal_of_an_earlier_version_is_undone(clean: MiniStack):
    """As commit 82ada8b wrote it; the names and numbers of this machine are filled in."""
    document = json.loads((OLD / "local.json").read_bytes())
    here, target = clean.target().model_dump(mode="json"), document["target"]
    target["service"] = {key: here["service"][key] for key in target["service"]}
    document["target"] = target | {key: here[key] for key in ("supervisor", "boot_id")}
    path = journal_path(clean.workspace.journal, document["injection_id"])
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(document), encoding="utf-8")
    clean.target().cgroup.set_cpu_cores(0.1)
    clean.target().cgroup.tracker("fault-case-0123456789ab-0")
    assert recover(clean.workspace) == ["case-0123456789ab-0: accelerator-throttle on ray-replicas-0: undone"]
    assert residue(clean.workspace) == []
    assert clean.target().cgroup.cpu_cores() == pytest.approx(CORES)
