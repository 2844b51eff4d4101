from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tasks.campaign.plan import plan_campaign
from tasks.commands.check import check_params
from tasks.commands.inject import _assignments
from tasks.errors import ParamsError
from tasks.inject import catalogue
from tasks.params import Params, load_params, overridden
from tests.command import rcarena_here

DEFAULT = Path(__file__).parents[1] / "params.yaml"


@pytest.fixture
def document() -> dict[str, Any]:
    return yaml.safe_load(DEFAULT.read_text())


def fault(document: dict[str, Any], index: int) -> dict[str, Any]:
    return document["inject"]["faults"][index]


ROOT = {"kind": "cpu-stress", "target": "ray-replicas-0"}
DELAY = {**ROOT, "kind": "network-delay"}


def scenario(document: dict[str, Any], **parts: Any) -> None:
    document["inject"]["scenarios"] = [{"name": "a", **parts}]


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
        (lambda d: d.update(deploy="local"), "deploy: must be a mapping (got 'local')"),
        (lambda d: d["inject"].update(faults=["cpu-stress"]), "inject.faults[0]: must be a mapping (got 'cpu-stress')"),
        (lambda d: d["load"]["output_tokens"].update(mean=500), "load.output_tokens: mean (500)"),
        (lambda d: d["campaign"].update(name="Has Spaces"), "campaign.name"),
        (lambda d: d["campaign"].update(name="no-label-"), "campaign.name"),
        (lambda d: d["export"].update(rate_window_s=3), "export.rate_window_s: must be at least 4"),
        (lambda d: d["export"].update(rate_window_s=30), "campaign.windows.warmup_s: must be at least"),
        (
            lambda d: fault(d, 0).update(parameters={}, ladder={"workers": [1, 5000]}),
            "inject.faults[0].ladder.workers[1]: ",
        ),
        (
            lambda d: fault(d, 0).update(parameters={}, ladder={"wrkers": [1]}),
            "inject.faults[0].ladder.wrkers[0]: unknown key; did you mean 'workers'?",
        ),
        (
            lambda d: fault(d, 0).update(ladder={"workers": [1]}),
            "inject.faults[0]: ladder: workers must not be in parameters",
        ),
        (
            lambda d: fault(d, 2).update(parameters={}, ladder={"delay_ms": [1, 2], "jitter_ms": [1]}),
            "inject.faults[2]: ladder: the lists must be equally long",
        ),
        (lambda d: fault(d, 0).update(ladder={"workers": []}), "inject.faults[0].ladder.workers: "),
        (lambda d: d["inject"].update(scenarios=[{"name": "Has Spaces"}]), "inject.scenarios[0].name"),
        (lambda d: d["inject"].update(scenarios=[{"name": "a"}, {"name": "a"}]), "inject.scenarios[1].name: another"),
        (lambda d: scenario(d, lod={}), "inject.scenarios[0].lod: unknown key; did you mean 'load'?"),
        (lambda d: scenario(d, load={"rats": 3}), "inject.scenarios[0].load.rats: unknown key; did you mean 'rate'?"),
        (lambda d: scenario(d, load={"rate": "3"}), "inject.scenarios[0].load.rate: must be a number"),
        (
            lambda d: scenario(d, load={"output_tokens": {"mean": 500}}),
            "inject.scenarios[0].load.output_tokens: mean (500)",
        ),
        (lambda d: scenario(d, injections=[{**ROOT, "role": "cause"}]), "inject.scenarios[0].injections[0].role"),
        (lambda d: scenario(d, injections=[{**ROOT, "kind": "x"}]), "inject.scenarios[0].injections[0].kind: unknown"),
        (
            lambda d: scenario(d, injections=[{**ROOT, "role": "victim", "offset_s": 3}]),
            "inject.scenarios[0].injections[0].role: a victim needs a root",
        ),
        (
            lambda d: scenario(d, injections=[ROOT, {**ROOT, "target": "ray-head", "role": "victim"}]),
            "inject.scenarios[0].injections[1].role: a victim needs a root",
        ),
        (
            lambda d: scenario(d, injections=[ROOT, {**DELAY, "role": "victim", "offset_s": 1}]),
            "inject.scenarios[0].injections[1].target: a victim must not be the target of a root",
        ),
        (
            lambda d: scenario(d, injections=[{**ROOT, "offset_s": 20, "duration_s": 3}]),
            "inject.scenarios[0].injections[0]: offset_s + duration_s must end within",
        ),
        (
            lambda d: scenario(d, injections=[DELAY, {**DELAY, "role": "disturbance"}]),
            "inject.scenarios[0].injections[1]: network-delay and network-delay (inject.scenarios[0].injections[0]) ",
        ),
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


def test_what_is_never_a_cause_is_a_disturbance(
    tmp_path: Path, document: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    no_root = dataclasses.replace(catalogue.fault_kind("network-delay"), root_allowed=False)
    monkeypatch.setitem(catalogue.FAULT_KINDS.registered, "network-delay", no_root)
    assert problems_of(tmp_path, yaml.safe_dump(document))[0].endswith(
        "inject.faults[2].kind: network-delay is never a cause; ask for it in inject.scenarios, with role: disturbance"
    )
    del document["inject"]["faults"][2]
    scenario(document, injections=[DELAY])
    (problem,) = problems_of(tmp_path, yaml.safe_dump(document))
    assert problem.endswith(
        "inject.scenarios[0].injections[0].role: network-delay is never a cause; allowed: disturbance"
    )
    scenario(document, injections=[{**DELAY, "role": "disturbance"}])
    check_params(Params.model_validate(document), "params.yaml")


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


def written(tmp_path: Path, *changes: tuple[str, str]) -> Path:
    """The project's file with lines changed as a person would."""
    text = DEFAULT.read_text()
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    file = tmp_path / "params.yaml"
    file.write_text(text)
    return file


def test_merge_keys_and_anchors_are_parameters_like_any_other(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        ("  prompt_tokens: {distribution: normal", "  prompt_tokens: &tokens {distribution: normal"),
        ("  output_tokens: {distribution: constant, mean: 16, max: 128}", "  output_tokens: {<<: *tokens, mean: 16}"),
    )
    params = load_params(file)
    assert params.load.output_tokens == params.load.prompt_tokens.model_copy(update={"mean": 16})
    copy = tmp_path / "resolved.yaml"
    copy.write_text(params.dump())
    assert load_params(copy) == params


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("  replicas: 3\n", "  replicas: 010\n", 10),
        ("  replicas: 3\n", "  replicas: 0o12\n", 10),
        ("  replicas: 3\n", "  replicas: 0xA\n", 10),
        ("  replicas: 3\n", "  replicas: 1e1\n", 10),
        ("  replicas: 3\n", "  replicas: 1_0\n", "deploy.replicas: must be a whole number (got '1_0')"),
        ("  replicas: 3\n", "  replicas: '3'\n", "deploy.replicas: must be a whole number (got '3')"),
        ("  replicas: 3\n", "  replicas: 3.5\n", "deploy.replicas: Input should be a valid integer"),
        ("  replicas: 3\n", "  replicas: true\n", "deploy.replicas: must be a whole number (got True)"),
        ("  replicas: 3\n", "  replicas: 2026-11-29\n", "deploy.replicas: must be a whole number (got '2026-11-29')"),
        ("  start_timeout_s: 420", "  start_timeout_s: 1:30", "deploy.start_timeout_s: must be a number (got '1:30')"),
        (
            "  start_timeout_s: 420",
            "  start_timeout_s: .inf",
            "deploy.start_timeout_s: Input should be a finite",
        ),
        (
            "  start_timeout_s: 420",
            "  start_timeout_s: 1e999",
            "deploy.start_timeout_s: Input should be a finite",
        ),
        (
            "include_ineffective: false",
            "include_ineffective: no",
            "score.include_ineffective: must be true or false",
        ),
        (
            "include_ineffective: false",
            "include_ineffective: 0",
            "score.include_ineffective: must be true or false",
        ),
        ("  name: local-default", "  name: 007", "campaign.name: must be text (got 7)"),
        ("  name: local-default", "  name: yes", "yes"),
        ("{workers: 2}", "{workers: two}", "inject.faults[0].parameters.workers: must be a whole number (got 'two')"),
        ("{workers: 2}", "{workers: 2.0}", 10),
        ("{workers: 2}", "{workers: .nan}", "inject.faults[0].parameters.workers: a number must be finite"),
        (
            "  replicas: 3\n",
            "  replicas: 3\n  replicas: 3\n",
            "line 12, column 3: key 'replicas' is given",
        ),
    ],
)
def test_values_mean_what_yaml_says_or_are_refused(tmp_path: Path, old: str, new: str, expected: Any) -> None:
    file = written(tmp_path, (old, new))
    if isinstance(expected, str) and expected != "yes":
        with pytest.raises(ParamsError) as caught:
            check_params(load_params(file), "params.yaml")
        (problem,) = caught.value.problems
        assert expected in problem
        return
    params = load_params(file)
    if new.startswith("{"):
        assert plan_campaign(params) == plan_campaign(load_params(DEFAULT))
    else:
        assert expected in (params.deploy.replicas, params.campaign.name)


def test_a_wrong_kind_of_value_hides_no_other_problem(tmp_path: Path) -> None:
    file = written(tmp_path, ("  replicas: 3\n", "  replicas: '3'\n  size: 4\n"), ("  rate: 3  ", "  rate: 0  "))
    with pytest.raises(ParamsError) as caught:
        load_params(file)
    problems = "\n".join(caught.value.problems)
    assert len(caught.value.problems) == 3
    for expected in ("deploy.replicas: must be", "deploy.size: unknown key", "load.rate: Input should be greater"):
        assert expected in problems


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["workers=010"], {"workers": 10}),
        (["a=yes", "b=1:30", "c=1_000"], {"a": "yes", "b": "1:30", "c": "1_000"}),
        (["a=", "b=true", "c=1e3", "d=[1, .5]"], {"a": None, "b": True, "c": 1000.0, "d": [1, 0.5]}),
        (["a=x=y", "b=@word"], {"a": "x=y", "b": "@word"}),
    ],
)
def test_values_on_the_command_line_are_read_as_in_a_file(given: list[str], expected: dict[str, Any]) -> None:
    found = _assignments(given)
    assert found == expected
    assert repr(found) == repr(expected)


@pytest.mark.parametrize(
    ("given", "problem"), [(["a"], "NAME=VALUE"), (["=1"], "NAME=VALUE"), (["a=1", "a=2"], "a is given twice")]
)
def test_what_is_no_assignment_is_refused(given: list[str], problem: str) -> None:
    with pytest.raises(ParamsError, match=problem):
        _assignments(given)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"load": {"rate": 1, "rate": 2}}', "key 'rate' is given twice"),
        ('{"load": {"rate": NaN}}', "NaN is not a number"),
        ("[1]", "must be a JSON object"),
        ("[" * 100_000, "nested too deeply"),
        ("{", "not valid JSON"),
    ],
)
def test_an_override_that_cannot_be_used(tmp_path: Path, text: str, problem: str) -> None:
    done = rcarena_here("params", "resolve", "--base", str(DEFAULT), "--override", text, "--out", str(tmp_path / "out"))
    assert done.exit_code == 2
    assert problem in done.output
    assert not (tmp_path / "out").exists()
