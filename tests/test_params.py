from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tasks.params import Params, load_params, overridden
from tasks.plan import check_params
from tasks.validation import ParamsError

DEFAULT = Path(__file__).parents[1] / "params.yaml"


@pytest.fixture
def document() -> dict[str, Any]:
    return yaml.safe_load(DEFAULT.read_text())


def fault(document: dict[str, Any], index: int) -> dict[str, Any]:
    return document["inject"]["faults"][index]


def problems_of(tmp_path: Path, text: str) -> tuple[str, ...]:
    file = tmp_path / "params.yaml"
    file.write_text(text)
    with pytest.raises(ParamsError) as caught:
        check_params(load_params(file), str(file))
    return caught.value.problems


def test_the_default_parameters_are_valid_and_resolve_to_themselves(tmp_path: Path) -> None:
    params = load_params(DEFAULT)
    check_params(params, "params.yaml")
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(params.dump())
    assert load_params(resolved) == params


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            lambda d: fault(d, 0).update(kind="cpu-strss"),
            "inject.faults[0].kind: unknown fault 'cpu-strss'; did",
        ),
        (lambda d: fault(d, 1).update(targets=["ray-replicas-9"]), "inject.faults[1].targets[0]: unknown service"),
        (lambda d: fault(d, 0).update(parameters={"wrkers": 2}), "inject.faults[0].parameters.wrkers: unknown key"),
        (lambda d: d["campaign"]["windows"].update(fault_s=-5), "campaign.windows.fault_s"),
        (lambda d: d["campaign"].pop("seed"), "campaign.seed: missing"),
        (lambda d: d["load"].pop("rate"), "load.rate: missing"),
        (lambda d: d.pop("inject"), "inject: missing"),
        (lambda d: d["deploy"].update(replicas="many"), "deploy.replicas"),
        (lambda d: d["load"].update(rats=3), "load.rats: unknown key; did you mean 'rate'?"),
        (lambda d: d["score"].update(methods=["nsigma", "barro"]), "score.methods[1]: unknown method 'barro'; did you"),
        (lambda d: d["deploy"].update(backend="docker"), "deploy.backend"),
        (lambda d: d["load"]["output_tokens"].update(mean=500), "load.output_tokens: mean (500)"),
        (lambda d: d["campaign"].update(name="Has Spaces"), "campaign.name"),
        (lambda d: d["campaign"].update(name="no-label-"), "campaign.name"),
        (lambda d: d["export"].update(rate_window_s=3), "export.rate_window_s: must be at least 4"),
        (lambda d: d["export"].update(rate_window_s=30), "campaign.windows.warmup_s: must be at least"),
        (lambda d: (d["inject"].update(faults=[]), d["campaign"].update(fault_free_cases=0)), "would have no case"),
    ],
)
def test_one_mistake_gives_one_message_that_names_the_key(
    tmp_path: Path, document: dict[str, Any], change: Any, expected: str
) -> None:
    change(document)
    problems = problems_of(tmp_path, yaml.safe_dump(document))
    assert len(problems) == 1
    assert expected in problems[0]


def test_every_mistake_is_listed(tmp_path: Path, document: dict[str, Any]) -> None:
    document["campaign"]["windows"]["fault_s"] = 0
    document["load"]["rate"] = -1
    assert len(problems_of(tmp_path, yaml.safe_dump(document))) == 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: [1", "not valid YAML: line 1"),
        ("campaign: 1\ncampaign: 2", "key 'campaign' is given twice"),
        ("- 1", "must be a mapping"),
        ("", "must be a mapping"),
        ("? [a]\n: 1", "not valid YAML"),
        ("a: !!python/object/apply:os.system [true]", "not valid YAML"),
    ],
)
def test_text_that_is_not_a_parameter_file(tmp_path: Path, text: str, expected: str) -> None:
    assert any(expected in problem for problem in problems_of(tmp_path, text))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"nowhere\.yaml: cannot be read: No such file"):
        load_params(tmp_path / "nowhere.yaml")


def test_a_concurrent_injection_must_end_within_the_fault_window(tmp_path: Path, document: dict[str, Any]) -> None:
    injection = {"kind": "cpu-stress", "target": "ray-replicas-0"}
    document["inject"]["concurrent"] = [
        {"injections": [injection, {"kind": "network-delay", "target": "ray-head", "offset_s": 18, "duration_s": 10}]}
    ]
    assert "inject.concurrent[0].injections[1]" in problems_of(tmp_path, yaml.safe_dump(document))[0]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(section=st.sampled_from(sorted(Params.model_fields)), value=json_values)
def test_no_value_of_a_section_breaks_the_loader(tmp_path_factory: Any, section: str, value: Any) -> None:
    file = tmp_path_factory.mktemp("params") / "params.yaml"
    document = yaml.safe_load(DEFAULT.read_text()) | {section: value}
    file.write_text(yaml.safe_dump(document, allow_unicode=True))
    with contextlib.suppress(ParamsError):
        check_params(load_params(file), str(file))


def test_overrides_merge_mappings_and_replace_the_rest(document: dict[str, Any]) -> None:
    before = yaml.safe_dump(document)
    changed = overridden(document, {"campaign": {"name": "other"}, "score": {"methods": ["nsigma"]}, "gate": {}})
    assert changed["campaign"] == {**document["campaign"], "name": "other"}
    assert changed["score"]["methods"] == ["nsigma"]
    assert changed["load"] == document["load"]
    assert yaml.safe_dump(document) == before


def test_another_backend_replaces_its_section(document: dict[str, Any]) -> None:
    stack = {"backend": "kubernetes", "replicas": 2}
    assert overridden(document, {"deploy": stack})["deploy"] == stack
    same = overridden(document, {"deploy": {"backend": "local", "replicas": 2}})["deploy"]
    assert same == {**document["deploy"], "replicas": 2}
