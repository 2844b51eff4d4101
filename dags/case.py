"""``case``: one attempt at one case on a stack that is free. ``campaign`` starts it; by hand it needs a folder."""

from __future__ import annotations

from functools import partial

from airflow.sdk import dag, get_current_context, teardown

from rcarena_dags.campaign_tasks import clear_the_way, judge, remove_attempt, token
from rcarena_dags.form import case_form
from rcarena_dags.pods import LABEL, PARTNER_TIMEOUT_S, StepPod
from rcarena_dags.settings import hold_s, retries, settings

FOLDER = f"{settings().mount}/{{{{ params.workspace }}}}"
PLACE = ["--params", f"{FOLDER}/params.yaml", "--workspace", FOLDER]
ATTEMPT = "{{ params.attempt or token(run_id) }}"
LABELS = {
    f"{LABEL}/campaign": "{{ params.name }}",
    f"{LABEL}/run": "{{ params.run or token(run_id) }}",
    f"{LABEL}/case": "{{ params.case }}",
    f"{LABEL}/attempt": ATTEMPT,
}
FINISHED = 99

Pod = partial(StepPod, labels=LABELS)


def step(name: str, *options: str) -> list[str]:
    """Return the arguments of a part of the attempt; all find the stack that the first has claimed for it."""
    return ["step", name, "{{ params.case }}", *options, *PLACE]


@dag(
    schedule=None,
    catchup=False,
    max_active_runs=settings().stacks,
    default_args=retries(2),
    params=case_form(),
    user_defined_macros={"token": token},
    tags=["rcarena"],
    doc_md=__doc__,
)
def case() -> None:
    @teardown(on_failure_fail_dagrun=True)
    def verdict() -> None:
        judge(get_current_context(), ["verify"])

    attempt = ["--attempt", ATTEMPT]
    together = [*attempt, "--partner-timeout", str(PARTNER_TIMEOUT_S)]
    stack = Pod(
        task_id="stack",
        step="stack",
        arguments=step("claim", *attempt, "--hold", str(hold_s())),
        skip_on_exit_code=FINISHED,
        pre_execute=clear_the_way,
    )
    prepare = Pod(
        task_id="prepare",
        step="prepare",
        arguments=step("prepare", *attempt),
        skip_on_exit_code=FINISHED,
    )
    load = Pod(task_id="load", step="load", arguments=step("load", *together))
    inject = Pod(task_id="inject", step="inject", arguments=step("inject", *together))
    export = Pod(task_id="export", step="export", arguments=step("export", *attempt))
    verify = Pod(task_id="verify", step="verify", arguments=step("verify", *attempt), pre_execute=remove_attempt)

    stack >> prepare >> [load, inject] >> export >> verify.as_teardown(on_failure_fail_dagrun=True) >> verdict()


case()
