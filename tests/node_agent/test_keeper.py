"""The keeper on a node whose ``nvidia-smi`` is a stand-in program: what it sets, refuses, restores and survives."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import pytest

from tasks.kube.node_fault import NodeFault
from tasks.node_agent.journal import Journal
from tasks.node_agent.keeper import Keeper
from tests.node_agent.machine import GPU, OTHER_GPU, OTHER_POD, Machine, fault
from tests.waiting import HANG_S, until


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    machine = Machine(tmp_path / "machine")
    machine.add_process(10, gpu=GPU)
    machine.add_process(20, OTHER_POD, gpu=OTHER_GPU)
    return machine


def on_disk(machine: Machine) -> dict[str, str]:
    return {entry.uid: entry.state for entry in Journal(machine.journal).read()}


def test_a_limit_below_what_the_gpu_allows_is_clamped_and_said(machine: Machine):
    entry = machine.keeper().apply(fault(value=150))
    assert entry.state == "active"
    assert machine.limit() == 200
    assert machine.limit(OTHER_GPU) == 300
    assert entry.message == "350 W -> 200 W; 150 W was clamped to 200 W: the GPU allows 200 to 400 W"
    (saved,) = entry.saved.gpus
    assert (saved.old_watts, saved.min_watts, saved.default_watts, saved.max_watts) == (350, 200, 350, 400)


def test_a_fraction_is_of_the_default_limit(machine: Machine):
    machine.change_gpu(limit=380.0)
    machine.keeper().apply(fault(fraction=0.8))
    assert machine.limit() == 280


def test_restore_puts_the_old_limit_back_not_the_default(machine: Machine):
    machine.change_gpu(limit=320.5)
    keeper = machine.keeper()
    keeper.apply(fault())
    entry = keeper.restore("uid-1", "test")
    assert (entry.state, machine.limit()) == ("restored", 320.5)
    assert entry.message.endswith("the power limit is 320.5 W again (test)")
    before = len(machine.calls())
    assert keeper.restore("uid-1", "again") == entry
    assert len(machine.calls()) == before


def test_the_journal_is_written_before_the_act(machine: Machine, monkeypatch: pytest.MonkeyPatch):
    states: list[tuple[str, float]] = []
    write = Journal.write

    def note(self: Journal, entry: object) -> None:
        write(self, entry)  # type: ignore[arg-type]
        states.append((on_disk(machine)["uid-1"], machine.limit()))

    monkeypatch.setattr(Journal, "write", note)
    keeper = machine.keeper()
    keeper.apply(fault())
    keeper.restore("uid-1", "test")
    assert states == [("planned", 350), ("active", 200), ("restored", 350)]


def test_without_a_journal_nothing_is_set(machine: Machine, monkeypatch: pytest.MonkeyPatch):
    def full(self: Journal, entry: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Journal, "write", full)
    entry = machine.keeper().apply(fault())
    assert (entry.state, machine.limit()) == ("refused", 350)
    assert "No space left on device" in entry.message
    assert not [call for call in machine.calls() if "-pl" in call]


def test_a_laptop_refuses_and_is_told_the_fallback(machine: Machine):
    machine.set(refuse_power=True)
    entry = machine.keeper().apply(fault())
    assert entry.state == "refused"
    assert "is not supported in current scope" in entry.message
    assert "use a clock lock (gpu-clock-lock)" in entry.message
    assert on_disk(machine) == {"uid-1": "refused"}


def test_a_gpu_without_a_power_limit_is_refused(machine: Machine):
    machine.change_gpu(limit=None)
    entry = machine.keeper().apply(fault())
    assert entry.state == "refused"
    assert "no power limit that can be set; use a clock lock" in entry.message


def test_a_limit_that_lowers_nothing_is_refused(machine: Machine):
    machine.change_gpu(limit=200.0)
    entry = machine.keeper().apply(fault(value=150))
    assert entry.state == "refused"
    assert "would not lower its power limit, which is 200 W" in entry.message


def test_a_wrong_read_back_is_taken_back(machine: Machine):
    machine.set(deaf=True)
    entry = machine.keeper().apply(fault(value=250))
    assert entry.state == "refused"
    assert "reads 350 W after 250 W was set" in entry.message
    assert machine.limit() == 350


def test_clocks_are_locked_and_unlocked(machine: Machine):
    keeper = machine.keeper()
    entry = keeper.apply(fault(action="clock-lock", value=900))
    assert machine.state["gpus"][GPU]["locked"] == [210, 900]
    assert entry.message == "SM clock at most 900 of 1980 MHz"
    keeper.restore("uid-1", "test")
    assert machine.state["gpus"][GPU]["locked"] is None


def test_a_clock_that_limits_nothing_is_refused(machine: Machine):
    entry = machine.keeper().apply(fault(action="clock-lock", value=2500))
    assert "2500 MHz is not below its highest SM clock, 1980 MHz" in entry.message
    lifted = machine.keeper().apply(fault(uid="uid-2", action="clock-lock", fraction=0.05))
    assert "99 MHz was lifted to 210 MHz" in lifted.message


def test_two_faults_on_one_gpu_are_refused(machine: Machine):
    keeper = machine.keeper()
    keeper.apply(fault())
    second = keeper.apply(fault("fault-2", "uid-2", action="clock-lock", value=900))
    assert second.state == "refused"
    assert second.message == f"not carried out: GPU {GPU} is under the fault fault-1 (power-limit) already"
    other = keeper.apply(fault("fault-3", "uid-3", podUid=OTHER_POD, value=250))
    assert other.state == "active"
    keeper.restore("uid-1", "test")
    assert keeper.apply(fault("fault-4", "uid-4")).state == "active"


def test_a_pod_without_a_gpu_is_refused_and_a_named_gpu_must_exist(machine: Machine):
    nowhere = "99999999-9999-9999-9999-999999999999"
    assert "has no GPU on this node" in machine.keeper().apply(fault(podUid=nowhere)).message
    assert "there is no GPU GPU-x on this node" in machine.keeper().apply(fault(gpuUuid="GPU-x")).message
    assert machine.keeper().apply(fault(uid="uid-9", podUid=nowhere, gpuUuid=OTHER_GPU, value=250)).state == "active"
    assert machine.limit(OTHER_GPU) == 250


def test_a_gpu_that_was_given_but_is_idle_is_found_by_the_environment(machine: Machine):
    idle = "99999999-9999-9999-9999-999999999999"
    machine.add_process(30, idle, environment=f"NVIDIA_VISIBLE_DEVICES={OTHER_GPU}")
    assert machine.keeper().apply(fault(podUid=idle, value=250)).state == "active"
    assert machine.limit(OTHER_GPU) == 250


def restore(uid: str = "uid-9", **spec: object) -> NodeFault:
    return fault("restore", uid, action="restore-limits", **spec)


def test_limits_go_back_to_what_the_first_agent_found(machine: Machine):
    machine.keeper().load()
    machine.change_gpu(limit=210.0, locked=[210, 900])
    keeper = machine.keeper()  # an agent that starts on a limited GPU knows what an earlier one found
    keeper.load()
    entry = keeper.apply(restore())
    assert (entry.state, machine.limit(), machine.state["gpus"][GPU]["locked"]) == ("active", 350, None)
    assert entry.message == "power limit 210.0 W -> 350 W, SM clock unlocked"
    assert machine.limit(OTHER_GPU) == 300
    assert keeper.restore("uid-9", "test").state == "restored"
    assert machine.limit() == 350


def test_a_cap_that_was_there_before_the_agent_stays(machine: Machine):
    machine.change_gpu(limit=310.0)
    keeper = machine.keeper()
    keeper.load()
    keeper.apply(restore())
    assert machine.limit() == 310
    assert not [call for call in machine.calls() if "-pl" in call]


def test_a_limit_of_which_no_earlier_one_is_known_is_left(machine: Machine):
    entry = machine.keeper().apply(restore())
    assert "its power limit is left, since no agent knows an earlier one" in entry.message
    assert not [call for call in machine.calls() if "-pl" in call]


def test_what_a_fault_of_ours_limits_is_not_remembered_and_not_restored_under_it(machine: Machine):
    keeper = machine.keeper()
    keeper.apply(fault())
    machine.set(fail=True)
    keeper.load()
    machine.set(fail=False)
    heir = machine.keeper()
    heir.load()
    assert heir._node.found_limits == {GPU: 350, OTHER_GPU: 300}
    heir.apply(fault(uid="uid-2"))
    assert "is under the fault fault-1 (power-limit) already" in heir.apply(restore()).message


def test_what_somebody_else_set_meanwhile_is_left_and_said(machine: Machine):
    keeper = machine.keeper()
    keeper.apply(fault(value=250))
    machine.change_gpu(limit=300.0)
    entry = keeper.restore("uid-1", "test")
    assert (entry.state, machine.limit()) == ("restored", 300)
    assert "somebody else changed it, so it is left as it is" in entry.message


def test_a_restore_that_fails_is_tried_again_until_it_works(machine: Machine):
    keeper = machine.keeper()
    keeper.apply(fault())
    machine.set(fail=True)
    entry = keeper.restore("uid-1", "its owner ended it")
    assert entry.open
    assert entry.problem.startswith("not restored yet (its owner ended it): nvidia-smi --query-gpu=")
    machine.set(fail=False)
    until(lambda: keeper.tick() or machine.limit() == 350)
    restored = keeper.entry("uid-1")
    assert restored is not None
    assert (restored.state, restored.problem, machine.limit()) == ("restored", "", 350)


def test_the_duration_ends_a_fault(machine: Machine):
    keeper = machine.keeper()
    keeper.apply(fault(durationSeconds=0.3))
    keeper.tick()
    assert machine.limit() == 200
    time.sleep(0.3)
    keeper.tick()
    assert machine.limit() == 350


def test_a_new_agent_restores_what_the_disk_says(machine: Machine):
    machine.keeper().apply(fault())
    assert on_disk(machine) == {"uid-1": "active"}
    heir = machine.keeper()
    heir.load()
    assert machine.limit() == 350
    assert on_disk(machine) == {"uid-1": "restored"}
    heir.forget("uid-1")
    assert on_disk(machine) == {}


def test_a_new_agent_that_cannot_restore_yet_goes_on_trying(machine: Machine):
    machine.keeper().apply(fault())
    machine.set(fail=True)
    heir = machine.keeper()
    heir.load()
    heir.forget("uid-1")
    assert [entry.uid for entry in heir.open_entries()] == ["uid-1"]
    machine.set(fail=False)
    heir.restore_all("the agent ends")
    assert machine.limit() == 350


def test_an_unreadable_journal_file_is_set_aside(machine: Machine):
    (machine.journal / "torn.json").write_text('{"uid": ')
    machine.keeper().load()
    assert [path.name for path in machine.journal.glob("[!.]*")] == ["torn.json.unreadable"]


def test_a_fault_that_is_not_on_the_disk_is_restored_by_its_status(machine: Machine):
    entry = machine.keeper().apply(fault(value=250))
    document = json.loads(fault(value=250).model_dump_json())
    document["status"] = {"phase": "Active", "saved": json.loads(entry.saved.model_dump_json())}
    lost = type(fault()).model_validate(document)
    stranger = Keeper(Journal(machine.root / "empty"), machine.node())
    (machine.root / "empty").mkdir()
    assert stranger.adopt(lost).state == "restored"
    assert machine.limit() == 350


def test_the_engine_is_paused_and_resumed(machine: Machine):
    with subprocess.Popen(["sleep", "60"]) as engine:
        try:
            pod = "99999999-9999-9999-9999-999999999999"
            machine.add_process(engine.pid, pod, title="VLLM::EngineCore", real=True)
            keeper = machine.keeper()
            entry = keeper.apply(fault(action="engine-pause", podUid=pod))
            assert entry.message == "1 engine processes stopped"
            assert Path(f"/proc/{engine.pid}/stat").read_text().split()[2] == "T"
            second = keeper.apply(fault("fault-2", "uid-2", action="engine-kill", podUid=pod))
            assert "the engine is under the fault fault-1 (engine-pause) already" in second.message
            machine.keeper().load()
            assert Path(f"/proc/{engine.pid}/stat").read_text().split()[2] == "S"
        finally:
            engine.kill()


def test_the_engine_is_killed_and_needs_no_restore(machine: Machine):
    with subprocess.Popen(["sleep", "60"]) as engine:
        pod = "99999999-9999-9999-9999-999999999999"
        machine.add_process(engine.pid, pod, title="VLLM::EngineCore", real=True)
        machine.set(fail=True)
        keeper = machine.keeper()
        assert keeper.apply(fault(action="engine-kill", podUid=pod)).state == "active"
        assert engine.wait(HANG_S) == -9
        assert keeper.restore("uid-1", "test").state == "restored"


def test_a_pod_without_an_engine_is_refused(machine: Machine):
    pod = "99999999-9999-9999-9999-999999999999"
    assert "has no engine process" in machine.keeper().apply(fault(action="engine-pause", podUid=pod)).message
