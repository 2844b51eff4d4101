"""The study file: which campaigns, which methods, which variants of one of them, and the page."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import Field, ValidationError

from tasks.case import is_finished
from tasks.errors import ParamsError
from tasks.metrics import PROFILES, Profile
from tasks.params import ScoreParams, read_document
from tasks.rca.registry import list_methods
from tasks.remediate.stage import read_tables
from tasks.score.campaign import validate_score_params
from tasks.text import suggest
from tasks.validation import Frozen, Plain, validation_problems

Split = Literal["development", "unseen", "simulated"]
SPLITS: tuple[Split, ...] = get_args(Split)
COMPUTED: Split = "simulated"
"""The split of campaigns whose cases were computed; no other has such cases."""


class VariantParams(Frozen):
    """The method under other conditions. None: as in the study."""

    profile: Profile | None = None
    inject_time: Literal["known", "detected"] | None = None
    parameters: dict[str, Plain] = Field(default={})


class TimeParams(Frozen):
    """What methods are told of the inject time: ``offset_s`` later than it was, or what the detector finds."""

    inject_time: Literal["known", "detected"] = "known"
    offset_s: Annotated[float, Field(ge=-600, le=600)] = 0


class VersionParams(Frozen):
    """A version of the compared method. ``seen``: names of the campaigns that it was made on; ``scores``: a folder with
    a folder of scores per campaign, kept from when it was current; None: it is the one that is installed."""

    seen: tuple[str, ...] = ()
    scores: str | None = None


class Goals(Frozen):
    """What the method is meant to reach on unseen cases; ``recovery_ratio``: what acting on it leaves of the time to
    mitigate and of bad request-seconds."""

    single_ac1: Annotated[float, Field(ge=0, le=1)] = 0.95
    pair_f1: Annotated[float, Field(ge=0, le=1)] = 0.9
    kind_accuracy: Annotated[float, Field(ge=0, le=1)] = 0.9
    false_alarms: Annotated[float, Field(ge=0, le=1)] = 0.05
    recovery_ratio: Annotated[float, Field(ge=0, le=1)] = 0.5
    wrong_actions: Annotated[float, Field(ge=0, le=1)] = 0.05


class StudyParams(Frozen):
    """Paths are relative to the study file.

    ``method``: the one that is compared with all others; ``development``, ``unseen``: patterns of campaign folders
    that it was, and was not, made on; ``simulated``: of simulated campaigns, a split of their own; ``methods``: entries
    of ``score.methods``, default: every installed method under ``profile``, those of the paper under every profile;
    ``without``: entries to be left out; ``variants``: of the compared method, by label; ``times``: other inject times,
    by label, under which ``timed`` (entries; default: the compared method) are scored, too; ``versions``: of the
    compared method, by label, oldest first; ``recovery``: folders with results of `rcarena remediate`, by label, for
    the tables ``recovery`` of the template; ``template``: the page with its tables to be filled in.
    """

    method: str
    development: tuple[str, ...] = ()
    unseen: tuple[str, ...] = ()
    simulated: tuple[str, ...] = ()
    profile: Profile = "llm"
    methods: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    variants: dict[str, VariantParams] = Field(default={})
    times: dict[str, TimeParams] = Field(default={})
    timed: tuple[str, ...] = ()
    versions: dict[str, VersionParams] = Field(default={})
    goals: Goals = Goals()
    recovery: dict[str, str] = Field(default={})
    template: str
    page: str
    figures: str
    figures_at_most: Annotated[int, Field(ge=0, le=100)] = 6


@dataclass(frozen=True)
class Campaign:
    """A folder with cases. ``name``: that of the folder."""

    name: str
    cases: Path
    split: Split


@dataclass(frozen=True)
class Study:
    file: Path
    params: StudyParams
    campaigns: tuple[Campaign, ...]

    def path(self, relative: str) -> Path:
        return self.file.parent / relative

    def score_params(self, base: ScoreParams) -> ScoreParams:
        """Return the parameters by which every method is scored; only seed, limits and the like are those of
        ``base``."""
        entries = self.params.methods or default_entries(self.params.profile)
        changes: dict[str, object] = {
            "methods": tuple(entry for entry in entries if entry not in self.params.without),
            "profile": self.params.profile,
            "inject_time": "known",
            "inject_time_error_s": 0.0,
            "method_parameters": {},
        }
        return ScoreParams.model_validate(base.model_dump() | changes)

    def variant_params(self, base: ScoreParams, label: str) -> ScoreParams:
        variant = self.params.variants[label]
        changes: dict[str, object] = {
            "methods": (self.params.method,),
            "profile": variant.profile or self.params.profile,
            "inject_time": variant.inject_time or "known",
            "inject_time_error_s": 0.0,
            "method_parameters": {self.params.method: dict(variant.parameters)} if variant.parameters else {},
        }
        return ScoreParams.model_validate(base.model_dump() | changes)

    def time_params(self, base: ScoreParams, label: str) -> ScoreParams:
        """Return the parameters of the timed methods under another inject time."""
        told = self.params.times[label]
        changes: dict[str, object] = {
            "methods": self.timed,
            "inject_time": told.inject_time,
            "inject_time_error_s": told.offset_s,
        }
        return ScoreParams.model_validate(self.score_params(base).model_dump() | changes)

    @property
    def timed(self) -> tuple[str, ...]:
        return self.params.timed or (self.params.method,)


def read_study(file: Path, base: ScoreParams) -> Study:
    """Read and check a study file.

    Raises:
        ParamsError: it cannot be read, or a value is wrong; a pattern that matches no campaign is no problem unless
            all match none.
    """
    try:
        params = StudyParams.model_validate(read_document(file))
    except ValidationError as error:
        raise ParamsError([f"{file}: {problem}" for problem in validation_problems(error, StudyParams)]) from error
    study = Study(file, params, _campaigns(file, params))
    problems = [f"{file}: {problem}" for problem in _problems(study, base)]
    if problems:
        raise ParamsError(problems)
    return study


def folder_of(label: str, what: Literal["variant", "time"] = "variant") -> str:
    """Return the name of the folder for the scores of a variant, or under another inject time."""
    return f"{what}-" + re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-")


def default_entries(profile: Profile) -> tuple[str, ...]:
    """Every installed method under ``profile``; those that are not beyond the paper's 24 under each profile."""
    entries = []
    for known in list_methods():
        if not known.installed:
            continue
        others = () if known.beyond or known.reference else tuple(other for other in PROFILES if other != profile)
        entries += [known.name, *(f"{known.name}@{other}" for other in others)]
    return tuple(entries)


def _campaigns(file: Path, params: StudyParams) -> tuple[Campaign, ...]:
    found: dict[Path, Campaign] = {}
    patterns: tuple[tuple[Split, Sequence[str]], ...] = (
        ("development", params.development),
        ("unseen", params.unseen),
        ("simulated", params.simulated),
    )
    for split, of_split in patterns:
        for pattern in of_split:
            for folder in sorted(_matches(file.parent, pattern)):
                cases = folder / "cases" if (folder / "cases").is_dir() else folder
                if any(is_finished(case) for case in cases.iterdir() if case.is_dir()):
                    found.setdefault(folder.resolve(), Campaign(folder.name, cases, split))
    return tuple(found.values())


def _matches(place: Path, pattern: str) -> list[Path]:
    """Return the folders that ``pattern`` names, relative to ``place`` or absolute."""
    whole = Path(place, pattern)
    depth = next((i for i, part in enumerate(whole.parts) if re.search(r"[*?\[]", part)), None)
    if depth is None:
        return [whole] if whole.is_dir() else []
    rest = str(Path(*whole.parts[depth:]))
    return [path for path in Path(*whole.parts[:depth]).glob(rest) if path.is_dir()]


def _problems(study: Study, base: ScoreParams) -> list[str]:
    if not study.campaigns:
        patterns = (*study.params.development, *study.params.unseen, *study.params.simulated)
        return [f"development, unseen: no campaign with a finished case ({', '.join(patterns) or 'none given'})"]
    names = [campaign.name for campaign in study.campaigns]
    twice = sorted({name for name in names if names.count(name) > 1})
    problems = [f"development, unseen: two campaigns are called '{name}'" for name in twice]
    if not study.path(study.params.template).is_file():
        problems.append(f"template: {study.params.template} does not exist")
    entries = study.params.methods or default_entries(study.params.profile)
    for entry in sorted(set(study.params.without) - set(entries)):
        problems.append(f"without: '{entry}' is not one of methods; {suggest(entry, entries)}")
    score = study.score_params(base)
    problems += validate_score_params(score)
    if study.params.method not in score.methods:
        problems.append(f"method: '{study.params.method}' is not one of methods")
        return problems
    for entry in study.timed:
        if entry not in score.methods:
            problems.append(f"timed: '{entry}' is not one of methods; {suggest(entry, score.methods)}")
    for label, version in study.params.versions.items():
        if version.scores is not None and not study.path(version.scores).is_dir():
            problems.append(f"versions.{label}.scores: {version.scores} does not exist")
    for label, folder in study.params.recovery.items():
        if read_tables(study.path(folder)) is None:
            problems.append(f"recovery.{label}: {folder} has no results of `rcarena remediate`")
    for label in study.params.variants:
        of_variant = validate_score_params(study.variant_params(base, label))
        problems += [f"variants.{label}: {problem}" for problem in of_variant]
    return problems
