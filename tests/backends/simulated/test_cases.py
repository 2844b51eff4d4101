"""Simulated cases: the contract, the same bytes every time, and each fault where it acts and nowhere else."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from tasks import metrics
from tasks.backends.simulated.faults import FAULTS
from tasks.backends.simulated.maker import make_case
from tasks.case import Case, validate_case
from tasks.inject.catalogue import fault_kind_names
from tests.backends.simulated.cases import LOAD, deploy, fault, gpu_case, medians, order, toy_case

GPU_KINDS = ("gpu-clock-lock", "gpu-contention", "gpu-memory", "kv-cache-squeeze")
TOY_KINDS = (
    ("cpu-stress", "ray-replicas-1"),
    ("cpu-stress", "nginx-proxy"),
    ("cpu-stress", "ray-head"),
    ("memory-stress", "ray-replicas-0"),
    ("network-delay", "ray-replicas-2"),
    ("network-delay", "ray-head"),
    ("network-delay", "nginx-proxy"),
    ("network-loss", "ray-replicas-1"),
    ("network-bandwidth", "ray-replicas-0"),
    ("network-partition", "ray-replicas-1"),
    ("process-freeze", "ray-head"),
    ("process-freeze", "ray-replicas-2"),
    ("process-kill", "ray-replicas-0"),
    ("process-kill", "nginx-proxy"),
    ("accelerator-throttle", "ray-replicas-1"),
)


def contents(case: Case) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(case.path.iterdir())}


def test_a_case_keeps_the_contract_and_says_what_it_is(tmp_path: Path) -> None:
    case = toy_case(tmp_path, fault("network-delay", "ray-replicas-1"))
    assert validate_case(case.path) == []
    assert case.record.stack.backend == "simulated"
    assert set(case.metrics["source"]) == {"simulated"}
    assert case.spans["attributes"].str.contains('"source":"simulated"').all()
    assert {name for name, each in case.record.completeness.items() if each.status != "complete"} == set()


def test_the_same_order_gives_the_same_bytes(tmp_path: Path) -> None:
    one = toy_case(tmp_path / "a", fault("cpu-stress", "ray-replicas-1"))
    same = toy_case(tmp_path / "b", fault("cpu-stress", "ray-replicas-1"))
    other = toy_case(tmp_path / "c", fault("cpu-stress", "ray-replicas-1"), seed=2)
    assert contents(one) == contents(same)
    assert contents(one)["requests.parquet"] != contents(other)["requests.parquet"]


def test_every_simulated_kind_is_in_the_catalogue() -> None:
    assert set(fault_kind_names("simulated")) == set(FAULTS)


@pytest.mark.parametrize(("kind", "target"), TOY_KINDS)
def test_a_fault_is_effective_where_it_acts(tmp_path: Path, kind: str, target: str) -> None:
    case = toy_case(tmp_path, fault(kind, target))
    (injection,) = case.record.injections
    assert injection.verdict == "effective", injection.reason
    assert injection.target == target


@pytest.mark.parametrize("kind", GPU_KINDS)
def test_a_gpu_fault_is_effective_on_a_busy_gpu(tmp_path: Path, kind: str) -> None:
    case = gpu_case(tmp_path, fault(kind, "ray-replicas-1"))
    (injection,) = case.record.injections
    assert injection.verdict == "effective", injection.reason


def test_a_throttle_that_does_not_slow_the_step_is_ineffective(tmp_path: Path) -> None:
    """A power limit that decoding never reaches changes a setting, and nothing else."""
    case = gpu_case(tmp_path, fault("gpu-power-limit", "ray-replicas-1", parameters={"watts": 600}))
    (injection,) = case.record.injections
    assert injection.verdict == "ineffective"
    before, during = medians(case, "gpu_power_limit", "ray-replicas-1")
    assert during < before


def test_a_clock_lock_slows_its_replica_only(tmp_path: Path) -> None:
    case = gpu_case(tmp_path, fault("gpu-clock-lock", "ray-replicas-1", parameters={"mhz": 400}))
    before, during = medians(case, metrics.INTER_TOKEN_LATENCY_MEAN.name, "ray-replicas-1")
    assert during > 1.5 * before
    for sibling in ("ray-replicas-0", "ray-replicas-2"):
        before, during = medians(case, metrics.INTER_TOKEN_LATENCY_MEAN.name, sibling)
        assert during < 1.2 * before


def test_a_delay_is_seen_by_the_caller_and_not_in_the_engine(tmp_path: Path) -> None:
    case = toy_case(tmp_path, fault("network-delay", "ray-replicas-1", parameters={"delay_ms": 300}))
    seen = medians(case, metrics.LATENCY_P50.name, "ray-replicas-1")
    inside = medians(case, metrics.INTER_TOKEN_LATENCY_MEAN.name, "ray-replicas-1")
    assert seen[1] - seen[0] > 0.5
    assert inside[1] < 1.5 * inside[0]


def test_a_frozen_replica_has_no_samples_and_its_siblings_take_over(tmp_path: Path) -> None:
    case = toy_case(tmp_path, fault("process-freeze", "ray-replicas-1"))
    phase = case.record.phase("fault")
    assert phase is not None
    rows = case.metrics[(case.metrics["time"] > phase.start) & (case.metrics["time"] < phase.end)]
    rates = rows[rows["metric"] == metrics.GENERATION_TOKENS_RATE.name].groupby("service", observed=True)["value"]
    assert rates.count()["ray-replicas-1"] <= 2
    assert rates.count()["ray-replicas-0"] >= 18
    assert case.record.load.failed <= 3


def test_a_frozen_gateway_fails_requests(tmp_path: Path) -> None:
    case = toy_case(tmp_path, fault("process-freeze", "nginx-proxy"))
    assert case.record.load.failed >= 3
    assert case.record.load.failed < case.record.load.requests / 2


def test_no_service_holds_less_than_no_request(tmp_path: Path) -> None:
    """Clients that give up while the gateway is frozen never were at the head."""
    short = order(fault("process-freeze", "nginx-proxy"), load=LOAD | {"request_timeout_s": 5})
    case = make_case(deploy(), short, tmp_path)
    held = case.metrics.loc[case.metrics["metric"] == "serve_ongoing_requests", "value"]
    assert held.max() >= 1
    assert held.min() == 0


def test_a_weak_stress_may_be_ineffective(tmp_path: Path) -> None:
    """Sixteen busy processes on 12 cores of a GPU machine slow the engine; one does not."""
    weak = gpu_case(
        tmp_path / "weak", fault("cpu-stress", "ray-replicas-1", parameters={"workers": 1, "load_percent": 5})
    )
    assert weak.record.injections[0].verdict == "ineffective"


def test_two_faults_at_different_times(tmp_path: Path) -> None:
    case = toy_case(
        tmp_path,
        fault("cpu-stress", "ray-replicas-0"),
        fault("network-delay", "ray-replicas-2", offset_s=10),
    )
    assert [each.verdict for each in case.record.injections] == ["effective", "effective"]
    first, second = (each.begin for each in case.record.injections)
    assert (second - first).total_seconds() == 10


def test_requests_leave_on_schedule_and_end_after_they_begin(tmp_path: Path) -> None:
    case = toy_case(tmp_path)
    requests = case.requests
    assert case.record.load.verdict == "on-schedule"
    assert (requests["sent"] >= requests["scheduled"]).all()
    assert (requests["first_token"] > requests["sent"]).all()
    assert (requests["last_token"] > requests["first_token"]).all()
    assert case.record.load.failed == 0


def test_spans_nest_within_their_parents_service(tmp_path: Path) -> None:
    spans = toy_case(tmp_path).spans
    parents = spans.set_index("span_id")
    linked = spans[spans["parent_span_id"].isin(parents.index)]
    begun = parents.loc[linked["parent_span_id"], "start"].to_numpy()
    assert (linked["start"].to_numpy() >= begun).all()
    assert len(linked) > 0.75 * len(spans)


def test_groups_of_models_share_nodes_and_load(tmp_path: Path) -> None:
    groups = [
        {"name": "small", "replicas": 2, "load_share": 1},
        {"name": "large", "replicas": 2, "tensor": 8, "pipeline": 2, "step_factor": 4, "load_share": 1},
    ]
    case = gpu_case(tmp_path, replicas=4, groups=groups)
    services = {service.name: service for service in case.record.stack.services}
    assert len(services["ray-replicas-0"].devices) == 1
    assert len(services["ray-replicas-2"].devices) == 16
    nodes = case.topology[(case.topology["relation"] == "runs_on") & (case.topology["source"] == "ray-replicas-2")]
    assert len(nodes) >= 2
    rate = case.metrics[case.metrics["metric"] == "request_rate"].groupby("service", observed=True)["value"].mean()
    small, large = (rate[[f"ray-replicas-{i}" for i in pair]].sum() for pair in ((0, 1), (2, 3)))
    assert small == pytest.approx(large, rel=0.35)


def test_missed_scrapes_are_missing_samples(tmp_path: Path) -> None:
    from tasks.backends.simulated.maker import make_case

    case = make_case(deploy(missed_scrapes=0.3), order(), tmp_path)
    running = case.metrics[case.metrics["metric"] == metrics.REQUESTS_RUNNING.name]["value"]
    assert 0.15 < np.isnan(running).mean() < 0.45


GROUPS = [
    {"name": "small", "replicas": 8},
    {"name": "large", "replicas": 2, "tensor": 8, "pipeline": 2, "step_factor": 4, "load_share": 0.3},
]
"""Eight replicas share node-1, the next two have two nodes each."""


def lost(case: Case) -> set[str]:
    return {each.target for each in case.record.injections if each.kind == "node-loss" and each.verdict == "effective"}


def test_a_lost_node_takes_all_that_is_on_it(tmp_path: Path) -> None:
    case = gpu_case(tmp_path, fault("node-loss", "ray-replicas-1"), replicas=10, groups=GROUPS)
    assert lost(case) == {f"ray-replicas-{i}" for i in range(8)}
    phase = case.record.phase("fault")
    assert phase is not None
    rows = case.metrics[(case.metrics["time"] > phase.start) & (case.metrics["time"] < phase.end)]
    seen = rows[rows["metric"] == metrics.MEMORY_RSS.name].groupby("service", observed=True)["value"].count()
    assert seen["ray-replicas-1"] <= 1
    assert seen["ray-replicas-8"] > 50


def test_a_replica_over_two_nodes_is_lost_with_one_of_them(tmp_path: Path) -> None:
    case = gpu_case(tmp_path, fault("node-loss", "ray-replicas-9"), replicas=10, groups=GROUPS)
    assert lost(case) == {"ray-replicas-9"}
    assert case.record.load.failed > 0
