from __future__ import annotations

import json
import pickle
from dataclasses import fields
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tasks.case import SIGNALS, Case, CaseRecord, Completeness
from tasks.injection import Interval
from tasks.metrics import METRICS
from tasks.rca.run.build_view import NoChangeDetected, build_view, widen
from tests.copies import copied
from tests.rca.views import T0, rewritten, score_params, view_of
from tests.score.cases import with_injections
from tests.synthetic import synthetic_case

RENAMED = {
    "nginx-proxy": "zz",
    "ray-head": "ray-replicas-1",
    "ray-replicas-0": "aa",
    "ray-replicas-1": "mm",
    "ray-replicas-2": "ray-head",
}


def seconds(*values: float) -> pd.DatetimeIndex:
    return pd.DatetimeIndex([T0 + pd.Timedelta(seconds=value) for value in values])


def long(times: pd.DatetimeIndex, values: list[float], service: str = "a", metric: str = "m") -> pd.DataFrame:
    return pd.DataFrame({"time": times, "service": service, "metric": metric, "value": values})


def test_view_holds_nothing_of_the_answer(tmp_path: Path) -> None:
    case = synthetic_case(tmp_path, "cpu-stress-on-ray-replicas-1", kind="cpu-stress")
    content = pickle.dumps(build_view(case, score_params()))
    for secret in ("cpu-stress", str(tmp_path), tmp_path.name, "planted", "effective", "synthetic"):
        assert secret.encode() not in content


def test_neither_scenario_nor_what_is_no_root_is_in_a_view(tmp_path: Path) -> None:
    case = synthetic_case(tmp_path)
    (root,) = case.record.injections
    others = [
        root.model_copy(update={"role": role, "target": "ray-head", "kind": "network-delay", "reason": "planned"})
        for role in ("victim", "disturbance")
    ]
    views = {
        pickle.dumps(build_view(copied(case, case.record.model_copy(update=changes)), score_params()))
        for changes in (
            {},
            {"scenario": "secret"},
            {"injections": (root, *others), "scenario": "secret"},
            {"injections": (*others, root)},
        )
    }
    assert len(views) == 1


def test_a_negative_looks_like_a_case_without_any_injection(tmp_path: Path) -> None:
    case = synthetic_case(tmp_path)
    (injection,) = case.record.injections
    disturbance = injection.model_copy(update={"role": "disturbance"})
    views = {
        pickle.dumps(build_view(with_injections(case, injections), score_params(include_ineffective=flag)))
        for injections in ((), (disturbance,))
        for flag in (False, True)
    }
    assert len(views) == 1


def test_profile_paper_shows_the_papers_metrics_only(tmp_path: Path) -> None:
    case = synthetic_case(tmp_path)
    paper = build_view(case, score_params(profile="paper")).metrics.columns.get_level_values("metric")
    everything = build_view(case, score_params(profile="llm")).metrics.columns.get_level_values("metric")
    assert set(paper) == {name for name, metric in METRICS.items() if metric.profile == "paper"}
    assert set(everything) == set(case.metrics["metric"].unique())
    assert set(everything) > set(paper)


def test_split_is_at_the_inject_time_and_recovery_is_abnormal(tmp_path: Path) -> None:
    case = synthetic_case(tmp_path, baseline_s=20, fault_s=15, recovery_s=10)
    normal, abnormal = build_view(case, score_params()).split()
    assert (len(normal), len(abnormal)) == (20, 25)
    assert normal.index.max() < pd.Timestamp(case.record.injection_time) <= abnormal.index.min()


@pytest.mark.parametrize("include_ineffective", [False, True])
def test_the_inject_time_is_that_of_the_first_injection_that_counts(tmp_path: Path, include_ineffective: bool) -> None:
    case = synthetic_case(tmp_path, baseline_s=20, fault_s=15, recovery_s=10)
    (late,) = case.record.injections
    earlier = Interval(start=late.begin - timedelta(seconds=8), end=late.begin)
    failed = late.model_copy(
        update={"planned": earlier, "observed": earlier, "target": "ray-head", "verdict": "ineffective"}
    )
    case = with_injections(case, (failed, late))
    view = build_view(case, score_params(include_ineffective=include_ineffective))
    counts = failed if include_ineffective else late
    assert view.inject_time == pd.Timestamp(counts.begin)
    assert len(view.split()[0]) == (12 if include_ineffective else 20)


def test_windows_cut_every_signal(tmp_path: Path) -> None:
    case = synthetic_case(tmp_path, baseline_s=20, fault_s=15, recovery_s=10)
    view = build_view(case, score_params(baseline_s=8, fault_s=5))
    assert [len(window) for window in view.split()] == [8, 5]
    start, end = view.inject_time - pd.Timedelta("8s"), view.inject_time + pd.Timedelta("5s")
    for times in (view.logs["time"], view.spans["start"], view.requests["scheduled"]):
        assert len(times)
        assert times.between(start, end, inclusive="left").all()


@pytest.mark.parametrize("error_s", [-10, 3.5])
def test_a_wrong_inject_time_is_told_and_cuts_the_windows(tmp_path: Path, error_s: float) -> None:
    case = synthetic_case(tmp_path)
    told = pd.Timestamp(case.record.injection_time) + pd.Timedelta(seconds=error_s)
    view = build_view(case, score_params(inject_time_error_s=error_s, baseline_s=8))
    assert view.inject_time == told
    assert view.metrics.index[0] >= told - pd.Timedelta("8s")


def test_a_detected_inject_time_cuts_the_windows(tmp_path: Path) -> None:
    case = synthetic_case(tmp_path, baseline_s=30, fault_s=20, recovery_s=10)
    view = build_view(case, score_params(inject_time="detected", baseline_s=8, fault_s=5))
    assert abs(view.inject_time - pd.Timestamp(case.record.injection_time)) <= pd.Timedelta("1s")
    assert [len(window) for window in view.split()] == [8, 5]
    assert view.spans["start"].between(view.metrics.index[0], view.inject_time + pd.Timedelta("5s")).all()


def with_faults_elsewhere(case: Case, cases_dir: Path) -> Case:
    """The same telemetry with other phases, and its injections earlier and on another target."""
    document = case.record.model_dump(mode="json")
    early = {"start": document["phases"][0]["start"], "end": document["phases"][0]["end"]}
    document["case_id"] += "-elsewhere"
    document["phases"] = [{**early, "name": "fault"}]
    for injection in document["injections"]:
        injection.update(target="ray-head", planned=early, observed=early, verified=early)
    record = CaseRecord.model_validate_json(json.dumps(document))
    return copied(case, record, cases_dir=cases_dir)


@pytest.mark.parametrize("jitter_s", [0, 0.3])
def test_nothing_of_the_true_inject_time_reaches_a_detected_view(tmp_path: Path, jitter_s: float) -> None:
    case = jittery(synthetic_case(tmp_path), tmp_path, jitter_s)
    params = score_params(inject_time="detected", baseline_s=15)
    view, other = (build_view(each, params) for each in (case, with_faults_elsewhere(case, tmp_path)))
    for name in (field.name for field in fields(view)):
        seen, expected = getattr(other, name), getattr(view, name)
        assert seen.equals(expected) if isinstance(seen, pd.DataFrame | pd.Series) else seen == expected, name


def jittery(case: Case, cases_dir: Path, jitter_s: float) -> Case:
    """The same case with each sample late by up to ``jitter_s``."""
    record = case.record.model_copy(update={"case_id": "jittery"})
    late = np.random.default_rng(0).uniform(0, jitter_s, len(case.metrics))
    metrics = case.metrics.assign(time=case.metrics["time"] + pd.to_timedelta(late, unit="s"))
    return copied(case, record, {"metrics": metrics}, cases_dir)


def test_a_recording_without_change_has_no_view(tmp_path: Path) -> None:
    with pytest.raises(NoChangeDetected, match=r"^no change was detected$"):
        build_view(synthetic_case(tmp_path, kind=None), score_params(inject_time="detected"))


def test_without_metrics_a_change_is_seen_in_the_requests(tmp_path: Path) -> None:
    case = synthetic_case(tmp_path)
    record = case.record.model_copy(
        update={
            "case_id": "requests-only",
            "completeness": {signal: Completeness(status="missing") for signal in SIGNALS}
            | {"requests": Completeness(status="complete")},
        }
    )
    view = build_view(copied(case, record), score_params(inject_time="detected"))
    assert abs(view.inject_time - pd.Timestamp(case.record.injection_time)) <= pd.Timedelta("5s")


def test_names_and_orders_decide_nothing(tmp_path: Path) -> None:
    case = synthetic_case(tmp_path)
    view = build_view(case, score_params())
    other = build_view(rewritten(case, tmp_path, RENAMED, seed=7), score_params())
    assert other.services == tuple(RENAMED[service] for service in view.services)
    assert other.content_key == view.content_key
    assert list(other.metrics.columns) == [(RENAMED[s], m) for s, m in view.metrics.columns]
    np.testing.assert_array_equal(other.metrics.to_numpy(), view.metrics.to_numpy())
    pd.testing.assert_series_equal(other.sli, view.sli)
    for signal in ("logs", "spans", "requests", "topology"):
        renamed = getattr(view, signal).copy()
        for column in {"service", "source", "target"} & set(renamed.columns):
            renamed[column] = renamed[column].cat.rename_categories(RENAMED)
        pd.testing.assert_frame_equal(getattr(other, signal), renamed)


def test_content_key_depends_on_the_content(tmp_path: Path) -> None:
    keys = {
        build_view(synthetic_case(tmp_path, f"c{seed}", seed=seed), score_params()).content_key for seed in range(3)
    }
    assert len(keys) == 3


def test_widen_averages_duplicates_and_keeps_gaps() -> None:
    samples = pd.concat([long(seconds(0, 1, 1, 2), [1, 2, 4, np.inf]), long(seconds(2), [9], service="b")])
    wide = widen(samples, T0)[0]
    assert wide.index.equals(seconds(0, 1, 2).as_unit("ns"))
    np.testing.assert_array_equal(wide[("a", "m")], [1, 3, np.nan])
    np.testing.assert_array_equal(wide[("b", "m")], [np.nan, np.nan, 9])


def test_the_mean_of_a_step_does_not_depend_on_the_order_of_its_samples() -> None:
    samples = long(seconds(0, 0, 0, 1), [0.1, 0.2, 0.3, 1.0])
    backwards = samples.iloc[::-1]
    np.testing.assert_array_equal(widen(samples, T0)[0].to_numpy(), widen(backwards, T0)[0].to_numpy())


def test_widen_puts_jittery_times_on_a_grid_that_does_not_mix_before_and_after() -> None:
    times = seconds(0.1, 1.2, 2.05, 3.1, 4.15)
    inject_time = T0 + pd.Timedelta(seconds=2.1)
    wide = widen(pd.concat([long(times, [0, 0, 0, 1, 1]), long(times, [0, 0, 0, 1, 1], metric="n")]), inject_time)[0]
    assert not wide[wide.index < inject_time].to_numpy().any()
    assert wide[wide.index >= inject_time].to_numpy().all()


def test_widen_of_nothing_is_empty() -> None:
    assert widen(long(seconds(), []), T0)[0].shape == (0, 0)


def test_missing_names_signals_without_samples(tmp_path: Path) -> None:
    view = build_view(synthetic_case(tmp_path), score_params(baseline_s=0.001, fault_s=0.001))
    assert view.missing(frozenset({"spans", "logs", "sli", "topology"})) == ["logs", "spans"]
    assert view_of({("a", "x"): [1.0]}, normal_rows=1).missing(frozenset({"metrics", "sli"})) == ["sli"]
