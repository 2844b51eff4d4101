"""``python -m tests.remediate.live_toy WORKSPACE [MOMENT]``: a run on the toy, for ``test_live.py``.

Without MOMENT it prints what it saw as JSON; with it, it says so when it is there, and waits to be killed.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tasks.campaign.plan import plan_campaign
from tasks.case import validate_case
from tasks.inject.recover import residue
from tasks.params import Params
from tasks.remediate.live import LivePatient, admit, ready
from tasks.workspace import Workspace
from tests.waiting import until

TARGET = "ray-replicas-1"
DELAY_MS = 2000
PARAMS = {
    "campaign": {
        "name": "toy",
        "seed": 3,
        "repetitions": 1,
        "fault_free_cases": 0,
        "windows": {"warmup_s": 1, "baseline_s": 1, "fault_s": 300, "recovery_s": 1},
    },
    "deploy": {"backend": "toy", "replicas": 2},
    "load": {"arrival": "constant", "rate": 16, "output_tokens": {"mean": 4}, "request_timeout_s": 30},
    "inject": {"faults": [{"kind": "network-delay", "targets": [TARGET], "parameters": {"delay_ms": DELAY_MS}}]},
    "export": {"rate_window_s": 1},
    "score": {"methods": ["random"], "profile": "paper"},
    "report": {},
    "remediate": {"policies": ["none", "oracle"]},
}


def wait_for(patient: LivePatient, what: str, seen: Callable[[], bool]) -> None:
    def look() -> bool:
        patient.advance(patient.now_s + 0.1)
        return seen()

    until(look, what, pause_s=0)


def late(patient: LivePatient) -> int:
    """Requests that have no answer after half of the delay."""
    requests = patient.requests()
    return int((requests["last_token"].isna() & (requests["scheduled"] < patient.now_s - DELAY_MS / 2e3)).sum())


def answered_since(patient: LivePatient, since_s: float) -> int:
    requests = patient.requests()
    return int((requests["last_token"].notna() & (requests["scheduled"] > since_s)).sum())


def main() -> None:
    place, moment = Workspace(Path(sys.argv[1])), (sys.argv[2:] or [""])[0]
    params = Params.model_validate(PARAMS)
    (plan,) = plan_campaign(params)
    said: list[str] = []
    with ready(params, place, said.append, keep_stack=bool(moment)):
        patient = admit(params, place, plan, said.append)
        assert isinstance(patient, LivePatient)
        patient.advance(patient.fault_s)
        wait_for(patient, "no request is answered", lambda: answered_since(patient, 0) > 0)
        baseline = patient.requests()
        wait_for(patient, "no request is late", lambda: late(patient) >= 2)
        with tempfile.TemporaryDirectory() as directory:
            case = patient.recording(Path(directory))
            record, problems, rows = case.record, validate_case(case.path), len(case.requests)
        out_s = patient.act("eject", TARGET)
        since_s = patient.now_s
        if moment:
            print(moment, flush=True)
            patient.advance(1e9)
        wait_for(patient, "nothing is answered", lambda: answered_since(patient, since_s) >= 8)
        served = patient.requests()
        patient.release()
        found = {
            "baseline": [len(baseline) >= 32, int(baseline["failed"].sum())],
            "recording": [record.kind, len(record.injections), problems, rows > 0],
            "out": out_s > 200,
            "served": bool((served["first_token"].dropna() <= served["last_token"].dropna()).all()),
            "residue": residue(place),
            "unseen": patient.unseen(),
            "said": said,
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
