"""The figures of the experiment: what each policy spares users, how fast, and how often it acts wrongly."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from tasks.injection import NO_FAULT
from tasks.remediate.names import FORGED, NONE, ORACLE, is_variant
from tasks.score.comparison import holm
from tasks.score.intervals import wilson_interval

ALL_KINDS = "all faults"
MIN_CLUSTERS = 4
"""Of fewer a bootstrap says no more than how their means lie; there are no bounds."""
EPISODE_COLUMNS = {
    "case_id": "string",
    "block": "string",
    "seed": "int64",
    "backend": "string",
    "scenario": "string",
    "kind": "string",
    "target": "string",
    "policy": "string",
    "evidence_s": "float64",
    "detect_s": "float64",
    "onset_s": "float64",
    "localise_s": "float64",
    "act_s": "float64",
    "mitigate_s": "float64",
    "lasting_s": "float64",
    "horizon_s": "float64",
    "watched_s": "float64",
    "censored": "bool",
    "unseen": "bool",
    "bad_request_s": "float64",
    "bad": "int64",
    "requests": "int64",
    "named": "string",
    "actions": "int64",
    "wrong": "int64",
}


def episodes(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return a row per case and policy; times are seconds after the begin of the faults, NaN: it did not happen.

    ``block``: rows with the same one are paired. ``evidence_s``: for how long after the alarm the policy waits before
    it diagnoses; NaN: it does not. ``onset_s``: when the alarm says that bad requests began. ``mitigate_s``: when the
    first steady time began, ``lasting_s``: when all was steady until ``horizon_s``, the end of the faults; what begins
    after ``watched_s`` cannot be seen. ``censored``: users had no relief until then. ``unseen``: the probe of a fault
    never saw its effect. Rows of older versions may lack ``lasting_s``, ``watched_s`` (all that is known is
    ``horizon_s``) and ``unseen``."""
    table = pd.DataFrame(list(rows), columns=list(EPISODE_COLUMNS))
    table = table.assign(
        censored=table["mitigate_s"].isna(),
        watched_s=table["watched_s"].astype("float64").fillna(table["horizon_s"].astype("float64")),
        unseen=table["unseen"].eq(True),
    )
    return table.astype(EPISODE_COLUMNS)


def sli(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return the SLI of every run in steps: ``case_id``, ``policy``, ``at_s`` (after the begin of the faults),
    ``requests``, ``bad``, ``first_token_p95_s``."""
    parts = [pd.DataFrame(row["sli"]).assign(case_id=row["case_id"], policy=row["policy"]) for row in rows]
    columns = {"case_id": "string", "policy": "string", "at_s": "float64", "requests": "int64", "bad": "int64"}
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=[*columns, "first_token_p95_s"])
    return table.astype({**columns, "first_token_p95_s": "float64"})[[*columns, "first_token_p95_s"]]


def refused(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return how many proposals each guard refused, by policy: ``policy``, ``guard``, ``cases``, ``proposals``, and
    ``would_be_wrong``: those on a service without a fault."""
    found = [
        (row["policy"], guard, row["case_id"], each["target"] not in row["target"].split("+"))
        for row in _of_seen_faults(rows)
        for each in row["refused"]
        for guard in each["guards"]
    ]
    table = pd.DataFrame(found, columns=["policy", "guard", "case_id", "would_be_wrong"])
    grouped = table.groupby(["policy", "guard"])
    return grouped.agg(
        cases=("case_id", "nunique"), proposals=("case_id", "size"), would_be_wrong=("would_be_wrong", "sum")
    ).reset_index()


def prevented(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return what became of diagnoses that were wrong on purpose: ``policy``, ``cases`` with an alarm, ``acted``: those
    in which it acted, ``actions``, ``wrong``, ``guards`` (guard -> cases in which it refused a proposal) and
    ``bad_request_ratio`` (geometric mean against ``none``)."""
    rows = _of_seen_faults(rows)
    none = {row["case_id"]: row["bad_request_s"] for row in rows if row["policy"] == NONE}
    found = []
    for name in sorted({row["policy"] for row in rows if row["policy"].startswith(f"{FORGED}:")}):
        own = [row for row in rows if row["policy"] == name and row["detect_s"] is not None]
        guards: dict[str, int] = {}
        for row in own:
            for guard in {each for refusal in row["refused"] for each in refusal["guards"]}:
                guards[guard] = guards.get(guard, 0) + 1
        changes = [np.log1p(row["bad_request_s"]) - np.log1p(none[row["case_id"]]) for row in own]
        found.append(
            {
                "backend": own[0]["backend"] if own else "",
                "policy": name,
                "cases": len(own),
                "acted": sum(row["actions"] > 0 for row in own),
                "actions": sum(row["actions"] for row in own),
                "wrong": sum(row["wrong"] for row in own),
                "guards": dict(sorted(guards.items())),
                "bad_request_ratio": float(np.exp(np.mean(changes))) if own else np.nan,
            }
        )
    return pd.DataFrame(found)


def windows(table: pd.DataFrame, *, samples: int = 2000, confidence: float = 0.95, seed: int = 42) -> pd.DataFrame:
    """Return the curve over the length of the evidence: rows like those of ``summary`` over all faults, with ``base``
    (the policy) and ``evidence_s``, of every policy that was also run with another wait than the usual; of the cases
    that ran with each."""
    bases = sorted({name.partition("@")[0] for name in table["policy"].unique() if "@" in name})
    parts = [
        summary(_with_each_wait(table, base), samples=samples, confidence=confidence, seed=seed, variants=True).assign(
            base=base
        )
        for base in bases
    ]
    if not any(len(part) for part in parts):
        return pd.DataFrame()
    waits = table.groupby("policy")["evidence_s"].first()
    found = pd.concat(parts, ignore_index=True)
    found = found[(found["kind"] == ALL_KINDS) & (found["policy"] != NONE)]
    return found.assign(evidence_s=found["policy"].map(waits)).sort_values(["base", "evidence_s"], ignore_index=True)


def _with_each_wait(table: pd.DataFrame, base: str) -> pd.DataFrame:
    """Return the runs of ``none`` and of a policy with whatever wait, of the cases that have them all."""
    own = table[table["policy"].str.partition("@")[0].eq(base) | table["policy"].eq(NONE)]
    return own[own.groupby("case_id")["policy"].transform("nunique").eq(own["policy"].nunique())]


def summary(
    table: pd.DataFrame, *, samples: int = 2000, confidence: float = 0.95, seed: int = 42, variants: bool = False
) -> pd.DataFrame:
    """Return a row per kind (and ``all faults``) and policy, of the ``compared_cases``. Policies that wait longer than
    usual (``variants``: they are wanted) or act on forged diagnoses are left out.

    ``ratio``: geometric mean over cases of bad request-seconds against ``none`` (one is added to both), with the bounds
    of a bootstrap over targets, or over kinds and targets where there are fewer than four targets; ``pairs``,
    ``ratio_all``, ``ratio_all_low``, ``ratio_all_high``: the same of all cases with a fault that was seen, with an
    alarm or without; ``unseen``: cases in which it was not, left out everywhere.
    ``mttm_s``: mean time to the first mitigation, restricted to ``watched_s`` (all cases are censored there, so it is
    the area under the Kaplan-Meier curve), ``rmst_ratio``: of that to ``none``, with bounds; ``lasting_s``,
    ``lasting_ratio``, ``lasting_low``, ``lasting_high``, ``lasting``: the same of the time until the promise is kept to
    the end, and how often it is; NaN where rows do not say.
    ``p_holm``: Wilcoxon's signed rank test of bad request-seconds, corrected over policies; ``wrong_low``,
    ``wrong_high``: Wilson's interval of the share of wrong actions; ``gain``: share of what the oracle spares.

    Sources: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993; Royston and Parmar, "Restricted mean
    survival time", BMC Medical Research Methodology, 2013; Wilcoxon, "Individual Comparisons by Ranking Methods", 1945.
    """
    other = table["policy"].map(lambda name: is_variant(name.partition("@")[0] if variants else name)).astype(bool)
    faulty = table[~other & (table["kind"] != NO_FAULT)]
    compared = faulty["case_id"].isin(compared_cases(faulty))
    kinds = [ALL_KINDS, *sorted(faulty.loc[compared, "kind"].unique())] if compared.any() else []
    rows = []
    for kind in kinds:
        asked = np.ones(len(faulty), dtype=bool) if kind == ALL_KINDS else faulty["kind"].eq(kind).to_numpy()
        rows += _of_kind(kind, faulty[asked & compared], faulty[asked], samples, confidence, seed)
    return pd.DataFrame(rows)


def compared_cases(table: pd.DataFrame) -> set[str]:
    """Return the cases with a fault, seen by its probe, in which the alarm sounded under ``none``, and in every run
    there was an alarm or an action: where each policy has a run of its own, one without either says nothing of the
    policy, and to judge by ``none`` alone would choose its bad luck. Columns: of ``episodes``, ``unseen`` may be
    missing; variants of policies are not looked at."""
    plain = table[(table["kind"] != NO_FAULT) & ~table["policy"].map(is_variant).astype(bool)]
    alarmed = plain["detect_s"].notna()
    unnoticed = ~alarmed & ~(plain["actions"] > 0)
    found = set(plain.loc[alarmed & (plain["policy"] == NONE), "case_id"]) - set(plain.loc[unnoticed, "case_id"])
    return found - _unseen_cases(plain)


def alarms(table: pd.DataFrame) -> pd.DataFrame:
    """Return what is compared of each kind, also of one that set off no alarm: ``kind``, ``pairs`` (cases with a fault
    that was seen), ``compared`` and ``unseen`` ones."""
    plain = table[(table["kind"] != NO_FAULT) & ~table["policy"].map(is_variant).astype(bool)]
    compared, unseen = compared_cases(plain), _unseen_cases(plain)
    rows = []
    for kind, part in plain.groupby("kind"):
        cases = set(part["case_id"])
        rows.append(
            {
                "kind": kind,
                "pairs": len(cases - unseen),
                "compared": len(cases & compared),
                "unseen": len(cases & unseen),
            }
        )
    return pd.DataFrame(rows)


def _of_seen_faults(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Leave out the cases in some run of which the probe of a fault never saw its effect."""
    unseen = {row["case_id"] for row in rows if row.get("unseen")}
    return [row for row in rows if row["case_id"] not in unseen]


def _unseen_cases(table: pd.DataFrame) -> set[str]:
    return set(table.loc[table["unseen"].eq(True), "case_id"]) if "unseen" in table else set()


def harm(table: pd.DataFrame, confidence: float = 0.95) -> pd.DataFrame:
    """Return what acting does where nothing is broken: cases, alarms, actions and bad request-seconds by scenario and
    policy."""
    calm = table[table["kind"] == NO_FAULT]
    rows = []
    calm = calm[~calm["policy"].map(is_variant).astype(bool)]
    for (backend, scenario, policy), part in calm.groupby(["backend", "scenario", "policy"]):
        acted = int((part["actions"] > 0).sum())
        low, high = wilson_interval(acted, len(part), confidence)
        rows.append(
            {
                "backend": backend,
                "scenario": scenario or "fault-free",
                "policy": policy,
                "cases": len(part),
                "alarms": int(part["detect_s"].notna().sum()),
                "acted": acted,
                "acted_low": low,
                "acted_high": high,
                "bad_request_s": float(part["bad_request_s"].mean()),
            }
        )
    return pd.DataFrame(rows)


def survival(part: pd.DataFrame) -> list[tuple[float, float]]:
    """Return (seconds, share of the cases not yet mitigated), a step at each mitigation."""
    times = np.sort(part["mitigate_s"].dropna().to_numpy())
    return [(0.0, 1.0), *((float(at), 1 - (i + 1) / len(part)) for i, at in enumerate(times))]


def _of_kind(
    kind: str, part: pd.DataFrame, every: pd.DataFrame, samples: int, confidence: float, seed: int
) -> list[dict[str, Any]]:
    """Return the rows of a kind. ``part``: the runs that are compared; ``every``: all of the kind."""
    unseen = _unseen_cases(every)
    policies = [NONE, *sorted(set(part["policy"]) - {NONE})]

    def drawn(what: str) -> tuple[int, float, str]:
        return samples, confidence, f"{seed}|{kind}{what}"

    ratios, targets = _log_ratios(part, policies)
    low, high = _cluster_bounds(ratios, targets, *drawn(""))
    of_all, all_targets = _log_ratios(every[~every["case_id"].isin(unseen)], policies)
    all_low, all_high = _cluster_bounds(of_all, all_targets, *drawn(""))
    until, lasting = (_restricted(part, name, policies) for name in ("mitigate_s", "lasting_s"))
    time_low, time_high = _ratio_bounds(until, until[:, 0], targets, *drawn("|time"))
    lasting_low, lasting_high = _ratio_bounds(lasting, lasting[:, 0], targets, *drawn("|time"))
    wide = part.pivot(index="case_id", columns="policy", values="bad_request_s")
    tested = [i for i, policy in enumerate(policies) if policy != NONE]
    corrected = dict(zip(tested, holm(np.array([_wilcoxon(ratios[:, i]) for i in tested])), strict=True))
    best = wide[NONE].sum() - wide[ORACLE].sum() if ORACLE in wide else np.nan
    rows = []
    for i, policy in enumerate(policies):
        own = part[part["policy"] == policy]
        wrong, actions = int(own["wrong"].sum()), int(own["actions"].sum())
        wrong_low, wrong_high = wilson_interval(wrong, actions, confidence) if actions else (np.nan, np.nan)
        rows.append(
            {
                "backend": own["backend"].iloc[0],
                "kind": kind,
                "policy": policy,
                "cases": len(own),
                "pairs": len(of_all),
                "unseen": len(unseen),
                "bad_request_s": float(own["bad_request_s"].mean()),
                "ratio": float(np.exp(ratios[:, i].mean())),
                "ratio_low": float(np.exp(low[i])),
                "ratio_high": float(np.exp(high[i])),
                "ratio_all": float(np.exp(of_all[:, i].mean())),
                "ratio_all_low": float(np.exp(all_low[i])),
                "ratio_all_high": float(np.exp(all_high[i])),
                "p_holm": float(corrected.get(i, np.nan)),
                "mttm_s": float(until[:, i].mean()),
                "rmst_ratio": float(until[:, i].mean() / until[:, 0].mean()),
                "rmst_low": float(time_low[i]),
                "rmst_high": float(time_high[i]),
                "mitigated": int(own["mitigate_s"].notna().sum()),
                "lasting_s": float(lasting[:, i].mean()),
                "lasting_ratio": float(lasting[:, i].mean() / lasting[:, 0].mean()),
                "lasting_low": float(lasting_low[i]),
                "lasting_high": float(lasting_high[i]),
                "lasting": int(own["lasting_s"].notna().sum()),
                "detect_s": float(own["detect_s"].median()),
                "localise_s": float(own["localise_s"].median()),
                "acted": int((own["actions"] > 0).sum()),
                "actions": actions,
                "wrong": wrong,
                "wrong_low": wrong_low,
                "wrong_high": wrong_high,
                "gain": float((wide[NONE].sum() - wide[policy].sum()) / best) if best > 0 else np.nan,
            }
        )
    return rows


def _clusters(cases: pd.DataFrame) -> np.ndarray:
    """Return the cluster of each case: its target, or kind and target where there are few targets."""
    if cases["target"].nunique() >= MIN_CLUSTERS:
        return cases["target"].to_numpy()
    return (cases["kind"] + " " + cases["target"]).to_numpy()


def _log_ratios(part: pd.DataFrame, policies: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the log ratio of bad request-seconds to those under ``none``, one added to both, (cases, policies), and
    the target of each case."""
    wide = part.pivot(index="case_id", columns="policy", values="bad_request_s")
    targets = _clusters(part.drop_duplicates("case_id").set_index("case_id").loc[wide.index])
    values = np.log1p(wide[list(policies)].to_numpy())
    return values - values[:, [list(policies).index(NONE)]], targets


def _restricted(part: pd.DataFrame, column: str, policies: Sequence[str]) -> np.ndarray:
    """Return a time of each run, at most the shortest ``watched_s``, (cases, policies); NaN everywhere if a row does
    not know it."""
    known = column == "mitigate_s" or (part["watched_s"] < part["horizon_s"]).all()  # older rows say neither
    limit_s = part["watched_s"].min()
    times = part[column].fillna(limit_s).clip(upper=limit_s) if known else np.nan
    return part.assign(until=times).pivot(index="case_id", columns="policy", values="until")[list(policies)].to_numpy()


def _drawn(clusters: np.ndarray, samples: int, label: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the cluster of each case, (cases,), and how often each cluster is drawn, (samples, clusters)."""
    names, index = np.unique(clusters, return_inverse=True)
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(f"remediate|{label}".encode()).digest(), "little"))
    return index, rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=samples)


def _cluster_bounds(
    values: np.ndarray, clusters: np.ndarray, samples: int, confidence: float, label: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return the bounds of the mean of each column of ``values`` (cases, columns); whole clusters are drawn."""
    return _ratio_bounds(values, np.ones(len(values)), clusters, samples, confidence, label)


def _ratio_bounds(
    above: np.ndarray, below: np.ndarray, clusters: np.ndarray, samples: int, confidence: float, label: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return the bounds of the sum of each column of ``above`` (cases, columns) over that of ``below`` (cases,)."""
    index, drawn = _drawn(clusters, samples, label)
    if drawn.shape[1] < MIN_CLUSTERS:
        return np.full(above.shape[1], np.nan), np.full(above.shape[1], np.nan)
    sums, under = np.zeros((drawn.shape[1], above.shape[1])), np.bincount(index, weights=below)
    np.add.at(sums, index, above)
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn @ sums / (drawn @ under)[:, None], [tail, 1 - tail], axis=0)
    return low, high


def _wilcoxon(differences: np.ndarray) -> float:
    from scipy.stats import wilcoxon

    if not np.any(differences):
        return 1.0
    return float(wilcoxon(differences).pvalue)
