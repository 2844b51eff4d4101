"""``campaign``: one campaign on the stack, from its plan to its record. See docs/airflow.md."""

from __future__ import annotations

from functools import partial

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import TriggerRule, dag, get_current_context, setup, task, teardown

from rcarena_dags.campaign_tasks import (
    CASES_TASK,
    MAKE_TASK,
    CaseRun,
    case_batches,
    case_ids,
    end_cases,
    judge,
    made_in,
    method_names,
    remove_rest,
    skip_unless,
    token,
)
from rcarena_dags.form import campaign_form, document
from rcarena_dags.pods import LABEL, MakePod, ScorePod, StepPod
from rcarena_dags.settings import POOL, hold_s, retries, settings

FOLDER = f"{settings().mount}/{{{{ params.workspace or params.name }}}}"
FILE = f"{FOLDER}/params{{{{ '.dry-run' if params.dry_run else '' }}}}.yaml"
PLACE = ["--params", FILE, "--workspace", FOLDER]
LABELS = {f"{LABEL}/campaign": "{{ params.name }}", f"{LABEL}/run": "{{ token(run_id) }}"}
DOWN = ["deploy", "{{ 'release' if params.keep_stack else 'down' }}"]

Pod = partial(StepPod, labels=LABELS)


@dag(
    schedule=None,
    catchup=False,
    max_active_runs=1,
    default_args=retries(2),
    params=campaign_form(),
    user_defined_macros={"document": document, "token": token},
    tags=["rcarena"],
    doc_md=__doc__,
)
def campaign() -> None:
    @task
    def plan() -> list[str]:
        return case_ids(get_current_context()["params"])

    @task
    def batches() -> list[list[str]]:
        return case_batches(get_current_context()["params"])

    @task
    def methods() -> list[str]:
        return method_names(get_current_context()["params"])

    @setup
    def lease() -> None:
        """Mark the point after which the stack must be taken down, whatever happens."""
        skip_unless(not get_current_context()["params"]["dry_run"], "dry run: the stack is not touched")
        skip_unless(not made_in(get_current_context()), "the cases are computed: there is no stack")

    @teardown(on_failure_fail_dagrun=True)
    def verdict() -> None:
        params = get_current_context()["params"]
        last = ["record" if params["record"] else "report"]
        down = [] if made_in(get_current_context()) else ["teardown"]
        remove_rest(get_current_context())
        judge(
            get_current_context(),
            ["preflight"] if params["dry_run"] else [*last, *down],
            may_miss=params["may_miss"],
        )

    planned, batched = plan(), batches()
    settle = "{{ '--no-settle' if params.dry_run else '--settle' }}"
    configure = Pod(
        task_id="configure",
        step="configure",
        arguments=[
            *("params", "resolve", "--override", "{{ document(params) | tojson }}", "--out", FILE),
            *(settle, "--workspace", FOLDER),
        ],
    )
    preflight = Pod(task_id="preflight", step="preflight", arguments=["preflight", *PLACE], pool=POOL)
    leased = lease()
    deploy = Pod(
        task_id="deploy", step="deploy", arguments=["deploy", "up", "--hold", str(hold_s()), *PLACE], pool=POOL
    )
    cases = CaseRun.partial(
        task_id=CASES_TASK,
        pool=POOL,
        wait_for_completion=True,
        deferrable=True,
        poke_interval=settings().poll_s,
        **retries(settings().case_retries),
        map_index_template="{{ task.case_id }}",
    ).expand(case_id=planned)
    made = MakePod.partial(
        task_id=MAKE_TASK,
        labels=LABELS,
        arguments=PLACE,
        pre_execute=lambda context: skip_unless(not context["params"]["dry_run"], "dry run: no case is made"),
        map_index_template="{{ task.batch }}",
    ).expand(batch=batched)
    down = Pod(task_id="teardown", step="teardown", arguments=[*DOWN, *PLACE], pool=POOL, pre_execute=end_cases)
    recorded = EmptyOperator(task_id="recorded", trigger_rule=TriggerRule.ALL_DONE_MIN_ONE_SUCCESS)
    computed = EmptyOperator(task_id="computed", trigger_rule=TriggerRule.ALL_DONE_MIN_ONE_SUCCESS)
    collected = EmptyOperator(task_id="collected", trigger_rule=TriggerRule.ONE_SUCCESS)
    score = ScorePod.partial(
        task_id="score",
        labels=LABELS,
        arguments=["score", *PLACE],
        **retries(2),
        map_index_template="{{ task.method }}",
    ).expand(method=methods())
    aggregate = Pod(task_id="aggregate", step="aggregate", arguments=["score", *PLACE])
    report = Pod(task_id="report", step="report", arguments=["report", *PLACE])
    record = Pod(
        task_id="record",
        step="record",
        arguments=["record", "--allow-missing", *settings().results_options, *settings().publish_options, *PLACE],
        pre_execute=lambda context: skip_unless(context["params"]["record"], "record is off"),
    )

    [planned, batched] >> configure >> preflight >> leased >> deploy >> cases >> recorded
    preflight >> made >> computed
    [recorded, computed] >> collected
    collected >> score >> aggregate >> report >> record
    cases >> down.as_teardown(setups=leased, on_failure_fail_dagrun=True)
    [record, down] >> verdict()


campaign()
