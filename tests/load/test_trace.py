from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tasks.campaign.plan import plan_campaign
from tasks.errors import ParamsError
from tasks.identity import differing, digest
from tasks.load import trace as reader
from tasks.load.schedule import draw_schedule
from tasks.load.trace import read_trace
from tasks.params import LoadParams, Params, load_params, read_document, validated
from tasks.traffic import TraceFile
from tests.command import ROOT

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9951690,396,109
2023-11-16 18:15:51.2224670,2,0
2023-11-17 00:00:00.0000000+00:00,91,16
"""
MOONCAKE = "".join(
    json.dumps({"timestamp": ms, "input_length": tokens, "output_length": 5, "hash_ids": [0, 1]}) + "\n"
    for ms, tokens in ((27_000, 6755), (27_000, 7319), (30_052, 100))
)
PLAIN = "request,output_tokens,arrival_s,prompt_tokens\n" + "".join(
    f"{i},{10 + i % 7},{100 + i / 4},{i % 40}\n" for i in range(400)
)


def trace(file: Path, text: str | bytes, form: str, **more: object) -> TraceFile:
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return TraceFile.model_validate({"file": str(file), "format": form, **more})


def test_the_azure_trace(tmp_path: Path) -> None:
    found = read_trace(trace(tmp_path / "t.csv", AZURE, "azure-2023"))
    assert found.arrival_s == pytest.approx([0, 4.314579, 4.541877, 20653.31941])
    assert found.prompt_tokens.tolist() == [374, 396, 2, 91]
    assert found.output_tokens.tolist() == [44, 109, 0, 16]
    assert found.mean_rate == pytest.approx(3 / 20653.31941)


def test_the_mooncake_trace(tmp_path: Path) -> None:
    found = read_trace(trace(tmp_path / "t.jsonl", MOONCAKE, "mooncake"))
    assert found.arrival_s == pytest.approx([0, 0, 3.052])
    assert found.prompt_tokens.tolist() == [6755, 7319, 100]


def test_a_plain_table_may_have_other_columns_in_any_order(tmp_path: Path) -> None:
    found = read_trace(trace(tmp_path / "t.csv", "\ufeff" + PLAIN.replace("\n", "\r\n") + "\r\n", "csv"))
    assert len(found.arrival_s) == 400
    assert found.arrival_s[:3].tolist() == [0, 0.25, 0.5]
    assert found.output_tokens[:3].tolist() == [10, 11, 12]


@pytest.mark.parametrize(
    ("form", "text", "problem"),
    [
        ("csv", "", "has no request"),
        ("csv", "arrival_s,prompt_tokens,output_tokens\n", "has no request"),
        ("csv", "time,prompt_tokens,output_tokens\n1,2,3\n", "has no column arrival_s; it has time, prompt_tokens"),
        ("azure-2023", PLAIN, "has no column TIMESTAMP, ContextTokens, GeneratedTokens; it has request"),
        ("azure-2023", AZURE.replace("18:15:50", "25:15:50"), "line 3: TIMESTAMP must be a time (got '2023-11-16 25"),
        ("csv", "arrival_s,prompt_tokens,output_tokens\n1,2,3\n2,x,3\n", "line 3: prompt_tokens must be a number of"),
        ("csv", "arrival_s,prompt_tokens,output_tokens\n1,2,3\n2,-1,3\n", "line 3: prompt_tokens must be a number of"),
        ("csv", "arrival_s,prompt_tokens,output_tokens\n1,2,3\nnan,1,3\n", "line 3: arrival_s must be a time"),
        ("csv", "arrival_s,prompt_tokens,output_tokens\n1,2,3\n2,1\n", "line 3: output_tokens must be a number of"),
        ("csv", "arrival_s,prompt_tokens,output_tokens\n5,2,3\n6,2,3\n4,1,1\n", "not sorted by time: request 3 comes"),
        ("csv", "arrival_s,prompt_tokens,output_tokens\n5,2,3\n5,2,3\n", "all its requests at one time"),
        ("csv", b"arrival_s\xff\n", "is not UTF-8"),
        ("mooncake", AZURE, "line 1: not valid JSON"),
        ("mooncake", '{"timestamp": 1, "input_length": 2}\n', "line 1: must be a mapping with timestamp, input_length"),
        ("mooncake", MOONCAKE.replace("7319", "null"), "line 2: input_length must be a number of tokens (got 'None')"),
    ],
)
def test_a_trace_that_cannot_be_used(tmp_path: Path, form: str, text: str | bytes, problem: str) -> None:
    with pytest.raises(ParamsError) as caught:
        read_trace(trace(tmp_path / "t", text, form))
    (found,) = caught.value.problems
    assert found.startswith(f"load.trace.file: {tmp_path / 't'}: ")
    assert problem in found


def test_a_trace_of_too_many_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = trace(tmp_path / "t.csv", PLAIN, "csv")
    monkeypatch.setattr(reader, "MAX_REQUESTS", 400)
    assert len(read_trace(asked).arrival_s) == 400
    monkeypatch.setattr(reader, "MAX_REQUESTS", 399)
    with pytest.raises(ParamsError, match="more than 399 requests"):
        read_trace(asked)


def test_a_file_that_changes_or_goes_after_the_parameters_were_read(tmp_path: Path) -> None:
    asked = trace(tmp_path / "t.csv", PLAIN, "csv")
    (tmp_path / "t.csv").write_text(PLAIN + "500,1,900,1\n")
    with pytest.raises(ParamsError, match="has changed since"):
        read_trace(asked)
    (tmp_path / "t.csv").unlink()
    with pytest.raises(ParamsError, match="cannot be read: No such file"):
        read_trace(asked)


def replay(tmp_path: Path, rate: float, **more: object) -> LoadParams:
    return LoadParams.model_validate(
        {
            "arrival": "trace",
            "rate": rate,
            "prompt_tokens": {"distribution": "uniform", "min": 4, "max": 30},
            "output_tokens": {"mean": 12, "min": 1, "max": 14},
            "trace": trace(tmp_path / "t.csv", PLAIN, "csv", **more).model_dump(),
        }
    )


def test_a_trace_is_played_at_the_rate_of_the_load(tmp_path: Path) -> None:
    played = draw_schedule(replay(tmp_path, rate=8), 20, 1, 1000)
    assert len(played) == 160  # 4/s in the file
    assert np.allclose(np.diff(played.offset_ns), 1e9 / 8, atol=2)
    assert played.prompt_tokens.tolist() == [min(max(i % 40, 4), 30) for i in range(160)]
    assert played.output_tokens.tolist() == [min(10 + i % 7, 14) for i in range(160)]
    later = draw_schedule(replay(tmp_path, rate=8, start_s=2.4), 20, 1, 1000)
    assert later.offset_ns[0] == pytest.approx(0.1 / 2 * 1e9, abs=2)  # the next one is at 2.5 s of the trace
    assert later.prompt_tokens[:3].tolist() == [10, 11, 12]


def test_a_trace_that_ends_before_the_load(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"lasts 49\.9 s from start_s \(0\) on at load.rate \(8/s; its own is 4/s\)"):
        draw_schedule(replay(tmp_path, rate=8), 60, 1, 1000)
    with pytest.raises(ParamsError, match=r"lasts 0\.0 s"):
        draw_schedule(replay(tmp_path, rate=8, start_s=400), 60, 1, 1000)


def params_with(tmp_path: Path, trace: dict[str, object]) -> Params:
    document = read_document(ROOT / "params.yaml")
    document["load"] |= {"arrival": "trace", "trace": trace}
    return validated(document, "params.yaml")


def test_a_case_depends_on_the_content_and_not_on_the_path(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(PLAIN)
    (tmp_path / "b.csv").write_text(PLAIN)
    (tmp_path / "c.csv").write_text(PLAIN + "9,9,300,9\n")

    def ids(name: str) -> list[str]:
        return [
            plan.case_id
            for plan in plan_campaign(params_with(tmp_path, {"file": str(tmp_path / name), "format": "csv"}))
        ]

    assert ids("a.csv") == ids("b.csv")
    assert not set(ids("a.csv")) & set(ids("c.csv"))
    asked = params_with(tmp_path, {"file": str(tmp_path / "a.csv"), "format": "csv"}).load.trace
    assert asked is not None
    assert set(differing(asked)) == {"format", "sha256"}
    assert digest(differing(asked)) != digest({})


def test_with_its_hash_the_parameters_can_be_used_where_the_file_is_not(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(PLAIN)
    here = params_with(tmp_path, {"file": str(tmp_path / "a.csv"), "format": "csv"})
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(here.dump())
    (tmp_path / "a.csv").unlink()
    assert load_params(resolved) == here
    (tmp_path / "a.csv").write_text(PLAIN + "9,9,300,9\n")
    with pytest.raises(
        ParamsError, match=r"load\.trace\.file: has another content than sha256 says: it is [0-9a-f]{64}"
    ):
        load_params(resolved)


@pytest.mark.parametrize(
    ("trace", "problem"),
    [
        (
            {"file": "nowhere.csv", "format": "csv"},
            "load.trace.file: cannot be read: No such file or directory (got 'n",
        ),
        ({"file": "/", "format": "csv"}, "load.trace.file: cannot be read: Is a directory"),
        ({"file": "a\0b", "format": "csv"}, "load.trace.file: cannot be read: embedded null byte"),
        ({"file": 3, "format": "csv"}, "load.trace.file: must be text (got 3)"),
        ({"format": "csv"}, "load.trace.file: missing"),
        (None, "load: trace: missing; arrival: trace needs it"),
    ],
)
def test_problems_of_the_parameter_name_the_key(tmp_path: Path, trace: dict[str, object], problem: str) -> None:
    with pytest.raises(ParamsError) as caught:
        params_with(tmp_path, trace)
    assert any(problem in found for found in caught.value.problems), caught.value.problems


def test_a_trace_without_its_arrival(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(PLAIN)
    document = read_document(ROOT / "params.yaml")
    document["load"]["trace"] = {"file": str(tmp_path / "a.csv"), "format": "csv"}
    with pytest.raises(ParamsError, match="trace: is played with arrival: trace only"):
        validated(document, "params.yaml")
