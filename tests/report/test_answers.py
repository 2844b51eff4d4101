from __future__ import annotations

from datetime import timedelta

import pytest

from tasks.case import CaseRecord
from tasks.injection import Injection, InjectionRole, Interval
from tasks.rca.method import Coverage, Finding
from tasks.report.answers import answers
from tests.synthetic import T0, synthetic_case


def injection(kind: str, target: str, role: InjectionRole = "root", *, group: str = "") -> Injection:
    window = Interval(start=T0 + timedelta(seconds=25), end=T0 + timedelta(seconds=50))
    return Injection(
        kind=kind, target=target, role=role, group=group, planned=window, verdict="effective", reason="made up"
    )


@pytest.fixture
def record(tmp_path) -> CaseRecord:
    return synthetic_case(tmp_path, "one", kind=None).record.model_copy(
        update={
            "injections": (
                injection("pod-kill", "ray-replicas-0", group="process-kill"),
                injection("cpu-stress", "ray-replicas-1"),
                injection("network-delay", "nginx-proxy", "victim"),
                injection("service-restart", "ray-head", "disturbance"),
            )
        }
    )


def root(service: str | None, kind: str = "unknown") -> Finding:
    return Finding(service, kind, 0.01)


def judged(record: CaseRecord, *findings: Finding) -> tuple[list[tuple[str, str]], tuple[str, ...], str]:
    (answer,) = answers(record, [("m", findings)])
    return [(each.mark, each.remark) for each in answer.findings], answer.missed, answer.mark


def test_roots_by_kind_or_group_are_right(record: CaseRecord) -> None:
    both = root("ray-replicas-0", "process-kill"), root("ray-replicas-1", "cpu-stress")
    assert judged(record, *both) == ([("right", ""), ("right", "")], (), "right")


def test_what_is_missing_is_named(record: CaseRecord) -> None:
    found = judged(record, root("ray-replicas-0", "pod-kill"))
    assert found == ([("right", "")], ("cpu-stress on ray-replicas-1",), "partly right")
    assert judged(record)[1:] == (("pod-kill on ray-replicas-0", "cpu-stress on ray-replicas-1"), "wrong")


@pytest.mark.parametrize(
    ("finding", "mark", "remark"),
    [
        (root("ray-replicas-0"), "partly right", "the kind is left open; it was pod-kill"),
        (root("ray-replicas-1", "memory-stress"), "partly right", "another kind; it was cpu-stress"),
        (root("nginx-proxy", "network-delay"), "wrong", "a victim: network-delay on nginx-proxy"),
        (root("ray-head"), "wrong", "a disturbance: service-restart on ray-head"),
        (root("ray-replicas-2"), "wrong", "not at fault"),
        (root(None, "workload"), "", ""),
        (root(None, "another host"), "", ""),
        (Finding("nginx-proxy", "network-delay", 0.1, "victim"), "right", ""),
        (Finding("ray-replicas-1", "cpu-stress", 0.1, "victim"), "wrong", "is a root cause"),
        (Finding("ray-replicas-2", "unknown", 0.1, "victim"), "", ""),
    ],
)
def test_each_finding_is_judged(record: CaseRecord, finding: Finding, mark: str, remark: str) -> None:
    assert judged(record, finding)[0] == [(mark, remark)]


def test_no_fault_is_right_where_there_is_none(record: CaseRecord) -> None:
    disturbed = record.model_copy(update={"injections": record.disturbances()})
    assert judged(disturbed) == ([], (), "right")
    assert judged(disturbed, root("ray-replicas-2"))[2] == "wrong"


def test_workload_is_right_where_the_load_changed(record: CaseRecord) -> None:
    def under(**parameters: object) -> CaseRecord:
        load = record.load.model_copy(update={"parameters": parameters})
        return record.model_copy(update={"injections": (), "load": load})

    workload = root(None, "workload")
    assert judged(under(rate=2.0, shapes=[{"kind": "surge"}]), workload) == ([("right", "")], (), "right")
    assert judged(under(rate=2.0), workload)[0] == [("wrong", "the load did not change")]


def test_coverage_comes_with_the_answer(record: CaseRecord) -> None:
    coverage = {"m": Coverage(("CPU",), ("spans",))}
    first, second = answers(record, [("m", []), ("n", [])], coverage=coverage)
    assert (first.coverage, second.coverage) == (coverage["m"], None)


def test_nothing_is_judged_where_the_truth_is_unknown(record: CaseRecord) -> None:
    weak = record.model_copy(
        update={"injections": tuple(i.model_copy(update={"verdict": "ineffective"}) for i in record.roots)}
    )
    assert judged(weak) == ([], (), "")
    assert judged(weak, root("ray-replicas-2")) == ([("", "")], (), "")
    (answer,) = answers(weak, [("m", [root("ray-replicas-0", "pod-kill")])], include_ineffective=True)
    assert answer.mark == "partly right"
