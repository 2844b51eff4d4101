from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.rca.method import Finding, FindingRole
from tasks.rca.run.pair import PairResult, Suspect
from tasks.score.first_place import first_place
from tasks.score.sets import match_order, match_sets
from tasks.score.truth import Broken, Candidate, MetricTruth, Truth

SERVICES = ("gate", "head", "r0", "r1", "r2")
KINDS = ("cpu-stress", "network-delay", "engine-kill")
GROUPS = {"engine-kill": "process-kill"}


def broken(service: str, kind: str = "cpu-stress", begin_s: float = 0.0) -> Broken:
    return Broken(service, kind, GROUPS.get(kind, kind), begin_s)


def found(
    service: str | None, kind: str = "cpu-stress", role: FindingRole = "root", onset_s: float | None = None
) -> Finding:
    return Finding(service, kind, 0.01, role, onset_s)


def truth(
    roots: Sequence[Broken], victims: Sequence[Broken] = (), disturbed: Sequence[str] = (), excluded: str = ""
) -> Truth:
    roles = {"gate": "gateway", "head": "head"}
    candidates = tuple(Candidate(name, roles.get(name, "replica"), 1) for name in SERVICES)  # type: ignore[arg-type]
    services = tuple(sorted({root.service for root in roots}))
    metrics = MetricTruth(frozenset(), (), "unknown")
    made = Truth("case", candidates, services, metrics, "fault", "target", excluded, ())
    return replace(made, roots=tuple(roots), victims=tuple(victims), disturbed=frozenset(disturbed))


def result(ranking: Sequence[str], findings: Sequence[Finding] | None = None) -> PairResult:
    suspects = tuple(Suspect(i, name, 1.0 / i, False, None) for i, name in enumerate(ranking, 1))
    return PairResult("ok", suspects=suspects, findings=None if findings is None else tuple(findings))


def scores(findings: Sequence[Finding] | None, roots: Sequence[Broken]) -> dict[str, float]:
    return match_sets(findings, roots).scores()


# Sets


def test_one_of_two_roots_and_one_service_too_many() -> None:
    """By hand: 1 hit of 2 answers and 2 truths strictly, 2 of 3 answers and 2 truths for services."""
    roots = [broken("r0"), broken("r1", "network-delay")]
    findings = [found("r0"), found("r1", "cpu-stress"), found("gate")]
    match = match_sets(findings, roots)
    assert (match.answers, match.truths, match.hits, match.wrong_kinds) == (3, 2, 1, 1)
    assert match.scores() == {
        "set_precision": 1 / 3,
        "set_recall": 1 / 2,
        "set_f1": 2 / 5,
        "service_precision": 2 / 3,
        "service_recall": 1.0,
        "service_f1": 4 / 5,
        "set_exact": 0.0,
    }
    assert match.kinds == (("cpu-stress", "cpu-stress"), ("network-delay", "cpu-stress"))


def test_a_group_is_right_another_kind_of_the_group_is_not() -> None:
    roots = [broken("r0", "engine-kill")]
    assert scores([found("r0", "process-kill")], roots)["set_f1"] == 1
    assert scores([found("r0", "engine-kill")], roots)["set_f1"] == 1
    assert scores([found("r0", "pod-kill")], roots)["set_f1"] == 0
    assert scores([found("r0", "pod-kill")], roots)["service_f1"] == 1


def test_two_kinds_on_one_service_are_two_roots_and_one_service() -> None:
    roots = [broken("r0"), broken("r0", "network-delay")]
    match = match_sets([found("r0", "network-delay")], roots)
    assert (match.truths, match.hits, match.services_true, match.services_hit) == (2, 1, 1, 1)


def test_an_exact_kind_takes_its_root_before_a_group_takes_any() -> None:
    roots = [broken("r0", "engine-kill"), Broken("r0", "pod-kill", "process-kill", 0.0)]
    match = match_sets([found("r0", "process-kill"), found("r0", "engine-kill")], roots)
    assert (match.hits, match.wrong_kinds) == (2, 0)


def test_an_unknown_kind_is_counted_and_not_right() -> None:
    match = match_sets([found("r0", "unknown")], [broken("r0")])
    assert (match.hits, match.wrong_kinds, match.unknown_kinds) == (0, 1, 1)


def test_victims_and_causes_outside_name_no_root() -> None:
    findings = [found("r0"), found("gate", role="victim"), found(None, "workload")]
    assert scores(findings, [broken("r0")])["set_exact"] == 1


def test_nobody_named_is_defined() -> None:
    assert set(scores((), [broken("r0")]).values()) == {0.0}
    assert scores(None, [broken("r0")]) == scores((), [broken("r0")])


a_root = st.builds(broken, st.sampled_from(SERVICES), st.sampled_from(KINDS), st.floats(0, 20))
a_finding = st.builds(
    found,
    st.sampled_from(SERVICES),
    st.sampled_from([*KINDS, "process-kill", "unknown"]),
    st.sampled_from(["root", "victim"]),
    st.none() | st.floats(0, 20),
)
several_roots = st.lists(a_root, min_size=1, max_size=4)
several_findings = st.lists(a_finding, max_size=6)


@given(several_findings, several_roots)
def test_bounds_and_sums(findings: list[Finding], roots: list[Broken]) -> None:
    match = match_sets(findings, roots)
    assert all(0 <= value <= 1 for value in match.scores().values())
    assert match.hits + match.wrong_kinds == len(match.kinds) <= min(match.answers, match.truths)
    assert match.services_hit <= min(match.services_named, match.services_true)


@given(several_findings, several_roots, st.randoms(use_true_random=False), st.permutations(SERVICES))
def test_names_and_order_do_not_matter(
    findings: list[Finding], roots: list[Broken], random: object, renamed: list[str]
) -> None:
    name = dict(zip(SERVICES, renamed, strict=True))
    expected = match_sets(findings, roots)
    shuffled = sorted(findings, key=lambda _: random.random())  # type: ignore[attr-defined]
    moved = [replace(each, service=name[str(each.service)]) for each in shuffled]
    again = match_sets(moved, [replace(root, service=name[root.service]) for root in reversed(roots)])
    assert again.scores() == expected.scores()
    assert (again.hits, again.wrong_kinds) == (expected.hits, expected.wrong_kinds)


@given(several_roots)
def test_the_truth_itself_is_perfect(roots: list[Broken]) -> None:
    findings = [found(root.service, root.kind) for root in roots]
    assert set(scores(findings, roots).values()) == {1.0}


@given(several_roots, several_findings)
def test_one_more_right_root_never_lowers_recall(roots: list[Broken], findings: list[Finding]) -> None:
    before = scores(findings, roots)
    after = scores([*findings, found(roots[0].service, roots[0].kind)], roots)
    assert all(after[name] >= before[name] for name in ("set_recall", "service_recall"))


# Order


def order(found_: PairResult, of: Truth) -> dict[str, float]:
    return match_order(found_, of).scores()


CASCADE = truth([broken("r0")], [broken("gate", "process-freeze", 5.0), broken("head", "process-freeze", 7.0)])


def test_a_ranking_alone_is_scored_on_victims_by_rank() -> None:
    """Root r0; victims gate and head: one of two pairs is right."""
    assert order(result(["gate", "r0", "head"]), CASCADE) == {"victim_order": 0.5, "root_first": 0.0, "order": 0.5}
    assert order(result(["r0"]), CASCADE)["root_first"] == 1
    assert order(result([]), CASCADE)["victim_order"] == 0


def test_roles_go_before_ranks() -> None:
    findings = [found("r0"), found("gate", role="victim"), found("head", role="victim")]
    assert order(result(["gate", "head", "r0"], findings), CASCADE)["victim_order"] == 1
    wrong = [found("gate"), found("r0", role="victim")]
    assert order(result(["r0", "gate", "head"], wrong), CASCADE)["victim_order"] == 0.5


def test_onsets_order_what_has_one_role() -> None:
    findings = [found("gate", onset_s=4.0), found("head", onset_s=0.5), found("r0", onset_s=1.0)]
    assert order(result(["gate", "head", "r0"], findings), CASCADE)["victim_order"] == 0.5


def test_roots_are_ordered_by_onset_and_simultaneous_ones_not_at_all() -> None:
    two = truth([broken("r0"), broken("r1", "network-delay", 8.0)])
    right = [found("r0", onset_s=0.2), found("r1", onset_s=8.5)]
    assert order(result(["r1", "r0"], right), two)["order"] == 1
    assert order(result(["r0", "r1"], [replace(right[0], onset_s=9.0), right[1]]), two)["order"] == 0
    assert order(result(["r0", "r1"], right[:1]), two)["order"] == 0
    assert order(result(["r1", "r0"], [found("r0"), found("r1")]), two)["order"] == 0
    at_once = truth([broken("r0"), broken("r1", "network-delay", 0.4)])
    assert all(map(math.isnan, order(result(["r0", "r1"], right), at_once).values()))


def test_a_victim_before_its_root_or_on_it_is_no_pair() -> None:
    assert (
        match_order(result(["r0"]), truth([broken("r0", begin_s=3.0)], [broken("gate", begin_s=1.0)])).victim_pairs == 0
    )
    assert match_order(result(["r0"]), truth([broken("r0")], [broken("r0", "pod-kill", 2.0)])).victim_pairs == 0


@given(st.permutations(SERVICES), several_findings, several_roots, st.lists(a_root, max_size=3))
def test_order_is_bounded_and_blind_to_names(
    ranking: list[str], findings: list[Finding], roots: list[Broken], victims: list[Broken]
) -> None:
    match = match_order(result(ranking, findings), truth(roots, victims))
    assert 0 <= match.victims_right <= match.victim_pairs
    assert 0 <= match.roots_right <= match.root_pairs
    name = dict(zip(SERVICES, (*SERVICES[1:], SERVICES[0]), strict=True))

    def moved(each: Sequence[Broken]) -> list[Broken]:
        return [replace(one, service=name[one.service]) for one in each]

    renamed = [replace(each, service=name[str(each.service)]) for each in findings]
    again = match_order(result([name[service] for service in ranking], renamed), truth(moved(roots), moved(victims)))
    assert again == match


# The first place


@pytest.mark.parametrize(
    ("ranking", "expected"),
    [
        (["r0"], "correct"),
        (["gate"], "victim"),
        (["r1"], "disturbance"),
        (["head"], "head"),
        (["r2"], "replica"),
        ([], "nothing"),
    ],
)
def test_errors_of_the_first_place(ranking: list[str], expected: str) -> None:
    of = truth([broken("r0")], [broken("gate", begin_s=3.0)], ["r1", "r0", "gate"])
    assert first_place(result(ranking), of) == expected


def test_the_gateway_is_named_as_such_if_nothing_was_done_to_it() -> None:
    assert first_place(result(["gate"]), truth([broken("r0")])) == "gateway"
