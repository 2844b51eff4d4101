"""The tables of a study as Markdown, and single figures for the sentences between them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from tasks.score.sets import roots_named
from tasks.study.data import GROUPS, SCORED, Condition, Group, Outcome, StudyData
from tasks.study.figures import (
    Mean,
    Paired,
    Share,
    false_roots,
    kind_accuracy,
    mean,
    paired,
    set_f1,
    share,
    short,
)
from tasks.study.plan import SPLITS
from tasks.text import short_p

SIGNIFICANT = 0.05
COMPARED_AT_MOST = 10
LEADERS = 3
GROUP_TITLES: dict[Group, str] = {
    "single": "one fault",
    "disturbed": "one fault, disturbed",
    "concurrent": "two or three faults",
    "cascade": "cascade",
    "negative": "no fault",
    "ineffective": "without effect",
}
_NONE = "*No such case.*"


def table(head: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table; a line of text if it has no row."""
    lines = [_row(row) for row in rows]
    return "\n".join([_row(head), "|" + "---|" * len(head), *lines]) if lines else _NONE


def _row(cells: Sequence[object]) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


@dataclass(frozen=True)
class Failure:
    """A case in which the method is not wholly right. ``said``: its findings as a text; ``error``: what is wrong."""

    outcome: Outcome
    said: str
    error: str


class Tables:
    """The tables of ``data``. A ``split`` is ``development`` or ``unseen``; ``groups`` are those of ``data.GROUPS``."""

    def __init__(self, data: StudyData) -> None:
        self.data = data
        self.method = data.method
        self._ranked: dict[tuple[str, str], list[str]] = {}

    @cached_property
    def entries(self) -> list[str]:
        """Every method but yardsticks, the compared one included."""
        return [label for label, facts in self.data.methods.items() if not facts.reference]

    def n(self, split: str, *groups: Group) -> int:
        return len(self.data.cases_of(split, groups or SCORED))

    def ac1(self, method: str, split: str, *groups: Group, kind: str = "") -> Share:
        """Return in how many cases ``method`` names a root first; ``kind``: only those with such a root."""
        return share(_of_kind(self.data.of(method, split, groups or SCORED), kind))

    def ranked(self, which: str, split: str) -> list[str]:
        """Return the entries of ``paper`` (the 24), ``beyond`` (without the compared method), or ``all``, best AC@1
        over all scored cases first, then best Avg@5."""
        if (which, split) not in self._ranked:
            chosen = {
                "paper": [m for m in self.entries if not self.data.methods[m].beyond],
                "beyond": [m for m in self.entries if self.data.methods[m].beyond and not self._is_method(m)],
                "all": self.entries,
            }[which]
            self._ranked[which, split] = sorted(chosen, key=lambda m: (-self._right(m, split), -self._avg5(m, split)))
        return self._ranked[which, split]

    def best(self, which: str, split: str) -> str:
        """Return the first of ``ranked``; empty if there is none."""
        return next(iter(self.ranked(which, split)), "")

    def _is_method(self, label: str) -> bool:
        return label.partition("@")[0] == self.method

    def _right(self, method: str, split: str) -> float:
        return self.ac1(method, split).hits

    def _avg5(self, method: str, split: str) -> float:
        return sum(outcome.avg5 for outcome in self.data.of(method, split))

    def campaigns(self) -> str:
        rows = []
        for campaign in self.data.study.campaigns:
            cases = [case for case in self.data.cases if case.campaign == campaign.name]
            counts = Counter(case.group for case in cases)
            kinds = ", ".join(sorted({kind for case in cases for kind in case.kinds}))
            rows.append((f"`{campaign.name}`", campaign.split, len(cases), *(counts[g] or "" for g in GROUPS), kinds))
        head = ("campaign", "split", "cases", *GROUP_TITLES.values(), "kinds of roots")
        return table(head, rows) + self._unscored("method")

    def leaders(self, split: str) -> list[str]:
        """Return the compared method and the best few of the others."""
        best = (*self.ranked("paper", split)[:LEADERS], *self.ranked("beyond", split)[:LEADERS])
        return list(dict.fromkeys((self.method, *best)))

    def _unscored(self, what: Condition, split: str = "") -> str:
        """Name below a table the cases that it leaves out because they are not scored; empty if there are none."""
        found = [
            f"{f'{each.label}: ' if each.label else ''}{each.cases} of {each.of} cases of `{each.campaign}`"
            for each in self.data.unscored
            if each.what == what and split in ("", each.split)
        ]
        return f"\n\n*Left out, as not scored: {'; '.join(found)}.*" if found else ""

    def overview(self, split: str) -> str:
        """AC@1 with intervals of the compared method, the best few of the 24 and the best few beyond."""
        return self._groups(split, self.leaders(split), lambda found: str(share(found)))

    def everything(self, split: str) -> str:
        """AC@1 as counts, Avg@5 and failures of every entry, yardsticks included."""
        order = sorted(self.data.methods, key=lambda m: (-self._right(m, split), -self._avg5(m, split)))
        groups = [group for group in SCORED if self.n(split, group)]
        rows = []
        for method in order:
            found = self.data.of(method, split)
            facts = self.data.methods[method]
            mark = "yardstick" if facts.reference else "beyond" if facts.beyond else "24"
            avg5 = mean([outcome.avg5 for outcome in found], f"{split}|{method}|avg5")
            counts = (share(self.data.of(method, split, (group,))).brief for group in groups)
            failed = sum(outcome.failed for outcome in found)
            rows.append((f"`{method}`", mark, facts.family, share(found), avg5, *counts, failed or ""))
        titles = (GROUP_TITLES[group] for group in groups)
        return table(("method", "", "family", "AC@1", "Avg@5", *titles, "failed"), rows if self.n(split) else ())

    def _groups(self, split: str, methods: Sequence[str], cell: Callable[[list[Outcome]], str]) -> str:
        groups = [group for group in SCORED if self.n(split, group)]
        rows = [
            (f"`{method}`", *(cell(self.data.of(method, split, (group,))) for group in groups), cell(found))
            for method in methods
            if (found := self.data.of(method, split))
        ]
        return table(("method", *(f"{GROUP_TITLES[group]}" for group in groups), "all scored"), rows)

    def kinds(self, split: str, *groups: Group) -> str:
        """AC@1 per kind of root: the compared method, the best of the 24 and the best beyond over all cases, and the
        best of the 24 on this kind alone."""
        groups = groups or ("single",)
        paper, beyond = self.best("paper", split), self.best("beyond", split)
        rows = []
        for kind in self.kinds_of(split, *groups):
            chosen = [self.ac1(m, split, *groups, kind=kind) if m else "" for m in (self.method, paper, beyond)]
            rows.append((kind, *chosen, self.best_on_kind(split, kind, *groups)))
        head = ("kind", f"`{self.method}`", f"`{paper}`", f"`{beyond}`" if beyond else "", "best of the 24 on the kind")
        return table(head, rows)

    def kinds_of(self, split: str, *groups: Group) -> list[str]:
        return sorted({kind for case in self.data.cases_of(split, groups) for kind in case.kinds})

    def best_on_kind(self, split: str, kind: str, *groups: Group) -> str:
        """Return the hits of the best of the 24 on a kind, and who reaches them."""
        hits = {m: self.ac1(m, split, *groups, kind=kind) for m in self.ranked("paper", split)}
        if not hits:
            return "–"
        most = max(hits.values(), key=lambda found: found.hits)
        names = [f"`{name}`" for name, found in hits.items() if found.hits == most.hits]
        more = f" and {len(names) - 2} more" if len(names) > 2 else ""
        return f"{most.brief}: {', '.join(names[:2])}{more}"

    def sets(self, split: str) -> str:
        """Strict set F1 per group, exact sets and kind accuracy of every method that says how many roots there are."""
        groups = [group for group in SCORED if self.n(split, group)]
        rows = []
        for method in self._saying(split):
            found = self.data.of(method, split)
            label = f"{split}|{method}|f1"
            of_group = [set_f1(self.data.of(method, split, (group,)), f"{label}|{group}") for group in groups]
            exact = share(found, lambda outcome: bool(outcome.exact))
            rows.append((f"`{method}`", *of_group, set_f1(found, label), exact, kind_accuracy(found)))
        titles = (GROUP_TITLES[group] for group in groups)
        return table(("method", *titles, "all scored", "set exactly right", "kind right, of roots named"), rows)

    def negatives(self, split: str) -> str:
        """False roots in cases without a root, where nothing was done and where something was."""
        rows = []
        for method in self._saying(split):
            found = self.data.of(method, split, ("negative",))
            if not found:
                continue
            quiet, disturbed = ([o for o in found if bool(o.case.others) == other] for other in (False, True))
            overall, total, rate = false_roots(found)
            rows.append((f"`{method}`", false_roots(quiet)[0], false_roots(disturbed)[0], overall, total, rate))
        head = ("method", "cases with a false root: undisturbed", "disturbed", "all", "false roots", "per hour")
        return table(head, rows)

    def _saying(self, split: str) -> list[str]:
        """Return the methods that say how many roots there are, best first."""
        order = [self.method, *(m for m in self.ranked("all", split) if m != self.method)]
        return [m for m in order if any(o.findings is not None for o in self.data.of(m, split, GROUPS))]

    def pairs(self, split: str, *groups: Group) -> list[Paired]:
        """Return the compared method against every other, in the order of ``ranked``."""
        chosen = groups or SCORED
        others = {m: self.data.of(m, split, chosen) for m in self.ranked("all", split) if not self._is_method(m)}
        return paired(self.data.of(self.method, split, chosen), others)

    def tests(self, split: str, *groups: Group) -> str:
        """McNemar's test against the best others."""
        return self._tests(self.pairs(split, *groups))

    def _tests(self, pairs: Sequence[Paired]) -> str:
        return table(
            ("against", "cases", f"only `{self.method}` right", "only the other right", "p", "p (Holm)"),
            [
                (f"`{p.other}`", p.n, p.wins, p.losses, short_p(p.p), f"**{corrected}**" if _sure(p) else corrected)
                for p in pairs[:COMPARED_AT_MOST]
                if p.n
                for corrected in [short_p(p.p_holm)]
            ],
        )

    def ties(self, split: str, *groups: Group) -> str:
        """Return the others that do not differ significantly from the compared method, as a list of names."""
        names = [f"`{each.other}`" for each in self.pairs(split, *groups) if each.n and not _sure(each)]
        return ", ".join(names) or "none"

    def ablations(self, split: str) -> str:
        """The compared method and its variants."""
        groups = [group for group in SCORED if self.n(split, group)]
        whole = self.data.of(self.method, split)
        rows = [self._variant_row("as it is", None, split, groups, "")]
        for label in self.data.variants:
            found = self.data.of(self.method, split, variant=label)
            against = paired(whole, {label: found})[0]
            rows.append(self._variant_row(label, label, split, groups, f"{against.wins}:{against.losses}"))
        titles = (f"AC@1, {GROUP_TITLES[group]}" for group in groups)
        head = ("variant", *titles, "set F1", "kind right", "no fault: false roots", "cases lost : won")
        return table(head, rows if whole else ()) + self._unscored("variant", split)

    def times(self, split: str) -> str:
        """AC@1 of the timed methods, told the true time, and under each other inject time."""
        labels = list(self.data.times)
        rows = [
            (
                f"`{method}`",
                share(self.data.of(method, split)),
                *(share(self.data.of(method, split, time=label)) for label in labels),
            )
            for method in self.data.study.timed
            if self.data.of(method, split)
        ]
        return table(("AC@1", "true time", *labels), rows if labels else ()) + self._unscored("time", split)

    def times_of_sets(self, split: str) -> str:
        """What the compared method says under each inject time beyond the first place."""
        rows = []
        for label in (None, *self.data.times):
            found = self.data.of(self.method, split, time=label)
            quiet = self.data.of(self.method, split, ("negative",), time=label)
            if found:
                failed = sum(outcome.failed for outcome in (*found, *quiet))
                f1 = set_f1(found, f"{split}|{label}|time")
                rows.append((label or "true time", f1, kind_accuracy(found), false_roots(quiet)[0], failed or ""))
        head = (f"`{self.method}`", "set F1", "kind right", "no fault: false roots", "no change found")
        return table(head, rows if self.data.times else ()) + self._unscored("time", split)

    def versions(self) -> str:
        """What each version of the compared method reaches on each campaign, and whether it was made on it."""
        rows: list[tuple[object, ...]] = []
        for label, version in self.data.versions.items():
            for campaign in self.data.study.campaigns:
                found = [outcome for outcome in version.outcomes if outcome.case.campaign == campaign.name]
                scored = [outcome for outcome in found if outcome.case.scored]
                if not found:
                    continue
                alarms = false_roots([outcome for outcome in found if outcome.case.group == "negative"])[0]
                f1 = set_f1(scored, f"{label}|{campaign.name}")
                seen = "seen" if campaign.name in version.seen else "**not seen**"
                rows.append((label, f"`{campaign.name}`", seen, share(scored), f1, kind_accuracy(scored).brief, alarms))
        head = ("version", "campaign", "", "AC@1", "set F1", "kind right", "no fault: false roots")
        return table(head, rows)

    def workload(self, split: str) -> str:
        """How often a method names the load, of the cases without a root: where the load changed, and where not."""
        rows = []
        for method in self._saying(split):
            found = self.data.of(method, split, ("negative",))
            if not found:
                continue
            changed, same = ([o for o in found if o.case.load_changed == other] for other in (True, False))
            rows.append((f"`{method}`", *(share(of, lambda o: o.names_workload) for of in (changed, same))))
        return table(("names the load", "where it changed", "where it did not"), rows)

    def _variant_row(
        self, title: str, variant: str | None, split: str, groups: Sequence[Group], against: str
    ) -> tuple[object, ...]:
        def of(*chosen: Group) -> list[Outcome]:
            return self.data.of(self.method, split, chosen, variant=variant)

        scored = of(*SCORED)
        f1 = set_f1(scored, f"{split}|{variant}|f1")
        shares = (share(of(group)).brief for group in groups)
        return (title, *shares, f1, kind_accuracy(scored).brief, false_roots(of("negative"))[0].brief, against)

    def strata(self, split: str) -> str:
        """AC@1 by how hard the symptoms make a case."""
        strata = sorted({case.stratum for case in self.data.cases_of(split, SCORED)} - {""})
        methods = self.leaders(split)
        rows = []
        for stratum in strata:
            cells = [share(o for o in self.data.of(m, split) if o.case.stratum == stratum) for m in methods]
            rows.append((stratum, *cells))
        return table(("stratum", *(f"`{method}`" for method in methods)), rows)

    def blames(self, split: str) -> str:
        """What the first place is, in cases with a root."""
        rows = []
        for method in self.leaders(split):
            counts = Counter(_blame(outcome) for outcome in self.data.of(method, split))
            if counts:
                rows.append((f"`{method}`", *(counts[name] or "" for name in _BLAMES)))
        return table(("first place", *_BLAMES), rows)

    def families(self, split: str, *groups: Group, kind: str = "") -> str:
        """The paper's 24 by family: the best of each and the mean of its methods (each under its better profile)."""
        groups = groups or ("single",)
        rows = []
        for family in ("metric", "trace", "multi-source"):
            labels = [m for m in self.ranked("paper", split) if self.data.methods[m].family == family]
            hits = {m: self.ac1(m, split, *groups, kind=kind) for m in labels}
            better: dict[str, Share] = {}
            for label, found in hits.items():
                name = label.partition("@")[0]
                better[name] = max(better.get(name, found), found, key=lambda each: each.hits)
            if not better or not next(iter(better.values())).n:
                continue
            best = max(hits, key=lambda label: hits[label].hits)
            average = sum(found.value for found in better.values()) / len(better)
            rows.append((family, len(better), f"`{best}`", hits[best], short(average)))
        return table(("family", "methods", "best", "its AC@1", "mean AC@1"), rows)

    def goals(self, split: str = "unseen") -> str:
        """What was to be reached, and what is."""
        return self._goals(self.data.of(self.method, split, (*SCORED, "negative")), split)

    def first_looks(self) -> str:
        """The same over all campaigns, each by the newest version of the method that was not made on it."""
        return self._goals(self._first_looks(), "first looks")

    def tests_of_first_looks(self) -> str:
        """McNemar's test against the best others on the same cases."""
        return self._tests(self._against(self._first_looks()))

    def _first_looks(self) -> list[Outcome]:
        found: list[Outcome] = []
        for campaign in self.data.study.campaigns:
            fresh = (
                [outcome for outcome in version.outcomes if outcome.case.campaign == campaign.name]
                for version in reversed(list(self.data.versions.values()))
                if campaign.name not in version.seen
            )
            found += next((outcomes for outcomes in fresh if outcomes), [])
        return found

    def _against(self, outcomes: Sequence[Outcome]) -> list[Paired]:
        """Return the compared method's ``outcomes`` against every other on those cases, the best of them first."""
        scored = [outcome for outcome in outcomes if outcome.case.scored]
        cases = {(outcome.case.campaign, outcome.case.case_id) for outcome in scored}
        others: dict[str, list[Outcome]] = {m: [] for m in self.entries if not self._is_method(m)}
        for outcome in self.data.outcomes:
            if outcome.method in others and (outcome.case.campaign, outcome.case.case_id) in cases:
                others[outcome.method].append(outcome)
        order = sorted(others, key=lambda m: (-share(others[m]).hits, -sum(o.avg5 for o in others[m])))
        return paired(scored, {m: others[m] for m in order})

    def _goals(self, outcomes: Sequence[Outcome], label: str) -> str:
        goals = self.data.study.params.goals
        scored = [outcome for outcome in outcomes if outcome.case.scored]
        singles = [outcome for outcome in scored if outcome.case.group == "single"]
        rows: list[tuple[object, ...]] = []
        for kind in sorted({kind for outcome in singles for kind in outcome.case.kinds}):
            found, goal = share(_of_kind(singles, kind)), goals.single_ac1
            rows.append((f"AC@1, one fault: {kind}", f"≥ {short(goal)}", found, _met(found, goal)))
        two = [o for o in scored if o.case.group == "concurrent" and len(o.case.roots) == 2]
        f1 = set_f1(two, f"{label}|two")
        rows.append(("set F1, two roots", f"≥ {short(goals.pair_f1)}", f1, _met(f1, goals.pair_f1)))
        right, goal = kind_accuracy(scored), goals.kind_accuracy
        rows.append(("kind right, of roots named", f"≥ {short(goal)}", right, _met(right, goal)))
        alarms = false_roots([outcome for outcome in outcomes if outcome.case.group == "negative"])[0]
        below = _yes(alarms.value < goals.false_alarms) if alarms.n else "–"
        rows.append(("cases without a fault in which it names one", f"< {short(goals.false_alarms)}", alarms, below))
        best = next((each for each in self._against(outcomes) if not self.data.methods[each.other].beyond), None)
        if best is not None and best.n:
            said = f"{best.wins} : {best.losses} of {best.n}, p (Holm) {short_p(best.p_holm)}"
            better = _yes(_sure(best) and best.wins > best.losses)
            rows.append((f"better than the best of the 24 (`{best.other}`)", f"p ≤ {short(SIGNIFICANT)}", said, better))
        return table(("goal", "", "reached", "met"), rows)

    def failures(self, split: str) -> list[Failure]:
        """Return the cases in which the compared method is not wholly right."""
        found = [_failure(o) for o in self.data.of(self.method, split, (*SCORED, "negative"))]
        return [failure for failure in found if failure is not None]

    def failure_table(self, split: str) -> str:
        rows = [
            (f"`{f.outcome.case.case_id}`", GROUP_TITLES[f.outcome.case.group], f.outcome.case.truth, f.said, f.error)
            for f in self.failures(split)
        ]
        if not rows and self.n(split, *SCORED, "negative"):
            return "*None.*"
        return table(("case", "", "what happened", f"what `{self.method}` says", "wrong"), rows)

    @property
    def splits(self) -> tuple[str, ...]:
        return SPLITS

    @property
    def without(self) -> str:
        """The entries that the study leaves out, as a list of names."""
        return ", ".join(f"`{entry}`" for entry in self.data.study.params.without) or "none"


_BLAMES = ("a root", "a victim", "the disturbed", "another", "nobody")


def _blame(outcome: Outcome) -> str:
    case = outcome.case
    if not outcome.first:
        return "nobody"
    if outcome.right:
        return "a root"
    return (
        "a victim"
        if outcome.first in case.victims
        else "the disturbed"
        if outcome.first in case.disturbed
        else "another"
    )


def _of_kind(outcomes: Iterable[Outcome], kind: str) -> list[Outcome]:
    return [outcome for outcome in outcomes if not kind or kind in outcome.case.kinds]


def _failure(outcome: Outcome) -> Failure | None:
    named = roots_named(outcome.findings)
    said = ", ".join(f"{kind} on {service}" for service, kind in named) or "no fault"
    if outcome.findings is None:
        said = f"{outcome.first or 'nobody'} first"
    error = _error(outcome, {service for service, _ in named})
    return Failure(outcome, said, error) if error else None


def _error(outcome: Outcome, named: set[str]) -> str:
    case = outcome.case
    if outcome.failed:
        return "failed"
    if case.group == "negative":
        return "a false root" if named else ""
    errors = [] if outcome.right else [f"names {outcome.first or 'nobody'} first"]
    if outcome.findings is not None:
        missed, extra = sorted(case.targets - named), sorted(named - case.targets)
        errors += [f"misses {', '.join(missed)}"] if missed else []
        errors += [f"adds {', '.join(extra)}"] if extra else []
        if not missed and not extra and outcome.exact is False:
            errors.append("another kind")
    return "; ".join(errors)


def _sure(each: Paired) -> bool:
    return each.p_holm <= SIGNIFICANT


def _met(found: Share | Mean, goal: float) -> str:
    return _yes(found.value >= goal) if found.n else "–"


def _yes(met: bool) -> str:
    return "yes" if met else "**no**"
