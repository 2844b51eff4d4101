from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.score.errors import ScoreError
from tasks.study.data import StudyData, read_data
from tasks.study.plan import Study, folder_of
from tasks.study.tables import Tables


def test_cases_are_grouped_by_what_was_really_done(data: StudyData) -> None:
    groups = {case.case_id: case.group for case in data.cases if case.split == "unseen"}
    assert groups == {
        "a-single": "single",
        "b-single": "single",
        "c-pair": "concurrent",
        "d-cascade": "cascade",
        "e-disturbed": "disturbed",
        "f-quiet": "negative",
        "g-restart": "negative",
        "h-weak": "ineffective",
    }


def test_the_truth_is_told_in_words(data: StudyData) -> None:
    truth = {case.case_id: case.truth for case in data.cases if case.split == "unseen"}
    assert truth["c-pair"] == "cpu-stress on ray-replicas-0 + network-delay on ray-replicas-1"
    assert truth["d-cascade"] == "cpu-stress on ray-head (memory-stress → nginx-proxy (victim))"
    assert truth["f-quiet"] == "no fault"
    assert truth["g-restart"] == "no fault (service-restart → ray-replicas-1 (disturbance))"


def test_outcomes_say_who_was_first_and_what_was_found(data: StudyData) -> None:
    outcomes = {o.case.case_id: o for o in data.of("nsigma", "unseen", ("single", "concurrent", "negative"))}
    assert {name: o.right for name, o in outcomes.items() if o.case.scored} == {
        "a-single": True,
        "b-single": False,
        "c-pair": True,
    }
    assert {name: o.exact for name, o in outcomes.items()} == {
        "a-single": True,
        "b-single": False,
        "c-pair": False,
        "f-quiet": True,
        "g-restart": False,
    }
    assert {name: o.false_roots for name, o in outcomes.items() if not o.case.scored} == {"f-quiet": 0, "g-restart": 1}
    assert outcomes["c-pair"].avg5 == 1
    assert outcomes["b-single"].first == "nginx-proxy"
    silent = data.of("tracerca", "unseen")[0]
    assert (silent.findings, silent.sets, silent.exact) == (None, None, None)


def test_variants_and_splits_stay_apart(data: StudyData) -> None:
    assert [o.first for o in data.of("nsigma", "development")] == ["ray-replicas-0", "nginx-proxy"]
    assert {o.first for o in data.of("nsigma", "unseen", variant="no eyes")} == {"nginx-proxy"}


def test_a_campaign_without_scores_is_named(study: Study, tmp_path: Path) -> None:
    with pytest.raises(ScoreError, match=r"dev/scores: no scores; run the same command without --as-is"):
        read_data(study, tmp_path)


def test_a_campaign_without_scores_of_a_variant_is_left_out_there(study: Study, root: Path, tmp_path: Path) -> None:
    place = shutil.copytree(root / "place", tmp_path / "place")
    shutil.rmtree(place / "dev" / folder_of("no eyes"))
    data = read_data(study, place)
    assert {o.case.campaign for o in data.variants["no eyes"]} == {"new"}
    assert (
        Tables(data).ablations("development").endswith("\n\n*Left out, as not scored: no eyes: 2 of 2 cases of `dev`.*")
    )
    assert "Left out" not in Tables(data).ablations("unseen") + Tables(data).times("development")
    assert {o.case.campaign for o in data.times["10 s late"]} == {"dev", "new"}


def test_simulated_cases_stand_beside_no_recorded_ones(study: Study, root: Path) -> None:
    dev = next(campaign for campaign in study.campaigns if campaign.name == "dev")
    wrong = replace(study, campaigns=(replace(dev, split="simulated"),))
    with pytest.raises(ScoreError, match="a-single is recorded; it cannot be among the simulated cases"):
        read_data(wrong, root / "place")
