"""CPU time and memory of every method on fleets, and how they grow: ``python benchmarks/fleet_methods.py``.

One simulated case per size (a GPU locked to a fifth of its clock; the presets ``fleet-10``, ``-100`` and ``-1000``,
other sizes scaled from the last). Each pair runs as ``rcarena score`` runs it: in a child process, one thread, under
limits. Time is CPU time, so that a busy machine tells the same; memory is by how much the method raised that of its
process. A method that needs more than the limit is cut there.

    python benchmarks/fleet_methods.py [--replicas 10,100,1000] [--methods peerwise,nsigma] [--limit 60]
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tasks.backends import backend_of
from tasks.campaign.attempt import order_of
from tasks.campaign.plan import plan_campaign
from tasks.params import Params, load_params
from tasks.rca.registry import get_method, list_methods
from tasks.rca.run.build_view import build_view
from tasks.rca.run.pair import PairResult
from tasks.rca.run.pool import Limits
from tasks.rca.run.runner import run_pairs
from tasks.rca.view import CaseView
from tasks.workspace import Workspace

ROOT = Path(__file__).parents[1]
LARGEST = 1000
MEMORY_MB = 8192
_SHOWN = 0.005


def fleet_params(replicas: int) -> Params:
    """Return the preset of that size, or that of 1,000 replicas with as many fewer requests."""
    preset = ROOT / "presets" / f"fleet-{replicas}.yaml"
    if preset.exists():
        return load_params(preset)
    document = load_params(ROOT / "presets" / f"fleet-{LARGEST}.yaml").model_dump(mode="json")
    share = replicas / LARGEST
    deploy, load = document["deploy"], document["load"]
    for group in deploy["groups"]:
        group["replicas"] = round(group["replicas"] * share)
    deploy["replicas"] = sum(group["replicas"] for group in deploy["groups"])
    deploy["trace_share"] = min(1.0, deploy["trace_share"] / share)
    load["rate"] *= share
    document["inject"] = {"faults": [document["inject"]["faults"][0] | {"targets": ["ray-replicas-0"]}]}
    return Params.model_validate(document)


def fleet_view(replicas: int) -> CaseView:
    """Simulate a case and return what the methods see of it."""
    params = fleet_params(replicas)
    plan = next(each for each in plan_campaign(params) if "gpu-clock-lock" in each.label and each.scenario is None)
    with tempfile.TemporaryDirectory() as directory:
        workspace = Workspace(Path(directory))
        workspace.cases.mkdir(parents=True)
        return build_view(
            backend_of(params, workspace).make_case(order_of(params, plan), workspace.cases), params.score
        )


def measured(name: str, views: Mapping[int, CaseView], limit_s: float) -> dict[int, PairResult]:
    """Run a method on every view in one process; once more before on the first, which pays for imports."""
    first = next(iter(views))
    work = [("warm", views[first]), *((str(size), view) for size, view in views.items())]
    outcomes = run_pairs(work, [get_method(name)], limits=Limits(limit_s, MEMORY_MB), seed=1, workers=1)
    return {int(outcome.case): outcome.result for outcome in outcomes if outcome.case != "warm"}


def cell(result: PairResult, limit_s: float) -> str:
    if result.status == "timeout":
        return f"> {limit_s:g} s"
    if result.status != "ok":
        return result.message or result.status
    return f"{result.cpu_s:.2f} s, {result.grown_mb:.0f} MiB"


def growth(found: Mapping[int, PairResult]) -> str:
    """Return the exponent of time in the number of replicas, between the two largest sizes whose time is measurable."""
    done = [(size, each.cpu_s) for size, each in found.items() if each.status == "ok" and each.cpu_s >= _SHOWN]
    if len(done) < 2:
        return ""
    (small, before), (large, after) = done[-2:]
    return f"{math.log(after / before) / math.log(large / small):.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--replicas", default="10,100,1000")
    parser.add_argument("--methods", help="comma-separated names (default: all)")
    parser.add_argument("--limit", type=float, default=60.0, help="CPU seconds per pair")
    options = parser.parse_args()
    sizes = [int(size) for size in options.replicas.split(",")]
    names = options.methods.split(",") if options.methods else [method.name for method in list_methods()]
    views = {size: fleet_view(size) for size in sizes}
    shapes = (f"{size:,} ({views[size].metrics.shape[1]:,} columns)" for size in sizes)
    print("| method | " + " | ".join(shapes) + " | exponent |")
    print("|---" * (len(sizes) + 2) + "|")
    for name in names:
        found = measured(name, views, options.limit)
        cells = (cell(found[size], options.limit) for size in sizes)
        print(f"| `{name}` | " + " | ".join(cells) + f" | {growth(found)} |", flush=True)


if __name__ == "__main__":
    main()
