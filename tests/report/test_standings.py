from tasks.report.scoreboard import MethodResult, Suspect
from tasks.report.standings import first_named, standings


def result(method: str, *services: str, truth: str = "t", status: str = "ok", excluded: str = "") -> MethodResult:
    suspects = tuple(Suspect(i, name, None, 1.0, False, name == truth) for i, name in enumerate(services, 1))
    ranks = tuple(suspect.rank for suspect in suspects if suspect.truth)
    return MethodResult(method, status, "", excluded, suspects, ranks, None)


def test_methods_stand_by_the_rank_of_the_truth_failures_last() -> None:
    results = [result("a", "x", "t"), result("b", "t"), result("c", status="error"), result("d", "x"), result("e", "t")]
    found = [(s.rank, s.reason, s.methods) for s in standings(results)]
    assert found == [
        (1, "", ("b", "e")),
        (2, "", ("a",)),
        (None, "not named", ("d",)),
        (None, "failed", ("c",)),
    ]
    by_rank = sorted(results, key=lambda each: each.best_rank)
    assert [each.method for each in by_rank] == ["b", "e", "a", "d", "c"]


def test_a_case_without_truth_has_no_standings_but_first_named_services() -> None:
    results = [
        result("a", "x", "y", excluded="fault-free", truth=""),
        result("b", "x", excluded="fault-free", truth=""),
    ]
    assert standings(results) == ()
    assert [(group.service, group.truth, group.methods) for group in first_named(results)] == [("x", False, ("a", "b"))]


def test_first_named_by_most_comes_first() -> None:
    results = [result("a", "x"), result("b", "t"), result("c", "t"), result("d", status="timeout")]
    assert [(g.service, g.truth, g.methods) for g in first_named(results)] == [
        ("t", True, ("b", "c")),
        ("x", False, ("a",)),
    ]
