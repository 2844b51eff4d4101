"""Rules that every registered method keeps, whatever it computes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tasks.case import SIGNALS, Case
from tasks.plugins import Origin
from tasks.rca import method
from tasks.rca.method import Finding, Ranking
from tasks.rca.registry import get_method, list_methods
from tasks.rca.run.build_view import build_view
from tasks.rca.run.pair import PairResult, run_pair
from tasks.rca.view import CaseView
from tests.rca import misbehaving  # noqa: F401 (registers its methods)
from tests.rca.views import rewritten, score_params
from tests.synthetic import synthetic_case

METHODS = [known.name for known in list_methods() if method.METHODS.origin(known.name) != Origin()]
"""Ours and those of every package that is installed, not what tests define."""
RENAMINGS = [
    {"nginx-proxy": "a", "ray-head": "b", "ray-replicas-0": "c", "ray-replicas-1": "d", "ray-replicas-2": "e"},
    {
        "nginx-proxy": "z",
        "ray-head": "ray-replicas-2",
        "ray-replicas-0": "x",
        "ray-replicas-1": "b",
        "ray-replicas-2": "a",
    },
]
FIND_A_LONE_STRONG_FAULT = {"nsigma", "baro", "e_diagnosis", "circa", "pdiagnose", "history_only", "prism", "simplerca"}
MAY_NAME_NOBODY = {"platform_alerts"}
"""Methods for which an empty list is an answer."""
QUICK: dict[str, dict[str, object]] = {"causalrca": {"epochs": 20, "rounds": 3}}
"""The rules hold for any parameters: long learning would show nothing more."""
each_method = pytest.mark.parametrize("name", METHODS)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return synthetic_case(tmp_path_factory.mktemp("cases"), strength=1.5)


@pytest.fixture(scope="module")
def view(case: Case) -> CaseView:
    return build_view(case, score_params())


def rank(name: str, view: CaseView, seed: int = 3) -> PairResult:
    return run_pair(get_method(name), view, seed, QUICK.get(name))


def run(name: str, view: CaseView, rng: np.random.Generator) -> Ranking:
    return get_method(name).run(view, rng, **QUICK.get(name, {}))


def said(result: PairResult, names: dict[str, str]) -> set[Finding] | None:
    """The findings under other names, without their sentences, which have the names in them."""
    if result.findings is None:
        return None
    return {
        replace(
            finding,
            service=finding.service and names[finding.service],
            evidence=tuple(replace(each, sentence="") for each in finding.evidence),
        )
        for finding in result.findings
    }


def renaming_problem(case: Case, name: str, directory: Path) -> str:
    """How renaming and reordering services changes what ``name`` ranks, beyond the names."""
    plain = rank(name, build_view(case, score_params()), seed=5)
    for seed, names in enumerate(RENAMINGS):
        other = rank(name, build_view(rewritten(case, directory, names, seed=seed), score_params()), seed=5)
        expected = tuple(replace(suspect, service=names[suspect.service]) for suspect in plain.suspects)
        if (other.status, other.suspects) != (plain.status, expected):
            return f"{names}: {other.status} {other.suspects}, not {expected}"
        if said(other, {name: name for name in names.values()}) != said(plain, names):
            return f"{names}: {other.findings}, not those of {plain.findings}"
    return ""


@each_method
def test_renaming_and_reordering_changes_the_names_only(case: Case, name: str, tmp_path: Path) -> None:
    assert renaming_problem(case, name, tmp_path) == ""


def test_a_method_that_looks_at_names_is_found_out(case: Case, tmp_path: Path) -> None:
    assert "ray-replicas-2" in renaming_problem(case, "test_by_name", tmp_path)


def test_findings_that_depend_on_names_are_found_out(case: Case, tmp_path: Path) -> None:
    assert "cpu-stress" in renaming_problem(case, "test_finds_by_name", tmp_path)


def permuted(view: CaseView, seed: int) -> CaseView:
    """The same telemetry with services, columns and rows of the tables in another order."""
    rng = np.random.default_rng(seed)
    tables = {name: getattr(view, name).sample(frac=1, random_state=seed) for name in ("logs", "spans", "requests")}
    return replace(
        view,
        services=tuple(rng.permutation(view.services).tolist()),
        metrics=view.metrics.iloc[:, rng.permutation(view.metrics.shape[1])],
        **tables,
    )


def order_problem(view: CaseView, name: str) -> str:
    """How the order of columns, services or rows changes the scores that ``name`` gives."""
    plain = dict(run(name, view, np.random.default_rng(7)).services)
    for seed in range(2):
        other = dict(run(name, permuted(view, seed), np.random.default_rng(7)).services)
        if other != pytest.approx(plain, rel=1e-6, abs=1e-9):
            return f"{other}, not {plain}"
    return ""


@each_method
def test_the_order_of_columns_and_rows_says_nothing(view: CaseView, name: str) -> None:
    if name == "random":
        pytest.skip("a new order is a new draw; its distribution is tested beside it")
    assert order_problem(view, name) == ""


def test_a_method_that_depends_on_the_order_is_found_out(view: CaseView) -> None:
    assert order_problem(view, "test_by_order") != ""


@each_method
def test_same_seed_same_ranking(view: CaseView, name: str) -> None:
    first, second = (rank(name, view) for _ in range(2))
    assert first.suspects == second.suspects
    assert first.findings == second.findings


@each_method
def test_only_seeded_methods_draw(view: CaseView, name: str) -> None:
    rng = np.random.default_rng(0)
    before = rng.bit_generator.state
    run(name, view, rng)
    assert (rng.bit_generator.state != before) == get_method(name).seeded


KNOW_UNITS = {"peerwise", "history_only", "platform_alerts"}
"""Methods that judge by physics: a change of 5 MB is none. The vocabulary gives each metric its unit in every case."""
COMPARE_SIBLINGS = {"siblings_only"}
"""Methods that need a metric to have one unit, whichever."""


@each_method
def test_units_never_decide(view: CaseView, name: str) -> None:
    if name in KNOW_UNITS:
        pytest.skip("it knows the units of the vocabulary")
    rng = np.random.default_rng(1)
    unit = np.arange(view.metrics.shape[1])
    if name in COMPARE_SIBLINGS:
        unit = pd.factorize(view.metrics.columns.get_level_values("metric"))[0]
    metrics = view.metrics * 2.0 ** rng.integers(-30, 30, view.metrics.shape[1])[unit]
    plain = rank(name, view).suspects
    scaled = rank(name, replace(view, metrics=metrics)).suspects
    assert [s.service for s in scaled] == [s.service for s in plain]


def constant_columns(view: CaseView) -> CaseView:
    return replace(view, metrics=view.metrics * 0.0 + 3.0)


def gaps(view: CaseView) -> CaseView:
    metrics = view.metrics.copy()
    metrics.iloc[10:40, ::3] = np.nan
    metrics.iloc[:26, 1] = np.nan
    metrics.iloc[20:, 2] = np.nan
    return replace(view, metrics=metrics)


def one_service(view: CaseView) -> CaseView:
    service = view.services[0]
    return replace(
        view,
        services=(service,),
        roles={service: view.roles[service]},
        front_end=service,
        metrics=view.metrics.loc[:, [service]],
        spans=view.spans[view.spans["service"] == service],
        logs=view.logs[view.logs["service"] == service],
    )


def no_signals(view: CaseView) -> CaseView:
    empty = {name: schema.empty_table().to_pandas() for name, schema in SIGNALS.items() if name != "metrics"}
    return replace(view, metrics=view.metrics.iloc[:0, :0], sli=view.sli.iloc[:0], **empty)


def metrics_only(view: CaseView) -> CaseView:
    empty = {name: schema.empty_table().to_pandas() for name, schema in SIGNALS.items() if name != "metrics"}
    return replace(view, sli=view.sli * np.nan, **empty)


def one_row_windows(view: CaseView) -> CaseView:
    return replace(view, metrics=view.metrics.iloc[24:26], sli=view.sli.iloc[24:26])


def nothing_before(view: CaseView) -> CaseView:
    return replace(view, metrics=view.metrics.iloc[25:], sli=view.sli.iloc[25:])


def nothing_after(view: CaseView) -> CaseView:
    return replace(view, metrics=view.metrics.iloc[:25], sli=view.sli.iloc[:25])


def duplicated_times(view: CaseView) -> CaseView:
    return replace(view, metrics=pd.concat([view.metrics] * 2).sort_index(), sli=pd.concat([view.sli] * 2).sort_index())


def huge_values(view: CaseView) -> CaseView:
    return replace(view, metrics=view.metrics * 1e300)


@each_method
@pytest.mark.parametrize(
    "change",
    [
        constant_columns,
        gaps,
        one_service,
        no_signals,
        metrics_only,
        one_row_windows,
        nothing_before,
        nothing_after,
        duplicated_times,
        huge_values,
    ],
)
def test_odd_telemetry_gives_a_ranking_or_a_named_error(
    view: CaseView, name: str, change: Callable[[CaseView], CaseView]
) -> None:
    result = rank(name, change(view))
    assert result.status in ("ok", "missing", "error"), result
    assert result.traceback == "", result.traceback
    assert result.suspects or result.message or name in MAY_NAME_NOBODY


@each_method
def test_the_view_is_left_as_it_was(view: CaseView, name: str) -> None:
    before = view.metrics.copy(deep=True)
    rank(name, view)
    pd.testing.assert_frame_equal(view.metrics, before)


@pytest.mark.parametrize("name", sorted(FIND_A_LONE_STRONG_FAULT))
def test_a_strong_fault_is_found(name: str, tmp_path: Path) -> None:
    """A method that measures deviation finds a fault that nobody could miss, wherever it is."""
    for seed, target in enumerate(["ray-head", "ray-replicas-0", "ray-replicas-2"]):
        case = synthetic_case(tmp_path, f"c{seed}", target=target, strength=20, seed=seed)
        result = rank(name, build_view(case, score_params()))
        assert result.suspects[0].service == target
