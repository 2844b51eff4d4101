"""Simulates the twin of a recorded case: the same windows, load, arrivals and injections."""

from __future__ import annotations

from pathlib import Path

from tasks.backends.base import CaseOrder
from tasks.backends.simulated.calibration import read_calibration
from tasks.backends.simulated.faults import FAULTS
from tasks.backends.simulated.maker import make_case
from tasks.backends.simulated.params import SimulatedDeployParams
from tasks.case import Case, Phase
from tasks.inject.catalogue import resolve_parameters
from tasks.injection import PlannedInjection
from tasks.params import ExportParams, LoadParams, Windows

WARM_UP_S = 5.0


def make_twin(case: Case, calibration: str, cases: Path) -> Case | None:
    """Simulate the twin of ``case`` with the same id below ``cases``; None if one of its kinds is not simulated.

    Raises:
        ParamsError: the calibration cannot be read.
        FaultError: the calibration has no part that a fault of the case acts on.
    """
    record = case.record
    if any(injection.kind not in FAULTS for injection in record.injections):
        return None
    replicas = sum(service.role == "replica" for service in record.stack.services)
    missed = read_calibration(calibration).response.missed_scrapes
    deploy = SimulatedDeployParams(
        backend="simulated", replicas=replicas, calibration=calibration, missed_scrapes=missed
    )
    return make_case(deploy, _order(case), cases)


def _order(case: Case) -> CaseOrder:
    record = case.record
    phases = {phase.name: phase for phase in record.phases}
    baseline, fault = phases["baseline"], phases["fault"]
    windows = Windows(
        warmup_s=WARM_UP_S,
        baseline_s=_seconds(baseline),
        fault_s=_seconds(fault),
        recovery_s=_seconds(phases["recovery"]) if "recovery" in phases else 0,
    )
    known = {name: value for name, value in record.load.parameters.items() if name in LoadParams.model_fields}
    sampling = {name: value for name, value in record.sampling.model_dump().items() if value is not None}
    return CaseOrder(
        case_id=record.case_id,
        campaign=f"{record.campaign} (simulated)",
        scenario=record.scenario,
        seed=record.seed,
        injections=tuple(
            PlannedInjection(
                kind=injection.kind,
                target=injection.target,
                role=injection.role,
                parameters=_parameters(injection.kind, injection.parameters),
                offset_s=max(0.0, (injection.planned.start - fault.start).total_seconds()),
                duration_s=(injection.planned.end - injection.planned.start).total_seconds(),
            )
            for injection in record.injections
        ),
        load=LoadParams.model_validate(known),
        windows=windows,
        export=ExportParams.model_validate(sampling),
        parameters=dict(record.parameters),
    )


def _seconds(phase: Phase) -> float:
    return (phase.end - phase.start).total_seconds()


def _parameters(kind: str, recorded: dict[str, object]) -> dict[str, object]:
    return resolve_parameters(kind, recorded, "simulated").model_dump(mode="json")
