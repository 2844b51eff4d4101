"""Made-up runs of the experiment with actions, and the files of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tasks.injection import NO_FAULT
from tasks.remediate.stage import publish
from tests.remediate.campaign import params

Run = dict[str, Any]
HORIZON_S = 100.0


def run(
    case_id: str,
    kind: str,
    policy: str,
    *,
    target: str = "ray-replicas-1",
    bad_request_s: float = 20.0,
    detect_s: float | None = 10.0,
    mitigate_s: float | None = None,
    action: str | None = None,
    on: str | None = None,
    scenario: str = "",
) -> Run:
    """One run; ``action``: what was done 10 s after the alarm, ``on`` the target unless somebody else is named. Half of
    the requests are bad until it is mitigated."""
    faulty = kind != NO_FAULT
    named = (on or target) if policy.startswith("table:") else ""
    wrong = bool(action) and (not faulty or (on or target) != target)
    taken = [{"action": action, "target": on or target, "kind": kind, "at_s": 20.0, "wrong": wrong}] if action else []
    refusal = {"action": "restart", "target": "ray-replicas-0", "kind": "", "at_s": 30.0, "guards": {"few-out": "2"}}
    calm_s = 0.0 if not faulty else HORIZON_S if mitigate_s is None else mitigate_s
    steps = [float(at_s) for at_s in range(-30, int(HORIZON_S), 5)]
    return {
        "case_id": case_id,
        "block": case_id,
        "seed": 1,
        "backend": "simulated",
        "evidence_s": 10.0 if policy.startswith(("table:", "restart:")) else None,
        "onset_s": detect_s,
        "sli": {
            "at_s": steps,
            "requests": [10] * len(steps),
            "bad": [5 * (0 <= at_s < calm_s) for at_s in steps],
            "first_token_p95_s": [0.1] * len(steps),
        },
        "scenario": scenario,
        "kind": kind,
        "target": target if faulty else NO_FAULT,
        "policy": policy,
        "detect_s": detect_s,
        "localise_s": 20.0 if named and detect_s is not None else None,
        "act_s": 20.0 if taken else None,
        "mitigate_s": mitigate_s,
        "horizon_s": HORIZON_S,
        "bad_request_s": bad_request_s,
        "bad": int(bad_request_s),
        "requests": 300,
        "named": named,
        "actions": len(taken),
        "wrong": int(wrong),
        "slo": {"first_token_s": 0.2, "per_token_s": 0.01, "bad_share": 0.01},
        "taken": taken,
        "refused": [refusal] if policy == "restart-random" else [],
        "failures": [],
    }


def experiment(better: float = 1.0) -> list[Run]:
    """Five faults, one without an alarm, a fault-free case and a surge, under four policies; ``better``: factor on what
    ``table:peerwise`` leaves."""
    runs = []
    for i, kind in enumerate(("cpu-stress", "network-delay", "cpu-stress", "network-delay", "cpu-stress")):
        case = {"case_id": f"case-{i}", "kind": kind, "target": f"ray-replicas-{i + 1}"}
        if i == 4:
            case |= {"detect_s": None}
        runs += [
            run(policy="none", **case),
            run(policy="restart-random", action="restart", on="ray-replicas-0", bad_request_s=30.0, **case),
            run(policy="table:peerwise", action="eject", mitigate_s=40.0, bad_request_s=5.0 * better + i, **case),
            run(policy="oracle", action="eject", mitigate_s=30.0, bad_request_s=3.0 + i, **case),
        ]
    for case_id, scenario in (("case-8", ""), ("case-9", "surge")):
        for policy in ("none", "restart-random", "table:peerwise", "oracle"):
            acts = policy == "restart-random" and scenario
            calm = {"scenario": scenario, "detect_s": 40.0 if scenario else None, "bad_request_s": 0.1}
            runs.append(run(case_id, NO_FAULT, policy, action="restart" if acts else None, **calm))
    return runs


def written(runs: Sequence[Run], directory: Path) -> Path:
    """Publish the runs."""
    publish(runs, directory, params().score)
    return directory
