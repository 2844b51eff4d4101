"""The pods of the live steps: ``StepPod`` says what they have in common.

A pod calls ``rcarena`` with the campaign's parameters and workspace and is judged by its exit status. Its labels name
campaign, run, case, attempt and step; clean-up finds it by them, whoever started it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException
from kubernetes.client import models as k8s
from urllib3.exceptions import HTTPError

from rcarena_dags.parameters import cost_of
from rcarena_dags.settings import Settings, retries, settings

if TYPE_CHECKING:
    from airflow.sdk import Context

LABEL = "rcarena.io"
GRACE_S = 90
"""Time from SIGTERM to SIGKILL, enough to undo a fault and to end a load."""
PARTNER_TIMEOUT_S = 600
HOPELESS = 2
"""Exit status of a command whose next try would end the same way: wrong parameters, a fault that cannot be had."""
HOPELESS_KEY = "hopeless"
"""XCom of a task that ended so: why."""
KILLED = 128
"""Exit statuses from here on say that a signal ended the command."""
UNTIL_GONE_S = GRACE_S + 60
API_PAUSES_S = (2, 5, 10, 20, 30)


@dataclass(frozen=True)
class Step:
    """``account``: ServiceAccount ``rcarena-<account>``; ``minutes``: limit of a try; ``long``: worth a deferral.

    ``only_if_lost``: a pod that was lost (killed, evicted, its task forgotten) is tried again, a command that failed by
    itself is not.
    """

    account: str
    minutes: int
    cpu: str = "500m"
    memory: str = "1Gi"
    retries: int = 2
    long: bool = False
    only_if_lost: bool = False


def _steps(chosen: Settings) -> dict[str, Step]:
    return {
        "configure": Step("score", 15),
        "preflight": Step("deploy", 15),
        "deploy": Step("deploy", 90, memory="2Gi", retries=1, long=True),
        "stack": Step("deploy", 90, memory="2Gi", retries=1),
        # The parts of an attempt are not repeated one by one: the whole case is, as a fresh attempt. A second try of
        # load and inject waits on with the pod of the first; a new pod takes over only what has not begun.
        "prepare": Step("inject", 20, retries=0),
        "load": Step("load", chosen.case_minutes, cpu="2", memory="2Gi", long=True, only_if_lost=True),
        "inject": Step("inject", chosen.case_minutes, long=True, only_if_lost=True),
        "export": Step("export", 60, cpu="1", memory="4Gi"),
        "verify": Step("inject", 20, memory="2Gi", retries=1),
        "make": Step("export", 240, cpu="1", memory="4Gi", long=True),
        "episodes": Step("export", 240, cpu="1", memory="4Gi", long=True),
        "score-cheap": Step("score", 120, cpu="1", memory="4Gi", long=True),
        "score-moderate": Step("score", 240, cpu="2", memory="8Gi", long=True),
        "score-expensive": Step("score", 720, cpu="4", memory="16Gi", long=True),
        "aggregate": Step("score", 240, cpu="2", memory="8Gi", long=True),
        "report": Step("score", 60, cpu="1", memory="4Gi"),
        "performance": Step("score", 30),
        "diagnose": Step("export", 60, cpu="2", memory="4Gi", long=True),
        "record": Step("record", 120, cpu="1", memory="4Gi", retries=3),
        "compare": Step("record", 60, cpu="1", memory="4Gi", retries=0),
        "teardown": Step("deploy", 45, memory="2Gi", retries=3),
    }


class StepPod(KubernetesPodOperator):
    """``rcarena ARGUMENTS`` in a pod of the kind ``step``."""

    def __init__(
        self, *, step: str, arguments: Sequence[str], labels: dict[str, str] | None = None, **kwargs: Any
    ) -> None:
        chosen = settings()
        kind = _steps(chosen)[step]
        deferrable = chosen.deferrable and kind.long
        on_gpu_node = step in chosen.gpu_steps
        limits = {"cpu": kind.cpu, "memory": kind.memory}
        common: dict[str, Any] = {
            "kubernetes_conn_id": chosen.connection,
            "namespace": chosen.namespace,
            "name": f"rcarena-{step}",
            "image": chosen.image,
            "image_pull_policy": chosen.image_pull_policy,
            "service_account_name": f"rcarena-{kind.account}",
            "container_resources": k8s.V1ResourceRequirements(requests=limits, limits={"memory": kind.memory}),
            "node_selector": chosen.gpu_node_selector if on_gpu_node else chosen.node_selector,
            "tolerations": list(chosen.tolerations + (chosen.gpu_tolerations if on_gpu_node else ())),
            "volumes": [_workspace_volume(chosen)],
            "volume_mounts": [k8s.V1VolumeMount(name="workspace", mount_path=chosen.mount)],
            "env_from": [
                k8s.V1EnvFromSource(secret_ref=k8s.V1SecretEnvSource(name=secret)) for secret in chosen.secrets
            ],
            "security_context": k8s.V1PodSecurityContext(
                fs_group=10001, run_as_non_root=True, seccomp_profile=k8s.V1SeccompProfile(type="RuntimeDefault")
            ),
            "container_security_context": k8s.V1SecurityContext(
                allow_privilege_escalation=False, capabilities=k8s.V1Capabilities(drop=["ALL"])
            ),
            "do_xcom_push": False,
            "deferrable": deferrable,
            "poll_interval": chosen.poll_s,
            "logging_interval": 60 if deferrable else None,
            "startup_check_interval_seconds": min(5, chosen.poll_s),
            "schedule_timeout_seconds": 900,
            "startup_timeout_seconds": 900,
            "active_deadline_seconds": kind.minutes * 60,
            "execution_timeout": timedelta(minutes=kind.minutes + 20),
            "termination_grace_period": GRACE_S,
            "on_finish_action": "delete_pod",
            "on_kill_action": "delete_pod",
            "log_events_on_failure": True,
            "log_pod_spec_on_failure": False,
            **retries(kind.retries),
        }
        given = {name: value for name, value in kwargs.items() if value is not None}  # mapping fills in None
        super().__init__(
            arguments=list(arguments),
            labels={"app.kubernetes.io/part-of": "rcarena", f"{LABEL}/step": step, **(labels or {})},
            **{**common, **given},
        )
        self.only_if_lost = kind.only_if_lost

    def cleanup(
        self,
        pod: k8s.V1Pod,
        remote_pod: k8s.V1Pod,
        xcom_result: dict[str, Any] | None = None,
        context: Context | None = None,
    ) -> None:
        """Delete the pod. Raises AirflowException: it failed; AirflowFailException: and another try is no use."""
        try:
            super().cleanup(pod, remote_pod, xcom_result, context)
        except AirflowSkipException:
            raise
        except AirflowException as error:
            status = _exit_status(remote_pod, self.base_container_name)
            if status == HOPELESS or (self.only_if_lost and status is not None and status < KILLED):
                why = f"{self.task_id}: exit status {status}: another try would end the same way"
                if status == HOPELESS and context is not None:
                    context["ti"].xcom_push(key=HOPELESS_KEY, value=why)
                raise AirflowFailException(f"{error}\n{why}") from error
            raise


def _exit_status(pod: k8s.V1Pod, container: str) -> int | None:
    for each in (pod.status and pod.status.container_statuses) or ():
        if each.name == container and each.state and each.state.terminated:
            return int(each.state.terminated.exit_code)
    return None


class MakePod(StepPod):
    """A batch of cases that are computed, one after the other; to be mapped over batches."""

    def __init__(self, *, batch: Sequence[str], arguments: Sequence[str], **kwargs: Any) -> None:
        super().__init__(step="make", arguments=["step", "make", *batch, *arguments], **kwargs)
        self.batch = f"{len(batch)} cases from {batch[0]}"


class EpisodePod(StepPod):
    """A batch of cases of the experiment with actions, under every policy; to be mapped over batches."""

    def __init__(self, *, batch: Sequence[str], arguments: Sequence[str], **kwargs: Any) -> None:
        chosen = [word for case in batch for word in ("--case", case)]
        super().__init__(step="episodes", arguments=["remediate", *chosen, *arguments], **kwargs)
        self.batch = f"{len(batch)} cases from {batch[0]}"


class ScorePod(StepPod):
    """Rankings of one method, in a pod as large as its cost class needs; to be mapped over methods."""

    def __init__(self, *, method: str, arguments: Sequence[str], **kwargs: Any) -> None:
        step = f"score-{cost_of(method)}"
        workers = _steps(settings())[step].cpu
        super().__init__(step=step, arguments=[*arguments, "--workers", workers, "--only", method], **kwargs)
        self.method = method


def _workspace_volume(chosen: Settings) -> k8s.V1Volume:
    claim = k8s.V1PersistentVolumeClaimVolumeSource(claim_name=chosen.claim)
    return k8s.V1Volume(name="workspace", persistent_volume_claim=claim)


def remove_pods(selector: str) -> None:
    """Delete every pod with these labels and wait until none is left; each has ``GRACE_S`` to undo what it did.

    Raises:
        AirflowException: some are still there.
    """
    pods = _Pods()
    deadline = time.monotonic() + UNTIL_GONE_S
    while names := pods.delete(selector):
        if time.monotonic() > deadline:
            raise AirflowException(f"pods that do not go away: {', '.join(names)}")
        time.sleep(2)


def delete_pods(selector: str) -> list[str]:
    """Ask every pod with these labels to end, without waiting; return the names of those that are there."""
    return _Pods().delete(selector)


class _Pods:
    def __init__(self) -> None:
        from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook

        self._client = KubernetesHook(conn_id=settings().connection).core_v1_client
        self._asked: set[str] = set()

    def delete(self, selector: str) -> list[str]:
        from kubernetes.client.exceptions import ApiException

        found = self._listed(selector)
        names = sorted(pod.metadata.name for pod in found)
        for name in names:
            if name in self._asked:
                continue
            try:
                self._client.delete_namespaced_pod(name, settings().namespace, grace_period_seconds=GRACE_S)
            except ApiException as error:
                if error.status != 404:
                    raise
            self._asked.add(name)
        return names

    def _listed(self, selector: str) -> list[k8s.V1Pod]:
        """List the pods, asking again after a failure of the API that may pass."""
        from kubernetes.client.exceptions import ApiException

        for pause_s in (*API_PAUSES_S, None):
            try:
                return self._client.list_namespaced_pod(settings().namespace, label_selector=selector).items
            except (ApiException, OSError, HTTPError) as error:
                if pause_s is None or getattr(error, "status", 500) in (401, 403):
                    raise
                time.sleep(pause_s)
        raise AssertionError


def labels_of(context: Context) -> str:
    """Return the selector of the pods of the attempt of this run of ``case``."""
    return ",".join(f"{LABEL}/{key}={_label(context, key)}" for key in ("run", "case", "attempt"))


def earlier_attempts(context: Context) -> str:
    """Return the selector of the pods of all other attempts at the case of this run."""
    return f"{LABEL}/case={_label(context, 'case')},{LABEL}/attempt!={_label(context, 'attempt')}"


def _label(context: Context, key: str) -> str:
    return str(context["task"].labels[f"{LABEL}/{key}"])
