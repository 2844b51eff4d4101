"""NVIDIA GPUs by the ``nvidia-smi`` command: limits, clocks and the processes that compute on them."""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

log = logging.getLogger(__name__)

_GPU_FIELDS = (
    "uuid",
    "power.limit",
    "power.min_limit",
    "power.default_limit",
    "power.max_limit",
    "clocks.max.sm",
    "clocks.sm",
    "persistence_mode",
)
_REFUSALS = ("not supported", "insufficient permission", "unable to", "not permitted", "invalid")
"""Words of a refusal that leaves with exit status 0, as power limits of laptop GPUs do."""


class NvidiaSmiError(RuntimeError):
    """The command is missing, failed, refused or took too long; the message is one line."""


@dataclass(frozen=True)
class Gpu:
    """Watts and MHz; None where the GPU does not say."""

    uuid: str
    power_limit: float | None
    min_limit: float | None
    default_limit: float | None
    max_limit: float | None
    max_sm_clock: float | None
    sm_clock: float | None
    persistence: bool


COMMANDS = (
    ("nvidia-smi",),
    ("nsenter", "--target", "1", "--mount", "--", "nvidia-smi"),
    ("nsenter", "--target", "1", "--mount", "--", "chroot", "/run/nvidia/driver", "nvidia-smi"),
)
"""Places of the program: in the container (by NVIDIA's runtime), on the node, or in the GPU operator's driver
container. The last two need the host's PID namespace and privileges."""


class NvidiaSmi:
    """The first of ``commands`` that answers, each a program and what stands before its arguments."""

    def __init__(self, commands: Sequence[Sequence[str]] = COMMANDS, timeout_s: float = 15) -> None:
        self._commands = tuple(tuple(each) for each in commands)
        self._found: tuple[str, ...] | None = None
        self._timeout_s = timeout_s

    def gpus(self) -> dict[str, Gpu]:
        """Return the GPUs by UUID. Raises NvidiaSmiError."""
        rows = self._query("--query-gpu=" + ",".join(_GPU_FIELDS), len(_GPU_FIELDS))
        return {row[0]: _gpu(row) for row in rows}

    def gpu(self, uuid: str) -> Gpu:
        """Raises NvidiaSmiError, also when there is no such GPU."""
        gpus = self.gpus()
        if uuid not in gpus:
            raise NvidiaSmiError(f"there is no GPU {uuid} on this node; there is {', '.join(sorted(gpus)) or 'none'}")
        return gpus[uuid]

    def compute_processes(self) -> list[tuple[int, str]]:
        """(pid, GPU UUID) of every process that computes; pids are the host's. Raises NvidiaSmiError."""
        rows = self._query("--query-compute-apps=pid,gpu_uuid", 2)
        return [(int(pid), uuid) for pid, uuid in rows if pid.isdigit()]

    def set_power_limit(self, uuid: str, watts: float) -> None:
        """Raises NvidiaSmiError. Read it back: some GPUs refuse with a success."""
        self._set("-i", uuid, "-pl", f"{watts:.2f}".removesuffix(".00"))

    def lock_clocks(self, uuid: str, low_mhz: float, high_mhz: float) -> None:
        """Raises NvidiaSmiError."""
        self._set("-i", uuid, "-lgc", f"{low_mhz:.0f},{high_mhz:.0f}")

    def reset_clocks(self, uuid: str) -> None:
        """Raises NvidiaSmiError."""
        self._set("-i", uuid, "-rgc")

    def _query(self, what: str, columns: int) -> list[list[str]]:
        output = self._run(what, "--format=csv,noheader,nounits")
        rows = [[cell.strip() for cell in line.split(",")] for line in output.splitlines() if line.strip()]
        if any(len(row) != columns for row in rows):
            raise NvidiaSmiError(f"nvidia-smi {what}: cannot read its answer: {_one_line(output)}")
        return rows

    def _set(self, *arguments: str) -> None:
        output = self._run(*arguments)
        if any(refusal in output.lower() for refusal in _REFUSALS):
            raise NvidiaSmiError(f"nvidia-smi {' '.join(arguments)}: {_one_line(output)}")
        log.info("nvidia-smi %s: %s", " ".join(arguments), _one_line(output))

    def _run(self, *arguments: str) -> str:
        if self._found is None:
            self._found = self._find()
        return self._call(self._found, *arguments)

    def _find(self) -> tuple[str, ...]:
        problems = []
        for command in self._commands:
            try:
                self._call(command, "--query-gpu=uuid", "--format=csv,noheader")
            except NvidiaSmiError as error:
                problems.append(str(error))
            else:
                return command
        raise NvidiaSmiError("; ".join(dict.fromkeys(problems)))

    def _call(self, command: Sequence[str], *arguments: str) -> str:
        shown = f"nvidia-smi {' '.join(arguments)}"
        try:
            done = subprocess.run(
                [*command, *arguments], capture_output=True, text=True, timeout=self._timeout_s, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise NvidiaSmiError(f"{shown}: no answer within {self._timeout_s:g} s") from error
        except OSError as error:
            raise NvidiaSmiError(f"{shown}: cannot be run: {error.strerror}") from error
        if done.returncode != 0:
            said = _one_line(f"{done.stdout}\n{done.stderr}")
            raise NvidiaSmiError(f"{shown}: exit status {done.returncode}: {said}")
        return done.stdout


def _gpu(row: list[str]) -> Gpu:
    limit, low, default, high, max_clock, clock = (_number(cell) for cell in row[1:7])
    return Gpu(row[0], limit, low, default, high, max_clock, clock, row[7].lower() == "enabled")


def _number(cell: str) -> float | None:
    """``[N/A]``, ``[Not Supported]`` and ``[Unknown Error]`` are None."""
    try:
        return float(cell)
    except ValueError:
        return None


def _one_line(text: str) -> str:
    return "; ".join(line.strip() for line in text.splitlines() if line.strip())[:400]
