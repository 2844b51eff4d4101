"""What a method says of a stack in an incident: its telemetry so far, seen from the time at which the alarm began."""

from __future__ import annotations

import logging
import pickle
import tempfile
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path

import pandas as pd

from tasks.backends.base import Patient
from tasks.case import Case
from tasks.export.base import ExportError
from tasks.params import ScoreParams
from tasks.rca.registry import entry_of
from tasks.rca.run.build_view import NoChangeDetected, build_view
from tasks.rca.run.local_pool import LocalPool
from tasks.rca.run.pair import PairResult
from tasks.rca.run.pool import TICK_S, Limits, PairJob, PairPool
from tasks.rca.run.worker import Job
from tasks.rca.view import CaseView
from tasks.remediate.guards import Diagnosis, Suspicion
from tasks.system.scratch import scratch_directory

log = logging.getLogger(__name__)

OpenPool = Callable[[Limits], PairPool]


def one_worker(limits: Limits) -> LocalPool:
    """Return a pool that runs one method at a time."""
    return LocalPool(limits, workers=1)


class Diagnoser:
    """Diagnoses patients as they are now. Methods that look at the same moment share one recording and its views. They
    run in a process of their own, confined and limited as for scores; it starts with the first and is kept. ``hidden``:
    what no method may see.

    The true begin of the faults is not known: methods are told when bad requests began (``onset_s``, seconds after the
    start of the load), as whoever reads the alarm's own graph would tell them.
    """

    def __init__(self, score: ScoreParams, hidden: Path, open_pool: OpenPool = one_worker) -> None:
        self._score = score.model_copy(update={"inject_time": "detected", "baseline_s": None, "fault_s": None})
        self._limits = Limits(score.timeout_s, score.memory_mb, (str(hidden.absolute()),))
        self._open_pool = open_pool
        self._pool: PairPool | None = None
        self._moment: tuple[Patient, float] | None = None
        self._views: dict[str, tuple[int, bytes] | None] = {}
        self._said: dict[str, Diagnosis | None] = {}
        self._seen = 0

    def __call__(self, patient: Patient, method: str, onset_s: float) -> Diagnosis | None:
        """Return what ``method`` says; None: it fails, it sees no change, or telemetry cannot be read.

        Raises:
            RunnerError: the process of the methods cannot start.
        """
        if self._moment is None or self._moment[0] is not patient or self._moment[1] != patient.now_s:
            self._moment, self._views, self._said = (patient, patient.now_s), {}, {}
        if method not in self._said:
            self._said[method] = self._diagnose(patient, method, onset_s)
        return self._said[method]

    def warm_up(self, methods: Iterable[str]) -> None:
        """Start the process and let it import these methods, by pairs that have no telemetry: on a real stack time
        passes meanwhile, and the first diagnosis need not wait."""
        for name in methods:
            entry = entry_of(name, self._score.profile)
            self._run(0, pickle.dumps(_no_telemetry()), Job(entry.method.name, entry.method.module, {}, 0))

    def _diagnose(self, patient: Patient, method: str, onset_s: float) -> Diagnosis | None:
        entry, at_s = entry_of(method, self._score.profile), patient.now_s
        if entry.profile not in self._views:
            with scratch_directory("remediate", Path(tempfile.gettempdir())) as directory:
                self._views[entry.profile] = self._view(patient, directory, entry.profile, onset_s)
        view = self._views[entry.profile]
        if view is None:
            return None
        parameters = entry.parameters(self._score.method_parameters)
        result = self._run(*view, Job(entry.method.name, entry.method.module, dict(parameters), self._score.seed))
        if result.status != "ok" or not result.suspects:
            log.warning("%s: %s %s", method, result.status, result.message)
            return None
        return as_diagnosis(method, result, at_s)

    def _run(self, number: int, view: bytes, job: Job) -> PairResult:
        if self._pool is None:
            self._pool = self._open_pool(self._limits)
        self._pool.start(PairJob("", number, view, job))
        while not (outcomes := self._pool.wait(TICK_S, ())):
            pass
        return outcomes[0].result

    def close(self) -> None:
        """End the process of the methods."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def _view(self, patient: Patient, directory: Path, profile: str, onset_s: float) -> tuple[int, bytes] | None:
        """Return the view as it is now, pickled, under a number of its own."""
        try:
            case = patient.recording(directory)
        except ExportError as error:  # a source that is slow now may answer the next look
            log.warning("no diagnosis: %s", error)
            return None
        score = self._score.model_copy(update={"profile": profile})
        try:
            view = build_view(case, score, inject_time=_moment_of(case, patient, onset_s))
        except NoChangeDetected as error:
            log.info("%s", error)
            return None
        self._seen += 1
        return self._seen, pickle.dumps(view, protocol=pickle.HIGHEST_PROTOCOL)


def _no_telemetry() -> CaseView:
    nothing, no_metric = pd.DataFrame(), pd.DataFrame(columns=pd.MultiIndex.from_arrays([[], []]))
    return CaseView(
        services=(),
        roles={},
        front_end="",
        inject_time=pd.Timestamp(0, tz="UTC"),
        metrics=no_metric,
        sli=pd.Series(dtype=float),
        logs=nothing,
        spans=nothing,
        requests=nothing,
        topology=nothing,
        content_key="",
    )


def _moment_of(case: Case, patient: Patient, at_s: float) -> pd.Timestamp | None:
    """Return the time of day of a moment of the patient; None where the recording has no phase to tell it by."""
    begun = case.record.phase("baseline")
    if begun is None:
        return None
    return pd.Timestamp(begun.start + timedelta(seconds=at_s - patient.begin_s)).tz_convert("UTC").as_unit("ns")


def as_diagnosis(method: str, result: PairResult, at_s: float) -> Diagnosis:
    """Return what an action may be based on: the ranking and the roots, the surest first."""
    roots = None
    if result.findings is not None:
        found = [each for each in result.findings if each.role == "root"]
        roots = tuple(
            Suspicion(each.service, each.kind, each.significance)
            for each in sorted(found, key=lambda each: each.significance)
        )
    return Diagnosis(method, at_s, tuple((each.service, each.score) for each in result.suspects), roots)
