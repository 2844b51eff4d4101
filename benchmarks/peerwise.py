"""How the cost of peerwise grows with the size of a fleet, and what it costs against nsigma and baro on the same views.

Views of 5 to 500 replicas with 20 metrics each, one minute at a step of a second, one replica throttled; ``quiet``:
peerwise on the same without a fault, where it looks twice. CPU seconds of the method alone, the median of several runs,
and ratios to nsigma.

    python benchmarks/peerwise.py [--replicas 3,50,500] [--runs 5]
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

from tasks.rca.method import Run
from tasks.rca.registry import get_method
from tasks.rca.view import CaseView
from tests.rca.serving_views import becomes, serving_view, times

GPU = {
    "gpu_sm_clock": 1800.0,
    "gpu_power": 250.0,
    "gpu_power_limit": 700.0,
    "gpu_power_violation": 0.0,
    "gpu_thermal_violation": 0.0,
    "gpu_sm_active": 0.6,
    "gpu_memory_used": 6e10,
    "kv_cache_usage": 0.3,
    "ttft_mean": 0.05,
}
FAULT = {("r0", "inter_token_latency_mean"): times(3), ("r0", "cpu_throttled"): becomes(0.8)}
AGAINST = ("nsigma", "baro")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--replicas", default="3,50,500")
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    print(f"{'replicas':>8} {'columns':>8} " + " ".join(f"{n + ' ms':>12}" for n in ("quiet", "peerwise", *AGAINST)))
    for replicas in (int(each) for each in arguments.replicas.split(",")):
        view = serving_view(FAULT, replicas=replicas, extra=GPU)
        quiet = _median(get_method("peerwise").run, serving_view(replicas=replicas, extra=GPU), arguments.runs)
        spent = [_median(get_method(name).run, view, arguments.runs) for name in ("peerwise", *AGAINST)]
        ratios = ", ".join(f"{spent[0] / other:.1f} x {name}" for name, other in zip(AGAINST, spent[1:], strict=True))
        print(
            f"{replicas:>8} {view.metrics.shape[1]:>8} "
            + " ".join(f"{1e3 * each:12.1f}" for each in (quiet, *spent))
            + f"   {ratios}"
        )


def _median(run: Run, view: CaseView, runs: int) -> float:
    run(view, np.random.default_rng(0))
    return statistics.median(_cpu(run, view) for _ in range(runs))


def _cpu(run: Run, view: CaseView) -> float:
    begin = time.process_time()
    run(view, np.random.default_rng(0))
    return time.process_time() - begin


if __name__ == "__main__":
    main()
