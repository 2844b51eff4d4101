from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.case import Case
from tasks.injection import Injection
from tasks.score.impact import CLASSES, Impact, front_end_impact
from tasks.score.symptoms import STRATA, STRONGEST, Symptom, stratum_of, symptoms
from tasks.score.traits import CaseTraits, traits_of
from tests.copies import copied
from tests.synthetic import synthetic_case

START = pd.Timestamp("2026-01-01", tz="UTC")


def at(second: float) -> pd.Timestamp:
    return START + pd.Timedelta(seconds=second)


def samples(service: str, metric: str, before: Sequence[float], after: Sequence[float]) -> pd.DataFrame:
    times = [at(i) for i in range(len(before))] + [at(10 + i) for i in range(len(after))]
    return pd.DataFrame({"time": times, "service": service, "metric": metric, "value": [*before, *after]})


def found(*tables: pd.DataFrame) -> dict[str, Symptom]:
    return symptoms(pd.concat(tables), at(0), at(10), at(20))


# Symptoms and strata


def test_strength_by_hand() -> None:
    """Before 1, 2, 3: median 2, standard deviation 1; after 7: five deviations. From 10 to 12: a tenth is the floor."""
    cpu = samples("a", "cpu", [1, 2, 3], [7, 7, 7])
    assert found(cpu) == {"a": Symptom(5.0, "cpu")}
    assert found(cpu, samples("a", "latency", [10, 10, 10], [12, 12, 12])) == {"a": Symptom(5.0, "cpu")}
    assert found(samples("a", "latency", [10, 10, 10], [12, 12, 12])) == {"a": Symptom(2.0, "latency")}
    assert found(samples("a", "errors", [0, 0, 0], [0.1, 0.1, 0.1])) == {"a": Symptom(STRONGEST, "errors")}
    assert found(samples("a", "errors", [0, 0, 0], [0, 0, 9])) == {"a": Symptom(0.0, "errors")}


def test_too_few_samples_say_nothing() -> None:
    assert found(samples("a", "cpu", [1, 2], [7, 7, 7]), samples("b", "cpu", [1, 2, 3], [np.nan, 7, 7])) == {}


@pytest.mark.parametrize(
    ("strengths", "roots", "expected"),
    [
        ({"r": 9, "a": 1}, {"r"}, "I"),
        ({"r": 9, "a": 8}, {"r"}, "I"),
        ({"r": 9, "a": 8.9}, {"r"}, "III"),
        ({"r": 2.9, "a": 1}, {"r"}, "II"),
        ({"r": 1, "a": 4}, {"r"}, "III"),
        ({"a": 4}, {"r"}, "III"),
        ({}, {"r"}, "II"),
        ({"r": 9, "s": 4, "a": 5}, {"r", "s"}, "III"),
        ({"r": 9, "s": 1, "a": 2}, {"r", "s"}, "I"),
    ],
)
def test_strata_by_hand(strengths: dict[str, float], roots: set[str], expected: str) -> None:
    assert stratum_of({name: Symptom(value, "m") for name, value in strengths.items()}, roots) == expected


@given(st.dictionaries(st.sampled_from("abcde"), st.floats(0, 100)), st.sets(st.sampled_from("abcde"), min_size=1))
def test_every_case_has_one_stratum_whatever_the_names(strengths: dict[str, float], roots: set[str]) -> None:
    stratum = stratum_of({name: Symptom(value, "m") for name, value in strengths.items()}, roots)
    assert stratum in STRATA
    name = dict(zip("abcde", "badec", strict=True))
    renamed = {name[each]: Symptom(value, "m") for each, value in strengths.items()}
    assert stratum_of(renamed, {name[each] for each in roots}) == stratum


# Impact


def requests(latencies: Sequence[float], first_s: float = 0.0, failed: int = 0) -> pd.DataFrame:
    """One request every 0.1 s; the last ``failed`` fail."""
    scheduled = pd.Series([at(first_s + 0.1 * i) for i in range(len(latencies))])
    last = (scheduled + pd.to_timedelta(list(latencies), unit="s")).where(
        np.arange(len(latencies)) < len(latencies) - failed
    )
    error = np.where(last.isna(), "connection reset", None)
    return pd.DataFrame(
        {"scheduled": scheduled, "sent": scheduled, "first_token": last, "last_token": last, "status": 200.0}
    ).assign(error=error)


def impact(*tables: pd.DataFrame) -> Impact:
    result = front_end_impact(pd.concat(tables, ignore_index=True), at(0), at(10), at(20), 5.0)
    assert result is not None
    return result


def test_slow_requests_by_hand() -> None:
    """40 before, of which the slowest two lie above the 95th percentile; 20 during, all slower.

    Hypergeometric: the chance that 20 drawn of 60 hold 20 or more of the 22 slow ones.
    """
    before = [1 + 0.001 * i for i in range(40)]
    seen = impact(requests(before), requests([2.0] * 20, 10))
    assert (seen.before, seen.during, seen.slow_before, seen.slow_during, seen.failed_during) == (40, 20, 2, 20, 0)
    ways = np.prod([(22 - i) / (60 - i) for i in range(20)])
    assert seen.p_slow == pytest.approx(ways)
    assert seen.p_failed == 1
    assert (seen.seen, seen.impaired_before) == (True, False)


def test_failures_are_seen_and_the_same_as_before_is_not() -> None:
    assert impact(requests([1.0] * 40), requests([1.0] * 40, 10, failed=12)).seen
    assert not impact(requests([1.0] * 40), requests([1.0] * 40, 10)).seen
    assert not impact(requests([1.0] * 40), requests([1.0] * 40, 10, failed=1)).seen
    assert impact(requests([1.0] * 40, failed=6), requests([1.0] * 40, 10)).impaired_before


def test_no_request_on_one_side_has_no_impact() -> None:
    assert front_end_impact(requests([1.0] * 5), at(0), at(10), at(20)) is None


def test_false_alarms_stay_below_the_level() -> None:
    """Requests of one distribution throughout: at most 1 % of the windows may show an impact; 3 of 200 are luck."""
    rng = np.random.default_rng(0)
    seen = [impact(requests(rng.gamma(4, 0.1, 70)), requests(rng.gamma(4, 0.1, 70), 10)).seen for _ in range(200)]
    assert sum(seen) <= 5


# Classes


def with_role(case: Case, **changes: Any) -> Case:
    injections = tuple(each.model_copy(update=changes) for each in case.record.injections)
    return copied(case, case.record.model_copy(update={"injections": injections}))


def test_a_fault_that_users_see_and_metrics_show_is_attributed(tmp_path: Path) -> None:
    traits = traits_of(synthetic_case(tmp_path))
    assert (traits.case_class, traits.stratum) == ("attributed", "I")
    assert traits.root is not None
    assert traits.root.service == "ray-replicas-1"
    assert CaseTraits.of_document(json.loads(json.dumps(traits.document()))) == traits


def test_a_fault_that_shows_elsewhere_is_unexplained(tmp_path: Path) -> None:
    traits = traits_of(synthetic_case(tmp_path, seen_on="ray-replicas-0"))
    assert (traits.case_class, traits.stratum) == ("unexplained", "III")
    assert traits.other is not None
    assert traits.other.service == "ray-replicas-0"


def test_other_classes(tmp_path: Path) -> None:
    assert traits_of(synthetic_case(tmp_path, "weak", verdict="ineffective")).case_class == "ineffective"
    assert traits_of(synthetic_case(tmp_path, "quiet", kind=None)).case_class == "negative"
    assert traits_of(with_role(synthetic_case(tmp_path, "noise"), role="disturbance")).case_class == "negative"
    case = synthetic_case(tmp_path, "plain")
    none = {"completeness": case.record.completeness | {"requests": {"status": "missing", "reason": "none"}}}
    assert (
        traits_of(copied(case, type(case.record).model_validate(case.record.model_dump() | none))).case_class
        == "unknown"
    )


def test_a_fault_that_users_do_not_see_is_absorbed(tmp_path: Path) -> None:
    case, quiet = synthetic_case(tmp_path, "a"), synthetic_case(tmp_path, "b", kind=None)
    assert traits_of(copied(case, tables={"requests": quiet.requests})).case_class == "absorbed"


@pytest.mark.parametrize(
    ("load", "reason"),
    [
        ({"verdict": "fell-behind"}, "load generator"),
        ({"parameters": {"shapes": [{"kind": "surge"}]}}, "shape of the load"),
        ({"parameters": {"long_prompts": {"share": 0.1}}}, "long prompts"),
    ],
)
def test_what_else_may_have_slowed_requests_contaminates(tmp_path: Path, load: dict[str, Any], reason: str) -> None:
    case = synthetic_case(tmp_path)
    changed = case.record.model_copy(update={"load": case.record.load.model_copy(update=load)})
    traits = traits_of(copied(case, changed))
    assert traits.case_class == "contaminated"
    assert reason in traits.reason


def test_a_disturbance_contaminates_and_is_no_root(tmp_path: Path) -> None:
    case = synthetic_case(tmp_path)
    root = case.record.injections[0]
    later = root.model_copy(update={"target": "ray-head", "role": "disturbance"})
    assert isinstance(later, Injection)
    traits = traits_of(copied(case, case.record.model_copy(update={"injections": (root, later)})))
    assert traits.case_class == "contaminated"
    assert "ray-head" in traits.reason
    assert traits.root is not None
    assert traits.root.service == "ray-replicas-1"


def test_a_baseline_full_of_failures_contaminates(tmp_path: Path) -> None:
    case = synthetic_case(tmp_path)
    begin = case.record.phases[0].start
    broken = case.requests["scheduled"] < begin + timedelta(seconds=10)
    requests_ = case.requests.assign(error=case.requests["error"].where(~broken, "refused"))
    assert traits_of(copied(case, tables={"requests": requests_})).case_class == "contaminated"


def test_every_class_is_named() -> None:
    assert len(set(CLASSES)) == len(CLASSES) == 7
