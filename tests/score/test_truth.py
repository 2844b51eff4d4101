from __future__ import annotations

from pathlib import Path

import pytest

from tasks.case import CaseRecord
from tasks.injection import Injection
from tasks.score.truth import truth_of
from tests.synthetic import synthetic_case


def record_with(tmp_path: Path, *injections: tuple[str, str, str]) -> CaseRecord:
    record = synthetic_case(tmp_path).record
    template = record.injections[0]
    made = tuple(
        template.model_copy(update={"kind": kind, "target": target, "verdict": verdict})
        for kind, target, verdict in injections
    )
    assert all(isinstance(injection, Injection) for injection in made)
    return record.model_copy(update={"injections": made})


def test_effective_injections_are_the_truth(tmp_path: Path) -> None:
    record = record_with(
        tmp_path, ("network-delay", "ray-head", "effective"), ("cpu-stress", "ray-replicas-1", "effective")
    )
    truth = truth_of(record, include_ineffective=False)
    assert truth.services == ("ray-head", "ray-replicas-1")
    assert (truth.fault, truth.target) == ("cpu-stress+network-delay", "ray-head+ray-replicas-1")
    assert [(c.service, c.role, c.columns) for c in truth.candidates] == [
        ("nginx-proxy", "gateway", 0), ("ray-head", "head", 0), *((f"ray-replicas-{i}", "replica", 0) for i in range(3))
    ]  # fmt: skip
    assert (truth.excluded, truth.notes) == ("", ())


def test_an_ineffective_injection_is_left_out_and_named(tmp_path: Path) -> None:
    record = record_with(
        tmp_path, ("network-delay", "ray-head", "effective"), ("cpu-stress", "ray-replicas-1", "ineffective")
    )
    truth = truth_of(record, include_ineffective=False)
    assert (truth.services, truth.excluded) == (("ray-head",), "")
    assert (truth.fault, truth.target) == ("network-delay+(cpu-stress)", "ray-head+(ray-replicas-1)")
    assert truth.notes == (
        "case-0001: cpu-stress on ray-replicas-1 was not effective (planted); the case is grouped as "
        "network-delay+(cpu-stress) on ray-head+(ray-replicas-1)",
    )
    assert truth_of(record, include_ineffective=True).services == ("ray-head", "ray-replicas-1")


@pytest.mark.parametrize(
    ("kinds", "targets"),
    [
        (("delay", "cpu"), ("ray-head", "ray-head")),
        (("delay", "delay"), ("ray-head", "nginx-proxy")),
        (("delay", "delay"), ("ray-head", "ray-head")),
    ],
)
def test_a_half_ineffective_pair_is_no_single_fault_even_of_one_kind_or_on_one_target(
    tmp_path: Path, kinds: tuple[str, str], targets: tuple[str, str]
) -> None:
    single = truth_of(record_with(tmp_path, ("delay", "ray-head", "effective")), include_ineffective=False)
    record = record_with(tmp_path, (kinds[0], targets[0], "effective"), (kinds[1], targets[1], "ineffective"))
    both = truth_of(record, include_ineffective=True)
    half = truth_of(record, include_ineffective=False)
    assert half.services == single.services == ("ray-head",)
    assert len({each.fault for each in (single, half, both)}) == 3
    assert half.target not in (single.target, both.target)
    assert both.notes == ()


def test_cases_without_truth_are_excluded(tmp_path: Path) -> None:
    nothing = truth_of(record_with(tmp_path), include_ineffective=True)
    assert (nothing.services, nothing.fault, nothing.excluded) == ((), "none", "fault-free")
    record = record_with(tmp_path, ("cpu-stress", "ray-head", "ineffective"))
    weak = truth_of(record, include_ineffective=False)
    assert (weak.services, weak.fault, weak.excluded) == ((), "cpu-stress", "no effective injection")


def test_neither_a_victim_nor_a_disturbance_is_the_truth(tmp_path: Path) -> None:
    pair = ("cpu-stress", "ray-head", "effective"), ("network-delay", "ray-replicas-1", "effective")
    record = record_with(tmp_path, *pair)
    root, other = record.injections
    for role in ("victim", "disturbance"):
        changed = record.model_copy(update={"injections": (root, other.model_copy(update={"role": role}))})
        truth = truth_of(changed, include_ineffective=False)
        assert (truth.services, truth.fault, truth.target) == (("ray-head",), "cpu-stress", "ray-head")
        assert (truth.excluded, truth.notes) == ("", ())
    alone = record.model_copy(update={"injections": (other.model_copy(update={"role": "disturbance"}),)})
    negative = truth_of(alone, include_ineffective=True)
    assert (negative.services, negative.excluded) == ((), "fault-free")


def test_two_faults_on_one_service_are_one_root_cause(tmp_path: Path) -> None:
    record = record_with(tmp_path, ("cpu-stress", "ray-head", "effective"), ("network-delay", "ray-head", "effective"))
    assert truth_of(record, include_ineffective=False).services == ("ray-head",)
