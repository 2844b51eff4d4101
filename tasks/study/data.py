"""The cases of a study and what each method said about them, read from records and score folders."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import pandas as pd

from tasks.case import CaseRecord, is_finished, read_case
from tasks.rca.method import WORKLOAD_KIND, Finding
from tasks.score.accuracy import ranking_scores
from tasks.score.errors import ScoreError
from tasks.score.files import ScoreFiles, read_score_files
from tasks.score.findings import read_findings
from tasks.score.sets import SetMatch, roots_named
from tasks.study.plan import COMPUTED, Campaign, Split, Study
from tasks.study.run import scores_of

Group = Literal["single", "disturbed", "concurrent", "cascade", "negative", "ineffective"]
GROUPS: tuple[Group, ...] = get_args(Group)
"""By effective injections: one root and nothing else; one root and a disturbance or a change of load; several roots;
roots and victims; no root; roots without effect, which are not scored."""
SCORED: tuple[Group, ...] = ("single", "disturbed", "concurrent", "cascade")


@dataclass(frozen=True)
class StudyCase:
    """``kinds``: of the roots that count, by the group that telemetry can tell. ``watched_s``: from the start of the
    baseline to the end."""

    campaign: str
    split: Split
    case_id: str
    path: Path
    group: Group
    kinds: tuple[str, ...]
    roots: tuple[str, ...]
    targets: frozenset[str]
    victims: frozenset[str]
    disturbed: frozenset[str]
    others: tuple[str, ...]
    scenario: str
    stratum: str
    watched_s: float
    load_changed: bool = False

    @property
    def scored(self) -> bool:
        return self.group in SCORED

    @property
    def truth(self) -> str:
        """The roots, then what else was done, as a text."""
        found = " + ".join(self.roots) or "no fault"
        return found + (f" ({', '.join(self.others)})" if self.others else "")


@dataclass(frozen=True)
class MethodFacts:
    """An entry of the scored methods: ``label`` is ``name`` or ``name@profile``."""

    label: str
    family: str
    beyond: bool
    reference: bool


@dataclass(frozen=True)
class Outcome:
    """What one method said about one case. ``first``: whom it named first; ``right``: that is a root; ``failed``: it
    gave no ranking; ``findings`` None: it does not say how many roots there are; ``sets`` None: not scored so."""

    case: StudyCase
    method: str
    first: str
    right: bool
    avg5: float
    failed: bool
    findings: tuple[Finding, ...] | None
    sets: SetMatch | None

    @property
    def false_roots(self) -> int:
        """Services named as roots in a case without one."""
        return len({service for service, _ in roots_named(self.findings)}) if self.case.group == "negative" else 0

    @property
    def names_workload(self) -> bool:
        """The method says that the load changed."""
        return any(finding.kind == WORKLOAD_KIND for finding in self.findings or ())

    @property
    def exact(self) -> bool | None:
        """The findings are the roots, with their kinds, and nothing else; None if the method does not say."""
        if self.findings is None:
            return None
        if self.case.group == "negative":
            return not roots_named(self.findings)
        return self.sets is not None and self.sets.scores()["set_exact"] == 1


@dataclass(frozen=True)
class Version:
    """``seen``: names of the campaigns that this version of the compared method was made on."""

    seen: frozenset[str]
    outcomes: tuple[Outcome, ...]


Condition = Literal["method", "variant", "time"]
"""The methods as they are; a variant of the compared one; another inject time."""


@dataclass(frozen=True)
class Unscored:
    """``cases``: how many of all ``of`` a campaign are not scored; ``label``: of the variant or inject time."""

    what: Condition
    label: str
    campaign: str
    split: Split
    cases: int
    of: int


@dataclass(frozen=True)
class StudyData:
    """``variants``: by label, the outcomes of the compared method under other conditions. ``times``: by label, those of
    the timed methods under another inject time. ``versions``: by label, those of the compared method as it was."""

    study: Study
    cases: tuple[StudyCase, ...]
    methods: Mapping[str, MethodFacts]
    outcomes: tuple[Outcome, ...]
    variants: Mapping[str, tuple[Outcome, ...]]
    times: Mapping[str, tuple[Outcome, ...]]
    versions: Mapping[str, Version]
    unscored: tuple[Unscored, ...] = ()

    @property
    def method(self) -> str:
        return self.study.params.method

    def cases_of(self, split: str, groups: Sequence[str] = GROUPS) -> list[StudyCase]:
        return [case for case in self.cases if case.split == split and case.group in groups]

    def of(
        self,
        method: str,
        split: str,
        groups: Sequence[str] = SCORED,
        *,
        variant: str | None = None,
        time: str | None = None,
    ) -> list[Outcome]:
        """Return the outcomes of a method in a split, in the order of the cases; cases that it was not run on are
        left out."""
        outcomes = self.outcomes if variant is None else self.variants.get(variant, ())
        outcomes = outcomes if time is None else self.times.get(time, ())
        return [o for o in outcomes if o.method == method and o.case.split == split and o.case.group in groups]


def read_data(study: Study, place: Path) -> StudyData:
    """Read records and scores. Cases on which a variant, or another inject time, is not scored are left out there, and
    named in ``unscored``.

    Raises:
        ScoreError: a campaign is not scored, or its scores are not what the score stage writes.
        CaseError: a case does not keep the contract.
    """
    cases: list[StudyCase] = []
    outcomes: list[Outcome] = []
    methods: dict[str, MethodFacts] = {}
    variants: dict[str, list[Outcome]] = {label: [] for label in study.params.variants}
    times: dict[str, list[Outcome]] = {label: [] for label in study.params.times}
    versions: dict[str, list[Outcome]] = {label: [] for label in study.params.versions}
    unscored: list[Unscored] = []
    for campaign in study.campaigns:
        records = [read_case(path).record for path in sorted(campaign.cases.iterdir()) if is_finished(path)]
        _check_reality(campaign, records)
        files = read_score_files(folder := scores_of(place, campaign))
        if files is None:
            raise ScoreError(f"{folder}: no scores; run the same command without --as-is")
        unscored += _unscored("method", "", campaign, records, files)
        strata = {} if files.cases is None else dict(zip(files.cases["case_id"], files.cases["stratum"], strict=True))
        of_campaign = [
            _study_case(record, campaign.name, campaign.split, campaign.cases, str(strata.get(record.case_id, "")))
            for record in records
        ]
        cases += of_campaign
        for row in files.rankings.drop_duplicates("method").to_dict("records"):
            methods[row["method"]] = MethodFacts(row["method"], row["family"], row["beyond"], row["reference"])
        outcomes += _outcomes(of_campaign, files)
        for label, found in variants.items():
            of_variant = read_score_files(scores_of(place, campaign, label))
            found += _outcomes(of_campaign, of_variant) if of_variant else ()
            unscored += _unscored("variant", label, campaign, records, of_variant)
        for label, found in times.items():
            of_time = read_score_files(scores_of(place, campaign, time=label))
            found += _outcomes(of_campaign, of_time) if of_time else ()
            unscored += _unscored("time", label, campaign, records, of_time)
        for label, found in versions.items():
            kept = study.params.versions[label].scores
            recorded = None if kept is None else read_score_files(study.path(kept) / campaign.name)
            found += _outcomes(of_campaign, recorded) if recorded else ()
    for label, version in study.params.versions.items():
        if version.scores is None:
            versions[label] = [outcome for outcome in outcomes if outcome.method == study.params.method]
    return StudyData(
        study,
        tuple(cases),
        methods,
        tuple(outcomes),
        {label: tuple(found) for label, found in variants.items()},
        {label: tuple(found) for label, found in times.items()},
        {
            label: Version(frozenset(version.seen), tuple(versions[label]))
            for label, version in study.params.versions.items()
        },
        tuple(unscored),
    )


def _check_reality(campaign: Campaign, records: Iterable[CaseRecord]) -> None:
    """Simulated cases stand in no table beside recorded ones."""
    for record in records:
        if record.stack.simulated != (campaign.split == COMPUTED):
            what = "is simulated" if record.stack.simulated else "is recorded"
            raise ScoreError(
                f"{campaign.cases}: {record.case_id} {what}; it cannot be among the {campaign.split} cases"
            )


def _unscored(
    what: Condition, label: str, campaign: Campaign, records: Sequence[CaseRecord], files: ScoreFiles | None
) -> Iterator[Unscored]:
    scored = set() if files is None else set(files.rankings["case_id"])
    lacking = sum(record.case_id not in scored for record in records)
    if lacking:
        yield Unscored(what, label, campaign.name, campaign.split, lacking, len(records))


def _study_case(record: CaseRecord, campaign: str, split: Split, cases: Path, stratum: str) -> StudyCase:
    roots, victims, disturbances = record.counted(), record.victims(), record.disturbances()
    others = (*(str(each) for each in (*victims, *disturbances)), *(f"load: {name}" for name in record.load.changes))
    return StudyCase(
        campaign=campaign,
        split=split,
        case_id=record.case_id,
        path=cases / record.case_id,
        group=_group(record, bool(victims), bool(others)),
        kinds=tuple(dict.fromkeys(root.group for root in roots)),
        roots=tuple(root.phrase for root in roots),
        targets=frozenset(root.target for root in roots),
        victims=frozenset(victim.target for victim in victims),
        disturbed=frozenset(each.target for each in disturbances),
        others=others,
        scenario=record.scenario or "",
        stratum=stratum,
        watched_s=_watched_s(record),
        load_changed=bool(record.load.changes),
    )


def _group(record: CaseRecord, victims: bool, others: bool) -> Group:
    roots = record.counted()
    if not record.roots:
        return "negative"
    if not roots:
        return "ineffective"
    if victims:
        return "cascade"
    if len(roots) > 1:
        return "concurrent"
    return "disturbed" if others else "single"


def _watched_s(record: CaseRecord) -> float:
    start = (record.phase("baseline") or record.phases[0]).start
    return (max(phase.end for phase in record.phases) - start).total_seconds()


def _outcomes(cases: Sequence[StudyCase], files: ScoreFiles) -> Iterator[Outcome]:
    by_id = {case.case_id: case for case in cases}
    findings = read_findings(files)
    sets = _set_matches(files.sets)
    for (case_id, method), rows in files.rankings.groupby(["case_id", "method"], sort=False):
        case = by_id.get(str(case_id))
        if case is None:
            continue
        ranked = rows.dropna(subset="rank").sort_values("rank")
        ranks = ranked.loc[ranked["correct"].astype(bool), "rank"].astype(int).tolist()
        truths = len(str(rows["truth"].iloc[0]).split("+")) if case.scored else 0
        yield Outcome(
            case=case,
            method=str(method),
            first=str(ranked["service"].iloc[0]) if len(ranked) else "",
            right=1 in ranks,
            avg5=ranking_scores(ranks, truths)["avg5"] if truths else 0.0,
            failed=rows["status"].iloc[0] != "ok",
            findings=findings.get((str(case_id), str(method))),
            sets=sets.get((str(case_id), str(method))),
        )


def _set_matches(table: pd.DataFrame | None) -> dict[tuple[str, str], SetMatch]:
    if table is None:
        return {}
    names = ("answers", "truths", "hits", "wrong_kinds", "services_named", "services_true", "services_hit")
    rows: Sequence[Mapping[Any, Any]] = table.dropna(subset="truths").to_dict("records")
    return {
        (row["case_id"], row["method"]): SetMatch(**{name: int(row[name]) for name in names}, kinds=()) for row in rows
    }
