"""What a method says of a stack in an incident: its telemetry so far, seen from the time at which the alarm began."""

from __future__ import annotations

import logging
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import FrameType

import pandas as pd

from tasks.backends.base import Patient
from tasks.case import Case
from tasks.export.base import ExportError
from tasks.params import ScoreParams
from tasks.rca.registry import entry_of
from tasks.rca.run.build_view import NoChangeDetected, build_view
from tasks.rca.run.pair import PairResult, run_pair
from tasks.rca.view import CaseView
from tasks.remediate.guards import Diagnosis, Suspicion
from tasks.system.scratch import scratch_directory

log = logging.getLogger(__name__)


class Diagnoser:
    """Diagnoses a patient as it is now. Methods that look at the same moment share one recording and its views.

    The true begin of the faults is not known: methods are told when bad requests began (``onset_s``, seconds after the
    start of the load), as whoever reads the alarm's own graph would tell them.
    """

    def __init__(self, score: ScoreParams) -> None:
        self._score = score.model_copy(update={"inject_time": "detected", "baseline_s": None, "fault_s": None})
        self._moment: tuple[Patient, float] | None = None
        self._views: dict[str, CaseView | None] = {}
        self._said: dict[str, Diagnosis | None] = {}

    def __call__(self, patient: Patient, method: str, onset_s: float) -> Diagnosis | None:
        """Return what ``method`` says; None: it fails, it sees no change, or telemetry cannot be read."""
        if self._moment is None or self._moment[0] is not patient or self._moment[1] != patient.now_s:
            self._moment, self._views, self._said = (patient, patient.now_s), {}, {}
        if method not in self._said:
            self._said[method] = self._diagnose(patient, method, onset_s)
        return self._said[method]

    def _diagnose(self, patient: Patient, method: str, onset_s: float) -> Diagnosis | None:
        entry, at_s = entry_of(method, self._score.profile), patient.now_s
        if entry.profile not in self._views:
            with scratch_directory("remediate", Path(tempfile.gettempdir())) as directory:
                self._views[entry.profile] = self._view(patient, directory, entry.profile, onset_s)
        view = self._views[entry.profile]
        if view is None:
            return None
        parameters = entry.parameters(self._score.method_parameters)
        with time_limit(self._score.timeout_s):
            result = run_pair(entry.method, view, self._score.seed, parameters)
        if result.status != "ok" or not result.suspects:
            log.warning("%s: %s %s", method, result.status, result.message)
            return None
        return as_diagnosis(method, result, at_s)

    def _view(self, patient: Patient, directory: Path, profile: str, onset_s: float) -> CaseView | None:
        try:
            case = patient.recording(directory)
        except ExportError as error:  # a source that is slow now may answer the next look
            log.warning("no diagnosis: %s", error)
            return None
        score = self._score.model_copy(update={"profile": profile})
        try:
            return build_view(case, score, inject_time=_moment_of(case, patient, onset_s))
        except NoChangeDetected as error:
            log.info("%s", error)
            return None


@contextmanager
def time_limit(limit_s: float) -> Iterator[None]:
    """Let TimeoutError be raised inside after ``limit_s`` of wall time; only in the main thread, elsewhere there is no
    limit. A method runs within the loop's process, so its memory is not limited."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def late(_: int, __: FrameType | None) -> None:
        raise TimeoutError(f"no answer after {limit_s:g} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


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
