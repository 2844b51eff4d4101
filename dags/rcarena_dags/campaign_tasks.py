"""What the DAGs do besides starting pods: plan, start a run of ``case`` per case, end the cases, judge a run."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from rcarena_dags.form import campaign_form, document, remediation_document
from rcarena_dags.pods import HOPELESS_KEY, LABEL, delete_pods, earlier_attempts, labels_of, remove_pods
from rcarena_dags.settings import settings, use_repository

if TYPE_CHECKING:
    from airflow.sdk import Context

    from tasks.params import Params

logger = logging.getLogger(__name__)

CAMPAIGN_DAG = "campaign"
CASE_DAG = "case"
CASES_TASK = "cases"
MAKE_TASK = "make"
BATCHES_TASK = "batches"
WAITING = frozenset({"running", "deferred", "queued", "scheduled"})
LIVE_STEPS = "(deploy,stack,prepare,load,inject,export)"
CASE_STEPS = "(prepare,load,inject,export)"
CASE_TASKS = ("stack", "prepare", "load", "inject", "export", "verify")
RUN_IDS_PER_QUESTION = 100
MOST_CASES = 1024
CASES_END_TIMEOUT_S = 900


def token(run_id: str) -> str:
    """Return ``run_id`` as a word that labels, folders and run ids may hold."""
    return hashlib.sha256(run_id.encode()).hexdigest()[:10]


def case_ids(form: Mapping[str, Any]) -> list[str]:
    """Return the cases of the campaign that need a stack: a pure function of the form and of the files it names.

    Raises:
        AirflowFailException: parameters that cannot be used; the message names each key.
    """
    params, cases = _planned(form)
    from tasks.backends import find

    if find(params.deploy.backend).makes_cases():
        return []

    stacks = params.deploy.stack_count
    if stacks > settings().stacks:
        raise AirflowFailException(f"deploy.stacks: must be at most RCARENA_STACKS={settings().stacks} (got {stacks})")
    seconds = params.campaign.windows.total_s
    if seconds > (settings().case_minutes - 10) * 60:
        raise AirflowFailException(
            f"a case of {seconds:g} s does not fit into RCARENA_CASE_MINUTES={settings().case_minutes} less 10"
        )
    if len(cases) > MOST_CASES:
        raise AirflowFailException(f"{len(cases)} cases: one run can have {MOST_CASES} (core.max_map_length)")
    return cases


def case_batches(form: Mapping[str, Any]) -> list[list[str]]:
    """Return the cases that are computed, in batches of a pod each. Raises AirflowFailException as ``case_ids``."""
    params, cases = _planned(form)
    return _batches(params, cases, 1)


def episode_batches(form: Mapping[str, Any]) -> list[list[str]]:
    """Return the cases of the experiment with actions, in batches of a pod each; a case has a run per policy.

    Raises:
        AirflowFailException: parameters that cannot be used, or a backend whose cases are not computed.
    """
    params, cases = _planned(form, remediation_document)
    found = _batches(params, cases, len(params.remediate.policies))
    if not found:
        raise AirflowFailException(
            f"deploy.backend: {params.deploy.backend} needs a stack for its cases; this DAG acts on computed ones only"
        )
    return found


def _batches(params: Params, cases: list[str], runs: int) -> list[list[str]]:
    from tasks.campaign.batches import batches

    found = batches(params, cases, runs)
    if len(found) > MOST_CASES:
        raise AirflowFailException(
            f"{len(cases)} cases in {len(found)} pods: one run can have {MOST_CASES} (core.max_map_length); a larger "
            "campaign.cases_per_pod makes fewer"
        )
    return found


def _planned(form: Mapping[str, Any], means: Document | None = None) -> tuple[Params, list[str]]:
    params = _checked(form, means)
    from tasks.campaign.plan import plan_campaign

    cases = [plan.case_id for plan in plan_campaign(params)]
    if not cases:
        raise AirflowFailException("the campaign has no case: no fault, and fault_free_cases is 0")
    return params, cases


def method_names(form: Mapping[str, Any]) -> list[str]:
    """Return the methods of the campaign. Raises AirflowFailException as ``case_ids``."""
    return list(_checked(form).score.methods)


Document = Callable[[Mapping[str, Any]], dict[str, Any]]
"""Returns the parameters that a form means."""


def _checked(form: Mapping[str, Any], means: Document | None = None) -> Params:
    use_repository()
    from tasks.errors import ParamsError
    from tasks.params import validated

    try:
        return validated((means or document)(form), "the form")
    except ParamsError as error:
        raise AirflowFailException(str(error)) from error


class CaseRun(TriggerDagRunOperator):
    """A run of ``case`` for ``case_id``. Every try is a fresh attempt: a run id and a folder of its own."""

    def __init__(self, *, case_id: str, **kwargs: Any) -> None:
        super().__init__(trigger_dag_id=CASE_DAG, fail_when_dag_is_paused=True, **kwargs)
        self.case_id = case_id

    def execute(self, context: Context) -> None:
        ti, form, run_id = context["ti"], context["params"], context["run_id"]
        self.trigger_run_id = case_run_id(run_id, self.case_id, ti.try_number)
        self.conf = {
            "name": form["name"],
            "workspace": form["workspace"] or form["name"],
            "case": self.case_id,
            "attempt": f"{token(run_id)}-{ti.try_number}",
            "run": token(run_id),
            "asked_by": {"dag_id": ti.dag_id, "run_id": run_id, "map_index": ti.map_index},
        }
        super().execute(context)

    def execute_complete(self, context: Context, event: tuple[str, dict[str, Any]]) -> None:
        """Judge the run. Raises AirflowException: it failed; AirflowFailException: and a fresh attempt is no use."""
        try:
            super().execute_complete(context, event)
        except AirflowException as error:
            found = context["ti"].xcom_pull(
                dag_id=CASE_DAG, run_id=self.trigger_run_id, task_ids=CASE_TASKS, key=HOPELESS_KEY
            )
            if why := next(filter(None, found), None):
                raise AirflowFailException(f"{error}\n{why}") from error
            raise


def case_run_id(run_id: str, case_id: str, try_number: int) -> str:
    return f"{case_id}.{token(run_id)}.{try_number}"


class CampaignRun(TriggerDagRunOperator):
    """A run of ``campaign`` with the form of this run and ``changes`` to it. A second try goes on in its folder."""

    def __init__(self, *, changes: dict[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(
            trigger_dag_id=CAMPAIGN_DAG,
            wait_for_completion=True,
            deferrable=True,
            fail_when_dag_is_paused=True,
            **kwargs,
        )
        self.changes = changes or {}

    def execute(self, context: Context) -> None:
        ti, form = context["ti"], {**context["params"], **self.changes}
        self.conf = {key: form[key] for key in campaign_form() if key in form}
        self.conf["workspace"] = folder_of(form["name"], context["dag_run"].run_after)
        self.trigger_run_id = f"{form['name']}.{token(context['run_id'])}.{ti.try_number}"
        super().execute(context)


def folder_of(name: str, moment: datetime) -> str:
    """Return the folder of a campaign that is repeated: one per run, so that every run records cases of its own."""
    return f"{name}-{moment:%Y%m%d-%H%M%S}"


def still_wanted(context: Context) -> None:
    """Fail if the campaign that asked for this case waits no more: it was stopped while the case was queued."""
    asked_by = context["params"]["asked_by"]
    if asked_by is None:
        return
    states = context["ti"].get_task_states(
        dag_id=asked_by["dag_id"],
        task_ids=[CASES_TASK],
        map_index=asked_by["map_index"],
        run_ids=[asked_by["run_id"]],
    )
    found = states.get(asked_by["run_id"], {})
    if not WAITING & {str(state) for state in found.values()}:
        raise AirflowFailException(f"the campaign does not wait for this case: {found or 'no such task'}")


def clear_the_way(context: Context) -> None:
    """Check that the case is still wanted, and remove pods of earlier attempts at it.

    With one stack a case runs at a time: then those of all others, too.
    """
    still_wanted(context)
    others = f",{earlier_attempts(context)}" if settings().stacks > 1 else ""
    remove_pods(f"{LABEL}/step in {CASE_STEPS}{others}")  # not the task's own: this runs again when it comes back


def remove_attempt(context: Context) -> None:
    """Remove the pods of this attempt before the check for residue, whatever became of their tasks.

    One that cannot be ended (its node is gone) does not keep the residue from being undone.
    """
    try:
        remove_pods(f"{labels_of(context)},{LABEL}/step in {LIVE_STEPS}")
    except AirflowException as error:
        logger.error("going on: %s", error)


def remove_rest(context: Context) -> None:
    """Remove pods of the campaign that are left because the API failed or a worker died when they ended."""
    remove_pods(f"{LABEL}/run={token(context['run_id'])}")


def end_cases(context: Context) -> None:
    """End the pods of this campaign's cases, and wait until its runs of ``case`` are over.

    Those that do not end do not keep the stack up: what is left then is told by ``verdict``.
    """
    ti, run_id = context["ti"], context["run_id"]
    planned = ti.xcom_pull(task_ids="plan") or []
    tries = range(1, settings().case_retries + 6)  # clearing adds some
    run_ids = [case_run_id(run_id, case_id, each) for case_id in planned for each in tries]
    selector = f"{LABEL}/run={token(run_id)},{LABEL}/step in {LIVE_STEPS}"
    deadline = time.monotonic() + CASES_END_TIMEOUT_S
    while (pods := delete_pods(selector)) or _running(ti, run_ids):
        if time.monotonic() > deadline:
            logger.error("going on although pods or runs of %s do not end: %s", CASE_DAG, ", ".join(pods) or "runs")
            return
        time.sleep(5)


def _running(ti: Any, run_ids: list[str]) -> bool:
    """Say whether a run is running. A queued one does not count: ``still_wanted`` ends it before it acts."""
    chunks = (run_ids[start : start + RUN_IDS_PER_QUESTION] for start in range(0, len(run_ids), RUN_IDS_PER_QUESTION))
    return any(ti.get_dr_count(CASE_DAG, run_ids=chunk, states=["running"]) for chunk in chunks)


def skip_unless(wanted: bool, why: str) -> None:
    if not wanted:
        raise AirflowSkipException(why)


def judge(context: Context, needed: Iterable[str], may_miss: int | None = None) -> None:
    """Fail unless each of ``needed`` has succeeded. A run whose leaves were skipped would else count as a success.

    ``may_miss``: of the cases that were tried, how many may have failed; of a batch that failed all count.

    Raises:
        AirflowFailException: the states of those that have not.
    """
    ti, names = context["ti"], sorted(needed)
    found = ti.get_task_states(dag_id=ti.dag_id, task_ids=names, run_ids=[context["run_id"]])
    states = found.get(context["run_id"], {})
    wrong = [f"{each} is {states.get(each)}" for each in names if states.get(each) != "success"]
    if may_miss is not None:
        failed = _failed_cases(context)
        if failed > may_miss:
            wrong.append(f"{failed} cases were not recorded (may_miss is {may_miss})")
    if wrong:
        raise AirflowFailException(", ".join(wrong))


def _failed_cases(context: Context) -> int:
    ti = context["ti"]
    batches = made_in(context)
    found = ti.get_task_states(dag_id=ti.dag_id, task_ids=[CASES_TASK, MAKE_TASK], run_ids=[context["run_id"]])
    failed = 0
    for name, state in found.get(context["run_id"], {}).items():
        if state in ("success", "skipped"):
            continue
        task, _, index = name.rpartition("_")  # of a mapped task
        failed += len(batches[int(index)]) if task == MAKE_TASK else 1
    return failed


def made_in(context: Context) -> list[list[str]]:
    """Return the batches of cases that this run computes; none: its cases need a stack."""
    return context["ti"].xcom_pull(task_ids=BATCHES_TASK) or []
