from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.commands.check import check_params
from tasks.errors import ParamsError
from tasks.load.check import load_problems
from tasks.params import LoadParams, Params, Windows
from tasks.traffic import TokenLimits
from tests.command import ROOT
from tests.load.test_trace import PLAIN

MODEL = TokenLimits(total=512)
WINDOWS = Windows(warmup_s=5, baseline_s=22, fault_s=22, recovery_s=8)


def load(**values: Any) -> LoadParams:
    return LoadParams.model_validate({"arrival": "poisson", "rate": 3, **values})


def surge(**values: Any) -> dict[str, Any]:
    return {"kind": "surge", "start_s": 0, "duration_s": 5, "factor": 2, **values}


LONG = {"share": 0.5, "tokens": 300, "start_s": -27, "duration_s": 57}


def test_a_load_that_fits() -> None:
    assert load_problems(load(), WINDOWS, TokenLimits()) == []
    assert load_problems(load(shapes=[surge(start_s=-27, duration_s=57)], long_prompts=LONG), WINDOWS, MODEL) == []


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        (
            {"shapes": [surge(), surge(start_s=-28)]},
            "load.shapes[1]: must lie between -27 s (the start of the warm-up)",
        ),
        ({"shapes": [surge(start_s=26)]}, "but is from 26 to 31 s"),
        ({"long_prompts": LONG | {"duration_s": 58}}, "load.long_prompts: must lie between"),
        (
            {"rate": 900, "shapes": [surge(factor=4), surge(factor=3)]},
            "load.shapes: reach 10800 requests/s; at most 10000",
        ),
        (
            {"long_prompts": LONG | {"tokens": 481}},
            "load.long_prompts.tokens: 481 tokens and 16 of the answer do not fit",
        ),
        (
            {"long_prompts": LONG, "output_tokens": {"distribution": "uniform", "max": 200}},
            "which takes 512 with the chat template: at most 296",
        ),
    ],
)
def test_a_load_that_does_not_fit(values: dict[str, Any], problem: str) -> None:
    (found,) = load_problems(load(**values), WINDOWS, MODEL)
    assert problem in found


def test_a_trace_must_last_and_its_prompts_must_fit(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(PLAIN)  # 100 s at 4/s
    replayed: dict[str, Any] = {"arrival": "trace", "trace": {"file": str(tmp_path / "t.csv"), "format": "csv"}}
    assert load_problems(load(**replayed), WINDOWS, MODEL) == []
    double = [surge(start_s=-27, duration_s=57)]
    (short,) = load_problems(load(**replayed, rate=4, shapes=double), WINDOWS, MODEL, "inject.scenarios[0].load")
    assert short.startswith("inject.scenarios[0].load.trace.file: ")
    assert "lasts 99.8 s" in short
    assert "needs 114.0 s" in short
    (long,) = load_problems(load(**replayed, prompt_tokens={"mean": 30, "max": 500}), WINDOWS, MODEL)
    assert long.startswith("load.prompt_tokens.max: 500 tokens and 16 of the answer do not fit the model")
    asked = load(**replayed, rate=4, shapes=double)
    (tmp_path / "t.csv").unlink()
    assert load_problems(asked, WINDOWS, MODEL) == []  # where it is played it is looked at again


def test_an_engine_may_take_shorter_prompts_than_its_model() -> None:
    limits = TokenLimits(prompt=128, total=512)
    assert load_problems(load(long_prompts=LONG | {"tokens": 112}), WINDOWS, limits) == []
    (found,) = load_problems(load(long_prompts=LONG | {"tokens": 113}), WINDOWS, limits)
    assert found.endswith("which takes prompts of 128 with the chat template: at most 112")


@pytest.mark.parametrize(
    "deploy",
    [
        {"backend": "local", "replicas": 3, "model": {"architecture": "llama"}},
        {"backend": "kubernetes", "replicas": 2, "scrape_interval_s": 2, "engine_arguments": {"max_model_len": 512}},
    ],
)
def test_the_backend_says_how_long_a_prompt_may_be(deploy: dict[str, Any]) -> None:
    document = yaml.safe_load((ROOT / "params.yaml").read_text())
    document["deploy"] = deploy
    document["inject"]["faults"] = []
    document["load"]["long_prompts"] = LONG | {"tokens": 500}
    with pytest.raises(ParamsError) as caught:
        check_params(Params.model_validate(document), "params.yaml")
    assert any("params.yaml: load.long_prompts.tokens: 500 tokens" in problem for problem in caught.value.problems)
    document["load"]["long_prompts"] = LONG
    check_params(Params.model_validate(document), "params.yaml")


def test_a_local_falcon_takes_short_prompts_only() -> None:
    document = yaml.safe_load((ROOT / "params.yaml").read_text())
    document["load"]["long_prompts"] = LONG
    with pytest.raises(ParamsError, match=r"long_prompts\.tokens: 300 tokens are too long for the engine"):
        check_params(Params.model_validate(document), "params.yaml")


def test_the_load_of_a_scenario_is_checked_too() -> None:
    document = yaml.safe_load((ROOT / "params.yaml").read_text())
    document["inject"]["scenarios"] = [
        {"name": "surge", "load": {"shapes": [surge()]}},
        {"name": "late", "load": {"shapes": [surge(start_s=28)]}},
    ]
    with pytest.raises(ParamsError) as caught:
        check_params(Params.model_validate(document), "params.yaml")
    (found,) = caught.value.problems
    assert found.startswith("params.yaml: inject.scenarios[1].load.shapes[0]: must lie between -27 s")


@pytest.mark.parametrize(
    ("shapes", "problem"),
    [
        ([surge(factor=1)], "load.shapes[0]: factor: of a surge must exceed 1 (got 1)"),
        ([surge(kind="drop")], "load.shapes[0]: factor: of a drop must be below 1 (got 2)"),
        ([surge(kind="ramp", factor=0)], "load.shapes[0]: factor: of a ramp must exceed 0"),
        ([surge(kind="burst", factor=0.5)], "load.shapes[0]: factor: of a burst must exceed 1"),
        ([surge(kind="wave")], "load.shapes[0].kind: Input should be 'surge', 'drop', 'ramp' or 'burst'"),
        ([surge(fctor=2)], "load.shapes[0].fctor: unknown key; did you mean 'factor'?"),
        (
            [surge(kind="ramp", start_s=4), surge(), surge(kind="ramp")],
            "load: shapes[2]: overlaps shapes[0]; two ramps must not",
        ),
    ],
)
def test_problems_of_shapes_name_the_key(shapes: list[dict[str, Any]], problem: str) -> None:
    from tasks.params import validated

    document = yaml.safe_load((ROOT / "params.yaml").read_text())
    document["load"]["shapes"] = shapes
    with pytest.raises(ParamsError) as caught:
        validated(document, "p")
    assert any(problem in found for found in caught.value.problems), caught.value.problems


def test_the_summary_says_what_happens_to_the_load() -> None:
    assert load().summary == "3 requests/s"
    assert load(shapes=[surge()], long_prompts=LONG).summary == (
        "3 requests/s; surge ×2 from +0 s for 5 s; prompts of 300 tokens in 50 % from -27 s for 57 s"
    )
