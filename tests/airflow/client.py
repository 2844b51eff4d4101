"""A real Airflow for tests, as ``make airflow`` starts it, and its REST API. Standard library only."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "airflow_local.py"
FINISHED = ("success", "failed")
SETTINGS = {
    "RCARENA_POD_PATH": str(ROOT / "tests" / "airflow" / "bin"),
    "RCARENA_DEFERRABLE": "true",
    "RCARENA_POLL_S": "1",
    "RCARENA_RETRY_DELAY_S": "2",
    "RCARENA_CASE_RETRIES": "5",
}
IMPATIENT = {  # what a scheduler needs to notice within a test that the one before it is gone
    "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "10",
    "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "5",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "30",
}


def in_twelve_hours() -> str:
    """Return a daily schedule that starts nothing during a test. Airflow makes a run at once where the last was due
    less than a tenth of the interval ago, whatever ``catchup`` says."""
    then = datetime.now(UTC) + timedelta(hours=12)
    return f"{then.minute} {then.hour} * * *"


class RefusedError(Exception):
    """The API said no."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status}: {text}")
        self.status, self.text = status, text


@dataclass
class LocalAirflow:
    """Airflow below ``home`` with the emulated pod API; its pods are played by ``live_steps``, unless ``settings``
    name another RCARENA_POD_PATH."""

    home: Path
    port: int
    settings: dict[str, str] = field(default_factory=dict)
    token: str = ""
    schedulers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self) -> None:
        self._script("up", {**SETTINGS, "RCARENA_NIGHTLY_CRON": in_twelve_hours(), **os.environ, **self.settings})
        password = (self.home / "secrets" / "password").read_text()
        answer = self._call("POST", "/auth/token", {"username": "admin", "password": password})
        self.token = answer["access_token"]

    def stop(self) -> None:
        for process in self.schedulers:
            process.terminate()
            process.wait(60)
        self._script("down", dict(os.environ))

    def _script(self, action: str, environment: dict[str, str]) -> None:
        command = [sys.executable, SCRIPT, action, "--home", self.home, "--port", str(self.port), "--emulate"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            log = self.home / "airflow.log"
            raise RuntimeError(f"{done.stderr}\n{log.read_text()[-4000:] if log.exists() else ''}")

    # -- the API

    def get(self, path: str) -> Any:
        return self._call("GET", f"/api/v2/{path}")

    def post(self, path: str, body: Any) -> Any:
        return self._call("POST", f"/api/v2/{path}", body)

    def patch(self, path: str, body: Any) -> Any:
        return self._call("PATCH", f"/api/v2/{path}", body)

    def unpause(self, *dags: str) -> None:
        for dag in dags:
            self.until(lambda dag=dag: self._known(dag), 300, f"{dag} is not parsed")
            self.patch(f"dags/{dag}", {"is_paused": False})

    def trigger(self, dag: str, **conf: Any) -> str:
        return self.post(f"dags/{dag}/dagRuns", {"logical_date": None, "conf": conf})["dag_run_id"]

    def run_state(self, dag: str, run: str) -> str:
        return self.get(f"dags/{dag}/dagRuns/{_quoted(run)}")["state"]

    def runs(self, dag: str) -> dict[str, str]:
        return {each["dag_run_id"]: each["state"] for each in self.get(f"dags/{dag}/dagRuns?limit=100")["dag_runs"]}

    def states(self, dag: str, run: str) -> dict[str, list[str]]:
        """Task id -> states of its instances, by map index."""
        found: dict[str, list[str]] = {}
        instances = self.get(f"dags/{dag}/dagRuns/{_quoted(run)}/taskInstances?limit=100")["task_instances"]
        for each in sorted(instances, key=lambda instance: instance["map_index"]):
            found.setdefault(each["task_id"], []).append(str(each["state"]))
        return found

    def tries(self, dag: str, run: str, task: str) -> int:
        return self.get(f"dags/{dag}/dagRuns/{_quoted(run)}/taskInstances/{task}")["try_number"]

    def started(self, dag: str, run: str) -> str:
        return self.get(f"dags/{dag}/dagRuns/{_quoted(run)}")["start_date"]

    def ended(self, dag: str, run: str) -> str:
        return self.get(f"dags/{dag}/dagRuns/{_quoted(run)}")["end_date"]

    def log(self, dag: str, run: str, task: str, number: int = 1, map_index: int = -1) -> str:
        instance = f"dags/{dag}/dagRuns/{_quoted(run)}/taskInstances/{task}"
        return json.dumps(self.get(f"{instance}/logs/{number}?map_index={map_index}&full_content=true")["content"])

    def mark_failed(self, dag: str, run: str) -> None:
        self.patch(f"dags/{dag}/dagRuns/{_quoted(run)}", {"state": "failed"})

    def kill_task(self, dag: str, run: str, task: str) -> None:
        """``kill -9`` of the process that runs this task; one that has none (deferred) is marked failed."""
        path = f"dags/{dag}/dagRuns/{_quoted(run)}/taskInstances/{task}"
        instance = self.get(path)
        if instance["state"] == "deferred":
            self.patch(path, {"new_state": "failed"})
            return
        (found,) = [each for each in _processes() if each.command == f"airflow worker -- {instance['id']}"]
        os.kill(found.pid, signal.SIGKILL)

    def restart_scheduler(self) -> None:
        """``kill -9`` of the scheduler and of every process below it; then a new one starts."""
        processes = {each.pid: each for each in _processes()}
        (old,) = [
            each for each in processes.values() if each.command.endswith("airflow scheduler") and self._owns(each)
        ]
        environment = {**_environment(old.pid), **IMPATIENT}
        doomed = {old.pid}
        while more := {each.pid for each in processes.values() if each.parent in doomed} - doomed:
            doomed |= more
        for pid in sorted(doomed):
            os.kill(pid, signal.SIGKILL)
        command = [str(Path(sys.executable).with_name("airflow")), "scheduler"]
        with (self.home / "second-scheduler.log").open("ab") as log:
            self.schedulers.append(
                subprocess.Popen(command, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
            )

    def _owns(self, process: Process) -> bool:
        return _environment(process.pid).get("AIRFLOW_HOME") == str(self.home)

    def finish(self, dag: str, run: str, seconds: float) -> str:
        """The state of the run once it is over."""
        self.until(lambda: self.run_state(dag, run) in FINISHED, seconds, f"{dag} {run} is not over")
        return self.run_state(dag, run)

    def until(self, condition: Callable[[], bool], seconds: float, problem: str) -> None:
        """Wait for the condition. A busy machine that answers one question too late is asked again."""
        end = time.monotonic() + seconds
        while True:
            with contextlib.suppress(TimeoutError):
                if condition():
                    return
            if time.monotonic() > end:
                raise TimeoutError(f"{problem} after {seconds:g} s")
            time.sleep(1)

    def _known(self, dag: str) -> bool:
        try:
            self.get(f"dags/{dag}")
        except RefusedError as error:
            if error.status != 404:
                raise
            return False
        return True

    def _call(self, method: str, path: str, body: Any = None, base: str | None = None) -> Any:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        request = urllib.request.Request(
            (base or f"http://127.0.0.1:{self.port}") + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers=headers,
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise RefusedError(error.code, error.read().decode()) from error

    # -- the pods

    @property
    def workspaces(self) -> Path:
        return self.home / "workspace"

    def pods(self, **labels: str) -> list[str]:
        """Names of pods that there are, with these labels of ours."""
        selector = ",".join(f"rcarena.io/{key}={value}" for key, value in labels.items())
        url, token = _server(self.home / "kubeconfig")
        query = urllib.parse.urlencode({"labelSelector": selector})
        namespace = self.settings.get("RCARENA_NAMESPACE", "rcarena")
        request = urllib.request.Request(f"{url}/api/v1/namespaces/{namespace}/pods?{query}")
        request.add_header("Authorization", f"Bearer {token}")
        with urllib.request.urlopen(request, timeout=30) as answer:
            return [pod["metadata"]["name"] for pod in json.load(answer)["items"]]

    def leftovers(self) -> list[str]:
        """Pods, faults and stacks that are there."""
        return [*self.pods(), *map(str, self.faults()), *map(str, self.stacks())]

    def faults(self) -> list[Path]:
        """What the played steps injected and did not undo yet."""
        return sorted(self.workspaces.glob("*/faults/*"))

    def stacks(self) -> list[Path]:
        return sorted(self.workspaces.glob("*/stack/up"))

    def records(self) -> list[str]:
        """Subjects of the commits of recorded campaigns."""
        log = ["git", "-C", self.workspaces / "results", "log", "--format=%s", "HEAD..results"]
        done = subprocess.run(log, capture_output=True, text=True, check=False)
        return done.stdout.splitlines() if done.returncode == 0 else []

    def switch(self, path: str) -> None:
        """``trouble?seconds=N`` or ``evict/NAME``."""
        url, token = _server(self.home / "kubeconfig")
        request = urllib.request.Request(f"{url}/emulated/{path}", method="POST")
        request.add_header("Authorization", f"Bearer {token}")
        with urllib.request.urlopen(request, timeout=30):
            pass

    def behave(self, campaign: str = "", **how: float | None) -> None:
        """Files for ``live_steps``: ``behave(fail_deploy_up=1)`` is ``fail-deploy-up`` with 1; None removes one."""
        folder = self.workspaces / campaign / "behave"
        folder.mkdir(parents=True, exist_ok=True)
        for name, value in how.items():
            file = folder / name.replace("_", "-")
            if value is None:
                file.unlink(missing_ok=True)
            else:
                file.write_text(str(value))


@dataclass(frozen=True)
class Process:
    pid: int
    parent: int
    command: str


def _processes() -> list[Process]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
        except OSError:
            continue
        found.append(Process(int(folder.name), int(parent), command))
    return found


def _environment(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return dict(line.split("=", 1) for line in lines if "=" in line)


def free_port() -> int:
    """Of three in a row."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return min(found.getsockname()[1], 65_000)


def _server(kubeconfig: Path) -> tuple[str, str]:
    """Address and token; the file is ours, its lines are known."""
    values = dict(line.strip(" -").split(": ", 1) for line in kubeconfig.read_text().splitlines() if ": " in line)
    return values["server"], values["token"]


def _quoted(text: str) -> str:
    return urllib.parse.quote(text, safe="")
