import pandas as pd
import pytest

from tasks.report.sections.misattribution import MAX_SERVICES, misattribution

COLUMNS = ["method", "fault", "truth", "predicted", "cases"]
ROWS = [
    ("good", "cpu", "head", "head", 2),
    ("good", "cpu", "replica", "replica", 1),
    ("bad", "cpu", "head", "gateway", 2),
    ("bad", "cpu", "replica", "gateway", 1),
    ("bad", "net", "head+replica", "replica", 1),
    ("good", "net", "head+replica", "(nothing)", 1),
]


@pytest.fixture
def found():
    table = pd.DataFrame(ROWS, columns=COLUMNS)
    return misattribution(table, ["good", "bad"])


def test_axes_are_shared_by_all_methods(found) -> None:
    assert (found.methods, found.faults) == (("good", "bad"), ("cpu", "net"))
    assert found.truths == ("head", "head+replica", "replica")
    assert found.blamed == ("gateway", "head", "replica", "(nothing)")


def test_matrix_of_one_method_and_of_all(found) -> None:
    bad = [[cell.count for cell in row] for row in found.matrix("bad")]
    assert bad == [[2, 0, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0]]
    every = found.matrix()
    assert [[cell.count for cell in row] for row in every] == [[2, 2, 0, 0], [0, 0, 1, 1], [1, 0, 1, 0]]
    assert every[0][0].share == 0.5
    assert [[cell.right for cell in row] for row in every] == [
        [False, True, False, False],
        [False, True, True, False],
        [False, False, True, False],
    ]


def test_the_target_of_an_injection_without_effect_is_no_root_cause() -> None:
    rows = [("m", "cpu+(net)", "head+(replica)", predicted, 1) for predicted in ("head", "replica")]
    half = misattribution(pd.DataFrame([*rows, ("m", "cpu", "head", "head", 3)], columns=COLUMNS), ["m"])
    assert (half.truths, half.blamed) == (("head", "head+(replica)"), ("head", "replica"))
    assert [[(cell.count, cell.right) for cell in row] for row in half.matrix()] == [
        [(3, True), (0, False)],
        [(1, True), (1, False)],
    ]


def test_blame_counts_rankings_that_name_anybody(found) -> None:
    blame = {entry.service: (entry.blamed, entry.rightly, entry.true) for entry in found.blame()}
    assert blame == {"gateway": (3, 0, 0), "head": (2, 2, 5), "replica": (2, 2, 3)}
    assert {entry.rankings for entry in found.blame()} == {7}
    assert found.nameless == 1


def test_statement_names_the_most_over_blamed(found) -> None:
    statement = found.statement({"gateway": "gateway"})
    assert statement == "gateway (gateway) is named first in 43% of the 7 rankings, but is at fault in 0% of them."
    just = pd.DataFrame([ROWS[0]], columns=COLUMNS)
    assert misattribution(just, ["good"]).statement({}) == ""


def test_of_many_services_the_rarely_blamed_stand_together() -> None:
    often = [("m", "cpu", "true", f"s{i:02d}", 30 - i) for i in range(30)]
    table = pd.DataFrame([*often, ("m", "cpu", "true", "(nothing)", 2)], columns=COLUMNS)
    many = misattribution(table, ["m"])
    assert len(many.blamed) == MAX_SERVICES + 2
    assert many.blamed[-3:] == ("true", "(other services)", "(nothing)")
    (row,) = many.matrix()
    assert (row[0].count, row[-2].count, row[-1].count) == (30, sum(range(1, 18)), 2)
    assert many.statement({}).startswith("s00 is named first in")


def test_nothing_scored() -> None:
    empty = misattribution(pd.DataFrame(columns=COLUMNS), ["good"])
    assert (empty.blame(), empty.matrix(), empty.statement({})) == ((), (), "")
