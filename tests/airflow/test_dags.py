"""The DAGs as Airflow sees them: they load alone and fast, have the shape they promise, and render for real forms."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from fnmatch import fnmatch
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from airflow.dag_processing.dagbag import DagBag
from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import DAG, TriggerRule
from airflow.sdk.exceptions import AirflowFailException, ParamValidationError
from airflow.serialization.serialized_objects import DagSerialization
from kubernetes.client import ApiClient

from rcarena_dags import campaign_tasks
from rcarena_dags import pods as rcarena_pods
from rcarena_dags.campaign_tasks import (
    CampaignRun,
    CaseRun,
    case_batches,
    case_ids,
    case_run_id,
    folder_of,
    judge,
    method_names,
    token,
)
from rcarena_dags.form import campaign_form, document, presets, sweep_changes
from rcarena_dags.pods import GRACE_S, HOPELESS_KEY, MakePod, StepPod
from rcarena_dags.settings import POOL, Settings, SettingsError
from tasks.deploy.kubernetes.params import KubernetesDeployParams
from tasks.params import Params, validated
from tests.kubernetes.pod_security import restricted_problems

ROOT = Path(__file__).parents[2]
DAGS = ("campaign", "case", "diagnose", "nightly", "remediation", "smoke")
RUN_ID = "manual__2026-11-22T18:00:00+00:00_AbC"
MOMENT = datetime(2026, 11, 22, 18, tzinfo=UTC)
FAULTS = [{"kind": "cpu-stress", "targets": ["ray-replicas-0"], "ladder": {"workers": [1, 2]}}]
MAPPED: dict[str, dict[str, Any]] = {
    "score": {"method": "nsigma"},
    "make": {"batch": ["case-0123456789ab"]},
    "episodes": {"batch": ["case-0123456789ab"]},
}
"""What tasks that are mapped are mapped over."""

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def dags() -> dict[str, DAG]:
    bag = DagBag(str(ROOT / "dags"))
    assert bag.import_errors == {}
    return bag.dags


def form(dag: DAG, **filled: Any) -> dict[str, Any]:
    """What a run gets as ``params``: the defaults and what the user filled in, checked."""
    params = copy.deepcopy(dag.params)
    params.update(filled)
    return params.validate()


def rendered(dag: DAG, task_id: str, params: dict[str, Any], **mapped: Any) -> Any:
    task = dag.get_task(task_id)
    task = task.unmap(mapped) if task.is_mapped else task.prepare_for_execution()
    ti = SimpleNamespace(dag_id=dag.dag_id, task_id=task_id, run_id=RUN_ID, map_index=0, try_number=1, task=task)
    run = SimpleNamespace(run_id=RUN_ID, run_after=MOMENT, conf={})
    context = {"params": params, "run_id": RUN_ID, "dag": dag, "task": task, "ti": ti, "dag_run": run}
    task.render_template_fields(context)
    return task


def pods(dag: DAG) -> list[str]:
    return [task.task_id for task in dag.tasks if issubclass(getattr(task, "operator_class", type(task)), StepPod)]


def words(task: StepPod) -> str:
    return " ".join(task.arguments)


# -- loading


def test_every_dag_loads_without_network_connections_or_heavy_imports() -> None:
    code = f"""
import json, runpy, socket, sys
def refuse(*_): raise OSError("no network")
socket.socket.connect = refuse
sys.path.insert(0, {str(ROOT / "dags")!r})
for name in {DAGS!r}:
    runpy.run_path({str(ROOT / "dags")!r} + f"/{{name}}.py")
heavy = {{"pandas", "numpy", "pyarrow", "torch", "ray", "scipy", "tasks"}}
print(json.dumps(sorted(heavy & set(sys.modules))))
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == []


def test_there_are_six_dags_and_each_survives_serialization(dags: dict[str, DAG]) -> None:
    assert sorted(dags) == sorted(DAGS)
    for dag in dags.values():
        assert json.dumps(DagSerialization.to_dict(dag))
        assert dag.doc_md


# -- shape


def test_a_campaign_goes_from_its_plan_to_its_record(dags: dict[str, DAG]) -> None:
    campaign = dags["campaign"]
    chain = ["plan", "configure", "preflight", "lease", "deploy", "cases", "recorded", "collected"]
    chain += ["score", "aggregate"]
    for earlier, later in zip(chain, [*chain[1:], "report"], strict=True):
        assert later in campaign.get_task(earlier).downstream_task_ids, (earlier, later)
    assert "record" in campaign.get_task("report").downstream_task_ids
    assert campaign.max_active_runs == 1
    assert campaign.dagrun_timeout is None  # it would skip the teardown


def test_a_case_is_prepared_loaded_and_broken_at_once_exported_and_verified(dags: dict[str, DAG]) -> None:
    case = dags["case"]
    assert case.max_active_runs == 1
    assert case.get_task("stack").downstream_task_ids == {"prepare"}
    assert case.get_task("prepare").downstream_task_ids == {"load", "inject"}
    assert case.get_task("export").upstream_task_ids == {"load", "inject"}
    assert case.get_task("verify").upstream_task_ids == {"export"}


def test_what_cleans_up_runs_whatever_happened_and_its_failure_shows(dags: dict[str, DAG]) -> None:
    down, verify = dags["campaign"].get_task("teardown"), dags["case"].get_task("verify")
    assert {task.task_id for task in dags["campaign"].tasks if task.is_setup} == {"lease"}
    assert "lease" in down.upstream_task_ids
    assert "deploy" not in {task.task_id for task in dags["campaign"].tasks if task.is_setup}
    verdicts = [dags[name].get_task("verdict") for name in ("campaign", "case")]
    for task in (down, verify, *verdicts):
        assert task.is_teardown
        assert task.on_failure_fail_dagrun
        assert task.trigger_rule == TriggerRule.ALL_DONE_SETUP_SUCCESS
    for task in verdicts:
        assert task.downstream_task_ids == set()
    assert {"record", "teardown"} <= verdicts[0].upstream_task_ids


def test_a_campaign_goes_on_with_the_cases_that_were_saved(dags: dict[str, DAG]) -> None:
    campaign = dags["campaign"]
    for task_id, upstream in (("recorded", "cases"), ("computed", "make")):
        task = campaign.get_task(task_id)
        assert (task.upstream_task_ids, task.trigger_rule) == ({upstream}, TriggerRule.ALL_DONE_MIN_ONE_SUCCESS)
    collected = campaign.get_task("collected")
    assert collected.upstream_task_ids == {"recorded", "computed"}
    assert collected.trigger_rule == TriggerRule.ONE_SUCCESS  # the other branch is skipped
    cases = campaign.get_task("cases")
    assert cases.operator_class is CaseRun
    assert cases.partial_kwargs["deferrable"]
    assert cases.retries >= 1


def test_who_changes_the_stack_takes_the_pool(dags: dict[str, DAG]) -> None:
    campaign = dags["campaign"]
    assert {task.task_id for task in campaign.tasks if task.pool == POOL} == {
        *("preflight", "deploy", "cases", "teardown")
    }


def test_no_pod_is_orphaned_and_none_runs_for_ever(dags: dict[str, DAG]) -> None:
    accounts = set()
    for dag in dags.values():
        for task_id in pods(dag):
            task = dag.get_task(task_id)
            pod = task.unmap(MAPPED[task_id]) if task.is_mapped else task
            accounts.add(pod.service_account_name)
            assert (pod.on_finish_action.value, pod.on_kill_action.value) == ("delete_pod", "delete_pod")
            assert not pod.do_xcom_push
            assert pod.active_deadline_seconds < pod.execution_timeout.total_seconds()
            assert pod.termination_grace_period == GRACE_S
            assert pod.container_resources.requests["memory"] == pod.container_resources.limits["memory"]
            assert not pod.env_vars
            assert pod.labels["rcarena.io/step"]
    assert accounts == {f"rcarena-{name}" for name in ("deploy", "load", "inject", "export", "score", "record")}


def test_every_pod_satisfies_the_restricted_profile(dags: dict[str, DAG], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StepPod, "hook", SimpleNamespace(is_in_cluster=True))
    for dag in dags.values():
        for task_id in pods(dag):
            task = dag.get_task(task_id)
            pod = (task.unmap(MAPPED[task_id]) if task.is_mapped else task).build_pod_request_obj()
            spec = ApiClient().sanitize_for_serialization(pod.spec)
            assert spec["containers"][0]["name"] == "base"
            assert restricted_problems(spec) == [], task_id


def test_a_worker_does_not_wait_for_long_pods(dags: dict[str, DAG]) -> None:
    case = dags["case"]
    deferrable = {name for name in pods(case) if case.get_task(name).deferrable}
    assert deferrable == {"load", "inject"}
    assert dags["campaign"].get_task("deploy").deferrable
    assert not dags["campaign"].get_task("preflight").deferrable


@pytest.mark.parametrize(
    ("place", "status", "again"),
    [
        *[(("campaign", "deploy"), status, again) for status, again in ((1, True), (2, False), (137, True))],
        *[(("case", "load"), status, again) for status, again in ((1, False), (2, False), (137, True), (143, True))],
    ],
)
def test_a_step_that_cannot_succeed_is_not_tried_again(
    dags: dict[str, DAG], monkeypatch: pytest.MonkeyPatch, place: tuple[str, str], status: int, again: bool
) -> None:
    from airflow.sdk.exceptions import AirflowException, AirflowFailException
    from kubernetes.client import models as k8s

    task = dags[place[0]].get_task(place[1])
    asking = ("is_istio_enabled", "patch_already_checked", "process_pod_deletion")
    for name in (*asking, "_read_pod_container_states", "_read_pod_events"):
        monkeypatch.setattr(StepPod, name, lambda *_, **__: None)
    ended = k8s.V1ContainerState(terminated=k8s.V1ContainerStateTerminated(exit_code=status))
    container = k8s.V1ContainerStatus(
        name=task.base_container_name, state=ended, image="x", image_id="x", ready=False, restart_count=0
    )
    pod = k8s.V1Pod(
        metadata=k8s.V1ObjectMeta(name="some-pod"),
        spec=k8s.V1PodSpec(containers=[]),
        status=k8s.V1PodStatus(phase="Failed", container_statuses=[container]),
    )
    ti = Ti({})
    with pytest.raises(AirflowException) as caught:
        task.cleanup(pod, pod, context={"ti": ti})
    assert isinstance(caught.value, AirflowFailException) is not again
    told = [f"{place[1]}: exit status 2: another try would end the same way"] if status == 2 else []
    assert list(ti.pushed.values()) == told


@pytest.mark.parametrize("hopeless", [True, False])
def test_a_case_that_cannot_succeed_has_no_second_attempt(dags: dict[str, DAG], hopeless: bool) -> None:
    from airflow.sdk.exceptions import AirflowException, AirflowFailException

    ti = Ti({}, said={("case", "a-run", "inject"): "no such service"} if hopeless else {})
    cases = dags["campaign"].get_task("cases").unmap({"case_id": "case-0123456789ab"})
    ended = ("a.path", {"run_ids": ["a-run"], "a-run": "failed"})
    with pytest.raises(AirflowException, match="no such service" if hopeless else "failed with") as caught:
        cases.execute_complete({"ti": ti}, ended)
    assert isinstance(caught.value, AirflowFailException) is hopeless
    cases.execute_complete({"ti": ti}, ("a.path", {"run_ids": ["a-run"], "a-run": "success"}))


def test_the_tasks_that_may_refuse_a_case_are_those_of_its_run(dags: dict[str, DAG]) -> None:
    assert set(campaign_tasks.CASE_TASKS) == set(pods(dags["case"]))


def test_parts_of_an_attempt_are_not_repeated_alone(dags: dict[str, DAG]) -> None:
    case = dags["case"]
    assert case.get_task("prepare").retries == 0
    assert all(case.get_task(name).only_if_lost for name in ("load", "inject"))
    for name in ("load", "inject", "export", "verify"):
        task = case.get_task(name)
        assert task.retries > 0
        assert task.retry_exponential_backoff


def test_a_night_compares_after_its_campaign_and_tells_of_failures(dags: dict[str, DAG]) -> None:
    nightly = dags["nightly"]
    assert nightly.get_task("compare").upstream_task_ids == {"campaign"}
    assert not nightly.catchup
    assert nightly.timetable.expression == "30 1 * * *"
    for task in nightly.tasks:
        assert task.has_on_failure_callback
    assert nightly.get_task("campaign").trigger_dag_id == "campaign"


# -- rendering


@pytest.mark.parametrize("filled", [{}, {"faults": FAULTS, "repetitions": 3, "keep_stack": True}, {"dry_run": True}])
def test_every_pod_of_a_campaign_renders(dags: dict[str, DAG], filled: dict[str, Any]) -> None:
    campaign = dags["campaign"]
    params = form(campaign, name="some-name", **filled)
    for task_id in pods(campaign):
        task = rendered(campaign, task_id, params, **MAPPED.get(task_id, {}))
        assert "{" not in re.sub(r"--override \{.*\} --out", "", words(task)), task_id
        assert "--workspace /workspace/some-name" in words(task)
        assert task.labels["rcarena.io/campaign"] == "some-name"
        assert task.labels["rcarena.io/run"] == token(RUN_ID)
        for value in task.labels.values():
            assert re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?", value)


def test_the_form_reaches_the_parameters(dags: dict[str, DAG]) -> None:
    filled = {
        "faults": FAULTS,
        "repetitions": 3,
        "windows": {"fault_s": 60},
        "load_rate": 7.5,
        "replicas": 2,
        "profile": "llm",
        "methods": ["nsigma", "causalrca"],
        "seed": 7,
        "fault_free_cases": 0,
    }
    task = rendered(dags["campaign"], "configure", form(dags["campaign"], name="named", **filled))
    override = task.arguments[task.arguments.index("--override") + 1]
    params = validated(json.loads(override), "test")
    assert params.campaign.name == "named"
    assert (params.campaign.repetitions, params.campaign.seed, params.campaign.fault_free_cases) == (3, 7, 0)
    assert (params.campaign.windows.fault_s, params.campaign.windows.warmup_s) == (60, 5)
    assert [fault.model_dump(mode="json", exclude_defaults=True) for fault in params.inject.faults] == FAULTS
    assert (params.load.rate, params.deploy.replicas) == (7.5, 2)
    assert (params.score.profile, params.score.methods) == ("llm", ("nsigma", "causalrca"))


def test_targets_narrow_the_faults(dags: dict[str, DAG]) -> None:
    from tasks.errors import ParamsError

    campaign = dags["campaign"]
    narrowed = validated(document(form(campaign, targets=["ray-replicas-1"])), "test")
    assert {fault.targets for fault in narrowed.inject.faults} == {("ray-replicas-1",)}
    assert [fault.kind for fault in narrowed.inject.faults] == ["memory-stress", "accelerator-throttle"]
    with pytest.raises(ParamsError, match=r"targets: no fault has gateway \(they have nginx-proxy, ray-head, "):
        document(form(campaign, targets=["gateway", "ray-replicas-0"]))


def test_scenarios_stay_until_the_form_chooses_faults(
    dags: dict[str, DAG], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    base["inject"]["scenarios"] = [{"name": "surge", "repetitions": 2, "load": {"rate": 9}}]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(base), encoding="utf-8")
    chosen = Settings(params_file=tmp_path / "params.yaml")
    monkeypatch.setattr("rcarena_dags.form.settings", lambda: chosen)
    campaign = dags["campaign"]

    def cases(**filled: Any) -> int:
        return len(case_ids(form(campaign, fault_free_cases=1, **filled)))

    assert cases() == 11
    assert cases(faults=[]) == 1
    assert cases(faults=FAULTS) == 3
    assert cases(targets=["ray-head"]) == 3
    assert cases(load_rate=7) == 11


def test_the_form_proposes_what_there_is() -> None:
    fields = {key: param.schema for key, param in campaign_form().items()}
    assert {"nsigma", "causalrca"} <= set(fields["methods"]["examples"])
    assert "ray-replicas-0" in fields["targets"]["examples"]


def simulated(**campaign: Any) -> dict[str, Any]:
    """Parameters of a campaign whose cases are computed: 40 of them."""
    base = yaml.safe_load((ROOT / "presets" / "simulated.yaml").read_text(encoding="utf-8"))
    base["campaign"] |= {"fault_free_cases": 36, **campaign}
    base["inject"] = {"faults": [{"kind": "process-freeze", "targets": ["ray-replicas-0"], "ladder": {}}]}
    base["campaign"]["repetitions"] = 4
    return base


def test_cases_that_are_computed_go_in_batches_and_take_no_stack(
    dags: dict[str, DAG], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(simulated(cases_per_pod=16)), encoding="utf-8")
    monkeypatch.setattr("rcarena_dags.form.settings", lambda: Settings(params_file=tmp_path / "params.yaml"))
    campaign = dags["campaign"]
    batches = case_batches(form(campaign))
    assert [len(batch) for batch in batches] == [16, 16, 8]
    assert case_ids(form(campaign)) == []
    assert [len(batch) for batch in case_batches(form(campaign, cases_per_pod=39))] == [39, 1]
    pod = rendered(campaign, "make", form(campaign, name="n"), batch=batches[2])
    assert isinstance(pod, MakePod)
    assert words(pod) == f"step make {' '.join(batches[2])} --params /workspace/n/params.yaml --workspace /workspace/n"
    assert pod.batch == f"8 cases from {batches[2][0]}"
    monkeypatch.setattr(campaign_tasks, "MOST_CASES", 2)
    with pytest.raises(AirflowFailException, match=r"40 cases in 3 pods: one run can have 2 .*cases_per_pod"):
        case_batches(form(campaign))


def test_a_campaign_on_a_stack_has_no_batches(dags: dict[str, DAG]) -> None:
    campaign = dags["campaign"]
    assert case_batches(form(campaign)) == []
    with pytest.raises(AirflowFailException, match=r"campaign\.cases_per_pod: must be 1 with the backend local"):
        case_ids(form(campaign, cases_per_pod=5))


def test_a_dry_run_changes_nothing_and_a_kept_stack_loses_its_faults_only(dags: dict[str, DAG]) -> None:
    campaign = dags["campaign"]
    dry = words(rendered(campaign, "configure", form(campaign, dry_run=True)))
    assert "--no-settle" in dry
    assert "--out /workspace/by-hand/params.dry-run.yaml" in dry
    ends = [words(rendered(campaign, "teardown", form(campaign, keep_stack=keep))) for keep in (False, True)]
    assert ends[0].startswith("deploy down --params")
    assert ends[1].startswith("deploy release --params")


def test_a_method_gets_a_pod_as_large_as_it_needs(dags: dict[str, DAG]) -> None:
    campaign = dags["campaign"]
    params = form(campaign)
    cheap, expensive = (rendered(campaign, "score", params, method=each) for each in ("nsigma", "causalrca"))
    assert words(expensive).endswith("--workers 4 --only causalrca")
    assert cheap.labels["rcarena.io/step"] == "score-cheap"
    assert int(expensive.container_resources.requests["cpu"]) > int(cheap.container_resources.requests["cpu"])


def test_every_pod_of_a_case_renders_and_is_tied_to_it(dags: dict[str, DAG]) -> None:
    case = dags["case"]
    given = {"name": "n", "workspace": "w", "case": "case-0123456789ab", "run": "abc", "attempt": "abc-2"}
    for task_id in pods(case):
        task = rendered(case, task_id, form(case, **given))
        name = "claim" if task_id == "stack" else task_id
        assert words(task).startswith(f"step {name} case-0123456789ab --attempt abc-2 ")
        assert words(task).endswith("--params /workspace/w/params.yaml --workspace /workspace/w")
        labels = {key.removeprefix("rcarena.io/"): value for key, value in task.labels.items()}
        assert labels.items() >= {"case": given["case"], "run": "abc", "attempt": "abc-2", "step": task_id}.items()
    by_hand = rendered(case, "load", form(case, workspace="w", case="case-0123456789ab"))
    assert f"--attempt {token(RUN_ID)}" in words(by_hand)


def test_a_night_has_a_folder_of_its_own_and_compares_there(dags: dict[str, DAG]) -> None:
    compare = rendered(dags["nightly"], "compare", form(dags["nightly"]))
    assert "--workspace /workspace/nightly-20261122-180000" in words(compare)
    assert "--gate" in compare.arguments


def test_a_sweep_ends_with_the_performance_of_its_settings(dags: dict[str, DAG]) -> None:
    smoke = dags["smoke"]
    assert smoke.get_task("performance").upstream_task_ids == {"campaign"}
    task = rendered(smoke, "performance", form(smoke, name="sizes"))
    assert task.arguments == ["performance", "/workspace/sizes-*-20261122-180000"]
    (changes, *_) = sweep_changes(form(smoke, name="sizes"))
    assert fnmatch(f"/workspace/{folder_of(changes['name'], MOMENT)}", task.arguments[1])


# -- runs of other DAGs


def conf_of(operator: Any, params: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> tuple[str, dict[str, Any]]:
    monkeypatch.setattr(TriggerDagRunOperator, "execute", lambda *_: None)
    ti = SimpleNamespace(dag_id="campaign", map_index=4, try_number=2)
    run = SimpleNamespace(run_after=MOMENT)
    operator.execute({"ti": ti, "params": params, "run_id": RUN_ID, "dag_run": run})
    return operator.trigger_run_id, operator.conf


def test_every_try_of_a_case_is_a_fresh_attempt(dags: dict[str, DAG], monkeypatch: pytest.MonkeyPatch) -> None:
    task = dags["campaign"].get_task("cases").unmap({"case_id": "case-0123456789ab"})
    run_id, conf = conf_of(task, form(dags["campaign"]), monkeypatch)
    assert run_id == f"case-0123456789ab.{token(RUN_ID)}.2"
    assert conf["attempt"] == f"{token(RUN_ID)}-2"
    assert conf["asked_by"] == {"dag_id": "campaign", "run_id": RUN_ID, "map_index": 4}
    form(dags["case"], **conf)


def test_nightly_and_smoke_fill_the_form_of_a_campaign(dags: dict[str, DAG], monkeypatch: pytest.MonkeyPatch) -> None:
    night = CampaignRun(task_id="x")
    _, conf = conf_of(night, form(dags["nightly"], faults=FAULTS), monkeypatch)
    assert conf["workspace"] == "nightly-20261122-180000"
    assert conf["faults"] == FAULTS
    form(dags["campaign"], **conf)
    assert "targets" not in dags["smoke"].params
    for changes in sweep_changes(form(dags["smoke"])):
        _, conf = conf_of(CampaignRun(task_id="x", changes=changes), form(dags["smoke"]), monkeypatch)
        assert conf["faults"] == []
        assert conf["replicas"] == changes["replicas"]
        assert case_ids(form(dags["campaign"], **conf))


# -- the end of a run


class Ti:
    """What the ends of runs ask a task instance: states of tasks, how many runs of ``case`` there are, and what tasks
    of other runs said: (DAG, run, task) -> text."""

    dag_id = "campaign"

    def __init__(
        self,
        states: dict[str, str],
        running: set[str] | None = None,
        planned: list[Any] | None = None,
        said: dict[tuple[str, str, str], str] | None = None,
    ):
        self.states, self.running, self.planned, self.said = states, running or set(), planned or [], said or {}
        self.questions: list[int] = []
        self.pushed: dict[str, Any] = {}

    def get_task_states(self, task_ids: list[str], **_: Any) -> dict[str, dict[str, str]]:
        mine = {each: state for each, state in self.states.items() if re.sub(r"_\d+$", "", each) in task_ids}
        return {RUN_ID: mine}

    def get_dr_count(self, _: str, run_ids: list[str], states: list[str]) -> int:
        assert states == ["running"]
        self.questions.append(len(run_ids))
        return len(self.running & set(run_ids))

    def xcom_pull(self, task_ids: Any, dag_id: str = "", run_id: str = "", key: str = "") -> list[Any]:
        if key == HOPELESS_KEY:
            return [self.said.get((dag_id, run_id, each)) for each in task_ids]
        return self.planned

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed[key] = value


def test_a_run_without_some_of_its_cases_is_red() -> None:
    from airflow.sdk.exceptions import AirflowFailException

    states = {"record": "success", "teardown": "success", "cases_0": "success", "cases_1": "failed"}
    context = {"ti": Ti(states), "run_id": RUN_ID}
    with pytest.raises(AirflowFailException, match=r"1 cases were not recorded \(may_miss is 0\)"):
        judge(context, ["record", "teardown"], may_miss=0)
    judge(context, ["record", "teardown"], may_miss=1)
    with pytest.raises(AirflowFailException, match="report is None"):
        judge(context, ["report"], may_miss=9)


def test_of_a_batch_that_failed_every_case_counts_as_missing() -> None:
    batches = [["case-0", "case-1"], ["case-2", "case-3", "case-4"]]
    ti = Ti({"record": "success", "make_0": "success", "make_1": "failed", "cases": "skipped"}, planned=batches)
    with pytest.raises(AirflowFailException, match=r"^3 cases were not recorded \(may_miss is 2\)$"):
        judge({"ti": ti, "run_id": RUN_ID}, ["record"], may_miss=2)
    judge({"ti": ti, "run_id": RUN_ID}, ["record"], may_miss=3)


def test_what_does_not_end_does_not_keep_the_stack_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10_000, 100))
    monkeypatch.setattr(campaign_tasks, "delete_pods", lambda _: ["stuck"])
    monkeypatch.setattr(campaign_tasks, "remove_pods", raise_stuck)
    monkeypatch.setattr(campaign_tasks, "time", SimpleNamespace(monotonic=lambda: next(clock), sleep=lambda _: None))
    campaign_tasks.end_cases({"ti": Ti({}, planned=["case-0123456789ab"]), "run_id": RUN_ID})
    labels = {f"rcarena.io/{key}": "x" for key in ("run", "case", "attempt")}
    campaign_tasks.remove_attempt({"task": SimpleNamespace(labels=labels)})


def raise_stuck(_: str) -> None:
    from airflow.sdk.exceptions import AirflowException

    raise AirflowException("pods that do not go away: stuck")


def test_who_cleans_up_asks_an_api_in_trouble_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from kubernetes.client.exceptions import ApiException

    answers: list[Any] = [ApiException(status=500), OSError("reset"), SimpleNamespace(items=[])]

    def listed(*_: Any, **__: Any) -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(rcarena_pods, "API_PAUSES_S", (0, 0))
    pods_of = rcarena_pods._Pods.__new__(rcarena_pods._Pods)
    pods_of._client, pods_of._asked = SimpleNamespace(list_namespaced_pod=listed), set()
    assert pods_of.delete("x=y") == []
    answers.append(ApiException(status=403))
    with pytest.raises(ApiException, match="403"):
        pods_of.delete("x=y")


def test_the_end_of_many_cases_is_asked_for_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    planned = [f"case-{number:012x}" for number in range(1000)]
    ti = Ti({}, running={case_run_id(RUN_ID, planned[-1], 1)}, planned=planned)
    monkeypatch.setattr(campaign_tasks, "delete_pods", lambda _: [])
    monkeypatch.setattr(
        campaign_tasks, "time", SimpleNamespace(monotonic=lambda: 0.0, sleep=lambda _: ti.running.clear())
    )
    campaign_tasks.end_cases({"ti": ti, "run_id": RUN_ID})
    assert max(ti.questions) <= 100
    assert sum(ti.questions) > len(planned)


def test_more_cases_than_a_run_can_map_are_refused(dags: dict[str, DAG]) -> None:
    from airflow.sdk.exceptions import AirflowFailException

    with pytest.raises(AirflowFailException, match="one run can have 1024"):
        case_ids(form(dags["campaign"], repetitions=1000))


def test_more_stacks_than_the_installation_has_are_refused_before_anything_is_deployed(
    dags: dict[str, DAG], monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow.sdk.exceptions import AirflowFailException

    monkeypatch.setattr(campaign_tasks, "document", lambda form: document(form) | {"deploy": several})
    filled = form(dags["campaign"], preset="kubernetes-gpu")
    several = document(filled)["deploy"] | {"stacks": 2}
    with pytest.raises(AirflowFailException, match=r"deploy\.stacks: must be at most RCARENA_STACKS=1 \(got 2\)"):
        case_ids(filled)
    monkeypatch.setattr(campaign_tasks, "settings", lambda: Settings(stacks=2))
    assert case_ids(filled)


def test_as_many_cases_run_as_there_are_stacks(tmp_path: Path) -> None:
    code = "import runpy, sys; sys.path.insert(0, sys.argv[1]); print(runpy.run_path(sys.argv[1] + '/case.py')"
    code += "['case']().max_active_runs)"
    command = [sys.executable, "-W", "ignore", "-c", code, str(ROOT / "dags")]
    for stacks in (1, 3):
        environment = {**os.environ, "RCARENA_STACKS": str(stacks)}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert done.stdout.splitlines()[-1:] == [str(stacks)], done.stderr


@pytest.mark.parametrize(
    ("stacks", "removed"),
    [
        (1, "rcarena.io/step in (prepare,load,inject,export)"),
        (
            2,
            "rcarena.io/step in (prepare,load,inject,export),rcarena.io/case=case-0123456789ab,"
            "rcarena.io/attempt!=abc-2",
        ),
    ],
)
def test_an_attempt_ends_the_pods_that_may_be_in_its_way(
    monkeypatch: pytest.MonkeyPatch, stacks: int, removed: str
) -> None:
    seen: list[str] = []
    monkeypatch.setattr(campaign_tasks, "settings", lambda: Settings(stacks=stacks))
    monkeypatch.setattr(campaign_tasks, "remove_pods", seen.append)
    labels = {"rcarena.io/run": "r", "rcarena.io/case": "case-0123456789ab", "rcarena.io/attempt": "abc-2"}
    task = SimpleNamespace(labels=labels)
    campaign_tasks.clear_the_way({"params": {"asked_by": None}, "task": task})
    assert seen == [removed]


def test_a_diagnosis_looks_at_the_window_and_the_endpoints_of_the_form(dags: dict[str, DAG]) -> None:
    diagnose = dags["diagnose"]
    elsewhere = {"scrape_interval_s": 2}
    filled = form(diagnose, name="night", endpoints=elsewhere, methods=["nsigma"])
    assert diagnose.get_task("diagnose").upstream_task_ids == {"configure"}
    assert diagnose.get_task("diagnose").skip_on_exit_code == [4]
    configure = rendered(diagnose, "configure", filled)
    written = configure.arguments[configure.arguments.index("--override") + 1]
    params = validated(json.loads(written), "the form")
    assert (params.deploy.scrape_interval_s, params.diagnose.methods) == (2, ("nsigma",))
    assert words(rendered(diagnose, "diagnose", filled)) == (
        "diagnose --since=30m --params /workspace/night/diagnose.yaml --workspace /workspace/night"
    )
    at = rendered(diagnose, "diagnose", form(diagnose, name="night", at="2026-11-29T10:00:00+00:00"))
    assert "diagnose --at=2026-11-29T10:00:00+00:00 " in words(at)
    for field, value in {"since": "soon", "at": "yesterday", "endpoints": "here", "preset": "none"}.items():
        with pytest.raises(ParamValidationError, match=field):
            form(diagnose, **{field: value})


def test_the_experiment_with_actions_goes_in_batches_and_ends_with_a_report(dags: dict[str, DAG]) -> None:
    remediation = dags["remediation"]
    chain = ["batches", "configure", "episodes", "tables", "report", "record"]
    for earlier, later in pairwise(chain):
        assert later in remediation.get_task(earlier).downstream_task_ids
    small: dict[str, Any] = {"policies": ["none", "oracle"], "repetitions": 1, "fault_free_cases": 0}
    filled = form(remediation, name="night", evidence_s=15, **small)
    configure = rendered(remediation, "configure", filled)
    params = validated(json.loads(configure.arguments[configure.arguments.index("--override") + 1]), "the form")
    assert (params.remediate.enabled, params.remediate.policies) == (True, ("none", "oracle"))
    assert (params.remediate.evidence_s, params.deploy.backend, params.campaign.name) == (15, "simulated", "night")
    found = campaign_tasks.episode_batches(filled)
    cases = [case for batch in found for case in batch]
    assert len(cases) == len(set(cases)) == 25 + 12
    assert len(campaign_tasks.episode_batches(form(remediation, **small | {"policies": None}))) > len(found)
    place = "--params /workspace/night/remediation.yaml --workspace /workspace/night"
    pod = rendered(remediation, "episodes", filled, batch=["case-0", "case-1"])
    assert words(pod) == f"remediate --case case-0 --case case-1 {place}"
    assert words(rendered(remediation, "tables", filled)) == f"remediate {place}"
    assert words(rendered(remediation, "report", filled)) == f"report {place}"
    with pytest.raises(AirflowFailException, match=r"local (needs a stack for its cases|cannot run the experiment)"):
        campaign_tasks.episode_batches(form(remediation, preset="params"))
    assert "methods" not in remediation.params
    for field, value in {"policies": ["No Policy"], "evidence_s": -1}.items():
        with pytest.raises(ParamValidationError, match=field):
            form(remediation, **{field: value})


# -- the form


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("repetitions", 0),
        ("repetitions", "three"),
        ("windows", {"fault_s": -5}),
        ("windows", {"fault": 5}),
        ("faults", [{"kind": "cpu-stress", "targets": []}]),
        ("faults", [{"targets": ["ray-head"]}]),
        ("faults", "cpu-stress"),
        ("profile", "all"),
        ("methods", []),
        ("load_rate", 0),
        ("replicas", 65),
        ("name", "Not A Name"),
        ("name", "no-label-"),
        ("workspace", "../elsewhere"),
        ("preset", "no-such-stack"),
        ("dry_run", "yes"),
    ],
)
def test_a_wrong_value_is_refused(dags: dict[str, DAG], field: str, value: Any) -> None:
    with pytest.raises(ParamValidationError, match=field):
        form(dags["campaign"], **{field: value})


def test_every_field_says_what_it_is(dags: dict[str, DAG]) -> None:
    for dag in dags.values():
        for name in dag.params:
            assert dag.params.get_param(name).description, (dag.dag_id, name)


def test_limits_are_those_of_the_parameters() -> None:
    schema = {**Params.model_json_schema()["$defs"], **KubernetesDeployParams.model_json_schema()["$defs"]}
    schema["KubernetesDeployParams"] = KubernetesDeployParams.model_json_schema()
    fields = {key: param.schema for key, param in campaign_form().items()}

    def limits(model: str, key: str) -> dict[str, Any]:
        own = schema[model]["properties"][key]
        return {name: own[name] for name in ("minimum", "maximum", "exclusiveMinimum", "pattern") if name in own}

    def given(field: dict[str, Any]) -> dict[str, Any]:
        return {name: field[name] for name in ("minimum", "maximum", "exclusiveMinimum", "pattern") if name in field}

    assert given(fields["name"]) == limits("CampaignParams", "name")
    assert given(fields["repetitions"]) == limits("CampaignParams", "repetitions")
    assert given(fields["fault_free_cases"]) == limits("CampaignParams", "fault_free_cases")
    assert given(fields["load_rate"]) == limits("LoadParams", "rate")
    assert given(fields["replicas"]) == limits("KubernetesDeployParams", "replicas")
    assert given(fields["tensor_parallel"]) == limits("Parallelism", "tensor")
    assert given(fields["pipeline_parallel"]) == limits("Parallelism", "pipeline")
    assert fields["seed"]["maximum"] == schema["CampaignParams"]["properties"]["seed"]["exclusiveMaximum"] - 1
    for key, own in fields["windows"]["properties"].items():
        assert given(own) == limits("Windows", key)


def test_every_preset_gives_valid_parameters(dags: dict[str, DAG]) -> None:
    for preset in presets():
        filled = form(dags["campaign"], preset=preset)
        validated(document(filled), preset)
        assert case_ids(filled) or case_batches(filled)
        assert method_names(filled)


def test_parameters_that_cannot_be_used_fail_with_the_key(dags: dict[str, DAG]) -> None:
    from airflow.sdk.exceptions import AirflowFailException

    with pytest.raises(AirflowFailException, match=r"deploy\.parallelism: unknown key"):
        case_ids(form(dags["campaign"], tensor_parallel=2))
    with pytest.raises(AirflowFailException, match="RCARENA_CASE_MINUTES"):
        case_ids(form(dags["campaign"], windows={"fault_s": 80_000}))


# -- settings


def test_settings_come_from_the_environment() -> None:
    chosen = Settings.from_environment(
        {
            "RCARENA_NAMESPACE": "other",
            "RCARENA_DEFERRABLE": "false",
            "RCARENA_SECRETS": '["huggingface"]',
            "RCARENA_NODE_SELECTOR": '{"pool": "cpu"}',
            "RCARENA_RESULTS_GIT_REMOTE": "origin",
        }
    )
    assert (chosen.namespace, chosen.deferrable, chosen.secrets) == ("other", False, ("huggingface",))
    assert (chosen.node_selector, chosen.results_git_remote) == ({"pool": "cpu"}, "origin")
    for wrong in ('"yes"', "no"):
        with pytest.raises(SettingsError, match="RCARENA_DEFERRABLE"):
            Settings.from_environment({"RCARENA_DEFERRABLE": wrong})


def test_the_values_of_the_chart_set_what_there_is_to_set() -> None:
    values = yaml.safe_load((ROOT / "deploy" / "airflow" / "values.yaml").read_text())
    environment = {each["name"]: each["value"] for each in values["env"]}
    ours = {name: value for name, value in environment.items() if name.startswith("RCARENA_")}
    fields = {f"RCARENA_{name.upper()}" for name in vars(Settings())}
    assert ours.keys() <= fields
    assert Settings.from_environment(ours) == Settings()
    assert f"airflow pools set {POOL} 1" in values["migrateDatabaseJob"]["args"][-1]
    documented = set(re.findall(r"RCARENA_[A-Z_]+", (ROOT / "docs" / "airflow.md").read_text()))
    assert documented == fields


def test_airflow_may_start_and_end_pods_but_not_enter_them() -> None:
    role, binding = yaml.safe_load_all((ROOT / "deploy" / "airflow" / "rbac.yaml").read_text())
    rules = {resource: set(rule["verbs"]) for rule in role["rules"] for resource in rule["resources"]}
    assert rules["pods"] >= {"get", "list", "watch", "create", "patch", "delete"}
    assert "pods/exec" not in rules
    assert role["metadata"]["namespace"] == binding["metadata"]["namespace"] == Settings().namespace
