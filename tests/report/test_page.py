import base64
import gzip
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest

from tasks.case import SIGNALS, CaseRecord, CaseWriter, Completeness, Phase, Service, Stack
from tasks.injection import Injection, Interval, ProbeRecord
from tasks.params import load_params
from tasks.report.page import write_report
from tasks.score.errors import ScoreError
from tests.copies import copied
from tests.report.html import Page
from tests.report.scores import as_an_older_stage_wrote, fails, truth_at, write_scores
from tests.synthetic import T0, synthetic_case

METHODS = {"good": truth_at(1), "fair": truth_at(3), "broken": fails("needs <spans>")}
EVIL = "</script><script>alert('x')</script><b onclick=\"y\">&amp;"


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("campaign")
    synthetic_case(root / "cases", "cpu-0", target="ray-replicas-0")
    synthetic_case(root / "cases", "memory-1", kind="memory-stress", verdict="ineffective")
    synthetic_case(root / "cases", "quiet", kind=None)
    write_scores(root / "cases", root / "scores", METHODS)
    return root


@pytest.fixture
def workspace(made_once: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made_once, tmp_path, dirs_exist_ok=True))


def report(workspace: Path) -> str:
    return write_report(workspace / "cases", workspace / "scores", workspace / "report", title="Nightly").read_text()


@pytest.fixture(scope="module")
def html(made_once: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of ``workspace``."""
    return report(Path(shutil.copytree(made_once, tmp_path_factory.mktemp("reported"), dirs_exist_ok=True)))


def test_every_case_and_method_is_on_the_page(html: str) -> None:
    found = Page(html)
    for case in ("cpu-0", "memory-1", "quiet"):
        assert found.count("details", id=case) == 1
        assert found.count("a", href=f"#{case}") >= 1
    for method in METHODS:
        assert found.words.count(method) >= 5
    assert "needs <spans>" in found.words
    for text in (
        "Nightly",
        "campaign synthetic",
        "1 ✓ effective",
        "1 ✕ ineffective",
        "1 ○ fault-free",
        "AC@1",
        "Avg@5",
        "MRR",
    ):
        assert text in found.words


def test_every_link_has_its_place(html: str) -> None:
    found = Page(html)
    places = {attributes.get("id") for _, attributes in found.tags}
    links = [attributes["href"] or "" for tag, attributes in found.tags if tag == "a"]
    assert links
    assert all(link.startswith("#") and link[1:] in places for link in links)


def test_nothing_is_loaded_from_elsewhere(html: str) -> None:
    found = Page(html)
    loading = {"src", "href", "srcset", "data", "action", "poster", "xlink:href"}
    targets = [value or "" for _, attributes in found.tags for name, value in attributes.items() if name in loading]
    assert all(target.startswith("#") for target in targets)
    assert not {"link", "iframe", "img", "object", "embed"} & {tag for tag, _ in found.tags}
    assert not re.search(r"https?://|url\(|@import", html)
    policy = next(a["content"] or "" for tag, a in found.tags if tag == "meta" and a.get("http-equiv"))
    assert policy.startswith("default-src 'none';")
    assert "http" not in policy


def test_the_plotting_library_is_inside_once(html: str) -> None:
    (library,) = re.findall(r'id="plotting-library">([A-Za-z0-9+/=]+)</script>', html)
    assert b"Plotly" in gzip.decompress(base64.b64decode(library))


def test_same_inputs_give_the_same_bytes_and_one_file(html: str, workspace: Path) -> None:
    assert report(workspace) == html
    assert [file.name for file in (workspace / "report").iterdir()] == ["index.html"]


def test_the_file_is_replaced_whole(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (workspace / "report").mkdir()
    (workspace / "report" / "index.html").write_text("the page before")

    def killed(descriptor: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", killed)
    with pytest.raises(OSError, match="disk full"):
        write_report(workspace / "cases", workspace / "scores", workspace / "report", title="Another")
    assert (workspace / "report" / "index.html").read_text() == "the page before"


def test_text_of_a_case_is_never_markup(tmp_path: Path) -> None:
    case = synthetic_case(tmp_path / "cases", "evil", target="ray-replicas-1")
    write_scores(tmp_path / "cases", tmp_path / "harmless", {"bad": fails("why"), "good": truth_at(1)})
    harmless = Page(write_report(tmp_path / "cases", tmp_path / "harmless", tmp_path / "report", title="t").read_text())
    (injection,) = case.record.injections
    services = tuple(
        service.model_copy(update={"name": EVIL}) if service.name == "ray-replicas-1" else service
        for service in case.record.stack.services
    )
    record = case.record.model_copy(
        update={
            "campaign": EVIL,
            "stack": case.record.stack.model_copy(update={"services": services, "model": EVIL}),
            "injections": (injection.model_copy(update={"target": EVIL, "reason": EVIL, "parameters": {EVIL: EVIL}}),),
        }
    )
    names = ("service", "source", "target")
    tables = {
        signal: table.astype({c: str for c in table.columns if c in names}).replace("ray-replicas-1", EVIL)
        for signal, table in ((signal, case.table(signal)) for signal in SIGNALS)
    }
    copied(case, record, tables)
    write_scores(tmp_path / "cases", tmp_path / "scores", {EVIL: fails(EVIL), "good": truth_at(1)})
    html = write_report(tmp_path / "cases", tmp_path / "scores", tmp_path / "report", title=EVIL).read_text()
    assert EVIL not in html
    found = Page(html)
    assert found.count("script") == harmless.count("script") > 0
    assert not any("onclick" in attributes for _, attributes in found.tags)
    assert EVIL in "".join(found.text)


def test_without_scores_the_page_says_so(workspace: Path) -> None:
    shutil.rmtree(workspace / "scores")
    found = Page(report(workspace))
    assert "Scoring has not run for this campaign" in found.words
    assert found.count("details", id="cpu-0") == 1
    assert found.count("table", **{"class": "matrix"}) == 0


def test_scores_of_an_older_stage_still_show(workspace: Path) -> None:
    as_an_older_stage_wrote(workspace / "scores")
    found = Page(report(workspace))
    assert "An older score stage wrote these scores, without comparisons. Run the score stage again." in found.words
    assert "Seconds and memory were not recorded. Run the score stage again." in found.words
    assert [row[1] for row in found.tables["scores"].rows[1:]] == ["good", "fair", "chance", "broken"]


def test_a_single_method_is_not_compared(tmp_path: Path) -> None:
    synthetic_case(tmp_path / "cases", "one")
    write_scores(tmp_path / "cases", tmp_path / "scores", {"good": truth_at(1)})
    assert "Needs at least two methods." in Page(report(tmp_path)).words


def test_without_cases_there_is_a_page(tmp_path: Path) -> None:
    found = Page(report(tmp_path))
    assert "No finished case" in found.words
    assert found.count("script", id="plotting-library") == 0


def test_fault_free_campaign(tmp_path: Path) -> None:
    synthetic_case(tmp_path / "cases", "quiet", kind=None)
    write_scores(tmp_path / "cases", tmp_path / "scores", METHODS)
    found = Page(report(tmp_path))
    assert found.count("details", id="quiet") == 1
    assert "Start of the fault phase (nothing was injected)" in found.words
    assert "Nothing to score" in found.words


def test_unusable_scores_are_an_error_not_a_page(workspace: Path) -> None:
    (workspace / "scores" / "scores.parquet").write_text("x")
    with pytest.raises(ScoreError, match=r"scores\.parquet"):
        report(workspace)
    assert not (workspace / "report").exists()


def test_a_foreign_case_without_requests(tmp_path: Path) -> None:
    services = tuple(Service(name=f"svc-{i:02d}", role="replica") for i in range(41))
    times = pd.date_range(T0, periods=24, freq="5min").as_unit("ns")
    metrics = pd.concat(
        pd.DataFrame({"time": times, "service": s.name, "metric": "cpu_usage", "value": range(24)}) for s in services
    )
    begin, end = times[12].to_pydatetime(), times[23].to_pydatetime()
    missing = Completeness(status="missing", reason="not in the data set")
    record = CaseRecord(
        case_id="foreign",
        campaign="theirs",
        stack=Stack(backend="theirs", services=services),
        front_end="svc-00",
        phases=(Phase(name="baseline", start=T0, end=begin), Phase(name="fault", start=begin, end=end)),
        injections=(
            Injection(
                kind="pod-kill",
                target="svc-07",
                planned=Interval(start=begin, end=end),
                verdict="effective",
                reason="given",
            ),
        ),
        completeness=dict.fromkeys(SIGNALS, missing) | {"metrics": Completeness(status="complete")},
    )
    with CaseWriter(tmp_path / "cases", "foreign") as writer:
        writer.write("metrics", metrics)
        writer.finish(record)
    found = Page(report(tmp_path))
    others = ", ".join(signal for signal in SIGNALS if signal != "metrics")
    assert f"Signal missing: {others} (not in the data set)" in found.words
    assert "No requests recorded" in found.words
    assert "the grey band spans" in found.words
    assert "no probe" in found.words


def test_both_figures_of_a_throttle_are_shown(tmp_path: Path) -> None:
    case = synthetic_case(tmp_path / "cases", "throttled", kind="accelerator-throttle")
    step = ProbeRecord(name="decode step under equal load", unit="ms", before=10.0, during=52.5)
    injections = tuple(each.model_copy(update={"outcome": step}) for each in case.record.injections)
    copied(case, case.record.model_copy(update={"injections": injections}))
    words = Page(report(tmp_path)).words
    assert "synthetic; decode step under equal load" in words
    assert "52.5 ms" in words


def test_parameters_are_shown_when_known(workspace: Path) -> None:
    params = load_params(Path(__file__).parents[2] / "params.yaml")
    file = write_report(workspace / "cases", workspace / "scores", workspace / "report", title="t", params=params)
    words = Page(file.read_text()).words
    assert "bootstrap_samples: 2000" in words
    assert "95 % interval" in words


def test_size_of_a_large_campaign(tmp_path: Path) -> None:
    """Two campaigns of the default shape tell what a case costs: 120 of them must stay below 15 MB."""
    sizes = []
    for count in (1, 2):
        root = tmp_path / str(count)
        for i in range(count):
            synthetic_case(root / "cases", f"case-{i}", seed=i, baseline_s=30)
        write_scores(root / "cases", root / "scores", {f"method-{m}": truth_at(m % 5 + 1) for m in range(24)})
        sizes.append(len(report(root).encode()))
    per_case = sizes[1] - sizes[0]
    twenty_metrics = 20 / 12
    assert sizes[0] + 119 * per_case * twenty_metrics < 15e6
