"""The experiment as a stage: off by default, cases in pods of their own, tables at the end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tasks.commands.remediate import remediate
from tasks.errors import ParamsError
from tasks.params import Params, validated
from tasks.remediate import experiment
from tasks.remediate.stage import publish_nothing, read_tables, read_timelines
from tasks.remediate.tables import episodes, summary, windows
from tests.remediate.campaign import params
from tests.remediate.runs import run


def written(place: Path, asked: Params) -> Path:
    file = place / "params.yaml"
    file.write_text(asked.dump())
    return file


def test_off_leaves_a_folder_that_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    old = tmp_path / "remediation" / "timelines.json"
    old.parent.mkdir()
    old.write_text("[{}]")
    remediate(if_enabled=True, params=written(tmp_path, params()), workspace=tmp_path)
    assert "remediate.enabled is false" in capsys.readouterr().out
    assert [path.name for path in old.parent.iterdir()] == ["tables.json"]
    assert (read_tables(old.parent), read_timelines(old.parent)) == (None, [])


def test_nothing_is_the_same_bytes_every_time(tmp_path: Path):
    publish_nothing(tmp_path / "a")
    publish_nothing(tmp_path / "a")
    assert (tmp_path / "a" / "tables.json").read_bytes() == b"{}"


def test_a_case_is_run_alone_and_leaves_the_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    asked, ran = params(), []

    def only_this(*given: object, **named: object) -> list:
        ran.append((given[0], named))
        return []

    monkeypatch.setattr(experiment, "run_experiment", only_this)
    case_id = next(iter(experiment.plan_campaign(asked))).case_id
    remediate(case=[case_id], params=written(tmp_path, asked), workspace=tmp_path)
    assert ran == [(asked, {"cases": [case_id], "keep_stack": False})]
    assert not (tmp_path / "remediation").exists()
    with pytest.raises(ParamsError, match="unknown case 'case-0'"):
        remediate(case=["case-0"], params=tmp_path / "params.yaml", workspace=tmp_path)


def test_only_a_backend_that_can_be_acted_on_has_the_stage():
    asked = json.loads(params().model_dump_json())
    asked["remediate"]["enabled"] = True
    assert validated(asked, "here").remediate.enabled
    asked["deploy"] = {"backend": "kubernetes", "model": "toy-cpu", "replicas": 3}
    with pytest.raises(ParamsError, match=r"remediate.enabled: needs the backend .*simulated.*; kubernetes cannot"):
        validated(asked, "here")


def test_where_no_alarm_sounds_there_is_no_curve():
    rows = [run("case-1", "cpu-stress", name, detect_s=None) for name in ("none", "table:peerwise", "table:peerwise@9")]
    assert windows(episodes(rows)).empty


def test_one_case_of_a_stage_that_is_off_leaves_the_tables(tmp_path: Path):
    (tmp_path / "remediation").mkdir()
    (tmp_path / "remediation" / "tables.json").write_text('{"kept": []}')
    remediate(if_enabled=True, case=["case-1"], params=written(tmp_path, params()), workspace=tmp_path)
    assert read_tables(tmp_path / "remediation") == {"kept": []}


@pytest.mark.parametrize(
    ("kinds", "targets", "bounded"),
    [(["cpu-stress"], 3, False), (["cpu-stress"], 4, True), (["cpu-stress", "network-delay"], 2, True)],
)
def test_few_targets_have_no_bounds_unless_several_kinds_do(kinds: list[str], targets: int, bounded: bool):
    rows = [
        run(f"{kind}-{i}", kind, name, target=f"ray-replicas-{i}", bad_request_s=20.0 - i * (name == "oracle"))
        for kind in kinds
        for i in range(targets)
        for name in ("none", "oracle")
    ]
    found = summary(episodes(rows)).set_index(["kind", "policy"]).loc[("all faults", "oracle")]
    assert found[["ratio_low", "rmst_high"]].notna().tolist() == [bounded, bounded]
