"""The paired experiment on a small simulated fleet: all policies see one past, and what is finished is kept."""

from __future__ import annotations

import contextlib
import json
from concurrent.futures import Future
from pathlib import Path

import pytest

from tasks.backends import backend_of
from tasks.campaign.attempt import order_of
from tasks.campaign.plan import plan_campaign
from tasks.case import Case
from tasks.deploy.errors import StackNotRunningError
from tasks.errors import ParamsError, RCArenaError
from tasks.export.base import ExportError
from tasks.inject.errors import FaultError
from tasks.params import Params
from tasks.rca.run.local_pool import LocalPool
from tasks.rca.run.pair import PairResult
from tasks.rca.run.pool import Limits, Outcome, PairJob
from tasks.remediate import experiment
from tasks.remediate.diagnosis import Diagnoser, one_worker
from tasks.remediate.experiment import run_experiment
from tasks.remediate.live import ready
from tasks.remediate.policies import remediate_problems
from tasks.remediate.stage import publish, read_tables, text
from tasks.remediate.tables import episodes, survival
from tasks.workspace import Workspace
from tests.remediate.campaign import params
from tests.score.processes import InThisProcess

UNASKED = Diagnoser(params().score, Path())
"""Of runs in which no method is asked."""


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, Params, list[dict]]:
    workspace, asked = Workspace(tmp_path_factory.mktemp("remediate")), params()
    return workspace, asked, run_experiment(asked, workspace, 1, lambda line: None)


def test_every_policy_has_every_case(done: tuple[Workspace, Params, list[dict]]):
    table = episodes(done[2])
    assert set(table.groupby("case_id")["policy"].nunique()) == {4}
    alarms = table[~table["policy"].eq("platform")].groupby("case_id")["detect_s"].nunique(dropna=False)
    assert set(alarms) == {1}
    assert set(table.groupby("case_id")["requests"].nunique()) == {1}
    assert not table["unseen"].any()
    later = table[table["lasting_s"].notna()]
    assert (later["lasting_s"] >= later["mitigate_s"]).all()


def test_an_oracle_spares_users_what_nobody_does(done: tuple[Workspace, Params, list[dict]]):
    table = episodes(done[2]).query("kind == 'accelerator-throttle'").set_index("policy")
    assert table.loc["none", "detect_s"] > 0
    assert table.loc["oracle", "bad_request_s"] < 0.6 * table.loc["none", "bad_request_s"]
    assert table.loc["oracle", "wrong"] == 0
    assert table.loc["none", "actions"] == 0
    assert table.loc["oracle", "act_s"] >= table.loc["none", "detect_s"]


def test_nothing_is_acted_on_where_nothing_is_broken(done: tuple[Workspace, Params, list[dict]]):
    table = episodes(done[2]).query("kind == 'none'")
    assert len(table) == 4
    assert table["actions"].sum() == 0


def test_what_is_finished_is_not_done_again(
    done: tuple[Workspace, Params, list[dict]], monkeypatch: pytest.MonkeyPatch
):
    workspace, asked, rows = done
    monkeypatch.setattr(experiment, "run_case", lambda *_: pytest.fail("it was done again"))
    assert run_experiment(asked, workspace, 1, lambda line: None) == rows


def test_runs_by_another_version_of_a_method_are_named(done: tuple[Workspace, Params, list[dict]]):
    workspace, asked, rows = done
    said: list[str] = []
    file = next(workspace.episodes.glob("*-table.peerwise.json"))
    now = file.read_bytes()
    file.write_text(json.dumps(json.loads(now) | {"code": "of yesterday"}))
    run_experiment(asked, workspace, 1, said.append)
    file.write_bytes(now)
    assert said[1].startswith("table:peerwise: by another version of the method;")
    assert run_experiment(asked, workspace, 1, lambda line: None) == rows


def test_the_tables_are_what_the_episodes_say(done: tuple[Workspace, Params, list[dict]]):
    workspace, asked, rows = done
    tables = publish(rows, workspace.remediation, asked.score)
    assert read_tables(workspace.remediation) == tables
    assert json.loads((workspace.remediation / "tables.json").read_text()) == tables
    none = next(row for row in tables["summary"] if row["policy"] == "none")
    assert (none["ratio"], none["gain"]) == (1.0, 0.0)
    assert "oracle" in text(tables)
    assert {row["policy"] for row in tables["harm"]} == set(asked.remediate.policies)
    part = episodes(rows).query("policy == 'oracle' and kind != 'none'")
    assert survival(part)[0] == (0.0, 1.0)


def test_policies_that_share_a_world_fare_as_alone(done: tuple[Workspace, Params, list[dict]], tmp_path: Path):
    _, asked, rows = done
    plan = next(each for each in plan_campaign(asked) if each.injections)
    Workspace(tmp_path).episodes.mkdir()
    experiment.run_case(asked, Workspace(tmp_path), plan, ["oracle"], UNASKED, str)
    (file,) = tmp_path.rglob("*-oracle.json")
    alone = json.loads(file.read_bytes())
    assert alone == next(row for row in rows if (row["case_id"], row["policy"]) == (plan.case_id, "oracle"))


def test_only_whole_cases_are_finished(done: tuple[Workspace, Params, list[dict]]):
    workspace, asked, rows = done
    more = Params.model_validate(
        asked.model_dump(mode="json")
        | {"remediate": asked.remediate.model_dump(mode="json") | {"policies": ["none", "restart-random"]}}
    )
    assert experiment.finished_rows(asked, workspace) == rows
    waits = {"policies": [*asked.remediate.policies, "table:peerwise@40"]}
    longer = Params.model_validate(
        asked.model_dump(mode="json") | {"remediate": asked.remediate.model_dump(mode="json") | waits}
    )
    assert experiment.finished_rows(longer, workspace) == rows
    assert experiment.finished_rows(more, workspace) == []


def test_a_policy_and_a_method_of_like_names_have_files_of_their_own(done: tuple[Workspace, Params, list[dict]]):
    workspace, asked, _ = done
    plan = plan_campaign(asked)[0]
    names = ("restart-random", "restart:random", "table:random@20", "table:random")
    assert len({experiment._file(workspace, plan, "k", name) for name in names}) == len(names)


def test_no_experiment_has_no_tables(tmp_path: Path):
    assert read_tables(tmp_path) is None


def test_bad_parameters_are_named():
    asked = params(policies=("table:peerwize", "none", "none"))
    first, second = remediate_problems(asked.remediate)
    assert first.startswith("remediate.policies[0]: unknown method 'peerwize'; did you mean 'peerwise'?")
    assert second == "remediate.policies: 'none' is given twice"
    assert remediate_problems(params(policies=("oracle",)).remediate) == [
        "remediate.policies: 'none' is missing; every other policy is compared with it"
    ]


def test_a_backend_without_patients_says_so():
    asked = Params.model_validate(params().model_dump(mode="json") | {"deploy": {"backend": "local", "replicas": 3}})
    with pytest.raises(ParamsError, match="`remediate` needs local or simulated"):
        backend_of(asked, Workspace(Path())).admit(None)  # type: ignore[arg-type]


def test_the_platform_is_no_policy_on_a_real_stack(tmp_path: Path):
    asked = Params.model_validate(params().model_dump(mode="json") | {"deploy": {"backend": "local", "replicas": 3}})
    assert "platform" in asked.remediate.policies
    problem = "remediate.policies: 'platform' must not be given with the backend local"
    with pytest.raises(ParamsError, match=problem), ready(asked, Workspace(tmp_path), print, keep_stack=False):
        pytest.fail("it began")


def test_an_action_that_is_not_known_is_refused():
    asked = params()
    patient = backend_of(asked, Workspace(Path())).admit(order_of(asked, plan_campaign(asked)[0]))
    with pytest.raises(RCArenaError, match="has no pray; allowed: eject,"):
        patient.act("pray", "ray-replicas-0")
    with pytest.raises(RCArenaError, match="it is no replica"):
        patient.act("eject", "ray-head")


class Held:
    """A patient that is lost as soon as it is looked at, and cannot be released."""

    fault_s = 10.0

    def __init__(self, loss: BaseException) -> None:
        self.loss = loss

    def advance(self, until_s: float) -> None:
        raise self.loss

    def release(self) -> None:
        raise FaultError("the delay is still there")


def of_one_run(monkeypatch: pytest.MonkeyPatch, loss: BaseException, place: Path) -> tuple[list[str], list[Path]]:
    said: list[str] = []
    asked, workspace = params(), Workspace(place)
    monkeypatch.setattr(experiment, "is_live", lambda _: True)
    monkeypatch.setattr(experiment, "admit", lambda *_: Held(loss))
    try:
        experiment.run_case(asked, workspace, plan_campaign(asked)[0], ["none", "oracle"], UNASKED, said.append)
    except KeyboardInterrupt:
        said.append("interrupted")
    return said, list(place.rglob("*.json"))


def test_an_interruption_ends_the_experiment_even_if_something_is_left(monkeypatch, tmp_path: Path):
    said, written = of_one_run(monkeypatch, KeyboardInterrupt(), tmp_path)
    assert [line.rpartition(": ")[2] for line in said[1:]] == ["the delay is still there", "interrupted"]
    assert not written


def test_after_an_interruption_no_worker_begins_another_case(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    class Pool:
        def __init__(self, *_: object, **__: object) -> None:
            self.given: list[Future[None]] = []

        def submit(self, *_: object) -> Future[None]:
            self.given.append(Future())
            if len(self.given) == 1:
                self.given[0].set_exception(KeyboardInterrupt())
            return self.given[-1]

        def shutdown(self, **_: object) -> None:
            assert [each.cancelled() for each in self.given] == [False, True, True]

    asked = params()
    monkeypatch.setattr(experiment, "ProcessPoolExecutor", Pool)
    todo = [(plan_campaign(asked)[0], ["none"])] * 3
    with pytest.raises(KeyboardInterrupt):
        list(experiment._each(asked, Workspace(tmp_path), todo, 2, str))


def test_a_run_that_fails_is_said_and_the_next_one_goes_on(monkeypatch, tmp_path: Path):
    said, written = of_one_run(monkeypatch, StackNotRunningError("the stack has died"), tmp_path)
    assert [line.partition("failed: ")[2] for line in said[1::2]] == ["the delay is still there"] * 2
    assert not written


def test_a_full_disk_leaves_no_patient(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    asked = params(("none",))
    plan = plan_campaign(asked)[0]
    patient = backend_of(asked, Workspace(tmp_path)).admit(order_of(asked, plan))
    released: list[bool] = []
    monkeypatch.setattr(patient, "release", lambda: released.append(True))
    monkeypatch.setattr(experiment, "admit", lambda *_: patient)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(experiment, "write_durably", full)
    with pytest.raises(OSError, match="No space left"):
        experiment.run_case(asked, Workspace(tmp_path), plan, ["none"], UNASKED)
    assert released == [True]


def test_telemetry_that_cannot_be_read_is_no_diagnosis():
    class Dark:
        now_s = 30.0

        def recording(self, directory: Path) -> Case:
            raise ExportError("prometheus: timed out")

    assert Diagnoser(params().score, Path())(Dark(), "nsigma", 20.0) is None


def test_methods_of_the_loop_have_the_limits_of_scores(tmp_path: Path):
    asked, opened = params(), []

    class Short(InThisProcess):
        """Lets the second pair need too much."""

        def __init__(self, limits: Limits) -> None:
            super().__init__(limits)
            opened.append(limits)
            self.views: list[int] = []

        def start(self, job: PairJob) -> None:
            self.views.append(job.view_number)
            super().start(job)
            if len(self.views) == 2:
                self._outcomes = [Outcome(job.case, job.name, PairResult("memory", "needed more"))]

    patient = backend_of(asked, Workspace(tmp_path)).admit(order_of(asked, plan_campaign(asked)[0]))
    patient.advance(patient.fault_s + 20)
    diagnose = Diagnoser(asked.score, tmp_path, Short)
    said = [diagnose(patient, name, patient.fault_s) for name in ("nsigma", "baro", "nsigma")]
    assert said[0] is not None
    assert said[0].scores
    assert said[1] is None
    assert said[2] is said[0]
    assert opened == [Limits(asked.score.timeout_s, asked.score.memory_mb, (str(tmp_path),))]
    patient.advance(patient.fault_s + 25)
    assert diagnose(patient, "nsigma", patient.fault_s) is not None
    pool = diagnose._pool
    assert isinstance(pool, Short)
    assert pool.views == [1, 1, 2]
    diagnose.close()


def test_methods_are_there_before_the_first_diagnosis(tmp_path: Path):
    pools: list[LocalPool] = []

    def one(limits: Limits) -> LocalPool:
        pools.append(one_worker(limits))
        return pools[-1]

    with contextlib.closing(Diagnoser(params().score, tmp_path, one)) as diagnose:
        diagnose.warm_up(["nsigma", "peerwise"])
        assert [(pool.busy, len(pool._workers)) for pool in pools] == [(0, 1)]
