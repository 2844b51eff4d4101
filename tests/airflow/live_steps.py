"""Stand-in for the live commands of ``rcarena``: no stack, no load; synthetic telemetry of each planned case.

``preflight``, ``deploy`` and ``step`` are played here; all other commands, and ``step make``, which needs no stack, are
the real ones. What would be a stack is the file ``stack/up``, what would be a fault is a file in ``faults``: tests look
for them.
Files in ``behave`` beside or in the campaigns' folders change what a command does: ``fail-<command>`` with how often
it still fails, ``refuse-<command>`` how often with the status of a user's mistake, ``hold-<command>`` makes it wait
until the file is gone; a command is a word such as ``deploy-up``, ``step-load``, ``during-inject`` or ``record``. With
``mislead`` a service that has no fault shows it.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType

LIVE = ("preflight", "deploy", "step")
EXIT_FINISHED = 99
EXIT_USAGE = 2


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] not in LIVE or sys.argv[1:3] == ["step", "make"]:
        _behave(_workspace(sys.argv).parent / "behave", sys.argv[1])
        real = Path(sys.executable).with_name("rcarena")
        os.execv(real, [str(real), *sys.argv[1:]])
    parser = argparse.ArgumentParser()
    parser.add_argument("words", nargs="*")
    parser.add_argument("--params", type=Path)
    parser.add_argument("--workspace", type=Path)
    parser.add_argument("--attempt", default="local")
    parser.add_argument("--partner-timeout")
    parser.add_argument("--hold")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, _interrupt)
    command = "-".join(given.words[:2])
    print(f"{command} in {given.workspace.name}, attempt {given.attempt}", flush=True)
    for folder in (given.workspace.parent, given.workspace):
        _behave(folder / "behave", command)
    if command == "preflight":
        return
    if command in ("deploy-up", "deploy-down"):
        _deploy(given.workspace, up=command == "deploy-up")
    elif command == "deploy-release":
        _recover(given.workspace)
    else:
        _step(given.words[1], given.words[2], given)


def _workspace(words: list[str]) -> Path:
    return Path(words[words.index("--workspace") + 1])


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _behave(folder: Path, command: str) -> None:
    failures, hold = folder / f"fail-{command}", folder / f"hold-{command}"
    if failures.exists() and (left := int(failures.read_text())) > 0:
        failures.write_text(str(left - 1))
        sys.exit(f"{command} fails, as the test wants")
    refusals = folder / f"refuse-{command}"
    if refusals.exists() and (left := int(refusals.read_text())) > 0:
        refusals.write_text(str(left - 1))
        print(f"{command} refuses, as the test wants", file=sys.stderr)
        sys.exit(EXIT_USAGE)
    while hold.exists():
        time.sleep(0.1)


def _deploy(workspace: Path, *, up: bool) -> None:
    _recover(workspace)
    mark = workspace / "stack" / "up"
    if up:
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
    else:
        mark.unlink(missing_ok=True)


def _recover(workspace: Path) -> None:
    for fault in (workspace / "faults").glob("*"):
        print(f"undone: {fault.name}")
        fault.unlink(missing_ok=True)


def _step(name: str, case_id: str, given: argparse.Namespace) -> None:
    workspace: Path = given.workspace
    case = workspace / "cases" / case_id
    attempt = workspace / "runs" / case_id / given.attempt
    if name == "verify":
        _recover(workspace)
        if not (case / "manifest.json").exists():
            sys.exit(f"{case_id} is not recorded")
        return
    if name in ("claim", "prepare") and (case / "manifest.json").exists():
        sys.exit(EXIT_FINISHED)
    if name == "claim":
        _deploy(workspace, up=True)
        return
    if not (workspace / "stack" / "up").exists():
        sys.exit("no stack is up")
    if name == "prepare":
        attempt.mkdir(parents=True)
    elif name == "export":
        _publish(workspace, case_id, given.params)
    else:
        _run_part(name, workspace, case_id, attempt)


def _run_part(name: str, workspace: Path, case_id: str, attempt: Path) -> None:
    """Load and injection meet, as the real ones do: each begins once, and one that is done is not repeated. The fault
    is there for a second and is undone, whatever comes."""
    done = attempt / f"{name}-done"
    if done.exists():
        return
    partner = {"load": "inject", "inject": "load"}[name]
    (attempt / name).touch()
    deadline = time.monotonic() + 120
    while not (attempt / partner).exists():
        if time.monotonic() > deadline:
            sys.exit(f"{partner} did not come")
        time.sleep(0.1)
    try:
        (attempt / f"begun-{name}").touch(exist_ok=False)
    except FileExistsError:
        sys.exit(f"{name} has begun before")
    fault = workspace / "faults" / case_id
    try:
        if name == "inject":
            fault.parent.mkdir(exist_ok=True)
            fault.touch()
        _behave(workspace.parent / "behave", f"during-{name}")
        time.sleep(1)
    finally:
        if name == "inject":
            fault.unlink(missing_ok=True)
    done.touch()


def _publish(workspace: Path, case_id: str, params_file: Path) -> None:
    from tasks.campaign.plan import plan_campaign
    from tasks.params import load_params
    from tests.synthetic import synthetic_case

    plans = {plan.case_id: plan for plan in plan_campaign(load_params(params_file))}
    injections = plans[case_id].injections
    kind, target = (injections[0].kind, injections[0].target) if injections else (None, "ray-replicas-0")
    seen_on = "ray-head" if (workspace.parent / "behave" / "mislead").exists() else None
    seed = plans[case_id].seed % 1000
    synthetic_case(workspace / "cases", case_id, kind=kind, target=target, seen_on=seen_on, seed=seed)


if __name__ == "__main__":
    main()
