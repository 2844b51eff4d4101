"""How long a simulated case takes, and how much memory, as the fleet grows: ``python benchmarks/simulated_fleet.py``.

Prints seconds of CPU, peak memory and size of the case for fleets of 10, 100 and 1,000 replicas, each in a process of
its own, and the exponent of growth between them.
"""

from __future__ import annotations

import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
SIZES = (10, 100, 1000)


def measure(replicas: int) -> dict[str, float]:
    """Simulate one case of the fleet's preset in this process."""
    from tasks.backends import backend_of
    from tasks.campaign.attempt import order_of
    from tasks.campaign.plan import plan_campaign
    from tasks.params import load_params
    from tasks.workspace import Workspace

    params = load_params(ROOT / "presets" / f"fleet-{replicas}.yaml")
    plan = next(each for each in plan_campaign(params) if "gpu-clock-lock" in each.label and each.scenario is None)
    with tempfile.TemporaryDirectory() as directory:
        workspace = Workspace(Path(directory))
        workspace.cases.mkdir(parents=True)
        cpu, wall = time.process_time(), time.perf_counter()
        case = backend_of(params, workspace).make_case(order_of(params, plan), workspace.cases)
        return {
            "cpu_s": time.process_time() - cpu,
            "wall_s": time.perf_counter() - wall,
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "case_mb": sum(file.stat().st_size for file in case.path.iterdir()) / 2**20,
            "requests": case.record.load.requests,
        }


def main() -> None:
    if len(sys.argv) > 1:
        print(json.dumps(measure(int(sys.argv[1]))))
        return
    found = {}
    print(f"{'replicas':>8} {'CPU s':>8} {'wall s':>8} {'peak MB':>8} {'case MB':>8} {'requests':>9}")
    for size in SIZES:
        run = subprocess.run([sys.executable, __file__, str(size)], check=True, capture_output=True, text=True)
        found[size] = figures = json.loads(run.stdout)
        print(
            f"{size:>8} {figures['cpu_s']:>8.1f} {figures['wall_s']:>8.1f} {figures['peak_mb']:>8.0f} "
            f"{figures['case_mb']:>8.1f} {figures['requests']:>9.0f}"
        )
    for a, b in ((SIZES[0], SIZES[1]), (SIZES[1], SIZES[2])):
        ratio = found[b]["cpu_s"] / found[a]["cpu_s"]
        print(f"{a} -> {b}: CPU x {ratio:.1f}, exponent {math.log(ratio) / math.log(b / a):.2f}")


if __name__ == "__main__":
    main()
