"""What `rcarena plan` tells of a campaign."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from tests.command import ROOT, rcarena_here


def test_the_plan_tells_steps_scenarios_roles_loads_and_times(tmp_path: Path) -> None:
    document = yaml.safe_load((ROOT / "params.yaml").read_text())
    document["campaign"].update(fault_free_cases=0)
    root, other = {"kind": "cpu-stress", "target": "ray-head"}, {"kind": "network-delay", "target": "nginx-proxy"}
    document["inject"] = {
        "faults": [{"kind": "network-delay", "targets": ["ray-head"], "ladder": {"delay_ms": [20, 250]}}],
        "scenarios": [
            {"name": "cascade", "injections": [root, {**other, "role": "victim", "offset_s": 3}]},
            {"name": "busy", "load": {"rate": 5}, "injections": [{**other, "role": "disturbance"}]},
        ],
    }
    file = tmp_path / "p.yaml"
    file.write_text(yaml.safe_dump(document))
    done = rcarena_here("plan", "--params", str(file), "--workspace", str(tmp_path / "w"))
    *cases, counts, times = done.stdout.splitlines()
    assert sorted(line.split("  ", 2)[2].strip() for line in cases) == [
        "busy: network-delay → nginx-proxy (disturbance)  [5 requests/s]",
        "cascade: cpu-stress → ray-head + network-delay → nginx-proxy (victim)",
        "network-delay → ray-head (delay_ms 20.0)",
        "network-delay → ray-head (delay_ms 250.0)",
    ]
    assert counts == "4 cases: 3 with one root, 0 with several, 1 without; 1 with a victim, 1 with a disturbance"
    assert times == (
        "a case takes 57 s and about 10 s more, all of them about 5 min, the pending 4 about 5 min; starting the stack "
        "comes on top"
    )
    rows = {
        row["scenario"]: row
        for row in json.loads(
            rcarena_here("plan", "--json", "--params", str(file), "--workspace", str(tmp_path / "w")).stdout
        )
    }
    assert (rows["busy"]["load"]["rate"], rows["busy"]["seconds"]) == (5, 67)
    assert [each["role"] for each in rows["cascade"]["injections"]] == ["root", "victim"]
