"""The page of nine cases and 24 methods: its numbers are those of the files, and it stays small and quick."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from tasks.params import load_params
from tasks.report.page import write_report
from tests.report.campaign import FAMILIES, NAMES_METRICS, write_campaign
from tests.report.html import Page

PARAMS = Path(__file__).parents[2] / "params.yaml"
CASE = "cpu-stress-000"
WORDS = ["correct", "service", "metric"]
SCORES = ("ac1", "ac3", "ac5", "avg5", "mrr")


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("paper")
    write_campaign(root, detected=True)
    return root


def written(campaign: Path) -> Path:
    return write_report(
        campaign / "cases", campaign / "scores", campaign / "report", title="t", params=load_params(PARAMS)
    )


@pytest.fixture(scope="module")
def html(campaign: Path) -> str:
    return written(campaign).read_text()


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


@pytest.fixture(scope="module")
def files(campaign: Path) -> dict[str, pd.DataFrame]:
    return {file.stem: pd.read_parquet(file) for file in (campaign / "scores").glob("*.parquet")}


VALUES = ["value", "low", "high", "chance", "role_prior", "chance_per_column", "lift", "tail"]


def overall(files: dict[str, pd.DataFrame], granularity: str) -> pd.DataFrame:
    scores = files["scores"]
    rows = scores[(scores["granularity"] == granularity) & (scores["level"] == "overall")]
    return rows.pivot_table(index="method", columns="score", values=VALUES)


@pytest.fixture(scope="module")
def costs(campaign: Path) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = json.loads((campaign / "scores" / "timings.json").read_text())["method_costs"]
    return found


def shown_scores(page: Page, section: str) -> dict[str, list[str]]:
    return {row[1]: row for row in page.tables[section].rows[1:]}


@pytest.mark.parametrize(("granularity", "section", "cases"), [("service", "scores", 7), ("metric", "metrics", 5)])
def test_score_table(granularity: str, section: str, cases: int, page: Page, files: dict[str, pd.DataFrame]) -> None:
    expected = overall(files, granularity)
    rows = shown_scores(page, section)
    any_method = expected.iloc[0]
    for reference in ("chance", "role_prior", "chance_per_column"):
        shown = rows.pop(reference.replace("_", " "))
        assert shown[3:8] == [f"{any_method[reference, score]:.2f}" for score in SCORES]
        lift = any_method[reference, "avg5"] / any_method["chance", "avg5"]
        assert shown[8:10] == [shown[6], "×1" if reference == "chance" else f"×{lift:.2f}"]
    assert rows.keys() == set(FAMILIES if granularity == "service" else NAMES_METRICS)
    for method, row in rows.items():
        of = expected.loc[method]
        cells = [f"{of['low', s]:.2f}–{of['high', s]:.2f} {of['value', s]:.2f}" for s in SCORES]
        assert row[2:10] == [FAMILIES[method], *cells, f"{of['tail', 'avg5']:.2f}", f"×{of['lift', 'avg5']:.2f}"]
        counts = [round(of["value", rate] * cases) for rate in ("failure_rate", "tie_rate")]
        assert [int(cell.removeprefix("✕ ")) for cell in row[10:12]] == counts


def test_seconds_and_memory_stand_beside_the_scores(page: Page, costs: dict[str, dict[str, float]]) -> None:
    rows = shown_scores(page, "scores")
    assert {method: rows[method][12] for method in costs} == {m: f"{c['wall_s_mean']:.3f}" for m, c in costs.items()}
    memory = {method: float(rows[method][13]) for method in costs}
    assert memory == pytest.approx({method: cost["peak_mb_mean"] for method, cost in costs.items()}, rel=1e-2)


def test_service_level_stands_beside_metric_level(page: Page) -> None:
    services, metrics = shown_scores(page, "scores"), shown_scores(page, "metrics")
    assert all(services[method][6].endswith(metrics[method][12]) for method in NAMES_METRICS)


@pytest.mark.parametrize("section", ["scores", "metrics"])
def test_best_method_is_first_and_references_stand_in_their_places(section: str, page: Page) -> None:
    rows = page.tables[section].rows[1:]
    values = [float(row[6].split()[-1]) for row in rows]
    assert values == sorted(values, reverse=True)
    places = [int(row[0]) for row in rows if row[0]]
    assert places[0] == 1
    assert places == sorted(places)


def test_cases_without_metric_level_scores_are_named(page: Page, files: dict[str, pd.DataFrame]) -> None:
    assert "Not scored at metric level: 2 cases (the metrics of network-delay are not known)" in page.words
    unscored = files["rankings"].query("excluded == '' and metric_excluded != ''")["case_id"].unique()
    assert sorted(unscored) == ["network-delay-002", "network-delay-006"]


def test_average_ranks_and_pairs(html: str, page: Page, files: dict[str, pd.DataFrame]) -> None:
    placed = re.findall(r"<title>(\w+): average rank ([\d.]+)</title>", html)
    ranks = files["average_ranks"]
    in_order = pd.concat([ranks[ranks["score"] == score] for score in ("avg5", "ac1", "mrr")])
    assert sorted(placed) == sorted((row.method, f"{row.average_rank:.2f}") for row in in_order.itertuples())
    titles = re.findall(r'title="(\w+) − (\w+): (\S+); (\d+) won, (\d+) tied, (\d+) lost; p (.+?), Holm (.+?)"', html)
    assert len(titles) == 3 * 24 * 23
    shown = {(a, b): rest for a, b, *rest in titles[: 24 * 23]}
    pairs = files["comparisons"].query("score == 'avg5'")
    assert len(pairs) == 276
    for row in pairs.itertuples():
        difference, *counts, p, _ = shown[row.method_a, row.method_b]
        assert float(difference.replace("−", "-")) == pytest.approx(row.difference, abs=0.00501)
        assert [int(count) for count in counts] == [row.wins, row.ties, row.losses]
        assert p.startswith("<") or float(p.removeprefix("= ")) == pytest.approx(row.p, rel=0.06)
        back = shown[row.method_b, row.method_a]
        assert [int(count) for count in back[1:4]] == [row.losses, row.ties, row.wins]


def test_nothing_is_significant_with_seven_cases(page: Page, files: dict[str, pd.DataFrame]) -> None:
    assert not files["comparisons"]["significant"].any()
    assert page.words.count("Nothing is significant with 7 cases: no two methods can be told apart.") == 3
    assert "for 276 pairs at least 14 cases are needed" in page.words
    assert page.count("line", **{"class": "clique"}) == 3


def test_misattribution(page: Page, files: dict[str, pd.DataFrame]) -> None:
    table = files["misattribution"]
    data = json.loads(page.data["blame-data"])
    names = [data[axis] for axis in ("methods", "faults", "truths", "blamed")]
    rows = {tuple(axis[i] for axis, i in zip(names, at, strict=True)): n for *at, n in data["counts"]}
    assert rows == table.set_index(["method", "fault", "truth", "predicted"])["cases"].to_dict()
    named = table[table["predicted"] != "(nothing)"]
    total = named["cases"].sum()
    for service, _, blamed, true in page.tables["misattribution"].rows[1:]:
        name = service.split()[0]
        assert blamed == f"{100 * named.loc[named['predicted'] == name, 'cases'].sum() / total:.0f} %"
        assert true == f"{100 * named.loc[named['truth'] == name, 'cases'].sum() / total:.0f} %"
    head, *rows = page.tables["misattribution/2"].rows
    shown = {(row[0], name): int(cell) for row in rows for name, cell in zip(head[1:], row[1:], strict=True) if cell}
    assert shown == table.groupby(["truth", "predicted"])["cases"].sum().to_dict()
    assert "nginx-proxy (gateway) is named first in" in page.words
    assert page.count("table", **{"class": "matrix"}) == 25


def test_costs_and_failures(page: Page, costs: dict[str, dict[str, float]], files: dict[str, pd.DataFrame]) -> None:
    rows = page.tables["costs"].rows[2:]
    assert {row[0]: row[1:3] for row in rows} == {
        method: [f"{cost['wall_s_mean']:.3f}", f"{cost['wall_s_max']:.3f}"] for method, cost in costs.items()
    }
    assert rows[0][0] == "causalrca"
    failed = files["rankings"].query("status != 'ok'").groupby(["method", "status", "message"])["case_id"].nunique()
    shown = {(row[0], row[1].removeprefix("✕ "), row[2]): int(row[3]) for row in page.tables["costs/2"].rows[1:]}
    assert shown == failed.to_dict()


def test_detection(page: Page, files: dict[str, pd.DataFrame]) -> None:
    shown = {row[0]: row for row in page.tables["detection"].rows[1:]}
    assert len(shown) == 8
    assert "network-delay-006" in shown
    assert "gpu-power-limit-007" not in shown
    for row in files["detections"].itertuples():
        _, _, outcome, error, *_ = shown[row.case_id]
        if pd.isna(row.true_time):
            assert (outcome, error) == ("✕ false alarm", "–")
        else:
            assert (outcome, error) == ("detected", f"{row.error_s:+.1f} s".replace("-", "−"))


def methods_by(page: Page, table: str) -> dict[str, set[str]]:
    """First column to the methods that the second names, whose count stands in brackets."""
    found = {row[0].removeprefix("✓ "): row[1].rsplit(" (", 1) for row in page.tables[table].rows[1:]}
    assert all(len(names.split(", ")) == int(count.rstrip(")")) for names, count in found.values())
    return {key: set(names.split(", ")) for key, (names, _) in found.items()}


def test_standings_of_a_case(page: Page, files: dict[str, pd.DataFrame]) -> None:
    rankings = files["rankings"].query("case_id == @CASE")
    standings = methods_by(page, f"{CASE}/2")
    assert standings.pop("✕ failed") == set(rankings.query("status != 'ok'")["method"])
    correct = rankings[rankings["correct"].fillna(value=False)]
    assert standings == {str(rank): set(rows["method"]) for rank, rows in correct.groupby("rank")}
    first = rankings.query("rank == 1").groupby("service")["method"]
    assert methods_by(page, f"{CASE}/3") == {service: set(methods) for service, methods in first}


def test_full_rankings_of_a_case(page: Page, files: dict[str, pd.DataFrame]) -> None:
    rows = page.tables[f"{CASE}/4"].rows[1:]
    assert [row[1] for row in rows] == sorted((row[1] for row in rows), key=lambda rank: (rank == "✕", rank))
    ranked = files["rankings"].query("case_id == @CASE and status == 'ok'").sort_values("rank")
    for method, _, _, *cells in rows:
        lines = ranked[ranked["method"] == method].fillna({"metric": ""})
        expected = [f"{'✓ ' * good}{name}{metric}" for good, name, metric in lines[WORDS].to_numpy()]
        assert cells == (expected or cells)
    correct = files["metric_rankings"].query("case_id == @CASE and correct").groupby("method")["rank"].min()
    assert {row[0]: int(row[2]) for row in rows if row[2] != "–"} == correct.to_dict()
    assert len(correct) == len(NAMES_METRICS)


def test_ranks_of_all_cases(page: Page, files: dict[str, pd.DataFrame]) -> None:
    table = page.tables["cases/2"].rows
    correct = files["rankings"][files["rankings"]["correct"].fillna(value=False)]
    ranks = correct.set_index(["case_id", "method"])["rank"].to_dict()
    for case, _, *cells in table[1:]:
        for method, cell in zip(table[0][2:], cells, strict=True):
            assert cell in ("✕", "–") or int(cell) == ranks[case, method]
            assert cell not in ("✕", "–") or (case, method) not in ranks


def test_the_page_is_small_and_always_the_same(campaign: Path, html: str) -> None:
    assert written(campaign).read_text() == html
    assert len(html.encode()) < 3.2e6
    without_figures = re.sub(r'<script type="application/octet-stream".*?</script>', "", html, flags=re.S)
    assert len(without_figures.encode()) < 1e6
