"""What a view says beside the telemetry: everything an LLM-aware method asks for, nothing of the answer."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pandas as pd
import pytest

from tasks.case import NO_ROW, Case, CaseRecord, Completeness, Limits, Sampling, SignalName
from tasks.rca.context import MetricFacts, ServiceFacts
from tasks.rca.run.build_context import safe_versions
from tasks.rca.run.build_view import build_view
from tasks.rca.view import column_names
from tests.copies import copied
from tests.rca.views import rewritten, score_params
from tests.synthetic import synthetic_case

LOAD = {
    "arrival": "poisson",
    "rate": 3.0,
    "endpoint": "chat",
    "prompt_tokens": {"distribution": "normal", "mean": 24.0, "stdev": 8.0, "min": 4, "max": 128},
    "output_tokens": {"distribution": "uniform", "mean": 16.0, "stdev": 0.0, "min": 10, "max": 30},
    "request_timeout_s": 20.0,
    "max_send_lag_ms": 100.0,
}
NAMES = {"nginx-proxy": "e", "ray-head": "d", "ray-replicas-0": "c", "ray-replicas-1": "b", "ray-replicas-2": "a"}


def described(case: Case, **changes: object) -> Case:
    """The case as an LLM stack of ours records it."""
    document = case.record.model_dump(mode="json")
    document["case_id"] = "described"
    document["stack"] |= {
        "model": "tiiuae/Falcon-H1-7B",
        "engine": "vllm",
        "parallelism": {"data": 3, "tensor": 2, "pipeline": 1},
        "versions": {"vllm": "0.32.0+cpu", "ray": "2.60.0", "note": "replica-1 was broken"},
    }
    document["versions"] = {"rcarena": "0.1.0", "metric_map": "2", "origin": "cpu-stress/3", "torch": "see cpu-stress"}
    document["load"]["parameters"] = LOAD
    document["sampling"] = {"step_s": 1.0, "rate_window_s": 5.0}
    for i, service in enumerate(document["stack"]["services"]):
        service["node"] = f"node-{i // 2}"
        service["limits"] = {"cpu_cores": 1.0 + i, "kv_cache_bytes": 64 * 2**20, "max_num_seqs": 16}
        service["devices"] = [f"GPU-{i // 3}-{service['name']}"] if service["role"] == "replica" else []
    record = CaseRecord.model_validate_json(json.dumps(document | changes))
    topology = case.topology[(case.topology["relation"] == "calls").to_numpy()]
    return copied(case, record, {"topology": topology})


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return described(synthetic_case(tmp_path_factory.mktemp("cases"), kind="cpu-stress"))


def test_the_stack_the_load_and_the_sampling(case: Case) -> None:
    view = build_view(case, score_params())
    context = view.context
    assert (context.model, context.engine) == ("tiiuae/Falcon-H1-7B", "vllm")
    assert context.parallelism == {"data": 3, "tensor": 2, "pipeline": 1}
    assert context.versions == {"metric_map": "2", "ray": "2.60.0", "vllm": "0.32.0+cpu"}
    load = context.load
    assert (load.arrival, load.rate, load.endpoint, load.request_timeout_s) == ("poisson", 3.0, "chat", 20.0)
    assert (load.prompt_tokens, load.output_tokens) == (24.0, 20.0)
    assert (context.rate_window_s, view.step_s) == (5.0, 1.0)
    assert set(context.services) == set(view.services)


def test_limits_hosts_and_devices_of_each_service(case: Case) -> None:
    view = build_view(case, score_params())
    facts = view.context.services
    declared = {service.name: service for service in case.record.stack.services}
    assert {name: each.cpu_cores for name, each in facts.items()} == {
        n: s.limits.cpu_cores for n, s in declared.items()
    }
    assert all((each.kv_cache_bytes, each.max_num_seqs) == (64 * 2**20, 16) for each in facts.values())
    assert facts["ray-head"].hosts == facts["nginx-proxy"].hosts != facts["ray-replicas-0"].hosts
    assert facts["ray-replicas-0"].hosts == facts["ray-replicas-1"].hosts
    assert facts["ray-head"].devices == ()
    assert len({facts[name].devices for name in view.services if view.roles[name] == "replica"}) == 3
    assert {host for each in facts.values() for host in each.hosts} == {"host-0", "host-1", "host-2"}


def test_unit_and_source_of_every_column(case: Case) -> None:
    of_ours = case.metrics.astype({"source": object, "unit": object})
    of_ours.loc[of_ours["metric"] == "latency_p90", "source"] = "spans"
    of_ours.loc[of_ours["metric"] == "requests_waiting", "source"] = "ray_vllm"
    of_ours.loc[of_ours["metric"] == "memory_working_set", "unit"] = None
    ours = copied(case, case.record.model_copy(update={"case_id": "ours"}), {"metrics": of_ours})
    view = build_view(ours, score_params())
    facts = view.context.metrics
    assert list(facts) == column_names(view.metrics)
    assert facts["ray-head", "latency_p90"] == MetricFacts("s", "spans")
    assert facts["ray-replicas-0", "requests_waiting"] == MetricFacts("requests", "ray_vllm")
    assert facts["ray-head", "memory_working_set"] == MetricFacts(None, "data set")  # synthetic: not of the metric map
    assert facts["ray-head", "cpu_usage"].unit == "cores"


def with_signals(case: Case, **declared: Completeness) -> Case:
    completeness = {**case.record.completeness, **declared}
    empty: dict[SignalName, pd.DataFrame] = {name: case.table(name).iloc[:0] for name in declared}  # type: ignore[misc]
    record = case.record.model_copy(update={"case_id": "fewer", "completeness": completeness})
    return copied(case, record, empty)


def test_recorded_but_empty_is_not_the_same_as_not_recorded(case: Case) -> None:
    fewer = with_signals(
        case,
        logs=Completeness(status="missing", reason=NO_ROW),
        spans=Completeness(status="missing", reason="no collector is set"),
        requests=Completeness(status="complete"),
    )
    signals = build_view(fewer, score_params()).context.signals
    assert {name: each.status for name, each in signals.items()} == {
        "metrics": "complete", "logs": "empty", "spans": "not recorded", "requests": "empty", "topology": "complete",
    }  # fmt: skip
    assert signals["metrics"].rows > 0
    partial = case.record.model_copy(
        update={
            "case_id": "partial",
            "completeness": case.record.completeness | {"metrics": Completeness(status="partial", reason="x of y")},
        }
    )
    view = build_view(copied(case, partial), score_params(fault_s=0.001, baseline_s=0.001))
    assert view.context.signals["metrics"].status == "partial"
    assert (view.context.signals["logs"].status, view.context.signals["logs"].rows) == ("complete", 0)


def test_nothing_of_the_answer_and_no_name_of_a_folder(case: Case, tmp_path: Path) -> None:
    document = case.record.model_dump(mode="json")
    document["case_id"] = "cpu-stress-1"
    document["stack"]["model"] = "/data/cpu-stress-on-replica-1/falcon"
    for signal in document["completeness"].values():
        signal |= {"status": "partial", "reason": "cpu-stress-1 lost samples"}
    metrics = case.metrics.assign(source="ray-replicas-1_cpu-stress")
    telling = copied(case, CaseRecord.model_validate_json(json.dumps(document)), {"metrics": metrics})
    view = build_view(telling, score_params())
    assert view.context.model == "falcon"
    assert {each.source for each in view.context.metrics.values()} == {"data set"}
    content = pickle.dumps(view)
    for secret in ("cpu-stress", "was broken", "origin", "planted", "effective", "described", str(tmp_path)):
        assert secret.encode() not in content


def test_on_which_stack_a_case_was_recorded_is_not_in_its_view(case: Case) -> None:
    stacks = [case.record.stack.model_copy(update={"index": index}) for index in (None, 0, 123456789)]
    views = [
        pickle.dumps(build_view(copied(case, case.record.model_copy(update={"stack": stack})), score_params()))
        for stack in stacks
    ]
    assert views[0] == views[1] == views[2]


def test_what_happens_to_the_load_is_not_in_a_view(case: Case) -> None:
    shapes = [{"kind": "surge", "start_s": 0.0, "duration_s": 5.0, "factor": 2.0, "period_s": 5.0}]
    long = {"share": 0.5, "tokens": 300, "start_s": 0.0, "duration_s": 5.0}
    loads = [LOAD, LOAD | {"shapes": [], "long_prompts": None, "trace": None}, LOAD | {"shapes": shapes}]
    views = []
    for parameters in [*loads, LOAD | {"shapes": shapes, "long_prompts": long}]:
        load = case.record.load.model_copy(update={"parameters": parameters})
        views.append(
            pickle.dumps(build_view(copied(case, case.record.model_copy(update={"load": load})), score_params()))
        )
    assert len(set(views)) == 1


def test_of_a_trace_a_view_has_the_mean_rate_alone(case: Case) -> None:
    trace = {"file": "secret.csv", "format": "csv", "start_s": 7.5, "sha256": "ab" * 32}
    load = case.record.load.model_copy(update={"parameters": LOAD | {"arrival": "trace", "trace": trace}})
    view = build_view(copied(case, case.record.model_copy(update={"load": load})), score_params())
    profile = view.context.load
    assert (profile.arrival, profile.rate, profile.prompt_tokens, profile.output_tokens) == ("trace", 3.0, None, None)
    content = pickle.dumps(view)
    assert b"secret" not in content
    assert b"abab" not in content


def test_renaming_changes_the_names_only(case: Case, tmp_path: Path) -> None:
    view = build_view(case, score_params())
    other = build_view(rewritten(case, tmp_path, NAMES, seed=3), score_params())
    assert other.context.services == {NAMES[name]: facts for name, facts in view.context.services.items()}
    assert list(other.context.services) == [NAMES[name] for name in view.context.services]
    expected = [((NAMES[service], metric), facts) for (service, metric), facts in view.context.metrics.items()]
    assert list(other.context.metrics.items()) == expected
    assert (other.context.load, other.context.signals) == (view.context.load, view.context.signals)


def test_a_case_that_says_none_of_it(tmp_path: Path) -> None:
    """As older versions, and other people's data sets, wrote them."""
    context = build_view(synthetic_case(tmp_path), score_params()).context
    assert (context.model, context.engine, context.rate_window_s, context.versions) == (None, None, None, {})
    assert context.load.rate is context.load.request_timeout_s is None
    assert {facts.cpu_cores for facts in context.services.values()} == {None}
    assert all(facts.hosts for facts in context.services.values())
    assert ServiceFacts() == ServiceFacts(**Limits().model_dump())
    assert Sampling() == Sampling(step_s=None)


@pytest.mark.parametrize(
    ("versions", "safe"),
    [
        ({"vllm": "0.11.2", "cuda": "v13.0"}, {"cuda": "v13.0", "vllm": "0.11.2"}),
        ({"importer": "nezha 1", "origin": "2022-08-22 03:53:54", "baseline": "420 s"}, {}),
        ({"vllm": "0.11 with cpu-stress", "ray": "cartservice", "torch": ""}, {}),
    ],
)
def test_versions_that_a_view_may_show(versions: dict[str, str], safe: dict[str, str]) -> None:
    assert safe_versions(versions) == safe
