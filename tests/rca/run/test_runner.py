from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from tasks.case import read_case
from tasks.rca.registry import get_method
from tasks.rca.run import local_pool, runner
from tasks.rca.run.build_view import build_view
from tasks.rca.run.child import RunnerError
from tasks.rca.run.local_pool import LocalPool
from tasks.rca.run.pair import PairResult, run_pair
from tasks.rca.run.pool import Limits
from tasks.rca.run.runner import CaseWork, MethodCall, run_cases, run_pairs
from tasks.rca.view import CaseView
from tests.rca import misbehaving  # noqa: F401 (registers its methods)
from tests.rca.views import score_params, view_of
from tests.synthetic import synthetic_case
from tests.waiting import until

VALUES = np.random.default_rng(0).normal(size=(4, 30))
VIEW = view_of({(f"s{i}", "x"): VALUES[i].tolist() for i in range(4)}, normal_rows=15)
LIMITS = Limits(timeout_s=60, memory_mb=1024)


def run(
    *names: str, limits: Limits = LIMITS, workers: int = 1, cases: tuple[tuple[str, CaseView], ...] = (("c", VIEW),)
) -> dict[tuple[str, str], PairResult]:
    outcomes = run_pairs(cases, [get_method(name) for name in names], limits=limits, seed=1, workers=workers)
    return {(outcome.case, outcome.method): outcome.result for outcome in outcomes}


def children() -> set[int]:
    return {process.pid for process in psutil.Process().children(recursive=True)}


def test_a_method_that_never_ends_is_stopped_with_its_children() -> None:
    before = children()
    results = run("test_sleeps", "test_spins_with_child", "nsigma", limits=Limits(timeout_s=1, memory_mb=1024))
    for name, message in {
        "test_sleeps": "stalled: waited for 10 s and hardly used a CPU",
        "test_spins_with_child": "needed more than 1 s of CPU time",
    }.items():
        result = results["c", name]
        assert (result.status, result.message, result.suspects) == ("timeout", message, ())
    assert results["c", "nsigma"].status == "ok"
    assert children() == before
    assert not [p for p in psutil.process_iter(["cmdline"]) if "rcarena-test-child" in (p.info["cmdline"] or [])]


def test_waiting_costs_no_time() -> None:
    """A limit in wall-clock time would end it, as it would a method on a machine that is busy with something else."""
    result = run("test_waits", limits=Limits(timeout_s=0.5, memory_mb=1024))["c", "test_waits"]
    assert (result.status, result.message) == ("ok", "")
    assert result.wall_s > 1.5
    assert result.cpu_s < result.wall_s / 2


@pytest.mark.parametrize("name", ["test_spins_in_a_child_of_its_own", "test_spins_in_threads"])
def test_all_cpu_time_counts_and_nothing_is_left_running(name: str) -> None:
    before = children()
    result = run(name, limits=Limits(timeout_s=1.5, memory_mb=1024))["c", name]
    assert (result.status, result.message) == ("timeout", "needed more than 1.5 s of CPU time")
    assert result.cpu_s > 1.5
    assert children() == before
    assert not [p for p in psutil.process_iter(["cmdline"]) if "rcarena-test-child" in (p.info["cmdline"] or [])]


@pytest.mark.parametrize("name", ["test_grows", "test_one_huge_array"])
def test_a_method_that_takes_all_memory_is_stopped(name: str) -> None:
    results = run(name, "nsigma", limits=Limits(timeout_s=60, memory_mb=400))
    assert (results["c", name].status, results["c", name].message) == ("memory", "needed more than 400 MiB")
    assert results["c", "nsigma"].status == "ok"


def test_a_crash_costs_its_own_pair_only() -> None:
    other = replace(VIEW, metrics=VIEW.metrics[::-1].set_axis(VIEW.metrics.index), content_key="d")
    results = run("test_segfaults", "test_raises", "nsigma", cases=(("c", VIEW), ("d", other)))
    assert len(results) == 6
    for case, view in (("c", VIEW), ("d", other)):
        crashed, raised = results[case, "test_segfaults"], results[case, "test_raises"]
        assert (crashed.status, crashed.message) == ("crash", "killed by SIGSEGV")
        assert raised.status == "error"
        assert "misbehaving.py" in raised.traceback
        assert results[case, "nsigma"].suspects == run_pair(get_method("nsigma"), view, seed=1).suspects


def test_a_method_that_ends_its_process_has_crashed() -> None:
    result = run("test_exits")["c", "test_exits"]
    assert (result.status, result.message) == ("crash", "ended with exit code 3")


def test_one_method_cannot_spoil_the_view_of_the_next() -> None:
    unspoilt = run_pair(get_method("nsigma"), VIEW, seed=1)
    assert run("test_spoils_the_view", "nsigma")["c", "nsigma"].suspects == unspoilt.suspects


def test_what_a_method_prints_does_not_matter() -> None:
    assert run("test_chatters")["c", "test_chatters"].status == "ok"


def test_findings_come_back_from_the_worker_as_they_are() -> None:
    results = run("test_finds_two", "test_no_fault", "test_by_order")
    for name in ("test_finds_two", "test_no_fault", "test_by_order"):
        assert results["c", name].status == "ok"
        assert results["c", name].findings == run_pair(get_method(name), VIEW, seed=1).findings
    assert [finding.role for finding in results["c", "test_finds_two"].findings or ()] == ["root", "victim"]


def test_results_depend_on_neither_hash_seed_nor_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("random", "nsigma", "baro", "e_diagnosis", "test_all_tied")
    cases = tuple((label, replace(VIEW, content_key=label)) for label in "cdef")
    found = []
    for hash_seed, workers in (("0", 1), ("1", 3)):
        monkeypatch.setenv("PYTHONHASHSEED", hash_seed)
        found.append({pair: result.suspects for pair, result in run(*names, workers=workers, cases=cases).items()})
    assert found[0] == found[1]
    assert len({found[0][case, "random"] for case in "cdef"}) > 1


def test_time_and_memory_of_a_pair_are_recorded() -> None:
    result = run("nsigma")["c", "nsigma"]
    assert result.wall_s > 0
    assert result.cpu_s > 0
    assert 10 < result.peak_mb < 1024


def test_workers_end_when_the_caller_stops_early() -> None:
    before = children()
    outcomes = run_pairs([("c", VIEW)] * 5, [get_method("nsigma")], limits=LIMITS, seed=1, workers=2)
    next(outcomes)
    outcomes.close()  # type: ignore[attr-defined]
    assert children() == before


def test_workers_that_cannot_start_are_an_error_not_a_score(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_pool, "_WORKER", "no_such_module")
    with pytest.raises(
        RunnerError, match="a worker cannot start: ModuleNotFoundError: No module named 'no_such_module'"
    ):
        run("nsigma")


def test_workers_die_with_a_killed_caller() -> None:
    script = (
        "from tests.rca.run.test_runner import *\n"
        "methods = [get_method('nsigma'), get_method('test_sleeps')]\n"
        "for _ in run_pairs([('c', VIEW)], methods, limits=LIMITS, seed=1, workers=1):\n"
        "    print(*children(), flush=True)\n"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    caller = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=env)
    assert caller.stdout is not None
    workers = [int(pid) for pid in caller.stdout.readline().split()]
    assert workers
    caller.kill()
    caller.wait()
    until(lambda: not any(psutil.pid_exists(pid) for pid in workers), "a worker lives on")
    caller.stdout.close()


@pytest.fixture
def cases_dir(tmp_path: Path) -> Path:
    for seed in range(3):
        synthetic_case(tmp_path / "cases", f"c{seed}", seed=seed)
    return tmp_path / "cases"


def run_on_cases(
    cases_dir: Path, *names: str, workers: int = 2, **params: object
) -> tuple[list[str], dict[tuple[str, str], PairResult]]:
    """The cases whose views were built, and the results."""
    calls = [MethodCall(get_method(name), {}) for name in names]
    work = [CaseWork(path.name, path, calls) for path in sorted(cases_dir.iterdir())]
    built: list[str] = []
    pool = LocalPool(LIMITS, workers)
    try:
        outcomes = run_cases(work, pool, params=score_params(**params), on_view=lambda case, facts: built.append(case))
        return built, {(outcome.case, outcome.method): outcome.result for outcome in outcomes}
    finally:
        pool.close()


def test_views_are_built_beside_the_pairs(cases_dir: Path) -> None:
    before = children()
    built, results = run_on_cases(cases_dir, "nsigma", "random")
    assert sorted(built) == ["c0", "c1", "c2"]
    assert len(results) == 6
    assert {result.status for result in results.values()} == {"ok"}
    expected = run_pair(get_method("nsigma"), build_view(read_case(cases_dir / "c1"), score_params()), seed=42)
    assert results["c1", "nsigma"].suspects == expected.suspects
    assert results["c1", "nsigma"].metrics == expected.metrics
    assert children() == before


def test_a_case_without_methods_to_run_is_only_looked_at(cases_dir: Path) -> None:
    built, results = run_on_cases(cases_dir)
    assert (sorted(built), results) == (["c0", "c1", "c2"], {})


def test_a_case_that_cannot_be_read_is_named(cases_dir: Path) -> None:
    before = children()
    (cases_dir / "c1" / "metrics.parquet").write_bytes(b"not a parquet file")
    with pytest.raises(RunnerError, match=r"^c1: its view cannot be built: ArrowInvalid: "):
        run_on_cases(cases_dir, "nsigma")
    assert children() == before


def test_a_process_that_builds_views_and_dies_is_an_error(cases_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "_BUILDER", "no_such_module")
    with pytest.raises(RunnerError, match=r"^c\d: its view cannot be built: the process ended with .* 1: Module"):
        run_on_cases(cases_dir, "nsigma")


def test_packages_are_imported_before_the_clock_starts() -> None:
    """The method fails where its package is not there yet; see ``misbehaving``."""
    results = run("test_needs_its_package", cases=(("c", VIEW), ("d", VIEW))).values()
    assert [(result.status, result.message) for result in results] == [("ok", "")] * 2
