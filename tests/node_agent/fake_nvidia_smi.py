"""A stand-in for the ``nvidia-smi`` program: the options that the agent uses, on GPUs that are a file.

Run as ``python fake_nvidia_smi.py STATE ARGUMENT...``. The state is JSON: ``gpus`` (UUID -> figures), ``apps``
([pid, UUID]), and how it misbehaves: ``refuse_power`` (says "not supported" and leaves with 0, as on laptops),
``fail`` (leaves with 9), ``slow_s``, ``before_set_s``, ``after_set_s``, ``deaf`` (takes a power limit and
keeps the old).
"""

from __future__ import annotations

import fcntl
import json
import sys
import time
from pathlib import Path
from typing import Any

FIGURES = {
    "power.limit": "limit",
    "power.min_limit": "min",
    "power.default_limit": "default",
    "power.max_limit": "max",
    "clocks.max.sm": "max_sm",
    "clocks.sm": "sm",
}


def gpu(limit: float = 350.0) -> dict[str, Any]:
    return {
        "limit": limit,
        "min": 200.0,
        "default": 350.0,
        "max": 400.0,
        "max_sm": 1980,
        "sm": 1755,
        "locked": None,
        "persistence": True,
    }


def answer(state: dict[str, Any], arguments: list[str]) -> tuple[int, str]:
    """Exit status and output; ``state`` is changed in place."""
    if state.get("fail"):
        return 9, "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n"
    if arguments[0].startswith("--query-gpu="):
        fields = arguments[0].partition("=")[2].split(",")
        return 0, "".join(_row(uuid, figures, fields) for uuid, figures in state["gpus"].items())
    if arguments[0].startswith("--query-compute-apps="):
        return 0, "".join(f"{pid}, {uuid}\n" for pid, uuid in state.get("apps", []))
    assert arguments[0] == "-i", arguments
    uuid, option, *rest = arguments[1:]
    if uuid not in state["gpus"]:
        return 6, "No devices were found\n"
    return _set(state, state["gpus"][uuid], option, rest)


def _set(state: dict[str, Any], figures: dict[str, Any], option: str, rest: list[str]) -> tuple[int, str]:
    bus = "00000000:3B:00.0"
    if option == "-pl":
        if state.get("refuse_power"):
            said = f"Changing power management limit is not supported in current scope for GPU: {bus}."
            return 0, f"{said}\nTreating as warning and moving on.\nAll done.\n"
        watts = float(rest[0])
        if not figures["min"] <= watts <= figures["max"]:
            return 2, f"Provided power limit {watts:.2f} W is not a valid power limit\n"
        old = figures["limit"]
        if not state.get("deaf"):
            figures["limit"] = watts
        return 0, f"Power limit for GPU {bus} was set to {watts:.2f} W from {old:.2f} W.\nAll done.\n"
    if option == "-lgc":
        figures["locked"] = [int(each) for each in rest[0].split(",")]
        return 0, f'GPU clocks set to "(gpuClkMin {rest[0]})" for GPU {bus}\nAll done.\n'
    assert option == "-rgc", option
    figures["locked"] = None
    return 0, f"All done. Reset GPU clocks for GPU {bus}\n"


def _row(uuid: str, figures: dict[str, Any], fields: list[str]) -> str:
    cells = []
    for field in fields:
        if field == "uuid":
            cells.append(uuid)
        elif field == "persistence_mode":
            cells.append("Enabled" if figures["persistence"] else "Disabled")
        else:
            value = figures[FIGURES[field]]
            cells.append("[N/A]" if value is None else f"{value:.2f}" if field.startswith("power") else str(value))
    return ", ".join(cells) + "\n"


def run(path: Path, arguments: list[str]) -> tuple[int, str]:
    """``answer`` on the state in the file ``path``."""
    with path.with_suffix(".calls").open("a") as calls:
        calls.write(" ".join(arguments) + "\n")
    setting = arguments[0] == "-i"
    state = json.loads(path.read_text())
    time.sleep(state.get("slow_s", 0) + (state.get("before_set_s", 0) if setting else 0))
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        state = json.loads(path.read_text())
        status, output = answer(state, arguments)
        if setting:
            staging = path.with_suffix(".new")
            staging.write_text(json.dumps(state))
            staging.replace(path)
    if setting:
        time.sleep(state.get("after_set_s", 0))
    return status, output


def main() -> int:
    status, output = run(Path(sys.argv[1]), sys.argv[2:])
    sys.stdout.write(output)
    return status


if __name__ == "__main__":
    sys.exit(main())
