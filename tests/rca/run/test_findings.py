from __future__ import annotations

import dataclasses
import itertools
import math

import pytest

from tasks.rca.method import Coverage, Evidence, Finding
from tasks.rca.registry import get_method
from tasks.rca.run.findings import coverage_problem, finding_problem, ordered_findings
from tasks.rca.run.pair import run_pair
from tests.rca import misbehaving  # noqa: F401 (registers its methods)
from tests.rca.views import view_of

SERVICES = ("b", "a", "c")
GOOD = Finding("a", "cpu-stress", 0.01, "root", 2.5, (Evidence("cpu", "a is busy", "cores", 0.1, 4.0, 0.2),))


def changed(**changes: object) -> Finding:
    return dataclasses.replace(GOOD, **changes)  # type: ignore[arg-type]  # what a method may do wrong


def evidence(**changes: object) -> tuple[Evidence, ...]:
    return (dataclasses.replace(GOOD.evidence[0], **changes),)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "findings",
    [
        None,
        (),
        (GOOD,),
        (GOOD, changed(kind="network-delay")),
        (GOOD, changed(service=None, kind="workload"), changed(service="c", role="victim")),
        (changed(significance=0), changed(service="b", significance=1, onset_s=None, evidence=())),
        (changed(onset_s=-3.0, evidence=evidence(before=None, during=None, siblings=None, unit="")),),
    ],
)
def test_what_the_contract_allows(findings: tuple[Finding, ...] | None) -> None:
    assert finding_problem(findings, SERVICES) == ""


@pytest.mark.parametrize(
    ("findings", "problem"),
    [
        ([GOOD], "returned findings that are not a tuple of Finding"),
        (("a",), "returned findings that are not a tuple of Finding"),
        ((changed(service="moon"),), "returned a finding on 'moon' which is not a candidate service"),
        ((changed(kind=" "),), "returned a finding on 'a' without a kind"),
        ((changed(kind=None),), "returned a finding on 'a' without a kind"),
        ((changed(role="cause"),), "returned a finding on 'a' with the role 'cause'; choose from: root, victim"),
        (
            (changed(service=None, role="victim"),),
            "returned a finding on '(none of the services)' that is a victim; a victim is a service",
        ),
        ((changed(significance=1.1),), "returned a finding on 'a' with the significance 1.1, which is not between"),
        ((changed(significance=math.nan),), "returned a finding on 'a' with the significance nan, which is not"),
        ((changed(onset_s=math.inf),), "returned a finding on 'a' with an onset that is not finite"),
        ((changed(evidence=["cpu"]),), "returned a finding on 'a' whose evidence is not a tuple of Evidence"),
        ((changed(evidence=evidence(sentence="")),), "returned a finding on 'a' with evidence that has no signal or"),
        ((changed(evidence=evidence(during=math.nan)),), "returned a finding on 'a' with evidence on cpu that is not"),
        ((GOOD, changed(significance=0.5)), "returned cpu-stress on 'a' twice in its findings"),
        ((GOOD, changed(kind="unknown", role="victim")), "returned 'a' as root and as victim"),
    ],
)
def test_what_is_wrong_is_named(findings: object, problem: str) -> None:
    assert finding_problem(findings, SERVICES).startswith(problem)


def test_roots_come_first_then_the_surest_whatever_the_order() -> None:
    wanted = (
        changed(service=None, kind="workload"),
        changed(service="b"),
        changed(kind="a kind"),
        changed(kind="b kind"),
        changed(onset_s=None, kind="later"),
        changed(significance=0.02, onset_s=0.0),
        changed(service="c", significance=0.0, role="victim"),
    )
    for order in itertools.islice(itertools.permutations(wanted), 0, None, 97):
        assert ordered_findings(order, SERVICES) == wanted
    assert ordered_findings((), SERVICES) == ()
    assert ordered_findings(None, SERVICES) is None


VIEW = view_of({(service, "x"): [0.0, 1, 0, 1, 5] for service in SERVICES}, normal_rows=4)


def test_a_pair_has_the_findings_as_plain_values() -> None:
    root, victim = run_pair(get_method("test_finds_two"), VIEW, seed=1).findings or ()
    first, second = VIEW.services[:2]
    assert victim == Finding(first, "unknown", 0.04, "victim", 7.0)
    assert root == Finding(
        second, "cpu-stress", 0.01, evidence=(Evidence("cpu", f"{second} is busy", "cores", 0.1, 4.0),)
    )
    values = [*dataclasses.astuple(victim)[:5], *dataclasses.astuple(root)[:5], *dataclasses.astuple(root.evidence[0])]
    assert {type(value) for value in values} <= {str, float, type(None)}


def test_a_pair_says_which_evidence_there_was() -> None:
    coverage = run_pair(get_method("test_finds_two"), VIEW, seed=1).coverage
    assert coverage == Coverage(("CPU", "spans of calls"), ("GPU clocks",))
    assert {type(name) for name in (*coverage.seen, *coverage.missing)} == {str}
    assert run_pair(get_method("test_no_fault"), VIEW, seed=1).coverage is None


@pytest.mark.parametrize(
    ("coverage", "problem"),
    [
        (None, ""),
        (Coverage(("CPU",), ("spans",)), ""),
        (("CPU",), "returned a coverage that is no Coverage"),
        (Coverage(("",)), "returned a coverage with a name that is no text"),
        (Coverage(("CPU", "spans"), ("spans",)), "returned 'spans' as seen and as missing evidence"),
    ],
)
def test_coverage_names_evidence_once(coverage: object, problem: str) -> None:
    assert coverage_problem(coverage) == problem


def test_no_fault_is_not_the_same_as_no_answer() -> None:
    assert run_pair(get_method("test_no_fault"), VIEW, seed=1).findings == ()
    assert run_pair(get_method("test_by_order"), VIEW, seed=1).findings is None
    assert run_pair(get_method("test_raises"), VIEW, seed=1).findings is None
