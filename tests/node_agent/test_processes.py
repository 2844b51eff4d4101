from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.kube.node_fault import SavedProcess
from tasks.node_agent.processes import ProcessError, ProcessTable, pod_of_cgroup
from tests.node_agent.machine import GPU, OTHER_POD, POD, Machine

DASHED, SCORED = POD, POD.replace("-", "_")


@pytest.mark.parametrize(
    "cgroup",
    [
        f"0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{SCORED}.slice/cri-containerd-ab.scope",
        f"0::/kubepods.slice/kubepods-pod{SCORED}.slice/crio-ab.scope",
        f"0::/kubepods/besteffort/pod{DASHED}/ab",
        f"0::/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{SCORED}.slice/cri-containerd-ab.scope",
        f"0::/../../kubepods-burstable-pod{SCORED}.slice/cri-containerd-ab.scope",
        f"12:memory:/kubepods/burstable/pod{DASHED}/ab\n11:cpu:/kubepods/burstable/pod{DASHED}/ab",
    ],
)
def test_pod_of_a_cgroup(cgroup: str):
    assert pod_of_cgroup(cgroup) == POD


@pytest.mark.parametrize("cgroup", ["", "0::/", "0::/system.slice/sshd.service", "0::/podman-1234.scope"])
def test_no_pod(cgroup: str):
    assert pod_of_cgroup(cgroup) is None


def test_the_engine_is_known_by_title_or_gpu_and_only_in_its_own_pod(tmp_path: Path):
    machine = Machine(tmp_path / "machine")
    machine.add_process(10, title="VLLM::EngineCore")
    machine.add_process(11, title="ray::RayWorkerWrapper")
    machine.add_process(12, title="ray::ServeReplica")
    machine.add_process(13, OTHER_POD, title="VLLM::EngineCore")
    found = ProcessTable(machine.proc).engine_of_pod(POD, computing=[11, 13])
    assert [(each.pid, each.name) for each in found] == [(10, "VLLM::EngineCore"), (11, "ray::RayWorkerWrapper")]


def test_assigned_gpus_come_from_the_environment(tmp_path: Path):
    machine = Machine(tmp_path / "machine")
    machine.add_process(10, environment=f"A=b\0NVIDIA_VISIBLE_DEVICES={GPU},all\0")
    machine.add_process(11, OTHER_POD, environment="NVIDIA_VISIBLE_DEVICES=void\0")
    table = ProcessTable(machine.proc)
    assert table.assigned_gpus(POD) == {GPU}
    assert table.assigned_gpus(OTHER_POD) == set()


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as started:
        yield started
        started.kill()


def saved(process: subprocess.Popen[bytes], ticks: int | None = None) -> SavedProcess:
    start = ProcessTable().start_ticks(process.pid)
    assert start is not None
    return SavedProcess(pid=process.pid, start_ticks=start if ticks is None else ticks, name="sleep")


def test_stop_and_resume_a_real_process(process: subprocess.Popen[bytes]):
    table = ProcessTable()
    table.stop([saved(process)])
    assert table.is_stopped(saved(process))
    table.stop([saved(process)])
    table.resume([saved(process)])
    assert not table.is_stopped(saved(process))


def test_another_process_with_the_same_pid_is_left_alone(process: subprocess.Popen[bytes]):
    table = ProcessTable()
    stranger = saved(process, ticks=1)
    table.stop([stranger])
    table.kill([stranger])
    assert process.poll() is None
    assert not table.is_stopped(saved(process))


def test_kill_waits_for_the_end(process: subprocess.Popen[bytes]):
    table = ProcessTable()
    target = saved(process)
    table.kill([target])
    assert not table.is_same(target)


def test_a_signal_without_effect_is_an_error(process: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tasks.node_agent.processes.SETTLE_S", 0.1)
    monkeypatch.setattr("tasks.node_agent.processes.os.kill", lambda pid, number: None)
    with pytest.raises(ProcessError, match=f"SIGSTOP has no effect on {process.pid}"):
        ProcessTable().stop([saved(process)])
