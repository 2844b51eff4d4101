"""``score --engine ray`` on a cluster of several nodes: the bytes of one machine, whatever is lost on the way."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from tasks.rca.registry import get_method
from tasks.rca.run.pool import Limits, Outcome, PairJob
from tasks.rca.run.ray_pool import RayPool
from tasks.rca.run.worker import Job
from tasks.score.campaign import score_campaign
from tests.rca.views import score_params, view_of
from tests.score.processes import contents
from tests.score.ray_nodes import STORE_BYTES, RayNodes, ray_nodes
from tests.synthetic import synthetic_case

pytestmark = [pytest.mark.timeout(600), pytest.mark.slow]

CASES = 4
METHODS = ["random", "nsigma", "baro"]


@pytest.fixture(scope="module")
def nodes() -> Iterator[RayNodes]:
    pytest.importorskip("ray", reason="Ray is not in this environment")
    pytest.importorskip("opentelemetry.metrics", reason="opentelemetry-api is not in this environment")
    with ray_nodes(workers=2) as started:
        yield started


class Campaign:
    """A few cases, their scores by processes of this machine, and by the cluster."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        for seed in range(CASES):
            synthetic_case(folder / "cases", f"c{seed}", seed=seed)
        self._params = score_params(methods=METHODS, timeout_s=60, bootstrap_samples=100)
        score_campaign(folder / "cases", self._params, folder / "here", workers=1)
        self.expected = contents(folder / "here")
        self.lost = 0

    def on(self, nodes: RayNodes, after_first: Callable[[], object]) -> dict[str, bytes]:
        """Score on the cluster; ``after_first`` happens when the first pair is done."""
        pools: list[RayPool] = []

        def opened(limits: Limits) -> RayPool:
            pools.append(RayPool(limits, nodes.address))
            assert pools[0].size == len(nodes.workers)
            return pools[0]

        def progress(done: int, total: int, what: str) -> None:
            if done == 1:
                after_first()

        out = self._folder / "ray"
        score_campaign(self._folder / "cases", self._params, out, open_pool=opened, progress=progress)
        self.lost = sum(pools[0]._lost.values()) + pools[0]._lost_at_start
        return contents(out)


def kill_actors() -> None:
    """``kill -9`` of the processes of all actors of this user."""
    actors = [each for each in psutil.process_iter(["name"]) if each.info["name"].startswith("ray::PairActor")]
    assert actors
    for each in actors:
        each.kill()


def test_a_node_that_is_lost_in_the_middle_loses_nothing(nodes: RayNodes, tmp_path: Path) -> None:
    campaign = Campaign(tmp_path)
    assert campaign.on(nodes, nodes.lose) == campaign.expected
    assert campaign.lost >= 1
    nodes.add()


def test_two_nodes_give_the_bytes_of_one_machine(nodes: RayNodes, tmp_path: Path) -> None:
    campaign = Campaign(tmp_path)
    assert campaign.on(nodes, lambda: None) == campaign.expected
    assert campaign.lost == 0


def test_workers_that_are_killed_in_the_middle_lose_nothing(nodes: RayNodes, tmp_path: Path) -> None:
    campaign = Campaign(tmp_path)
    assert campaign.on(nodes, kill_actors) == campaign.expected
    assert campaign.lost >= 1


def test_views_that_do_not_fit_the_object_stores_lose_nothing(nodes: RayNodes) -> None:
    """Six views, of which two do not fit into the store of a node beside each other."""
    rows = STORE_BYTES * 6 // 10 // 8 // 2
    method = get_method("random")
    pool = RayPool(Limits(timeout_s=60, memory_mb=2048), nodes.address)
    views = [noise(rows, seed) for seed in range(6)]
    assert min(map(len, views)) > STORE_BYTES // 2
    waiting = [
        PairJob(f"c{number}", number, view, Job(method.name, method.module, {}, 1)) for number, view in enumerate(views)
    ]
    outcomes: list[Outcome] = []
    try:
        while waiting or pool.busy:
            while waiting and pool.has_room():
                pool.start(waiting.pop())
            outcomes += pool.wait(0.1, ())
    finally:
        pool.close()
    assert sorted((outcome.case, outcome.result.status) for outcome in outcomes) == [(f"c{i}", "ok") for i in range(6)]


def noise(rows: int, seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    columns = {(f"service-{i}", "cpu_usage"): list(rng.random(rows)) for i in range(2)}
    return pickle.dumps(view_of(columns, normal_rows=rows // 2), protocol=pickle.HIGHEST_PROTOCOL)
