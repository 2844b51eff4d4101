"""Throughput of ``score`` over workers, here and on a Ray cluster of several nodes: ``python benchmarks/ray_nodes.py``.

Scores the same simulated cases with 1, 2 and 4 local processes, and on clusters of as many nodes with one CPU each
(raylets of this machine, so that more nodes than CPUs gain nothing); all results must be the same bytes. Prints pairs
per second of wall-clock time, which other work on the machine decides as much as the workers do, and seconds of CPU of
all processes, which it does not: of the cluster's start, and of scoring.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tasks.campaign.make import make_one  # noqa: E402
from tasks.campaign.plan import plan_campaign  # noqa: E402
from tasks.params import load_params  # noqa: E402
from tasks.rca.run.ray_pool import RayPool  # noqa: E402
from tasks.score.campaign import score_campaign  # noqa: E402
from tasks.workspace import Workspace  # noqa: E402
from tests.score.processes import contents  # noqa: E402
from tests.score.ray_nodes import ray_nodes  # noqa: E402

METHODS = ("nsigma", "baro", "circa", "e_diagnosis", "peerwise")
WORKERS = (1, 2, 4)


def used_s() -> float:
    """Return the CPU seconds of this process and of all that come from it, as far as their parents waited for them."""
    here, total = psutil.Process(), 0.0
    for process in (here, *here.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            total += sum(process.cpu_times()[:4])
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=12, help="of the preset simulated, at most 14")
    parser.add_argument("--workers", type=int, nargs="+", default=WORKERS)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        params = load_params(ROOT / "presets" / "simulated.yaml")
        place = Workspace(Path(folder))
        for plan in plan_campaign(params)[: given.cases]:
            make_one(params, place, plan)
        score = params.score.model_copy(update={"methods": METHODS})
        seen: list[dict[str, bytes]] = []
        for engine in ("process", "ray"):
            for workers in given.workers:
                began = used_s()
                with ray_nodes(workers) if engine == "ray" else contextlib.nullcontext() as nodes:
                    ready, ready_s = time.perf_counter(), used_s()
                    out = place.root / f"{engine}-{workers}"
                    options: dict[str, Any] = {"workers": workers}
                    if nodes is not None:
                        address = nodes.address
                        options = {"open_pool": lambda limits, address=address: RayPool(limits, address)}
                    result = score_campaign(place.cases, score, out, **options)
                    done, done_s = time.perf_counter(), used_s()
                assert result.failures == 0
                seen.append(contents(out))
                assert seen[-1] == seen[0]
                pairs = len(result.truths) * len(METHODS)
                print(
                    f"{engine:>8} {workers} workers: {pairs} pairs, {pairs / (done - ready):.2f} pairs/s; CPU: "
                    f"{ready_s - began:.1f} s to start, {done_s - ready_s:.1f} s to score, "
                    f"{pairs / (done_s - ready_s):.2f} pairs/s; load {os.getloadavg()[0]:.1f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
