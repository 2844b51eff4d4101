"""The stand-in for a cluster does what KubernetesPodOperator relies on. Runs in the environment of the commands."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scripts.pod_api import PodApi


@pytest.fixture
def api(tmp_path: Path) -> Iterator[PodApi]:
    (tmp_path / "volume").mkdir()
    served = PodApi(tmp_path / "pods", {"/workspace": str(tmp_path / "volume")})
    yield served
    served.close()


def call(api: PodApi, method: str, path: str, body: Any = None, kind: str = "application/json") -> Any:
    request = urllib.request.Request(
        api.url + path,
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": kind, "Authorization": f"Bearer {api.token}"},
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        text = answer.read().decode()
    return json.loads(text) if answer.headers["Content-Type"] == "application/json" else text


PODS = "/api/v1/namespaces/rcarena/pods"


def create(api: PodApi, name: str, *command: str, labels: dict[str, str] | None = None, **spec: Any) -> None:
    container = {"name": "base", "image": "any", "command": list(command)}
    pod = {"metadata": {"name": name, "labels": labels or {}}, "spec": {"containers": [container], **spec}}
    call(api, "POST", PODS, {"apiVersion": "v1", "kind": "Pod", **pod})


def phase(api: PodApi, name: str) -> str:
    return call(api, "GET", f"{PODS}/{name}")["status"]["phase"]


def until(api: PodApi, name: str, *phases: str, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while phase(api, name) not in phases:
        assert time.monotonic() < end, phase(api, name)
        time.sleep(0.05)


def gone(api: PodApi, name: str, seconds: float = 100) -> None:
    """Wait until it is; what the test's pods would sleep is longer."""
    end = time.monotonic() + seconds
    while name in [pod["metadata"]["name"] for pod in call(api, "GET", PODS)["items"]]:
        assert time.monotonic() < end, f"{name} is still there"
        time.sleep(0.05)


def test_a_pod_runs_its_command_with_the_paths_of_this_machine(api: PodApi, tmp_path: Path) -> None:
    create(api, "one", "sh", "-c", 'echo "hello $1"; echo done > "$1"', "sh", "/workspace/out")
    until(api, "one", "Succeeded")
    assert (tmp_path / "volume" / "out").read_text() == "done\n"
    log = call(api, "GET", f"{PODS}/one/log?timestamps=True&follow=True")  # as the Python client asks
    assert log.split(" ", 1)[1] == f"hello {tmp_path}/volume/out\n"
    state = call(api, "GET", f"{PODS}/one")["status"]["containerStatuses"][0]["state"]
    assert state["terminated"]["exitCode"] == 0


def test_the_exit_status_of_the_command_is_the_pods(api: PodApi) -> None:
    create(api, "bad", "sh", "-c", "exit 3")
    create(api, "none", "/no/such/program")
    until(api, "bad", "Failed")
    until(api, "none", "Failed")
    state = call(api, "GET", f"{PODS}/bad")["status"]["containerStatuses"][0]["state"]
    assert state["terminated"]["exitCode"] == 3
    assert "No such file" in call(api, "GET", f"{PODS}/none/log")


def test_deletion_gives_the_process_its_grace(api: PodApi, tmp_path: Path) -> None:
    trap = "trap 'sleep 0.5; echo undone > /workspace/undo; exit 0' TERM; touch /workspace/up; sleep 600 & wait"
    create(api, "patient", "sh", "-c", trap.replace("/workspace", str(tmp_path / "volume")))
    create(api, "stubborn", "sh", "-c", f"trap '' TERM; touch {tmp_path}/volume/there; sleep 600")
    while not ((tmp_path / "volume" / "up").exists() and (tmp_path / "volume" / "there").exists()):
        time.sleep(0.05)
    for name, grace in (("patient", 20), ("stubborn", 1)):
        call(api, "DELETE", f"{PODS}/{name}", {"gracePeriodSeconds": grace})
        assert "deletionTimestamp" in call(api, "GET", f"{PODS}/{name}")["metadata"]
    gone(api, "patient")
    assert (tmp_path / "volume" / "undo").exists()
    gone(api, "stubborn")


def test_labels_select_pods_and_a_patch_adds_one(api: PodApi) -> None:
    create(api, "a", "true", labels={"case": "1", "step": "load"})
    create(api, "b", "true", labels={"case": "1"})
    body = {"metadata": {"labels": {"already_checked": "True"}}}
    call(api, "PATCH", f"{PODS}/a", body, "application/strategic-merge-patch+json")

    def found(selector: str) -> list[str]:
        query = urllib.request.quote(selector)
        return [pod["metadata"]["name"] for pod in call(api, "GET", f"{PODS}?labelSelector={query}")["items"]]

    assert found("case=1,already_checked!=True,!airflow-worker") == ["b"]
    assert found("case=1,step in (load,inject)") == ["a"]


def test_events_are_listed_and_a_watch_is_refused(api: PodApi) -> None:
    create(api, "one", "true")
    create(api, "other", "true")
    events = PODS.replace("pods", "events") + "?fieldSelector=involvedObject.name=one"
    (event,) = call(api, "GET", events)["items"]
    assert (event["reason"], event["involvedObject"]["name"]) == ("Started", "one")
    with pytest.raises(urllib.error.HTTPError, match="403"):
        call(api, "GET", f"{events}&watch=True")


def test_nobody_comes_in_without_the_token_and_only_its_owner_can_read_it(api: PodApi, tmp_path: Path) -> None:
    api.write_kubeconfig(tmp_path / "kubeconfig")
    assert (tmp_path / "kubeconfig").stat().st_mode & 0o777 == 0o600
    assert f"token: {api.token}\n" in (tmp_path / "kubeconfig").read_text()
    api.token, right = "another", api.token
    request = urllib.request.Request(f"{api.url}{PODS}", headers={"Authorization": f"Bearer {right}"})
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(request, timeout=20)


def test_exec_is_refused_and_nothing_runs(api: PodApi, tmp_path: Path) -> None:
    create(api, "one", "sleep", "600")
    until(api, "one", "Running")
    with pytest.raises(urllib.error.HTTPError, match="404"):
        call(api, "GET", f"{PODS}/one/exec?command=touch&command={tmp_path}/ran")
    assert not (tmp_path / "ran").exists()


def test_a_deadline_an_eviction_and_trouble_by_switch(api: PodApi) -> None:
    create(api, "slow", "sleep", "600", activeDeadlineSeconds=1)
    create(api, "evicted", "sleep", "600")
    until(api, "evicted", "Running")
    call(api, "POST", "/emulated/evict/evicted")
    until(api, "evicted", "Failed")
    assert call(api, "GET", f"{PODS}/evicted")["status"]["reason"] == "Evicted"
    until(api, "slow", "Failed")
    assert call(api, "GET", f"{PODS}/slow")["status"]["reason"] == "DeadlineExceeded"
    call(api, "POST", "/emulated/trouble?seconds=0.5")
    with pytest.raises(urllib.error.HTTPError, match="500"):
        call(api, "GET", PODS)
    time.sleep(0.6)
    assert len(call(api, "GET", PODS)["items"]) == 2
