"""Find and undo faults in the namespaces and cgroups of a running stack, without a journal."""

from __future__ import annotations

import contextlib
import os
import signal

from tasks.deploy.local.runtime import StackRuntime
from tasks.inject.errors import FaultError
from tasks.inject.executors.local.repair import Readmit, RepairStep
from tasks.inject.executors.local.target import LocalTarget
from tasks.inject.executors.local.undo import (
    KillTracked,
    LiftMemoryLimit,
    LocalStep,
    RestoreEgress,
    RestoreQuota,
    RestoreScrapes,
    ResumeProcesses,
)
from tasks.system.process import process_name

STRESSOR_NAME = "stress-ng"


def residue(runtime: StackRuntime) -> list[str]:
    """Return every trace and every failed check."""
    found = []
    for service in runtime.services:
        target = LocalTarget.of(runtime, service.name)
        try:
            found += [line for step in _general_steps(target) for line in _check(step, target)]
            found += [f"{target.name}: {STRESSOR_NAME} process {pid} runs" for pid in _stressors(target)]
        except OSError as error:
            found += [f"{target.name}: cannot look for residue: {error}"] if target.stack_alive else []
    return found


def sweep(runtime: StackRuntime) -> tuple[list[str], list[str]]:
    """Undo every trace that ``residue`` finds; return what was done and what failed."""
    done: list[str] = []
    failures: list[str] = []
    for service in runtime.services:
        target = LocalTarget.of(runtime, service.name)
        try:
            for step in _general_steps(target):
                found = _check(step, target)
                if found:
                    failures += _undo(step, target)
                    done += [f"{line}: undone" for line in found]
            for pid in _stressors(target):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                done.append(f"{target.name}: {STRESSOR_NAME} process {pid} killed")
        except OSError as error:
            failures += [f"{target.name}: {error}"] if target.stack_alive else []
    return done, failures


def _general_steps(target: LocalTarget) -> list[LocalStep | RepairStep]:
    """Return the steps that restore the state described by the stack's runtime after any fault and action."""
    steps: list[LocalStep | RepairStep] = [
        RestoreEgress(),
        RestoreQuota(cores=target.service.cpu_cores),
        LiftMemoryLimit(),
    ]
    steps += [KillTracked(tracker=name) for name in target.trackers()]
    return [*steps, ResumeProcesses(), RestoreScrapes(), Readmit()]


def _stressors(target: LocalTarget) -> list[int]:
    return sorted(pid for pid in target.all_processes() if process_name(pid).startswith(STRESSOR_NAME))


def _check(step: LocalStep | RepairStep, target: LocalTarget) -> list[str]:
    try:
        return step.left(target)
    except (FaultError, OSError) as error:
        return [f"{target.name}: cannot look for residue: {error}"] if target.stack_alive else []


def _undo(step: LocalStep | RepairStep, target: LocalTarget) -> list[str]:
    try:
        step.undo(target)
        return step.left(target)
    except (FaultError, OSError) as error:
        return [] if target.gone else [f"{step.step}: {error}"]
