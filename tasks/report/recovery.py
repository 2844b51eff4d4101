"""The experiment with actions as the report shows it: which runs are compared, curves and timelines.

Drawn as SVG; lengths in its user units.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby, zip_longest
from pathlib import Path
from typing import Any

import pandas as pd

from tasks.backends import BACKENDS, find
from tasks.injection import NO_FAULT
from tasks.remediate.names import NONE, ORACLE
from tasks.remediate.stage import read_sli, read_tables, read_timelines
from tasks.remediate.tables import ALL_KINDS, compared_cases, survival

CURVES = 8
"""Styles of curves; more policies share them."""
CASES_DRAWN = 24
CURVE_WIDTH, CURVE_HEIGHT, CURVE_GUTTER, CURVES_PER_ROW = 230.0, 130.0, 40.0, 4
TITLE_HEIGHT, AXIS_HEIGHT = 24.0, 26.0
LANE_LABEL, LANE_WIDTH, LANE_HEIGHT, LANE_VALUE = 150.0, 640.0, 22.0, 90.0
BAD_LEVELS = (0.0, 0.02, 0.1, 0.3)
"""Shares of bad requests above which a bin of a timeline is darker."""
MARKS = {
    "alarm": "M0-7L6.5 5H-6.5z",
    "diagnosis": "M0-7L7 0 0 7-7 0z",
    "action": "M-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0-9 0",
    "wrong": "M-4-4L4 4M-4 4L4-4",
}
"""Event -> its mark around the origin."""
_TICKS = 5
_STEPS = (1, 2, 5, 10, 15, 20, 30, 60, 120, 300, 600, 900, 1800, 3600)

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Recovery:
    """``tables``: name -> rows; ``runs``: a row per case and policy, with what was done; ``sli``: requests and bad ones
    over time by case and policy, None where they were not kept."""

    tables: Mapping[str, Sequence[Row]]
    runs: Sequence[Row]
    sli: pd.DataFrame | None = None

    @property
    def simulated(self) -> bool:
        """Some run is computed; runs of the first version, which do not name their backend, all are."""
        names = {run.get("backend") for run in self.runs}
        return any(name is None or (name in BACKENDS and find(name).makes_cases()) for name in names)

    @property
    def compared(self) -> list[Row]:
        """The runs that the summary is of."""
        cases = compared_cases(pd.DataFrame(list(self.runs))) if self.runs else set()
        policies = {row["policy"] for row in self.tables.get("summary", ())}
        return [run for run in self.runs if run["case_id"] in cases and run["policy"] in policies]


def read_recovery(directory: Path | None) -> Recovery | None:
    """Read the results of the experiment; None where there are none."""
    tables = read_tables(directory) if directory is not None else None
    if directory is None or tables is None:
        return None
    try:
        sli = read_sli(directory)
    except FileNotFoundError:
        sli = None
    return Recovery(tables, read_timelines(directory), sli)


@dataclass(frozen=True)
class Tick:
    x: float
    label: str


@dataclass(frozen=True)
class Curve:
    policy: str
    style: str
    path: str
    text: str


@dataclass(frozen=True)
class CurveFacet:
    title: str
    x: float
    y: float
    curves: tuple[Curve, ...]
    ticks: tuple[Tick, ...]


@dataclass(frozen=True)
class SurvivalPlot:
    """``legend``: style by policy."""

    width: float
    height: float
    facets: tuple[CurveFacet, ...]
    legend: Mapping[str, str]


def styles(policies: Iterable[str]) -> dict[str, str]:
    """Return a class of the style sheet by policy, in the order given."""
    found = {}
    others = 0
    for policy in policies:
        if policy in (NONE, ORACLE):
            found[policy] = f"curve-{policy}"
        else:
            found[policy] = f"curve-{others % CURVES}"
            others += 1
    return found


def survival_plot(recovery: Recovery, policies: Sequence[str]) -> SurvivalPlot | None:
    """Lay out the share of cases not yet mitigated over time: all faults, then each kind."""
    runs = recovery.compared
    if not runs:
        return None
    kinds = sorted({run["kind"] for run in runs})
    groups = {ALL_KINDS: runs} | ({kind: [r for r in runs if r["kind"] == kind] for kind in kinds} if kinds[1:] else {})
    legend = styles(policies)
    facets = []
    for number, (kind, part) in enumerate(groups.items()):
        row, column = divmod(number, CURVES_PER_ROW)
        x = CURVE_GUTTER + column * (CURVE_WIDTH + CURVE_GUTTER)
        y = TITLE_HEIGHT + row * (CURVE_HEIGHT + TITLE_HEIGHT + AXIS_HEIGHT)
        facets.append(_curve_facet(kind, part, legend, x, y))
    rows = -(-len(groups) // CURVES_PER_ROW)
    return SurvivalPlot(
        width=CURVE_GUTTER + min(len(groups), CURVES_PER_ROW) * (CURVE_WIDTH + CURVE_GUTTER),
        height=rows * (CURVE_HEIGHT + TITLE_HEIGHT + AXIS_HEIGHT),
        facets=tuple(facets),
        legend=legend,
    )


def _curve_facet(kind: str, runs: Sequence[Row], legend: Mapping[str, str], x: float, y: float) -> CurveFacet:
    horizon_s = max(run["horizon_s"] for run in runs)
    curves = []
    for policy, style in legend.items():
        own = pd.DataFrame([run for run in runs if run["policy"] == policy], columns=["mitigate_s"], dtype=float)
        if own.empty:
            continue
        steps = survival(own)
        path = "".join(
            f"{'H' if number else 'M'}{_place(at, 0, horizon_s, CURVE_WIDTH):g}"
            f"{'V' if number else ' '}{(1 - share) * CURVE_HEIGHT:.4g}"
            for number, (at, share) in enumerate(steps)
        )
        left = steps[-1][1]
        half = next((at for at, share in steps if share <= 0.5), None)
        text = f"{policy}: {left:.0%} not mitigated after {horizon_s:g} s" + (
            f"; half are after {half:g} s" if half is not None else ""
        )
        curves.append(Curve(policy, style, f"{path}H{CURVE_WIDTH:g}", text))
    cases = len({run["case_id"] for run in runs})
    title = f"{kind} ({cases} case{'s' * (cases != 1)})"
    return CurveFacet(title, x, y, tuple(curves), _ticks(0, horizon_s, CURVE_WIDTH))


@dataclass(frozen=True)
class Event:
    """``kind``: alarm, diagnosis, action or wrong (an action that is)."""

    kind: str
    x: float


@dataclass(frozen=True)
class Lane:
    """One policy of a timeline. ``bad``: paths of the bins by level of badness, the lightest first; ``calm_x``: where
    users had again what they are promised; ``text``: the same in words."""

    policy: str
    y: float
    bad: tuple[tuple[int, str], ...]
    events: tuple[Event, ...]
    calm_x: float | None
    value: str
    text: str


@dataclass(frozen=True)
class Timeline:
    """A case under every policy."""

    case_id: str
    title: str
    height: float
    fault_x: float
    lanes: tuple[Lane, ...]
    ticks: tuple[Tick, ...]


def timelines(recovery: Recovery, policies: Sequence[str], most: int = CASES_DRAWN) -> tuple[Timeline, ...]:
    """Lay out ``most`` cases: of every kind in turn; cases without a fault only where somebody acted."""
    groups: dict[str, dict[str, list[Row]]] = {}
    for run in recovery.runs:
        groups.setdefault(run["kind"], {}).setdefault(run["case_id"], []).append(run)
    calm = groups.get(NO_FAULT, {})
    groups[NO_FAULT] = {case: runs for case, runs in calm.items() if any(run["actions"] for run in runs)}
    turns = zip_longest(*(_alarmed_first(groups[kind]) for kind in sorted(groups)))
    chosen = [runs for runs in chain.from_iterable(turns) if runs is not None][:most]
    sli = _bins(recovery.sli, {runs[0]["case_id"] for runs in chosen})
    return tuple(_timeline(runs, policies, sli) for runs in chosen)


def _alarmed_first(cases: Mapping[str, list[Row]]) -> Iterator[list[Row]]:
    def silent(case: str) -> bool:
        return all(run["detect_s"] is None for run in cases[case])

    return (cases[case] for case in sorted(cases, key=lambda case: (silent(case), case)))


Bins = Mapping[tuple[str, str], Sequence[tuple[float, float]]]
"""(case, policy) -> begin of each bin and share of bad requests in it."""


def _bins(sli: pd.DataFrame | None, cases: set[str]) -> Bins:
    if sli is None:
        return {}
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    columns = ("case_id", "policy", "at_s", "requests", "bad")
    for case, policy, at_s, requests, bad in zip(*(sli[name] for name in columns), strict=True):
        if case in cases:
            found.setdefault((case, policy), []).append((float(at_s), bad / requests if requests else 0.0))
    return {key: sorted(bins) for key, bins in found.items()}


def _timeline(runs: Sequence[Row], policies: Sequence[str], sli: Bins) -> Timeline:
    case_id, kind, target = (runs[0][name] for name in ("case_id", "kind", "target"))
    bins = [bin_ for run in runs for bin_ in sli.get((case_id, run["policy"]), ())]
    begin_s = min([0.0, *(at_s for at_s, _ in bins)])
    end_s = max(run["horizon_s"] for run in runs)
    by_policy = {run["policy"]: run for run in runs}
    shown = [policy for policy in policies if policy in by_policy]
    lanes = tuple(
        _lane(by_policy[policy], number * LANE_HEIGHT, sli.get((case_id, policy), ()), begin_s, end_s)
        for number, policy in enumerate(shown)
    )
    calm = f"no fault{f' ({scenario})' if (scenario := runs[0]['scenario']) else ''}"
    return Timeline(
        case_id=case_id,
        title=calm if kind == NO_FAULT else f"{kind} of {target}",
        height=len(lanes) * LANE_HEIGHT,
        fault_x=_place(0, begin_s, end_s, LANE_WIDTH),
        lanes=lanes,
        ticks=_ticks(begin_s, end_s, LANE_WIDTH),
    )


def _lane(run: Row, y: float, bins: Sequence[tuple[float, float]], begin_s: float, end_s: float) -> Lane:
    def place(at_s: float) -> float:
        return _place(at_s, begin_s, end_s, LANE_WIDTH)

    events, words = [], []
    for kind, name in (("alarm", "detect_s"), ("diagnosis", "localise_s")):
        if (at_s := run[name]) is not None:
            events.append(Event(kind, place(at_s)))
            words.append(f"{kind} after {at_s:g} s" + (f" names {run['named']}" if kind == "diagnosis" else ""))
    for taken in run["taken"]:
        events.append(Event("wrong" if taken["wrong"] else "action", place(taken["at_s"])))
        words.append(f"{taken['action']} {taken['target']} after {taken['at_s']:g} s{' (wrong)' * taken['wrong']}")
    calm_s = run["mitigate_s"]
    if run["kind"] != NO_FAULT:
        words.append("not mitigated" if calm_s is None else f"mitigated after {calm_s:g} s")
    words.append(f"{run['bad_request_s']:.1f} bad request-seconds")
    return Lane(
        policy=run["policy"],
        y=y,
        bad=_bad_paths(bins, place, end_s),
        events=tuple(events),
        calm_x=None if calm_s is None else place(calm_s),
        value=f"{run['bad_request_s']:.1f}",
        text=f"{run['policy']}: {'; '.join(words)}",
    )


def _bad_paths(bins: Sequence[tuple[float, float]], place: Any, end_s: float) -> tuple[tuple[int, str], ...]:
    """Return (level, path) of the bins with bad requests; equal neighbours are one rectangle."""
    inside = [(at_s, sum(share > level for level in BAD_LEVELS)) for at_s, share in bins if at_s < end_s]
    ends = [*(at_s for at_s, _ in inside), end_s][1:]
    pieces: dict[int, list[str]] = {}
    for level, group in groupby(zip(inside, ends, strict=True), key=lambda each: each[0][1]):
        members = list(group)
        if level:
            x, until = place(members[0][0][0]), place(members[-1][1])
            pieces.setdefault(level, []).append(f"M{x:g} 0h{until - x:.4g}v1h-{until - x:.4g}z")
    return tuple((level, "".join(pieces[level])) for level in sorted(pieces))


def _place(at_s: float, begin_s: float, end_s: float, width: float) -> float:
    return round((min(max(at_s, begin_s), end_s) - begin_s) / (end_s - begin_s) * width, 1)


def _ticks(begin_s: float, end_s: float, width: float) -> tuple[Tick, ...]:
    step = next((each for each in _STEPS if (end_s - begin_s) / each <= _TICKS), _STEPS[-1])
    first = -int(-begin_s // step) * step
    return tuple(
        Tick(_place(at_s, begin_s, end_s, width), f"{at_s:g}".replace("-", "−"))
        for at_s in range(first, int(end_s) + 1, step)
    )
