"""Impair the link of a service: delay and loss by netem or the user-space shaper, rate by tbf, cuts by a filter."""

from __future__ import annotations

import contextlib
import json
import select
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tasks.deploy.local.namespaces import fabric_link
from tasks.inject import shaper
from tasks.inject.errors import FaultError
from tasks.inject.executors.local.target import LocalTarget

TAP = "fault-tap"
SHAPER_START_TIMEOUT_S = 8
_UNKNOWN_QDISC = "qdisc kind is unknown"
_MATCH_ALL = ("protocol", "all", "u32", "match", "u32", "0", "0")
_DROP_ALL = ("protocol", "all", "bpf", "da", "bytecode", "1,6 0 0 2,")
_DROP_TCP_TO = (
    # of an Ethernet frame: IPv4, TCP, no later fragment, this destination port; 2 drops, 0 lets pass
    "11,40 0 0 12,21 0 8 2048,48 0 0 23,21 0 6 6,40 0 0 20,69 4 0 8191,"
    "177 0 0 14,72 0 0 16,21 0 1 {port},6 0 0 2,6 0 0 0,"
)
_LOOK = "tc -j qdisc show && ip -j link show"
_DEFAULT_QDISCS = {"noqueue", "pfifo_fast", "fq_codel", "mq", "pfifo"}


@dataclass(frozen=True)
class LinkImpairment:
    """Delay and loss as netem defines them."""

    delay_ms: float = 0
    jitter_ms: float = 0
    correlation_percent: float = 0
    loss_percent: float = 0


def impair(target: LocalTarget, impairment: LinkImpairment, run_for_s: float, prefer_kernel: bool = True) -> str:
    """Delay and drop the service's outgoing frames; return the mechanism, ``netem`` or ``user-space shaper``.

    Raises:
        FaultError: neither works on this kernel.
    """
    if prefer_kernel and _add_netem(target, impairment):
        return "netem"
    _start_shaper(target, impairment, run_for_s)
    interface = target.service.interface
    _tc(target, "qdisc", "add", "dev", interface, "clsact")
    redirect = ("action", "mirred", "egress", "redirect", "dev", TAP)
    _tc(target, "filter", "add", "dev", interface, "egress", *_MATCH_ALL, *redirect)
    return "user-space shaper"


def limit_rate(target: LocalTarget, rate_kbit: float) -> str:
    """Limit outgoing traffic to ``rate_kbit``, queueing for up to one second before dropping."""
    burst_bytes = max(3_000, round(rate_kbit * 1000 / 8 / 50))
    _tc(
        target,
        *("qdisc", "add", "dev", target.service.interface, "root", "tbf"),
        *("rate", f"{round(rate_kbit * 1000)}bit", "burst", str(burst_bytes), "latency", "1000ms"),
    )
    return "tbf"


def cut(target: LocalTarget) -> str:
    """Drop every frame that the service sends or receives."""
    interface = target.service.interface
    _tc(target, "qdisc", "add", "dev", interface, "clsact")
    for direction in ("egress", "ingress"):
        _tc(target, "filter", "add", "dev", interface, direction, *_DROP_ALL)
    return "filter"


def drop_from_fabric(target: LocalTarget, port: int) -> None:
    """Drop what the fabric and the other services send to a TCP port of the service."""
    link = fabric_link(target.service.address)
    _checked(target, target.run_in_fabric, "qdisc", "add", "dev", link, "clsact")
    program = _DROP_TCP_TO.format(port=port)
    rule = ("protocol", "all", "bpf", "da", "bytecode", program)
    _checked(target, target.run_in_fabric, "filter", "add", "dev", link, "egress", *rule)


def restore_from_fabric(target: LocalTarget) -> None:
    """Remove what ``drop_from_fabric`` added; do nothing when it is not there."""
    target.run_in_fabric("tc", "qdisc", "del", "dev", fabric_link(target.service.address), "clsact")


def fabric_residue(target: LocalTarget) -> list[str]:
    """Return the queueing disciplines of the fabric's end of the link other than the kernel's default."""
    link = fabric_link(target.service.address)
    answer = target.run_in_fabric("tc", "-j", "qdisc", "show", "dev", link)
    if answer.returncode:
        if not target.stack_alive:
            return []
        raise FaultError(f"{target.name}: cannot look at {link}: {answer.stderr.strip()}")
    try:
        qdiscs = json.loads(answer.stdout)
    except json.JSONDecodeError as error:
        raise FaultError(f"{target.name}: cannot look at {link}: {error}") from error
    found = [each["kind"] for each in qdiscs if each["kind"] not in _DEFAULT_QDISCS]
    return [f"{target.name}: queueing discipline {kind} on {link}" for kind in found]


def restore_egress(target: LocalTarget) -> None:
    """Remove everything that the functions above may have added.

    Raises:
        FaultError: something is still there.
    """
    interface = target.service.interface
    remove = f"tc qdisc del dev {interface} clsact; tc qdisc del dev {interface} root; {_LOOK}"
    still_there = [line for line in _residue_in(target, remove) if TAP not in line]  # the TAP leaves with its shaper
    if still_there:
        raise FaultError("; ".join(still_there))


def egress_residue(target: LocalTarget) -> list[str]:
    """Return the link's queueing disciplines other than the kernel's default, and TAP devices of a shaper."""
    return _residue_in(target, _LOOK)


def _residue_in(target: LocalTarget, script: str) -> list[str]:
    answer = target.run("sh", "-c", script)
    if answer.returncode:
        if not target.stack_alive:
            return []
        raise FaultError(f"{target.name}: cannot look at the link: {answer.stderr.strip()}")
    try:
        qdiscs, end = json.JSONDecoder().raw_decode(answer.stdout)
        links = json.loads(answer.stdout[end:])
    except json.JSONDecodeError as error:
        raise FaultError(f"{target.name}: cannot look at the link: {error}") from error
    interface = target.service.interface
    residue = [
        f"{target.name}: queueing discipline {qdisc['kind']} on {interface}"
        for qdisc in qdiscs
        if qdisc.get("dev") == interface and qdisc["kind"] not in _DEFAULT_QDISCS
    ]
    return residue + [f"{target.name}: TAP device {link['ifname']}" for link in links if link["ifname"] == TAP]


def _add_netem(target: LocalTarget, impairment: LinkImpairment) -> bool:
    argv = ["qdisc", "add", "dev", target.service.interface, "root", "netem", "limit", "20000"]
    if impairment.delay_ms or impairment.jitter_ms:
        argv += ["delay", f"{impairment.delay_ms:g}ms"]
        if impairment.jitter_ms:
            argv += [f"{impairment.jitter_ms:g}ms", f"{impairment.correlation_percent:g}%"]
    if impairment.loss_percent:
        argv += ["loss", f"{impairment.loss_percent:g}%"]
    answer = target.run("tc", *argv)
    if answer.returncode == 0:
        return True
    if _UNKNOWN_QDISC in answer.stderr:
        return False
    raise FaultError(f"{target.name}: tc {' '.join(argv)}: {answer.stderr.strip()}")


def _tc(target: LocalTarget, *argv: str) -> None:
    _checked(target, target.run, *argv)


def _checked(target: LocalTarget, run: Callable[..., subprocess.CompletedProcess[str]], *argv: str) -> None:
    answer = run("tc", *argv)
    if answer.returncode:
        raise FaultError(f"{target.name}: tc {' '.join(argv)}: {answer.stderr.strip()}")


def _start_shaper(target: LocalTarget, impairment: LinkImpairment, run_for_s: float) -> None:
    """Start the shaper in the service's network namespace. It ends when this process does: it holds its stdin."""
    argv = [*target.enter_service(), sys.executable, "-I", "-S", str(Path(shaper.__file__).resolve())]
    argv += ["--interface", target.service.interface, "--tap", TAP, "--run-for-s", f"{run_for_s:.3f}"]
    argv += ["--delay-ms", f"{impairment.delay_ms:g}", "--jitter-ms", f"{impairment.jitter_ms:g}"]
    argv += ["--correlation-percent", f"{impairment.correlation_percent:g}"]
    argv += ["--loss-percent", f"{impairment.loss_percent:g}"]
    process = subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    _held_shapers.append(process)
    assert process.stdout is not None
    deadline = time.monotonic() + SHAPER_START_TIMEOUT_S
    while time.monotonic() < deadline:
        readable, _, _ = select.select([process.stdout], [], [], 0.2)
        if readable and process.stdout.read(len(shaper.READY)) == shaper.READY:
            return
        if process.poll() is not None:
            break
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    _, errors = process.communicate()
    last_line = (errors.decode(errors="replace").strip().splitlines() or ["it did not start in time"])[-1]
    raise FaultError(f"{target.name}: the user-space shaper failed: {last_line}")


_held_shapers: list[subprocess.Popen[bytes]] = []
"""Keeps the standard inputs of running shapers open: closing one ends its shaper."""
