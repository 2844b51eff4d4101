"""``diagnose``: what broke in a stack that runs, and why; by hand, or by whoever starts runs when an alert fires.

The pod's log has the diagnosis; the page and the recorded incident are in the folder ``incidents`` of the workspace. A
run whose last task is skipped found nothing significant.
"""

from __future__ import annotations

from functools import partial

from airflow.sdk import dag

from rcarena_dags.campaign_tasks import token
from rcarena_dags.form import diagnose_document, diagnose_form
from rcarena_dags.pods import LABEL, StepPod
from rcarena_dags.settings import retries, settings

FOLDER = f"{settings().mount}/{{{{ params.workspace or params.name }}}}"
FILE = f"{FOLDER}/diagnose.yaml"
WINDOW = "{{ '--at=' ~ params.at if params.at else '--since=' ~ params.since }}"
NOTHING = 4

Pod = partial(StepPod, labels={f"{LABEL}/campaign": "{{ params.name }}", f"{LABEL}/run": "{{ token(run_id) }}"})


@dag(
    schedule=None,
    catchup=False,
    max_active_runs=1,
    default_args=retries(1),
    params=diagnose_form(),
    user_defined_macros={"document": diagnose_document, "token": token},
    tags=["rcarena"],
    doc_md=__doc__,
)
def diagnose() -> None:
    configure = Pod(
        task_id="configure",
        step="configure",
        arguments=["params", "resolve", "--override", "{{ document(params) | tojson }}", "--out", FILE],
    )
    answer = Pod(
        task_id="diagnose",
        step="diagnose",
        arguments=["diagnose", WINDOW, "--params", FILE, "--workspace", FOLDER],
        skip_on_exit_code=NOTHING,
    )
    configure >> answer


diagnose()
