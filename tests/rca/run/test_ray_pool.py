from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from tasks.rca import method
from tasks.rca.run import ray_pool
from tasks.rca.run.child import RunnerError
from tasks.rca.run.environment import environment
from tasks.rca.run.pair import PairResult
from tasks.rca.run.pool import Limits, Outcome, PairJob
from tasks.rca.run.ray_pool import RayPool
from tasks.rca.run.worker import Job
from tasks.score.campaign import score_campaign
from tasks.score.files import TABLES
from tests.rca import misbehaving  # noqa: F401 (registers its methods)
from tests.rca.views import score_params
from tests.score.processes import contents
from tests.synthetic import synthetic_case

LIMITS = Limits(timeout_s=60, memory_mb=1024)
METHODS = ["random", "nsigma", "test_raises", "test_sleeps", "test_finds_two"]


@pytest.mark.timeout(300)
def test_the_same_bytes_as_the_process_pool_and_nothing_is_left_running(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not in this environment")
    pytest.importorskip("opentelemetry.metrics", reason="opentelemetry-api is not in this environment")
    for seed in range(2):
        synthetic_case(tmp_path / "cases", f"c{seed}", seed=seed)
    params = score_params(methods=METHODS, timeout_s=1)
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    files = set(Path("/tmp").glob("rcarena-ray-*"))

    score_campaign(
        tmp_path / "cases", params, tmp_path / "ray", open_pool=lambda limits: RayPool(limits, "local", workers=2)
    )
    score_campaign(tmp_path / "cases", params, tmp_path / "here", workers=1)

    assert contents(tmp_path / "ray") == contents(tmp_path / "here")
    assert len(contents(tmp_path / "ray")) == len(TABLES) + 1  # and metrics.json
    left = [process for process in psutil.Process().children(recursive=True) if process.pid not in before]
    assert not [process for process in left if process.status() != psutil.STATUS_ZOMBIE]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert set(Path("/tmp").glob("rcarena-ray-*")) <= files


class LostActorError(Exception):
    """As Ray's, for the cluster below."""


class SimpleFuture:
    def __init__(self, job: PairJob | None) -> None:
        self.job = job


class FakeRay:
    """A cluster whose actors answer at once; ``dies`` of the calls that run a pair lose their actor, only ``starts``
    actors start."""

    def __init__(self, dies: int = 0, theirs: dict[str, str] | None = None, starts: int = 99) -> None:
        self.dies = dies
        self.starts = starts
        self.theirs = theirs if theirs is not None else environment(method.METHODS.other_modules)
        self.actors = 0
        self.killed = 0
        self.exceptions = SimpleNamespace(RayActorError=LostActorError, RayTaskError=ZeroDivisionError)

    def is_initialized(self) -> bool:
        return True

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 2.0}

    def remote(self, **options: Any) -> Any:
        def make(limits: Limits, modules: Sequence[str]) -> Any:
            self.actors += 1
            return SimpleNamespace(
                environment=SimpleNamespace(remote=lambda: SimpleFuture(None)),
                run=SimpleNamespace(remote=lambda job, view: SimpleFuture(job)),
            )

        return lambda cls: SimpleNamespace(remote=make)

    def put(self, value: bytes) -> bytes:
        return value

    def wait(self, futures: Sequence[Any], num_returns: int = 1, timeout: float = 0) -> tuple[Sequence[Any], list[Any]]:
        return futures, []

    def get(self, future: Any) -> Any:
        job = future.job
        if job is None:
            if not self.starts:
                raise LostActorError("no room\nmore about it")
            self.starts -= 1
            return self.theirs
        if self.dies:
            self.dies -= 1
            raise LostActorError("the node is gone\nmore about it")
        return Outcome(job.case, job.job.method, PairResult("ok"))

    def kill(self, actor: Any) -> None:
        self.killed += 1


def finished(fake: FakeRay, monkeypatch: pytest.MonkeyPatch) -> list[Outcome]:
    monkeypatch.setattr(ray_pool, "_import_ray", lambda: fake)
    pool = RayPool(LIMITS)
    pool.wait(1, ())
    outcomes: list[Outcome] = []
    for number in range(2):
        pool.start(PairJob(f"c{number}", number, b"view", Job("m", "module", {}, 1)))
    while pool.busy:
        outcomes += pool.wait(1, ())
    pool.close()
    return outcomes


def test_a_pair_whose_actor_is_lost_runs_on_another(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeRay(dies=1)
    assert {outcome.case for outcome in finished(fake, monkeypatch)} == {"c0", "c1"}
    assert (fake.actors, fake.killed) == (3, 2)


def test_actors_that_are_lost_again_and_again_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RunnerError, match=r"lost 3 Ray actors in a row: the node is gone$"):
        finished(FakeRay(dies=99), monkeypatch)


def test_actors_that_never_start_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_pool, "_import_ray", lambda: FakeRay(starts=0))
    pool = RayPool(LIMITS)
    assert [pool.wait(1, ()) for _ in range(2)] == [[], []]
    with pytest.raises(RunnerError, match=r"lost 3 Ray actors in a row: no room$"):
        pool.wait(1, ())


def test_a_run_of_many_minutes_may_lose_every_actor_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """New ones have the whole time to start, however long the run has lasted."""
    fake = FakeRay()
    monkeypatch.setattr(ray_pool, "_import_ray", lambda: fake)
    minutes = iter(range(0, 10_000, 100))
    monkeypatch.setattr(ray_pool, "time", SimpleNamespace(monotonic=lambda: next(minutes)))
    pool = RayPool(LIMITS)
    pool.wait(1, ())
    for number in range(2):
        pool.start(PairJob(f"c{number}", number, b"view", Job("m", "module", {}, 1)))
    fake.dies = 2
    assert pool.wait(1, ()) == []
    assert len(pool._again) == 2
    while pool.busy:
        pool.wait(1, ())
    assert fake.actors == 4


def test_a_cluster_with_other_software_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = environment(method.METHODS.other_modules) | {"numpy": "1.0"}
    with pytest.raises(RunnerError, match=r"would not give the same results: its numpy is 1\.0, here it is \d"):
        finished(FakeRay(theirs=theirs), monkeypatch)


def test_without_ray_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(RunnerError, match=r"^the engine ray needs the package ray: pip install 'rcarena\[ray\]'$"):
        RayPool(LIMITS)
