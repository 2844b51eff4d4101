"""The notifier of failures that ``RCARENA_NOTIFIER`` names, by default the log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseNotifier
from airflow.sdk.module_loading import import_string

from rcarena_dags.settings import settings

if TYPE_CHECKING:
    from airflow.sdk import Context


TEXT = "{{ dag.dag_id }} failed in {{ ti.task_id }}, run {{ run_id }}: {{ exception }}; {{ ti.log_url }}"


class LogNotifier(BaseNotifier):
    """Writes one line into the task's log."""

    template_fields = ("text",)

    def __init__(self, text: str = TEXT) -> None:
        super().__init__()
        self.text = text

    def notify(self, context: Context) -> None:
        self.log.error(self.text)


def notifier() -> Any:
    """Return an instance of the class that the settings name, with the arguments they give.

    An import that fails shows when the DAG is parsed, not at night.
    """
    chosen = settings()
    return import_string(chosen.notifier)(**chosen.notifier_arguments)
