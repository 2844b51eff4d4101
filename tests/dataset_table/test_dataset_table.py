"""``rcarena benchmark``: several data sets in one table, and what changed since the last."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

import pytest

from tasks.case import read_cases
from tasks.dataset_table.figures import DatasetFigures, DatasetTable, MethodFigures, Values, changes, read_figures
from tasks.dataset_table.markdown import BEGIN, END, markdown, write_into
from tasks.dataset_table.sources import _READING_CODE, Source, gather
from tasks.datasets.dataset import DatasetError
from tasks.datasets.registry import Layout
from tasks.errors import ParamsError
from tasks.imports import code_of
from tasks.score.errors import ScoreError
from tests.command import params_with_score, rcarena_here
from tests.datasets.layouts import petshop
from tests.report.scores import as_an_older_stage_wrote, fails, truth_at, write_scores
from tests.synthetic import synthetic_case


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with three cases of our own, one without a fault."""
    root = tmp_path_factory.mktemp("recorded")
    synthetic_case(root / "cases", "c0", target="ray-replicas-0")
    synthetic_case(root / "cases", "c1", target="ray-head", seed=1)
    synthetic_case(root / "cases", "quiet", kind=None, seed=2)
    return root


def packed(folder: Path, file: Path) -> Path:
    with tarfile.open(file, "w:gz") as archive:
        for path in sorted(folder.iterdir()):
            archive.add(path, path.name)
    return file


def page_in(folder: Path) -> Path:
    page = folder / "page.md"
    page.write_text(f"# Page\n\nabove\n\n{BEGIN}\nold\n{END}\n\nbelow\n")
    return page


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("PetShop=a/petshop.tar.gz", Source("PetShop", Path("a/petshop.tar.gz"), None)),
        ("Train Ticket=nezha:x", Source("Train Ticket", Path("x"), Layout.NEZHA)),
        ("a=c:d", Source("a", Path("c:d"), None)),
        ("a=b=c", Source("a", Path("b=c"), None)),
    ],
)
def test_a_source_is_a_name_and_a_path(text: str, expected: Source) -> None:
    assert Source.parse(text) == expected


@pytest.mark.parametrize("text", ["petshop.tar.gz", "=x", "a=", "../x=y", "a/b=y", ".hidden=y"])
def test_other_forms_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected NAME=PATH"):
        Source.parse(text)


def test_cases_are_found_in_workspaces_archives_and_data_sets(recorded: Path, tmp_path: Path) -> None:
    names = [case.record.case_id for case in read_cases(recorded / "cases")]
    for path in (recorded, recorded / "cases"):
        assert gather(Source("own", path, None), tmp_path / "own").cases == recorded / "cases"
    assert not (tmp_path / "own").exists()
    archive = packed(recorded, tmp_path / "cases.tar.gz")
    copied = gather(Source("archive", archive, None), tmp_path / "archive")
    assert [case.record.case_id for case in read_cases(copied.cases)] == names
    found = gather(Source("shop", petshop(tmp_path / "shop"), None), tmp_path / "imported")
    assert len(read_cases(found.cases)) == 2
    assert len(found.skipped) == 1


def test_what_is_there_stays_until_the_source_or_its_reader_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Source("shop", petshop(tmp_path / "shop"), None)
    place = tmp_path / "place"
    first = gather(source, place)
    (case, _) = sorted(path for path in first.cases.iterdir() if path.is_dir())
    written = (case / "manifest.json").stat().st_mtime_ns
    assert gather(source, place) == first
    assert (case / "manifest.json").stat().st_mtime_ns == written

    shutil.rmtree(case)
    marker = json.loads((place / "source.json").read_text())
    (place / "source.json").write_text(json.dumps(marker | {"done": False}))
    assert gather(source, place) == first, "an import that was killed goes on"
    assert len(read_cases(first.cases)) == 2

    stranger = synthetic_case(first.cases, "of-an-older-reader")
    monkeypatch.setattr("tasks.dataset_table.sources.code_digest", lambda *modules: "other readers")
    (tmp_path / "other" / "readers").mkdir(parents=True)
    (tmp_path / "other" / "case.py").write_text("")
    gather(source, place)
    assert not stranger.path.exists()


def test_the_code_of_every_reader_decides_whether_cases_are_read_again() -> None:
    decides = code_of(*_READING_CODE)
    assert {"tasks.case", "tasks.datasets.nezha_files", "tasks.datasets.petshop", "tasks.datasets.tables"} <= decides


def test_a_case_that_cannot_be_read_is_told_each_time(tmp_path: Path) -> None:
    shop = petshop(tmp_path / "shop", issues=3)
    next(shop.rglob("issue_0/metrics.csv")).write_bytes(b"\x00\x01 nothing\n")
    for _ in range(2):
        found = gather(Source("shop", shop, None), tmp_path / "place")
        assert len(found.problems) == 1
        assert "issue_0" in found.problems[0]
        assert len(read_cases(found.cases)) == 2


def test_what_holds_no_case_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="neither cases nor a layout that can be read"):
        gather(Source("nothing", tmp_path / "empty", None), tmp_path / "place")


def test_the_command_fills_a_page_and_goes_on_where_it_stopped(recorded: Path, tmp_path: Path) -> None:
    page, params = page_in(tmp_path), params_with_score(tmp_path, methods=["nsigma", "random"], bootstrap_samples=100)
    arguments = [
        *("benchmark", f"own={recorded}", f"shop={petshop(tmp_path / 'shop')}", "--params", str(params)),
        *("--workspace", str(tmp_path / "place"), "--page", str(page), "--workers", "1"),
    ]
    done = rcarena_here(*arguments)
    assert done.exit_code == 0, done.output
    text = page.read_text()
    assert text.startswith("# Page\n\nabove\n\n")
    assert text.endswith("\n\nbelow\n")
    assert "old" not in text
    assert "| method | own (2) | shop (2) |" in text
    assert "`profile: llm`" in text
    rows = {line.split(" | ")[0].strip("| `"): line for line in text.splitlines() if line.startswith("|")}
    assert {"chance", "role prior", "chance per column", "nsigma", "random"} <= rows.keys()
    assert "| .20 / .60 | .25 / .70 |" in rows["chance"]
    assert rows["nsigma"].startswith("| `nsigma` | 1.0 / 1.0, 0.0")

    again = rcarena_here(*arguments)
    assert again.exit_code == 0
    assert "6 of 6 rankings were there" in again.output
    assert "4 of 4 rankings were there" in again.output
    assert "no change of more than .05" in again.output
    assert page.read_text() == text
    document = json.loads(page.with_suffix(".json").read_text())
    assert document["settings"] == {"profile": "llm", "inject_time": "known", "seed": 42}
    assert document["datasets"]["own"]["cases"] == 3
    assert not list((recorded / "cases").parent.glob("scores*")), "a workspace is only read"

    document["datasets"]["own"]["methods"]["nsigma"]["scores"]["ac1"] = 0.5
    (tmp_path / "earlier.json").write_text(json.dumps(document))
    changed = rcarena_here(*arguments, "--against", str(tmp_path / "earlier.json"))
    assert "own: nsigma: AC@1 0.50 → 1.00, Avg@5 1.00 → 1.00" in changed.output


def test_one_bad_data_set_does_not_end_the_others_and_leaves_the_page(recorded: Path, tmp_path: Path) -> None:
    page, params = page_in(tmp_path), params_with_score(tmp_path, methods=["random"], bootstrap_samples=100)
    before = page.read_text()
    (tmp_path / "empty").mkdir()
    arguments = ["benchmark", f"empty={tmp_path / 'empty'}", f"own={recorded}", "--params", str(params)]
    done = rcarena_here(*arguments, "--workspace", str(tmp_path / "place"), "--page", str(page))
    assert done.exit_code == 1
    assert "empty: neither cases nor a layout" in done.stderr.replace(f"empty: {tmp_path / 'empty'}: ", "")
    assert "no table: a data set is missing" in done.stderr
    assert (page.read_text(), page.with_suffix(".json").exists()) == (before, False)
    assert read_figures(tmp_path / "place" / "own" / "scores").scored == 2


def test_scores_that_are_there_are_tabulated_as_they_are(recorded: Path, tmp_path: Path) -> None:
    shutil.copytree(recorded / "cases", tmp_path / "old" / "cases")
    methods = {"good": truth_at(1), "third": truth_at(3), "broken": fails()}
    write_scores(tmp_path / "old" / "cases", tmp_path / "old" / "scores", methods)
    new = read_figures(tmp_path / "old" / "scores")
    assert (new.cases, new.scored, new.methods["broken"].failures) == (3, 2, 2)
    assert new.methods["third"].scores.avg5 == pytest.approx(0.6)
    assert new.methods["good"].cpu_s == 0.5
    assert new.references["role_prior"].avg5 == pytest.approx(0.7)
    as_an_older_stage_wrote(tmp_path / "old" / "scores")
    old = read_figures(tmp_path / "old" / "scores")
    assert old.references.keys() == {"chance"}
    assert old.methods["good"] == MethodFigures(scores=new.methods["good"].scores, failures=0)
    done = rcarena_here("benchmark", f"old={tmp_path / 'old'}", "--as-is")
    assert done.exit_code == 0, done.output
    assert "| `good` | 1.0 / 1.0 |" in done.output
    assert "| `broken` | failed, all |" in done.output
    with pytest.raises(ScoreError, match="there are no scores"):
        read_figures(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x"], "expected NAME=PATH"),
        (["a=/nowhere/at/all"], "does not exist"),
        (["a=.", "a=."], "'a' is given twice"),
        (["a=.", "--methods", "nsigmo"], "did you mean 'nsigma'"),
        (["a=.", "--page", "README.md"], "needs one line"),
        (["a=.", "--against", "README.md"], "README.md"),
    ],
)
def test_what_cannot_be_done_is_said_before_any_work(arguments: list[str], message: str) -> None:
    done = rcarena_here("benchmark", *arguments)
    assert done.exit_code == 2
    assert message in done.stderr


def figures(ac1: float, avg5: float, *, failures: int = 0, tail: float | None = None) -> MethodFigures:
    return MethodFigures(
        scores=Values(ac1=ac1, avg5=avg5), tail=Values(ac1=ac1, avg5=tail or avg5), failures=failures, cpu_s=0.25
    )


def benchmark_of(**methods: MethodFigures) -> DatasetTable:
    chance = {"chance": Values(ac1=0.2, avg5=0.6), "role_prior": Values(ac1=1 / 3, avg5=0.8)}
    shop = DatasetFigures(cases=12, scored=10, references=chance, methods=methods)
    return DatasetTable(settings={"profile": "llm"}, datasets={"shop": shop})


def test_the_table_says_what_failed_and_where_a_tail_matters() -> None:
    text = markdown(
        benchmark_of(short=figures(0.5, 0.5, tail=0.74), whole=figures(0.996, 1), bad=figures(0, 0, failures=10))
    )
    lines = text.splitlines()
    assert "| chance | .20 / .60 |" in lines
    assert "| role prior | .33 / .80 |" in lines
    assert not any(line.startswith("| chance per column") for line in lines)
    assert "| `short` | .50 / .50, 0.25 |" in lines
    assert "| `whole` | 1.0 / 1.0, 0.25 |" in lines
    assert "| `bad` | failed, all |" in lines
    assert lines[-1] == "| `short` | .50 / .74 |"


def test_changes_of_more_than_a_twentieth_are_told_largest_first() -> None:
    before = benchmark_of(a=figures(0.5, 0.5), b=figures(0.5, 0.5), c=figures(0.1, 0.1), d=figures(1, 1))
    after = benchmark_of(a=figures(0.55, 0.5), b=figures(0.5, 0.56), c=figures(0.7, 0.3), e=figures(1, 1))
    assert changes(before, after) == [
        "shop: c: AC@1 0.10 → 0.70, Avg@5 0.10 → 0.30",
        "shop: b: AC@1 0.50 → 0.50, Avg@5 0.50 → 0.56",
        "shop: new: e",
        "shop: gone: d",
    ]
    assert changes(before, before) == []


def test_other_settings_data_sets_and_cases_are_told() -> None:
    before = benchmark_of(a=figures(1, 1))
    more = before.datasets["shop"].model_copy(update={"scored": 11})
    after = DatasetTable(settings={"profile": "paper", "seed": 1}, datasets={"shop": more, "other": more})
    assert changes(before, after) == [
        "shop: 10 of 12 cases scored → 11 of 12",
        "data sets not there before: other",
        "setting profile: llm → paper",
        "setting seed: None → 1",
    ]
    assert changes(after, before)[1] == "data sets not there any more: other"


def test_figures_come_back_as_they_were(tmp_path: Path) -> None:
    benchmark = benchmark_of(a=figures(0.5, 0.5), b=figures(0, 0, failures=3))
    benchmark.write(tmp_path / "b.json")
    assert DatasetTable.read(tmp_path / "b.json") == benchmark
    (tmp_path / "b.json").write_text('{"settings": {}, "datasets": {"x": {}}}')
    with pytest.raises(ParamsError, match=r"datasets\.x\.cases: missing"):
        DatasetTable.read(tmp_path / "b.json")


@pytest.mark.parametrize("text", ["no markers", f"{END}\n{BEGIN}", f"{BEGIN}\n", f"{BEGIN}{END}{BEGIN}{END}"])
def test_a_page_without_its_markers_is_left_alone(tmp_path: Path, text: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(ParamsError, match="needs one line"):
        write_into(page, "table")
    assert page.read_text() == text
    assert [path.name for path in tmp_path.iterdir()] == ["page.md"]
