"""``remediation``: each case of a campaign under each recovery policy, and what every policy spares users.

Only for cases that are computed. Finished runs of a case are kept in the folder, so that one that was stopped goes on
there; the report has the chapter.
"""

from __future__ import annotations

from functools import partial

from airflow.sdk import dag, get_current_context, task

from rcarena_dags.campaign_tasks import episode_batches, skip_unless, token
from rcarena_dags.form import remediation_document, remediation_form
from rcarena_dags.pods import LABEL, EpisodePod, StepPod
from rcarena_dags.settings import retries, settings

FOLDER = f"{settings().mount}/{{{{ params.workspace or params.name }}}}"
FILE = f"{FOLDER}/remediation.yaml"
PLACE = ["--params", FILE, "--workspace", FOLDER]
LABELS = {f"{LABEL}/campaign": "{{ params.name }}", f"{LABEL}/run": "{{ token(run_id) }}"}

Pod = partial(StepPod, labels=LABELS)


@dag(
    schedule=None,
    catchup=False,
    max_active_runs=1,
    default_args=retries(2),
    params=remediation_form(),
    user_defined_macros={"document": remediation_document, "token": token},
    tags=["rcarena"],
    doc_md=__doc__,
)
def remediation() -> None:
    @task
    def batches() -> list[list[str]]:
        return episode_batches(get_current_context()["params"])

    batched = batches()
    configure = Pod(
        task_id="configure",
        step="configure",
        arguments=[
            *("params", "resolve", "--override", "{{ document(params) | tojson }}", "--out", FILE),
            *("--workspace", FOLDER),
        ],
    )
    episodes = EpisodePod.partial(
        task_id="episodes", labels=LABELS, arguments=PLACE, map_index_template="{{ task.batch }}"
    ).expand(batch=batched)
    tables = Pod(task_id="tables", step="aggregate", arguments=["remediate", *PLACE])
    report = Pod(task_id="report", step="report", arguments=["report", *PLACE])
    record = Pod(
        task_id="record",
        step="record",
        arguments=["record", "--allow-missing", *settings().results_options, *settings().publish_options, *PLACE],
        pre_execute=lambda context: skip_unless(context["params"]["record"], "record is off"),
    )
    batched >> configure >> episodes >> tables >> report >> record


remediation()
