"""The figures of the experiment: what each policy spares users, how fast, and how often it acts wrongly."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from tasks.injection import NO_FAULT
from tasks.score.comparison import holm
from tasks.score.intervals import wilson_interval

NONE, ORACLE = "none", "oracle"
ALL_KINDS = "all faults"
EPISODE_COLUMNS = {
    "case_id": "string",
    "scenario": "string",
    "kind": "string",
    "target": "string",
    "policy": "string",
    "detect_s": "float64",
    "localise_s": "float64",
    "act_s": "float64",
    "mitigate_s": "float64",
    "horizon_s": "float64",
    "bad_request_s": "float64",
    "bad": "int64",
    "requests": "int64",
    "named": "string",
    "actions": "int64",
    "wrong": "int64",
}


def episodes(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return a row per case and policy; times are seconds after the begin of the faults, NaN: it did not happen."""
    table = pd.DataFrame([{name: row[name] for name in EPISODE_COLUMNS} for row in rows], columns=list(EPISODE_COLUMNS))
    return table.astype(EPISODE_COLUMNS)


def refused(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return how many proposals each guard refused, by policy: ``policy``, ``guard``, ``cases``, ``proposals``, and
    ``would_be_wrong``: those on a service without a fault."""
    found = [
        (row["policy"], guard, row["case_id"], each["target"] not in row["target"].split("+"))
        for row in rows
        for each in row["refused"]
        for guard in each["guards"]
    ]
    table = pd.DataFrame(found, columns=["policy", "guard", "case_id", "would_be_wrong"])
    grouped = table.groupby(["policy", "guard"])
    return grouped.agg(
        cases=("case_id", "nunique"), proposals=("case_id", "size"), would_be_wrong=("would_be_wrong", "sum")
    ).reset_index()


def summary(table: pd.DataFrame, *, samples: int = 2000, confidence: float = 0.95, seed: int = 42) -> pd.DataFrame:
    """Return a row per kind (and ``all faults``) and policy, of the cases in which the alarm sounded under ``none``.

    ``ratio``: geometric mean over cases of bad request-seconds against ``none`` (one is added to both), with the bounds
    of a bootstrap over targets; ``mttm_s``: mean time to mitigation restricted to the horizon (all cases are censored
    there, so it is the area under the Kaplan-Meier curve); ``p_holm``: Wilcoxon's signed rank test of bad
    request-seconds, corrected over policies; ``wrong_low``, ``wrong_high``: Wilson's interval of the share of wrong
    actions; ``gain``: share of what the oracle spares.

    Sources: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993; Royston and Parmar, "Restricted mean
    survival time", BMC Medical Research Methodology, 2013; Wilcoxon, "Individual Comparisons by Ranking Methods", 1945.
    """
    faulty = table[table["kind"] != NO_FAULT]
    alarmed = set(faulty.loc[(faulty["policy"] == NONE) & faulty["detect_s"].notna(), "case_id"])
    faulty = faulty[faulty["case_id"].isin(alarmed)]
    kinds = [ALL_KINDS, *sorted(faulty["kind"].unique())] if len(faulty) else []
    rows = []
    for kind in kinds:
        of_kind = faulty if kind == ALL_KINDS else faulty[faulty["kind"] == kind]
        rows += _of_kind(kind, of_kind, samples, confidence, seed)
    return pd.DataFrame(rows)


def harm(table: pd.DataFrame, confidence: float = 0.95) -> pd.DataFrame:
    """Return what acting does where nothing is broken: cases, alarms, actions and bad request-seconds by scenario and
    policy."""
    calm = table[table["kind"] == NO_FAULT]
    rows = []
    for (scenario, policy), part in calm.groupby(["scenario", "policy"]):
        acted = int((part["actions"] > 0).sum())
        low, high = wilson_interval(acted, len(part), confidence)
        rows.append(
            {
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


def _of_kind(kind: str, part: pd.DataFrame, samples: int, confidence: float, seed: int) -> list[dict[str, Any]]:
    wide = part.pivot(index="case_id", columns="policy", values="bad_request_s")
    targets = part.drop_duplicates("case_id").set_index("case_id")["target"].loc[wide.index].to_numpy()
    policies = [NONE, *sorted(set(wide.columns) - {NONE})]
    ratios = np.log(wide[policies].to_numpy() + 1) - np.log(wide[[NONE]].to_numpy() + 1)
    low, high = _cluster_bounds(ratios, targets, samples, confidence, f"{seed}|{kind}")
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
                "kind": kind,
                "policy": policy,
                "cases": len(own),
                "bad_request_s": float(own["bad_request_s"].mean()),
                "ratio": float(np.exp(ratios[:, i].mean())),
                "ratio_low": float(np.exp(low[i])),
                "ratio_high": float(np.exp(high[i])),
                "p_holm": float(corrected.get(i, np.nan)),
                "mttm_s": float(own["mitigate_s"].fillna(own["horizon_s"]).mean()),
                "mitigated": int(own["mitigate_s"].notna().sum()),
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


def _cluster_bounds(
    values: np.ndarray, clusters: np.ndarray, samples: int, confidence: float, label: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return the bounds of the mean of each column of ``values`` (cases, columns); whole clusters are drawn."""
    names, index = np.unique(clusters, return_inverse=True)
    if len(names) < 2:
        return np.full(values.shape[1], np.nan), np.full(values.shape[1], np.nan)
    sums = np.zeros((len(names), values.shape[1]))
    np.add.at(sums, index, values)
    sizes = np.bincount(index, minlength=len(names))
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(f"remediate|{label}".encode()).digest(), "little"))
    drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=samples)
    means = drawn @ sums / (drawn @ sizes)[:, None]
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail], axis=0)
    return low, high


def _wilcoxon(differences: np.ndarray) -> float:
    from scipy.stats import wilcoxon

    if not np.any(differences):
        return 1.0
    return float(wilcoxon(differences).pvalue)
