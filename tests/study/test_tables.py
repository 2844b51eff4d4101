from __future__ import annotations

from dataclasses import replace

import pytest

from tasks.rca.method import Finding
from tasks.study.data import StudyData
from tasks.study.figures import kind_accuracy
from tasks.study.tables import Tables, table


@pytest.fixture(scope="module")
def t(data: StudyData) -> Tables:
    return Tables(data)


def rows(markdown: str) -> dict[str, list[str]]:
    """Cells by first cell."""
    lines = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in markdown.splitlines()]
    return {cells[0].strip("`"): cells[1:] for cells in lines if len(cells) > 1}


def test_a_table_escapes_and_says_when_it_is_empty() -> None:
    assert table(("a", "b"), [("x|y", 1)]) == "| a | b |\n|---|---|\n| x\\|y | 1 |"
    assert table(("a", "b"), []) == "*No such case.*"


def test_campaigns_are_counted_by_group(t: Tables) -> None:
    found = rows(t.campaigns())
    assert found["new"][:8] == ["unseen", "8", "2", "1", "1", "1", "2", "1"]
    assert found["new"][8] == "cpu-stress, network-delay"
    assert found["dev"][:3] == ["development", "2", "2"]


def test_the_best_others_stand_beside_the_method(t: Tables) -> None:
    assert t.ranked("paper", "unseen") == ["tracerca@paper", "tracerca", "mmbaro"]
    assert t.best("beyond", "unseen") == "baro"
    found = rows(t.overview("unseen"))
    assert list(found) == ["method", "nsigma", "tracerca@paper", "tracerca", "mmbaro", "baro"]
    assert found["nsigma"][-1] == ".80 [.38, .96] (4 of 5)"
    assert found["nsigma"][0] == ".50 [.09, .91] (1 of 2)"


def test_every_method_has_a_row_and_yardsticks_say_so(t: Tables) -> None:
    found = rows(t.everything("unseen"))
    assert len(found) == 1 + 6
    assert found["dice"][0] == "yardstick"
    assert (found["baro"][0], found["mmbaro"][:2]) == ("beyond", ["24", "multi-source"])


def test_kinds_have_the_best_of_the_24_on_each(t: Tables) -> None:
    found = rows(t.kinds("unseen"))
    assert found["network-delay"] == [
        ".00 [.00, .79] (0 of 1)",
        "1.00 [.21, 1.00] (1 of 1)",
        ".00 [.00, .79] (0 of 1)",
        "1/1: `tracerca@paper`",
    ]
    assert list(rows(t.kinds("unseen", "concurrent"))) == ["kind", "cpu-stress", "network-delay"]


def test_sets_and_negatives_are_of_those_who_say(t: Tables) -> None:
    assert list(rows(t.sets("unseen"))) == ["method", "nsigma", "baro"]
    assert rows(t.sets("unseen"))["nsigma"][-2:] == [".60 [.23, .88] (3 of 5)", ".80 [.38, .96] (4 of 5)"]
    found = rows(t.negatives("unseen"))
    assert found["nsigma"][:2] == [".00 [.00, .79] (0 of 1)", "1.00 [.21, 1.00] (1 of 1)"]
    assert found["baro"][2] == "1.00 [.34, 1.00] (2 of 2)"
    assert t.negatives("development") == "*No such case.*"


def test_tests_and_ties(t: Tables) -> None:
    assert rows(t.tests("unseen"))["baro"] == ["5", "4", "0", "0.12", "0.5"]
    assert t.ties("unseen") == "`tracerca@paper`, `tracerca`, `baro`, `mmbaro`"


def test_ablations_compare_with_the_method_as_it_is(t: Tables) -> None:
    found = rows(t.ablations("unseen"))
    assert found["no eyes"] == ["0/2", "0/1", "0/1", "0/1", ".00 [.00, .00] (5)", "–", "2/2", "4:0"]
    assert found["as it is"][-2:] == ["1/2", ""]


def test_blames_split_victims_and_disturbances(t: Tables) -> None:
    assert rows(t.blames("unseen"))["baro"] == ["", "1", "", "4", ""]
    assert rows(t.blames("unseen"))["nsigma"] == ["4", "", "", "1", ""]


def test_families_count_each_method_under_its_better_profile(t: Tables) -> None:
    found = rows(t.families("unseen"))
    assert found["trace"] == ["1", "`tracerca@paper`", "1.00 [.34, 1.00] (2 of 2)", "1.00"]
    assert found["multi-source"][0] == "1"
    assert "metric" not in found


def test_goals_are_met_or_not(t: Tables) -> None:
    found = rows(t.goals())
    assert found["AC@1, one fault: cpu-stress"][1:] == ["1.00 [.21, 1.00] (1 of 1)", "yes"]
    assert found["AC@1, one fault: network-delay"][-1] == "**no**"
    assert found["set F1, two roots"] == ["≥ .90", ".50 (1)", "**no**"]
    assert found["cases without a fault in which it names one"][-1] == "**no**"
    assert found["better than the best of the 24 (`tracerca@paper`)"][-1] == "**no**"


def test_failures_say_what_is_wrong(t: Tables) -> None:
    errors = {failure.outcome.case.case_id: (failure.said, failure.error) for failure in t.failures("unseen")}
    assert errors == {
        "b-single": ("network-delay on nginx-proxy", "names nginx-proxy first; misses ray-head; adds nginx-proxy"),
        "c-pair": ("unknown on ray-replicas-0, network-delay on ray-replicas-1", "another kind"),
        "g-restart": ("process-kill on ray-replicas-1", "a false root"),
    }
    assert "`b-single`" in t.failure_table("unseen")


def test_strata_sum_up_to_all_scored_cases(t: Tables) -> None:
    found = rows(t.strata("unseen"))
    counts = [cells[0].rpartition(" of ")[2].rstrip(")") for name, cells in found.items() if name != "stratum"]
    assert sum(map(int, counts)) == 5


def test_what_is_left_out_is_said(t: Tables) -> None:
    assert t.without == "none"


def test_other_times_stand_beside_the_true_one(t: Tables) -> None:
    found = rows(t.times("unseen"))
    assert list(found) == ["AC@1", "nsigma", "baro"]
    assert found["AC@1"] == ["true time", "10 s late"]
    assert found["nsigma"] == [".80 [.38, .96] (4 of 5)", str(t.ac1("baro", "unseen"))]
    said = rows(t.times_of_sets("unseen"))
    assert list(said) == ["nsigma", "true time", "10 s late"]
    assert said["10 s late"][1] == "–"  # no root is named
    assert said["10 s late"][2] == "1.00 [.34, 1.00] (2 of 2)"


def test_versions_say_what_they_had_seen(t: Tables) -> None:
    lines = [line.strip("| ").split(" | ") for line in t.versions().splitlines()[2:]]
    assert [line[:3] for line in lines] == [
        ["first", "`dev`", "seen"],
        ["first", "`new`", "**not seen**"],
        ["second", "`dev`", "seen"],
        ["second", "`new`", "seen"],
    ]
    assert lines[1][3] == str(t.ac1("baro", "unseen"))
    assert lines[3][3] == str(t.ac1("nsigma", "unseen"))


def test_first_looks_are_by_the_newest_version_that_had_not_seen_the_campaign(t: Tables) -> None:
    """Only the first version, which is ``baro`` here, had not seen ``new``; nothing counts for ``dev``."""
    found = rows(t.first_looks())
    assert found["kind right, of roots named"][1] == str(kind_accuracy(t.data.of("baro", "unseen")))
    assert found["better than the best of the 24 (`tracerca@paper`)"][1] == "0 : 5 of 5, p (Holm) 0.25"
    assert rows(t.tests_of_first_looks())["tracerca@paper"][:3] == ["5", "0", "5"]
    again = replace(t.data, versions={"first": replace(t.data.versions["first"], seen=frozenset({"dev", "new"}))})
    assert "one fault" not in Tables(again).first_looks()


def test_the_load_is_named_or_not(t: Tables) -> None:
    assert rows(t.workload("unseen"))["nsigma"] == ["–", ".00 [.00, .66] (0 of 2)"]
    told = [
        replace(o, case=replace(o.case, load_changed=True), findings=(Finding(None, "workload", 0.01),))
        if o.case.case_id == "f-quiet" and o.method == "nsigma"
        else o
        for o in t.data.outcomes
    ]
    after = Tables(replace(t.data, outcomes=tuple(told)))
    assert rows(after.workload("unseen"))["nsigma"] == ["1.00 [.21, 1.00] (1 of 1)", ".00 [.00, .79] (0 of 1)"]
    assert rows(after.negatives("unseen")) == rows(t.negatives("unseen")), "the load is no false root"
