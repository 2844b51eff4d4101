from __future__ import annotations

from pathlib import Path

import pytest

from tasks.node_agent.nvidia_smi import Gpu, NvidiaSmi, NvidiaSmiError
from tests.node_agent.machine import GPU, OTHER_GPU, Machine


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "machine")


def smi(machine: Machine, timeout_s: float = 10) -> NvidiaSmi:
    return NvidiaSmi([machine.smi_command], timeout_s)


def test_gpus_with_their_limits_and_clocks(machine: Machine):
    gpus = smi(machine).gpus()
    assert gpus[GPU] == Gpu(GPU, 350, 200, 350, 400, 1980, 1755, persistence=True)
    assert set(gpus) == {GPU, OTHER_GPU}


def test_what_a_gpu_does_not_say_is_none(machine: Machine):
    machine.change_gpu(limit=None, min=None, max_sm=None, persistence=False)
    gpu = smi(machine).gpu(GPU)
    assert (gpu.power_limit, gpu.min_limit, gpu.max_sm_clock, gpu.persistence) == (None, None, None, False)


def test_arguments_are_those_of_the_real_program(machine: Machine):
    program = smi(machine)
    program.gpus()
    machine.state_file.with_suffix(".calls").unlink()
    program.set_power_limit(GPU, 250)
    program.set_power_limit(GPU, 320.5)
    program.lock_clocks(GPU, 210, 900)
    program.reset_clocks(GPU)
    assert machine.calls() == [
        f"-i {GPU} -pl 250", f"-i {GPU} -pl 320.50", f"-i {GPU} -lgc 210,900", f"-i {GPU} -rgc"
    ]  # fmt: skip


def test_compute_processes(machine: Machine):
    machine.add_process(12, gpu=GPU)
    assert smi(machine).compute_processes() == [(12, GPU)]


def test_a_refusal_that_leaves_with_success_is_an_error(machine: Machine):
    machine.set(refuse_power=True)
    with pytest.raises(NvidiaSmiError, match=r"-pl 250: Changing power management limit is not supported .*; All done"):
        smi(machine).set_power_limit(GPU, 250)


def test_failures_are_one_line(machine: Machine):
    with pytest.raises(NvidiaSmiError, match=r"exit status 2: Provided power limit 100\.00 W is not a valid"):
        smi(machine).set_power_limit(GPU, 100)
    with pytest.raises(NvidiaSmiError, match="there is no GPU GPU-none on this node; there is GPU-1111"):
        smi(machine).gpu("GPU-none")
    program = smi(machine)
    program.gpus()
    machine.set(fail=True)
    with pytest.raises(NvidiaSmiError, match="exit status 9: NVIDIA-SMI has failed"):
        program.gpus()
    with pytest.raises(NvidiaSmiError, match="cannot be run: No such file"):
        NvidiaSmi([["/nowhere/nvidia-smi"]]).gpus()
    with pytest.raises(NvidiaSmiError, match="cannot read its answer: hello"):
        NvidiaSmi([["echo", "hello"]]).gpus()


def test_one_that_hangs_is_given_up(machine: Machine):
    machine.set(slow_s=5)
    with pytest.raises(NvidiaSmiError, match=r"no answer within 0\.2 s"):
        smi(machine, timeout_s=0.2).gpus()


def test_the_first_command_that_answers_is_used(machine: Machine):
    program = NvidiaSmi([["/nowhere/nvidia-smi"], ["false"], machine.smi_command])
    assert set(program.gpus()) == {GPU, OTHER_GPU}
    with pytest.raises(NvidiaSmiError, match=r"cannot be run: No such file or directory; nvidia-smi .* exit status 1"):
        NvidiaSmi([["/nowhere/nvidia-smi"], ["false"]]).gpus()
