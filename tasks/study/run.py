"""Scores every method, and every variant of one, on the campaigns of a study."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tasks.case import is_finished
from tasks.console import Console
from tasks.params import ScoreParams
from tasks.score.campaign import score_campaign
from tasks.score.stage import progress_lines
from tasks.score.store import PairStore
from tasks.study.plan import Campaign, Study, folder_of

SCORES = "scores"


def scores_of(place: Path, campaign: Campaign, variant: str | None = None, *, time: str | None = None) -> Path:
    """Return the folder of the scores of a campaign: of all methods, of a variant, or under another inject time."""
    if time is not None:
        return place / campaign.name / folder_of(time, "time")
    return place / campaign.name / (SCORES if variant is None else folder_of(variant))


def score_study(study: Study, place: Path, base: ScoreParams, console: Console, workers: int | None = None) -> None:
    """Score what the study asks for, below ``place``. Rankings are kept there: the same call goes on where it
    stopped."""
    store = PairStore(place / "pairs")
    for campaign, label, out, params in _runs(study, base, place):
        cases = sum(is_finished(path) for path in campaign.cases.iterdir() if path.is_dir())
        pairs = cases * len(params.methods)
        what = campaign.name + (f", {label}" if label else "")
        console.say(f"{what}: {cases} cases, {pairs} rankings")
        with console.progress(f"rankings of {what}", pairs) as advance:
            result = score_campaign(
                campaign.cases,
                params,
                out,
                store=store,
                progress=progress_lines(what, console, advance),
                workers=workers,
            )
        console.say(f"{what}: scored; {result.kept} of {pairs} rankings were there")


def _runs(study: Study, base: ScoreParams, place: Path) -> Iterator[tuple[Campaign, str, Path, ScoreParams]]:
    for campaign in study.campaigns:
        yield campaign, "", scores_of(place, campaign), study.score_params(base)
        for variant in study.params.variants:
            yield campaign, variant, scores_of(place, campaign, variant), study.variant_params(base, variant)
        for time in study.params.times:
            yield campaign, time, scores_of(place, campaign, time=time), study.time_params(base, time)
