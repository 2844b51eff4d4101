"""Scores a campaign: every method on every case, then tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from tasks.case import Case, mixed, read_cases
from tasks.errors import ParamsError
from tasks.params import ScoreParams
from tasks.rca.registry import entry_of, validate_method_parameters, validate_methods
from tasks.rca.run.builder import ViewFacts
from tasks.rca.run.local_pool import LocalPool
from tasks.rca.run.pair import PairResult
from tasks.rca.run.pool import Limits, Outcome, PairPool
from tasks.rca.run.runner import CaseWork, MethodCall, run_cases
from tasks.rca.run.sandbox import LEVELS, Level
from tasks.score.assemble import score_tables
from tasks.score.detection import detection_table
from tasks.score.errors import ScoreError
from tasks.score.fingerprint import pair_key, traits_key, view_key
from tasks.score.results import ScoreResult, method_costs, write_results
from tasks.score.store import PairStore
from tasks.score.tables import Scored, in_order, score_pair
from tasks.score.traits import CaseTraits, traits_of
from tasks.score.truth import Column, Truth, truth_of
from tasks.system.file_lock import FileLock

Progress = Callable[[int, int, str], None]
OpenPool = Callable[[Limits], PairPool]


def validate_score_params(params: ScoreParams) -> list[str]:
    """Return the problems of the section ``score`` that only this stage can see, one line each."""
    return validate_methods(params.methods, params.profile) + validate_method_parameters(params.method_parameters)


def score_campaign(
    cases_dir: Path,
    params: ScoreParams,
    out_dir: Path,
    *,
    store: PairStore | None = None,
    progress: Progress | None = None,
    workers: int | None = None,
    open_pool: OpenPool | None = None,
) -> ScoreResult:
    """Run every method of ``params`` on every finished case below ``cases_dir`` and write the results to ``out_dir``.

    Same cases and parameters give the same bytes, wherever and in whatever order the pairs run, in every file but
    ``timings.json``. Files are replaced whole, when all is done. Pairs that ``store`` has are not run again.
    ``progress`` is called with (done, total, what was done). Pairs run in ``workers`` local processes (default: one per
    CPU) or in the pool that ``open_pool`` opens.

    Raises:
        ParamsError: an unknown method or a value not available.
        ScoreError: there is no finished case, or another process writes to ``out_dir``.
        CaseError: a case does not keep the contract.
        RunnerError: the workers cannot start, or a case cannot be read.
    """
    run = _started(cases_dir, params, store, progress)
    busy = ScoreError(f"{out_dir}: another process is writing scores there; wait for it")
    with FileLock(out_dir.with_name(f".{out_dir.name}.lock"), busy):
        run.complete(open_pool or (lambda limits: LocalPool(limits, workers)))
        result, pairs = _result(run, params, out_dir)
        write_results(result, pairs)
    return result


def rank_campaign(
    cases_dir: Path,
    params: ScoreParams,
    store: PairStore,
    *,
    progress: Progress | None = None,
    workers: int | None = None,
) -> int:
    """Run the methods of ``params`` on every finished case for ``store`` alone; the number of pairs that are there.

    Several processes may do this at a time, each for other methods; ``score_campaign`` then finds the pairs.

    Raises:
        As ``score_campaign``.
    """
    run = _started(cases_dir, params, store, progress)
    run.complete(lambda limits: LocalPool(limits, workers))
    return len(run.pairs)


def _started(cases_dir: Path, params: ScoreParams, store: PairStore | None, progress: Progress | None) -> _Run:
    problems = validate_score_params(params)
    if problems:
        raise ParamsError(problems)
    cases = [case for case in read_cases(cases_dir) if case.record.has_truth]
    if not cases:
        raise ScoreError(f"{cases_dir}: no finished case to score; collect some first")
    if mix := mixed(cases):
        raise ScoreError(f"{cases_dir}: {mix}; move one kind to a workspace of its own")
    return _Run(cases, params, store or PairStore(None), progress)


class _Run:
    """The pairs of a campaign: those that are kept, and those still to be run.

    A view, and with it the truth at metric level, belongs to a case and a profile.
    """

    def __init__(self, cases: Sequence[Case], params: ScoreParams, store: PairStore, progress: Progress | None) -> None:
        self.cases = {case.record.case_id: case for case in cases}
        self.entries = {label: entry_of(label, params.profile) for label in params.methods}
        self.parameters = {label: entry.parameters(params.method_parameters) for label, entry in self.entries.items()}
        self.methods = [entry.labelled for entry in self.entries.values()]
        self.profiles = list(dict.fromkeys(entry.profile for entry in self.entries.values()))
        self.facts: dict[tuple[str, str], ViewFacts] = {}
        self._columns: dict[tuple[Column, ...], frozenset[Column]] = {}
        """Those of each view, once: thousands of cases have the same."""
        self.truths: dict[tuple[str, str], Truth] = {}
        self.traits: dict[str, CaseTraits] = {}
        self.pairs: list[Scored] = []
        self.kept = 0
        self.levels: set[Level] = set()
        self._params = params
        self._store = store
        self._progress = progress
        self._view_keys: dict[tuple[str, str], str] = {
            (case_id, profile): view_key(case.path, params, profile)
            for case_id, case in self.cases.items()
            for profile in self.profiles
        }

    def complete(self, open_pool: OpenPool) -> None:
        """Take what the store has and run the rest."""
        work = list(self._work())
        if not work:
            return
        pool = open_pool(Limits(self._params.timeout_s, self._params.memory_mb, self._hidden))
        with closing(pool):
            for outcome in run_cases(work, pool, params=self._params, on_view=self._take_view):
                method = self.entries[outcome.method].method.name
                self._store.keep_pair(method, self._pair_key(outcome.case, outcome.method), outcome.result)
                if outcome.level is not None:
                    self.levels.add(outcome.level)
                self._take(outcome)

    @property
    def _hidden(self) -> tuple[str, ...]:
        """Paths that tell the answers: the folder of the cases, the workspace around it, and cases that are links."""
        folders = {case.path.absolute().parent for case in self.cases.values()}
        links = {case.path.resolve() for case in self.cases.values() if case.path.is_symlink()}
        return tuple(sorted(map(str, folders | {folder.parent for folder in folders} | links)))

    def _pair_key(self, case_id: str, label: str) -> str:
        entry = self.entries[label]
        return pair_key(self._view_keys[case_id, entry.profile], entry.method, self.parameters[label], self._params)

    def _work(self) -> Iterator[CaseWork]:
        for case_id, case in self.cases.items():
            for profile in self.profiles:
                calls = [
                    MethodCall(entry.method, self.parameters[label], label)
                    for label, entry in self.entries.items()
                    if entry.profile == profile
                ]
                facts = self._store.view(self._view_keys[case_id, profile])
                if facts is None:
                    yield CaseWork(case_id, case.path, calls, profile)
                    continue
                self._note_view(case_id, facts)
                if facts.problem:
                    self.kept += len(calls)
                    continue
                missing = [call for call in calls if not self._take_kept(case_id, call.label)]
                if missing:
                    yield CaseWork(case_id, case.path, missing, profile)

    def _take_kept(self, case_id: str, label: str) -> bool:
        result = self._store.pair(self.entries[label].method.name, self._pair_key(case_id, label))
        if result is not None:
            self.kept += 1
            self._take(Outcome(case_id, label, result))
        return result is not None

    def _take_view(self, case_id: str, facts: ViewFacts) -> None:
        self._store.keep_view(self._view_keys[case_id, facts.profile], facts)
        self._note_view(case_id, facts)

    def _note_traits(self, case_id: str) -> CaseTraits:
        if case_id not in self.traits:
            case = self.cases[case_id]
            key = traits_key(case.path)
            kept = self._store.traits(key)
            if kept is None:
                kept = _traits(case)
                self._store.keep_traits(key, kept)
            self.traits[case_id] = kept
        return self.traits[case_id]

    def _note_view(self, case_id: str, facts: ViewFacts) -> None:
        columns = self._columns.setdefault(facts.columns, frozenset(facts.columns))
        self.facts[case_id, facts.profile] = replace(facts, columns=())
        self.truths[case_id, facts.profile] = truth_of(
            self.cases[case_id].record,
            include_ineffective=self._params.include_ineffective,
            columns=columns,
            profile=facts.profile,
            stratum=self._note_traits(case_id).stratum or "",
            fault_s=self._params.fault_s,
        )
        if facts.problem:
            for label, entry in self.entries.items():
                if entry.profile == facts.profile:
                    self._take(Outcome(case_id, label, PairResult("missing", facts.problem)))

    def _take(self, outcome: Outcome) -> None:
        entry = self.entries[outcome.method]
        truth = self.truths[outcome.case, entry.profile]
        self.pairs.append(score_pair(truth, entry.labelled, outcome.result))
        if self._progress is not None:
            total = len(self.cases) * len(self.entries)
            what = f"{outcome.method} on {outcome.case}: {outcome.result.status}"
            self._progress(len(self.pairs), total, what)


def _traits(case: Case) -> CaseTraits:
    """Read the tables of a case for its traits, and forget them."""
    try:
        return traits_of(Case(case.path, case.record))
    except (OSError, pa.ArrowException) as error:
        raise ScoreError(f"{case.path.name}: cannot be read: {error}") from error


def _result(run: _Run, params: ScoreParams, out_dir: Path) -> tuple[ScoreResult, list[Scored]]:
    first = params.profile if params.profile in run.profiles else run.profiles[0]
    truths = tuple(run.truths[case_id, first] for case_id in run.cases)
    pairs = in_order(truths, run.methods, run.pairs)
    detected = {}
    if params.inject_time == "detected":
        detected = {case_id: run.facts[case_id, first] for case_id in run.cases}
    detections = detection_table(
        [run.cases[case_id].record for case_id in detected], detected, include_ineffective=params.include_ineffective
    )
    result = ScoreResult(
        out_dir=out_dir,
        **score_tables(pairs, truths, run.traits, detections, params),
        parameters=run.parameters,
        costs=method_costs(pairs),
        truths=truths,
        failures=sum(pair.result.status != "ok" for pair in pairs),
        kept=run.kept,
        levels=tuple(sorted(run.levels, key=LEVELS.index)),
        simulated=any(case.record.stack.simulated for case in run.cases.values()),
    )
    return result, pairs
