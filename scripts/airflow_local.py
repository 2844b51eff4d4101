#!/usr/bin/env python3
"""Airflow on this machine: `make airflow`, `make airflow-down`.

    scripts/airflow_local.py up [--home DIR] [--port N] [--emulate]
    scripts/airflow_local.py down [--home DIR]

Everything is below the home folder (.airflow): database, logs, login, workspaces. With a kubeconfig (KUBECONFIG
or ~/.kube/config) pods run on its cluster; without one, or with --emulate, in the emulated pod API as processes of this
machine (scripts/pod_api.py), where the local backend needs root.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BIN = ROOT / ".venv-airflow" / "bin"
TASKS_BIN = ROOT / ".venv" / "bin"
MOUNT = "/workspace"
POOL = "rcarena_stack"
READY_TIMEOUT_S = 600
STOP_TIMEOUT_S = 120
PRELOAD = '''"""Imported by every component: tasks are forked from the scheduler and find these modules there."""
import airflow.providers.cncf.kubernetes.operators.pod
import airflow.providers.standard.operators.trigger_dagrun
'''


class AirflowError(RuntimeError):
    """Airflow cannot be started; the message says why and what to do."""


@dataclass(frozen=True)
class Home:
    """The folder of one Airflow."""

    path: Path

    @property
    def workspaces(self) -> Path:
        return self.path / "workspace"

    @property
    def kubeconfig(self) -> Path:
        return self.path / "kubeconfig"

    @property
    def passwords(self) -> Path:
        return self.path / "passwords.json"

    def secret(self, name: str, make: Callable[[], str]) -> str:
        """The secret called ``name``, made when there is none."""
        file = self.path / "secrets" / name
        if not file.exists():
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
                opened.write(make())
        return file.read_text()

    def log(self, name: str) -> Path:
        return self.path / f"{name}.log"


def up(home: Home, port: int, emulate: bool) -> None:
    """Start what does not run yet, wait until the DAGs are there, print URL and login."""
    if not (BIN / "airflow").exists():
        raise AirflowError("Airflow is not installed: run scripts/setup airflow")
    home.workspaces.mkdir(parents=True, exist_ok=True)
    cluster = None if emulate else _users_kubeconfig()
    kubeconfig = cluster or _start_pod_api(home)
    password = _login(home)
    port = _running_port(home) or port
    if not _is_alive(home, "airflow"):
        (home.path / "config").mkdir(exist_ok=True)
        (home.path / "config" / "airflow_local_settings.py").write_text(PRELOAD)
        (home.path / "port").write_text(str(port))
        environment = _environment(home, port, kubeconfig, emulated=cluster is None)
        _start(home, "airflow", [str(BIN / "airflow"), "standalone"], environment)
    url = f"http://127.0.0.1:{port}"
    _await_ready(home, url)
    _create_pool(url, password)
    print(f"Airflow:  {url}\nlogin:    admin / {password}")
    print(f"pods:     {'this machine (emulated pod API)' if cluster is None else f'the cluster of {cluster}'}")
    print(f"files:    {home.path}\nDAGs are paused: unpause `campaign` and `case`, then trigger `campaign`.")
    if cluster is None and os.geteuid() != 0:
        print("Without root the local stack cannot be deployed: use `sudo make airflow`, or trigger with dry_run.")


def down(home: Home) -> None:
    """End Airflow, then the pods, then stacks that they left on this machine."""
    on_cluster = _is_alive(home, "airflow") and not _is_alive(home, "pod-api")
    _stop(home, "airflow")
    _stop(home, "pod-api")
    for params in sorted(home.workspaces.glob("*/params.yaml")):
        place = ["--params", str(params), "--workspace", str(params.parent)]
        if (params.parent / "stack").exists():
            subprocess.run([TASKS_BIN / "rcarena", "deploy", "down", *place], check=False)
    print("Airflow is down")
    if on_cluster:
        print("What its runs left on the cluster is still there: `make airflow` goes on with them.")


def _users_kubeconfig() -> Path | None:
    named = os.environ.get("KUBECONFIG", "").split(os.pathsep)[0]
    path = Path(named) if named else Path.home() / ".kube" / "config"
    if named and not path.exists():
        raise AirflowError(f"KUBECONFIG: {path} does not exist; unset it to use the emulated pod API")
    return path if path.exists() else None


def _start_pod_api(home: Home) -> Path:
    if not _is_alive(home, "pod-api"):
        home.kubeconfig.unlink(missing_ok=True)
        _prepare_results(home)
        first = os.environ.get("RCARENA_POD_PATH", str(TASKS_BIN))
        environment = {**os.environ, "PATH": f"{first}:{TASKS_BIN}:{os.environ['PATH']}:/usr/sbin:/sbin"}
        command = [sys.executable, ROOT / "scripts" / "pod_api.py", "--kubeconfig", home.kubeconfig]
        command += ["--state", home.path / "pods", "--map", f"{MOUNT}={home.workspaces}"]
        command += ["--namespace", os.environ.get("RCARENA_NAMESPACE") or "rcarena"]
        _start(home, "pod-api", [str(each) for each in command], environment)
        _until(home.kubeconfig.exists, 60, f"the pod API did not start; see {home.log('pod-api')}")
    return home.kubeconfig


def _prepare_results(home: Home) -> None:
    """A clone of this repository in which campaigns are recorded, with a folder as DVC's remote."""
    clone = home.workspaces / "results"
    if clone.exists():
        return
    staging = home.workspaces / ".results"
    subprocess.run(["rm", "-rf", staging], check=True)
    plain = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}  # of a hook
    subprocess.run(["git", "clone", "--quiet", "--", ROOT, staging], check=True, env=plain)
    remote = f"[core]\n    remote = store\n['remote \"store\"']\n    url = {home.path / 'dvc-store'}\n"
    (staging / ".dvc" / "config.local").write_text(remote)
    staging.rename(clone)


def _environment(home: Home, port: int, kubeconfig: Path, *, emulated: bool) -> dict[str, str]:
    url = f"http://127.0.0.1:{port}"
    fernet = home.secret("fernet", lambda: base64.urlsafe_b64encode(secrets.token_bytes(32)).decode())
    settings = {
        "CORE__DAGS_FOLDER": ROOT / "dags",
        "CORE__LOAD_EXAMPLES": False,
        "CORE__EXECUTOR": "LocalExecutor",
        "CORE__PARALLELISM": 8,
        "CORE__DAGS_ARE_PAUSED_AT_CREATION": True,
        "CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
        "CORE__FERNET_KEY": fernet,
        "CORE__SIMPLE_AUTH_MANAGER_USERS": "admin:admin",
        "CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": home.passwords,
        "API__HOST": "127.0.0.1",
        "API__PORT": port,
        "API__BASE_URL": url,
        "API__WORKERS": 1,
        "API__SECRET_KEY": home.secret("session", lambda: secrets.token_hex(32)),
        "API_AUTH__JWT_SECRET": home.secret("jwt", lambda: secrets.token_hex(32)),
        "DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home.path}/airflow.db",
        "DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": 60,
        "WORKERS__EXECUTION_API_TIMEOUT": 60,  # a laptop under load answers late
        "LOGGING__BASE_LOG_FOLDER": home.path / "logs",
        "LOGGING__WORKER_LOG_SERVER_PORT": port + 1,
        "LOGGING__TRIGGER_LOG_SERVER_PORT": port + 2,
    }
    environment = {key: value for key, value in os.environ.items() if not key.startswith("AIRFLOW")}
    environment |= {f"AIRFLOW__{key}": str(value) for key, value in settings.items()}
    environment |= {"AIRFLOW_HOME": str(home.path), "KUBECONFIG": str(kubeconfig), "NO_COLOR": "1"}
    environment["PATH"] = f"{BIN}:{os.environ['PATH']}"
    if emulated:
        environment = {"RCARENA_DEFERRABLE": "false", "RCARENA_POLL_S": "2", **environment}
    return environment


def _login(home: Home) -> str:
    password = home.secret("password", lambda: secrets.token_urlsafe(9))
    if not home.passwords.exists():
        with os.fdopen(os.open(home.passwords, os.O_WRONLY | os.O_CREAT, 0o600), "w") as opened:
            json.dump({"admin": password}, opened)
    return password


def _await_ready(home: Home, url: str) -> None:
    def ready() -> bool:
        if not _is_alive(home, "airflow"):
            raise AirflowError(f"Airflow ended; see {home.log('airflow')}")
        with contextlib.suppress(OSError):
            health = _request("GET", f"{url}/api/v2/monitor/health")
            return all(
                (health.get(part) or {}).get("status") == "healthy"
                for part in ("metadatabase", "scheduler", "triggerer", "dag_processor")
            )
        return False

    _until(ready, READY_TIMEOUT_S, f"Airflow is not ready after {READY_TIMEOUT_S} s; see {home.log('airflow')}")


def _create_pool(url: str, password: str) -> None:
    """Create the pool, or give it its size: a slot per stack."""
    token = _request("POST", f"{url}/auth/token", {"username": "admin", "password": password})["access_token"]
    slots = int(os.environ.get("RCARENA_STACKS") or 1)
    pool = {"name": POOL, "slots": slots, "description": "Who may change a stack", "include_deferred": True}
    try:
        try:
            _request("POST", f"{url}/api/v2/pools", pool, token)
        except urllib.error.HTTPError as error:
            if error.code != 409:
                raise
            _request("PATCH", f"{url}/api/v2/pools/{POOL}?update_mask=slots", {"slots": slots}, token)
    except urllib.error.HTTPError as error:
        raise AirflowError(f"the pool cannot be created: {error.read().decode()}") from error


def _request(method: str, url: str, body: Mapping[str, Any] | None = None, token: str = "") -> Any:
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {token}"} if token else {})}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, method=method, data=data, headers=headers)  # noqa: S310 (our own http URL)
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 (as above)
        return json.load(answer)


def _start(home: Home, name: str, command: list[str], environment: Mapping[str, str]) -> None:
    """In a session of its own, so that one signal reaches all of it."""
    with home.log(name).open("ab") as log:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    identity = {"pid": process.pid, "started": _start_time(process.pid)}
    (home.path / f"{name}.pid").write_text(json.dumps(identity))


def _stop(home: Home, name: str) -> bool:
    """False when it did not run."""
    if not _is_alive(home, name):
        return False
    pid = json.loads((home.path / f"{name}.pid").read_text())["pid"]
    # Airflow's launcher ends its components on SIGINT; a scheduler that is signalled itself ends its tasks.
    os.killpg(pid, signal.SIGTERM)
    with contextlib.suppress(AirflowError):
        _until(lambda: not _group_lives(pid), STOP_TIMEOUT_S, "")
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    (home.path / f"{name}.pid").unlink(missing_ok=True)
    return True


def _is_alive(home: Home, name: str) -> bool:
    try:
        identity = json.loads((home.path / f"{name}.pid").read_text())
    except (OSError, ValueError):
        return False
    return identity["started"] is not None and _start_time(identity["pid"]) == identity["started"]


def _running_port(home: Home) -> int | None:
    return int((home.path / "port").read_text()) if _is_alive(home, "airflow") else None


def _start_time(pid: int) -> str | None:
    """Together with the id it names one process for ever."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def _group_lives(group: int) -> bool:
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = entry.read_text().rpartition(")")[2].split()
            if fields[2] == str(group) and fields[0] != "Z":
                return True
    return False


def _until(condition: Callable[[], bool], timeout_s: float, problem: str) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            raise AirflowError(problem)
        time.sleep(0.5)


def main() -> int:
    parser = argparse.ArgumentParser(description="Airflow on this machine.")
    parser.add_argument("action", choices=["up", "down"])
    parser.add_argument("--home", type=Path, default=ROOT / ".airflow")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--emulate", action="store_true", help="the emulated pod API, also if there is a kubeconfig")
    given = parser.parse_args()
    home = Home(given.home.resolve())
    home.path.mkdir(parents=True, exist_ok=True)
    try:
        if given.action == "up":
            up(home, given.port, given.emulate)
        else:
            down(home)
    except AirflowError as error:
        print(f"airflow: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
