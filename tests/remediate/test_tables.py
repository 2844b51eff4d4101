"""The figures of the experiment on rows whose answer is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tasks.remediate.tables import (
    ALL_KINDS,
    alarms,
    compared_cases,
    episodes,
    harm,
    prevented,
    refused,
    sli,
    summary,
    windows,
)

HORIZON_S = 100.0


def row(case: int, policy: str, bad_request_s: float, mitigate_s: float | None = None, **more: Any) -> dict[str, Any]:
    plain = {
        "case_id": f"c{case}",
        "block": f"c{case}",
        "seed": case,
        "backend": "simulated",
        "scenario": "",
        "kind": "cpu-stress",
        "target": f"r{case % 5}",
        "policy": policy,
        "evidence_s": None,
        "detect_s": 10.0,
        "onset_s": 1.0,
        "localise_s": None,
        "act_s": None,
        "mitigate_s": mitigate_s,
        "horizon_s": HORIZON_S,
        "bad_request_s": bad_request_s,
        "bad": 5,
        "requests": 100,
        "named": "",
        "actions": 0,
        "wrong": 0,
        "taken": [],
        "refused": [],
        "sli": {"at_s": [-5.0, 0.0], "requests": [3, 4], "bad": [0, 1], "first_token_p95_s": [0.1, None]},
    }
    return plain | more


def of(rows: list[dict[str, Any]], policy: str, kind: str = ALL_KINDS) -> dict[str, Any]:
    found = summary(episodes(rows), samples=200).set_index(["kind", "policy"])
    return found.loc[(kind, policy)].to_dict()


@pytest.mark.parametrize("factor", [0.1, 1.0, 2.5])
def test_a_ratio_that_is_the_same_in_every_case_is_that_ratio(factor: float):
    rng, rows = np.random.default_rng(round(factor * 10)), []
    harm_s, early = rng.uniform(1, 500, 9), rng.random(9)
    for i in range(9):
        rows += [row(i, "none", harm_s[i]), row(i, "oracle", (harm_s[i] + 1) * factor - 1, early[i] * HORIZON_S)]
    found = of(rows, "oracle")
    assert found["ratio"] == pytest.approx(factor)
    assert (found["ratio_low"], found["ratio_high"]) == pytest.approx((factor, factor))
    assert 0 <= found["rmst_low"] < found["rmst_high"] <= 1
    assert found["mttm_s"] == pytest.approx(np.mean(early) * HORIZON_S)


def test_what_is_not_mitigated_counts_until_the_horizon():
    rows = [row(i, "none", 10) for i in range(4)] + [row(i, "oracle", 5, 20 if i else None) for i in range(4)]
    found = of(rows, "oracle")
    assert (found["mttm_s"], found["mitigated"]) == (40.0, 3)
    assert found["rmst_ratio"] == pytest.approx(0.4)


def test_the_gain_is_a_share_of_the_oracles():
    rows = []
    for i in range(5):
        rows += [row(i, "none", 100), row(i, "oracle", 20), row(i, "table:peerwise", 40)]
    assert of(rows, "table:peerwise")["gain"] == pytest.approx(0.75)


def test_variants_and_forgeries_have_tables_of_their_own():
    rows = []
    for i in range(6):
        rows += [
            row(i, "none", 100),
            row(i, "table:peerwise", 20, 20, evidence_s=0.0),
            row(i, "table:peerwise@40", 60, 60, evidence_s=40.0),
            row(
                i,
                "forged:sure",
                110,
                actions=1,
                wrong=1,
                taken=[{}],
                refused=[{"guards": {"few-out": "", "ahead": ""}}],
            ),
            row(i, "forged:old", 100, refused=[{"guards": {"fresh": ""}}]),
        ]
    assert set(summary(episodes(rows), samples=200)["policy"]) == {"none", "table:peerwise"}
    curve = windows(episodes(rows), samples=200)
    assert curve["evidence_s"].tolist() == [0, 40]
    assert curve["mttm_s"].tolist() == [20, 60]
    assert curve["cases"].tolist() == [6, 6]
    fewer = windows(episodes([each for each in rows if (each["case_id"], each["evidence_s"]) != ("c0", 40)]))
    assert fewer["cases"].tolist() == [5, 5]
    stopped = prevented(rows).set_index("policy")
    assert stopped.loc["forged:old", "acted"] == 0
    assert stopped.loc["forged:sure", "guards"] == {"ahead": 6, "few-out": 6}
    assert stopped.loc["forged:sure", "wrong"] == 6
    assert stopped.loc["forged:sure", "bad_request_ratio"] == pytest.approx(111 / 101)


def test_only_cases_with_an_alarm_count():
    rows = [row(i, policy, 10, detect_s=None if i else 5.0) for i in range(4) for policy in ("none", "oracle")]
    assert of(rows, "none")["cases"] == 1


def test_cases_without_an_alarm_are_pairs_all_the_same():
    rows = []
    for i in range(8):
        at = {"detect_s": 10.0 if i < 4 else None}
        rows += [row(i, "none", 99, **at), row(i, "oracle", 24 if i < 4 else 99, **at)]
    found = of(rows, "oracle")
    assert (found["cases"], found["pairs"]) == (4, 8)
    assert (found["ratio"], found["ratio_all"]) == pytest.approx((0.25, 0.5))
    assert found["ratio_all_low"] < 0.5 < found["ratio_all_high"]


def test_a_fault_that_was_not_seen_is_no_pair():
    rows = [row(i, policy, 10) for i in range(4) for policy in ("none", "oracle")]
    rows[1] |= {"unseen": True}
    found = of(rows, "oracle")
    assert (found["cases"], found["pairs"], found["unseen"]) == (3, 3, 1)


def test_what_guards_did_in_a_run_without_a_fault_seen_is_not_told():
    refusal = [{"target": "r0", "guards": {"fresh": ""}}]
    rows = [row(i, name, 10, refused=refusal) for i in range(4) for name in ("none", "table:peerwise", "forged:old")]
    rows[1] |= {"unseen": True}
    assert refused(rows)["cases"].tolist() == [3, 3, 3]
    assert prevented(rows)["cases"].tolist() == [3]


def test_a_kind_without_an_alarm_is_counted():
    rows = [row(i, policy, 10) for i in range(4) for policy in ("none", "oracle", "table:peerwise@20")]
    rows += [row(i, policy, 10, kind="engine-stall", detect_s=None) for i in (5, 6) for policy in ("none", "oracle")]
    rows[0] |= {"unseen": True}
    found = alarms(episodes(rows)).set_index("kind")
    assert found.loc["engine-stall"].tolist() == [2, 0, 0]
    assert found.loc["cpu-stress"].tolist() == [3, 3, 1]


def test_what_does_not_last_is_told_apart():
    rows = []
    for i in range(4):
        watched = {"watched_s": 80.0}
        rows += [row(i, "none", 10, **watched), row(i, "oracle", 5, 20, lasting_s=20, **watched)]
        rows.append(row(i, "restart-random", 8, 20, lasting_s=None if i else 60, **watched))
    assert of(rows, "none")["mttm_s"] == 80  # nobody can have seen more
    restart, oracle = of(rows, "restart-random"), of(rows, "oracle")
    assert restart["mttm_s"] == oracle["mttm_s"] == oracle["lasting_s"] == 20
    assert (restart["lasting_s"], restart["lasting"], restart["lasting_ratio"]) == (75, 1, 75 / 80)


def test_rows_of_older_versions_say_less():
    rows = [row(i, policy, 10, 20) for i in range(4) for policy in ("none", "oracle")]
    found = of(rows, "oracle")
    assert found["mttm_s"] == 20
    assert np.isnan(found["lasting_s"])
    assert "lasting_s" not in rows[0]


def test_rows_of_older_versions_beside_new_ones_are_restricted_as_these_and_hide_what_lasts():
    rows = [row(i, policy, 10) for i in range(2) for policy in ("none", "oracle")]
    rows += [row(i, policy, 10, lasting_s=None, watched_s=80.0) for i in (2, 3) for policy in ("none", "oracle")]
    found = of(rows, "none")
    assert found["mttm_s"] == 80
    assert np.isnan(found["lasting_s"])


def test_a_case_in_which_one_run_noticed_nothing_says_nothing():
    rows = [row(i, policy, 10) for i in range(4) for policy in ("none", "oracle", "platform")]
    rows[4] |= {"detect_s": None}
    rows[8] |= {"detect_s": None, "actions": 1}  # it acted before any alarm
    assert compared_cases(episodes(rows)) == {"c0", "c2", "c3"}


def test_harm_is_counted_where_nothing_is_broken():
    rows = [row(i, policy, 1, kind="none", actions=int(i == 0)) for i in range(4) for policy in ("none", "oracle")]
    found = harm(episodes(rows)).set_index("policy")
    assert (found.loc["oracle", "cases"], found.loc["oracle", "acted"]) == (4, 1)
    assert 0 < found.loc["oracle", "acted_low"] < 0.25 < found.loc["oracle", "acted_high"]


def test_the_series_has_a_row_per_run_and_step():
    found = sli([row(0, "none", 1), row(0, "oracle", 1)])
    assert len(found) == 4
    assert found["bad"].sum() == 2
    assert sli([]).empty
