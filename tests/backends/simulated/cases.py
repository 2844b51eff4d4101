"""Simulated cases for tests: short, small, of one campaign."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from tasks.backends.base import CaseOrder
from tasks.backends.simulated.maker import make_case
from tasks.backends.simulated.params import SimulatedDeployParams
from tasks.case import Case
from tasks.inject.catalogue import resolve_parameters
from tasks.injection import InjectionSpec
from tasks.params import ExportParams, LoadParams, Windows

WINDOWS = Windows(warmup_s=5, baseline_s=22, fault_s=22, recovery_s=8)
GPU_WINDOWS = Windows(warmup_s=15, baseline_s=60, fault_s=60, recovery_s=15)
LOAD: dict[str, Any] = {"arrival": "poisson", "rate": 3}
GPU_LOAD: dict[str, Any] = {
    "arrival": "poisson",
    "rate": 6,
    "prompt_tokens": {"distribution": "lognormal", "mean": 600, "stdev": 400, "min": 16, "max": 4096},
    "output_tokens": {"distribution": "lognormal", "mean": 180, "stdev": 100, "min": 1, "max": 1024},
    "request_timeout_s": 60,
}


def deploy(**values: Any) -> SimulatedDeployParams:
    return SimulatedDeployParams.model_validate({"backend": "simulated", "replicas": 3, **values})


def fault(kind: str, target: str, **values: Any) -> InjectionSpec:
    return InjectionSpec(kind=kind, target=target, **values)


def order(
    *injections: InjectionSpec,
    windows: Windows = WINDOWS,
    load: Mapping[str, Any] = LOAD,
    export: ExportParams | None = None,
    seed: int = 1,
) -> CaseOrder:
    planned = tuple(
        spec.planned(windows.fault_s, resolve_parameters(spec.kind, spec.parameters, "simulated").model_dump())
        for spec in injections
    )
    return CaseOrder(
        case_id="case-simulated",
        campaign="simulated-tests",
        scenario=None,
        seed=seed,
        injections=planned,
        load=LoadParams.model_validate(dict(load)),
        windows=windows,
        export=export or ExportParams(),
        parameters={},
    )


def toy_case(directory: Path, *injections: InjectionSpec, seed: int = 1) -> Case:
    return make_case(deploy(), order(*injections, seed=seed), directory)


def gpu_case(directory: Path, *injections: InjectionSpec, seed: int = 1, **values: Any) -> Case:
    stack = deploy(calibration="h100-7b", **values)
    return make_case(stack, order(*injections, windows=GPU_WINDOWS, load=GPU_LOAD, seed=seed), directory)


def medians(case: Case, metric: str, service: str) -> tuple[float, float]:
    """Return the median of a metric of a service in the baseline and in the second half of the fault."""
    record = case.record
    fault_phase = record.phase("fault")
    assert fault_phase is not None
    middle: datetime = fault_phase.start + (fault_phase.end - fault_phase.start) / 2
    rows = case.metrics[(case.metrics["metric"] == metric) & (case.metrics["service"] == service)]
    before = rows[rows["time"] < fault_phase.start]["value"].median()
    during = rows[(rows["time"] >= middle) & (rows["time"] < fault_phase.end)]["value"].median()
    return float(before), float(during)
