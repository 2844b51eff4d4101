"""``nightly``: a campaign every night, compared with the last one of its name.

Red, and somebody hears of it, when the campaign failed or when scores or the stack's own latency fell behind by more
than ``gate`` of ``params.yaml`` allows.
"""

from __future__ import annotations

from airflow.sdk import CronTriggerTimetable, dag

from rcarena_dags.campaign_tasks import CampaignRun, folder_of, token
from rcarena_dags.form import nightly_form
from rcarena_dags.notify import notifier
from rcarena_dags.pods import LABEL, StepPod
from rcarena_dags.settings import retries, settings

FOLDER = f"{settings().mount}/{{{{ folder_of(params.name, dag_run.run_after) }}}}"
PLACE = ["--params", f"{FOLDER}/params.yaml", "--workspace", FOLDER]


@dag(
    schedule=CronTriggerTimetable(settings().nightly_cron, timezone=settings().nightly_timezone),
    catchup=False,
    max_active_runs=1,
    params=nightly_form(),
    default_args={**retries(2), "on_failure_callback": notifier()},
    user_defined_macros={"folder_of": folder_of, "token": token},
    tags=["rcarena"],
    doc_md=__doc__,
)
def nightly() -> None:
    campaign = CampaignRun(task_id="campaign", poke_interval=settings().poll_s)
    compare = StepPod(
        task_id="compare",
        step="compare",
        arguments=["compare", "--gate", *settings().results_options, "--html", f"{FOLDER}/compare.html", *PLACE],
        labels={f"{LABEL}/campaign": "{{ params.name }}", f"{LABEL}/run": "{{ token(run_id) }}"},
    )
    campaign >> compare


nightly()
