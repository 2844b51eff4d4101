"""What kind of fault a service has: a table of rules, each from what the fault does physically.

Rules are tried in order; the first whose signals moved names the kind, and takes the signals that it explains with it.
What is left may be a second fault of the same service. No rule holds: ``unknown``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

SHOWS = 3.0
"""From so many noises on a signal has moved."""
EVERYTHING = ("*",)


@dataclass(frozen=True)
class Rule:
    """``must``: signals that the fault moves, each an alternative of one or more; ``never``: those that it cannot move;
    ``explains``: those that need no other fault once it is there."""

    kind: str
    must: tuple[tuple[str, ...], ...]
    never: tuple[str, ...] = ()
    explains: tuple[str, ...] = ()


@dataclass(frozen=True)
class Kind:
    """A kind and the signals that speak for it."""

    name: str
    signals: tuple[str, ...]


_LIMITS = ("clock", "power_limit", "quota", "power_violation", "thermal_violation")
_SLOWED = ("step", "link", "resent", "silent", "cpu_throttled", *_LIMITS)
_LATE = ("link", "resent", "silent")

RULES: tuple[Rule, ...] = (
    # its processes ended and others took their place
    Rule("process-kill", (("vanished", "cut", "restarts"),), (), EVERYTHING),
    # processes are there and use no CPU, not even to idle
    Rule("process-freeze", (("stopped",),), (), EVERYTHING),
    # processes run, and nothing leaves them
    Rule("network-partition", (("mute",),), (), EVERYTHING),
    # it is there, for it refuses nothing, and does not answer
    Rule("process-freeze", (("unheard",),), (), EVERYTHING),
    # memory grew beyond what siblings and load explain; filling it takes CPU
    Rule("memory-stress", (("memory",),), (), ("memory", "cpu", *_SLOWED)),
    # the clock or the limit fell, and steps slowed with it (a limit counts only as far as they did)
    Rule("accelerator-throttle", (_LIMITS,), ("cpu",), _SLOWED),
    # steps are slow at a normal clock while somebody else uses the GPU
    Rule("gpu-contention", (("step",), ("gpu_memory", "gpu_active")), ("cpu", *_LIMITS), _SLOWED),
    # computing is cut off although no more of it is used
    Rule("accelerator-throttle", (("step",), ("cpu_throttled",)), ("cpu",), _SLOWED),
    # more CPU than the work explains
    Rule("cpu-stress", (("cpu",),), (), ("cpu", *_SLOWED)),
    # the link carries as much as it can, all the time
    Rule("network-bandwidth", (("link", "resent"), ("capped",)), ("step",), _LATE),
    # every call is late by about as much
    Rule("network-delay", (("link",), ("every_call",)), ("step",), _LATE),
    # some calls are late, others are not
    Rule("network-loss", (("link", "resent"),), ("step",), _LATE),
    # it is alive and connected, and no token comes
    Rule("engine-stall", (("silent",),), ("cpu",), ("silent", "step", *_LATE)),
)


def kinds_of(signals: Mapping[str, float], most: int = 2) -> tuple[Kind, ...]:
    """Return the kinds, up to ``most``, that explain ``signals`` (name -> strength in noises)."""
    left = {name: strength for name, strength in signals.items() if strength >= SHOWS}
    found: list[Kind] = []
    for rule in RULES:
        seen = [max(either, key=lambda name: left.get(name, 0.0)) for either in rule.must]
        if (
            len(found) == most
            or any(kind.name == rule.kind for kind in found)
            or not all(name in left for name in seen)
            or any(name in left for name in rule.never)
        ):
            continue
        found.append(Kind(rule.kind, tuple(seen)))
        if rule.explains == EVERYTHING:
            break
        left = {name: strength for name, strength in left.items() if name not in rule.explains}
    return tuple(found)
