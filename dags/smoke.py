"""``smoke``: performance without faults over settings of parallelism, one campaign each, one after the other.

The log of its last task has the table: throughput, latency and TTFT of each setting.
"""

from __future__ import annotations

from airflow.sdk import dag, get_current_context, task

from rcarena_dags.campaign_tasks import CampaignRun, folder_of, token
from rcarena_dags.form import smoke_form, sweep_changes
from rcarena_dags.pods import LABEL, StepPod
from rcarena_dags.settings import retries, settings


@dag(
    schedule=None,
    catchup=False,
    max_active_runs=1,
    params=smoke_form(),
    default_args=retries(2),
    user_defined_macros={"folder_of": folder_of, "token": token},
    tags=["rcarena"],
    doc_md=__doc__,
)
def smoke() -> None:
    @task
    def sweep() -> list[dict]:
        return sweep_changes(get_current_context()["params"])

    # `campaign` has one run at a time: the others wait in its queue.
    campaigns = CampaignRun.partial(
        task_id="campaign", poke_interval=settings().poll_s, map_index_template="{{ task.changes['name'] }}"
    ).expand(changes=sweep())
    performance = StepPod(
        task_id="performance",
        step="performance",
        arguments=["performance", f"{settings().mount}/{{{{ folder_of(params.name ~ '-*', dag_run.run_after) }}}}"],
        labels={f"{LABEL}/campaign": "{{ params.name }}", f"{LABEL}/run": "{{ token(run_id) }}"},
    )
    campaigns >> performance


smoke()
