from __future__ import annotations

from pathlib import Path

import pytest

from tasks.errors import ParamsError
from tasks.rca.registry import list_methods
from tasks.study.plan import Study, default_entries, folder_of, read_study
from tests.study.conftest import BASE, STUDY


def test_campaigns_are_found_by_pattern_with_their_split(study: Study, root: Path) -> None:
    found = [(campaign.name, campaign.split, campaign.cases) for campaign in study.campaigns]
    assert found == [("dev", "development", root / "dev" / "cases"), ("new", "unseen", root / "new" / "cases")]


def test_all_are_scored_alike_whatever_the_parameters_ask(study: Study) -> None:
    base = BASE.model_copy(update={"inject_time": "detected", "method_parameters": {"baro": {"direction": "up"}}})
    score = study.score_params(base)
    assert (score.profile, score.inject_time, score.method_parameters) == ("llm", "known", {})
    assert score.methods[0] == "nsigma"
    variant = study.variant_params(base, "no eyes")
    assert (variant.methods, variant.method_parameters) == (("nsigma",), {"nsigma": {"direction": "up"}})


def test_another_time_changes_what_is_told_and_nothing_else(study: Study) -> None:
    told, usual = study.time_params(BASE, "10 s late"), study.score_params(BASE)
    assert (told.methods, told.inject_time, told.inject_time_error_s) == (("nsigma", "baro"), "known", 10)
    assert usual.inject_time_error_s == 0
    same = {"methods": usual.methods, "inject_time_error_s": 0.0}
    assert told.model_copy(update=same) == usual


def test_an_entry_may_be_left_out(root: Path, tmp_path: Path) -> None:
    file = root / f"{tmp_path.name}.yaml"
    file.write_text(STUDY + "without: [mmbaro, tracerca@paper]\n")
    methods = read_study(file, BASE).score_params(BASE).methods
    assert methods == ("nsigma", "baro", "tracerca")


def test_by_default_the_24_are_scored_under_each_profile_and_the_others_once() -> None:
    entries = default_entries("llm")
    assert {"nsigma", "nsigma@paper", "tracerca@paper", "random"} <= set(entries)
    assert "random@paper" not in entries
    once = [known.name for known in list_methods() if known.beyond and known.installed]
    assert not {f"{name}@paper" for name in once} & set(entries)
    assert set(once) <= set(entries)


def test_the_folder_of_a_variant_is_a_plain_name() -> None:
    assert folder_of("No past, 10 s off!") == "variant-no-past-10-s-off"
    assert folder_of("10 s late", "time") == "time-10-s-late"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (("method: nsigma", "method: baro\nmethod_: x"), "method_: unknown key"),
        (("[dev]", "[nothing]\nprofile: lmm"), "profile"),
        (("template: page.md.j2", "template: none.j2"), "template: none.j2 does not exist"),
        (("method: nsigma", "method: circa"), "method: 'circa' is not one of methods"),
        (("direction: up", "direction: sideways"), "variants.no eyes: score.method_parameters.nsigma.direction"),
        (("methods: [nsigma", "methods: [nsigmo"), "unknown method 'nsigmo'"),
        (("page: out/page.md\n", ""), "page: missing"),
        (
            ("timed: [nsigma, baro]", "timed: [nsigma, bareo]"),
            "timed: 'bareo' is not one of methods; did you mean 'baro'?",
        ),
        (("scores: older", "scores: nowhere"), "versions.first.scores: nowhere does not exist"),
        (("offset_s: 10", "offset_s: 601"), "times.10 s late.offset_s"),
        (("variants:", "without: [barro]\nvariants:"), "without: 'barro' is not one of methods; did you mean 'baro'?"),
    ],
)
def test_what_is_wrong_is_named(root: Path, tmp_path: Path, change: tuple[str, str], problem: str) -> None:
    file = root / f"{tmp_path.name}.yaml"
    file.write_text(STUDY.replace(*change))
    with pytest.raises(ParamsError) as raised:
        read_study(file, BASE)
    assert problem in str(raised.value)


def test_a_study_without_a_finished_case_is_none(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(STUDY)
    (tmp_path / "page.md.j2").touch()
    (tmp_path / "dev" / "cases" / "unfinished").mkdir(parents=True)
    with pytest.raises(ParamsError, match=r"no campaign with a finished case \(dev, n\*\)"):
        read_study(tmp_path / "study.yaml", BASE)


def test_two_campaigns_of_one_name_cannot_share_their_scores(root: Path, tmp_path: Path) -> None:
    file = root / f"{tmp_path.name}.yaml"
    (root / "other").mkdir(exist_ok=True)
    (root / "other" / "dev").symlink_to(root / "new") if not (root / "other" / "dev").exists() else None
    file.write_text(STUDY.replace("[dev]", "[dev, other/dev]"))
    with pytest.raises(ParamsError, match="two campaigns are called 'dev'"):
        read_study(file, BASE)
