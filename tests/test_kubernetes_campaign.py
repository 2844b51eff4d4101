"""A whole campaign on an emulated cluster (see ``tests.kubernetes.live_stack`` for what is real in it)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.campaign.plan import CasePlan, plan_campaign
from tasks.case import Case, read_cases, validate_case
from tasks.identity import differences
from tasks.inject.recover import residue
from tasks.params import load_params
from tasks.workspace import Workspace
from tests.kubernetes.cluster import EmulatedCluster
from tests.kubernetes.live_stack import FULL_POWER_W, LiveStack, free_ports, live_stack
from tests.node_agent.machine import GPU, OTHER_GPU
from tests.waiting import HANG_S, until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

CONFIG: dict[str, Any] = {
    "campaign": {
        "name": "emulated",
        "seed": 7,
        "fault_free_cases": 0,
        "windows": {"warmup_s": 4, "baseline_s": 14, "fault_s": 14, "recovery_s": 6},
    },
    "load": {"arrival": "constant", "rate": 4, "output_tokens": {"mean": 8}},
    "inject": {
        "faults": [{"kind": "cpu-stress", "targets": ["ray-replicas-0"], "parameters": {"workers": 4}}],
        "concurrent": [
            {
                "injections": [
                    {"kind": "cpu-stress", "target": "ray-replicas-0", "parameters": {"workers": 4}},
                    {"kind": "gpu-power-limit", "target": "ray-replicas-1", "offset_s": 0},
                ]
            },
            {
                "injections": [
                    {
                        "kind": "network-delay",
                        "target": "ray-replicas-1",
                        "parameters": {"delay_ms": 200, "jitter_ms": 0},
                    },
                    {
                        "kind": "cpu-stress",
                        "target": "ray-replicas-0",
                        "parameters": {"workers": 4},
                        "offset_s": 4,
                        "duration_s": 8,
                    },
                ]
            },
        ],
    },
    "export": {"step_s": 1, "rate_window_s": 4},
    "score": {"methods": ["random", "nsigma", "baro", "microrank"], "profile": "paper", "bootstrap_samples": 200},
    "report": {},
}
SIDE_BY_SIDE: dict[str, Any] = {
    **CONFIG,
    "campaign": CONFIG["campaign"]
    | {"seed": 5, "windows": {"warmup_s": 4, "baseline_s": 8, "fault_s": 10, "recovery_s": 2}},
    "inject": {
        "faults": [
            {"kind": "cpu-stress", "targets": ["ray-replicas-0", "ray-replicas-1"], "parameters": {"workers": 4}}
        ]
    },
}
FOUR_CASES: dict[str, Any] = {**SIDE_BY_SIDE, "campaign": SIDE_BY_SIDE["campaign"] | {"fault_free_cases": 2}}
CONTEXTS = ("here", "there")


def params_for(stack: LiveStack, file: Path, config: dict[str, Any] = CONFIG) -> Path:
    several = len(stack.namespaces) > 1
    deploy = {
        "backend": "kubernetes",
        "replicas": 2,
        "model": "falcon-h1-7b",
        "telemetry": {"install": False},
        "endpoints": {
            "gateway": stack.gateway_url + ("/{stack}" if several else ""),
            "prometheus": stack.prometheus_url,
            "loki": stack.loki_url,
            "spans": stack.spans_url,
        },
        "scrape_interval_s": 1,
        "start_timeout_s": 60,
        "stacks": len(stack.namespaces),
    }
    file.write_text(yaml.safe_dump({**config, "deploy": deploy}))
    return file


TOKEN_OF_THE_PROCESS = """
token=$(sed -n "s/^ *token: //p" "$EMULATED_ACCOUNT") && test -n "$token" &&
printf '{"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {"token": "%s"}}' "$token"
"""
ADMINISTRATOR = "administrator"


class Commands:
    """``rcarena`` against the emulated cluster, with the rights of an administrator or of a task's service account.

    As in pods, an account without a token (``load``, ``score``) reaches no API.
    """

    def __init__(self, params: Path, workspace: Path, cluster: EmulatedCluster, directory: Path) -> None:
        outside = {name: value for name, value in os.environ.items() if name != "KUBERNETES_SERVICE_HOST"}
        self._environment = outside | {"KUBECONFIG": str(directory / "kubeconfig")}
        self._place = ["--params", str(params), "--workspace", str(workspace)]
        self.accounts = {ADMINISTRATOR: cluster.kubeconfig(directory / f"token-{ADMINISTRATOR}")}
        for task in ("inject", "export"):
            self.accounts[task] = cluster.kubeconfig(directory / f"token-{task}", account=f"rcarena-{task}")
        shared = yaml.safe_load(self.accounts[ADMINISTRATOR].read_text())
        command = {"apiVersion": "client.authentication.k8s.io/v1", "command": "sh", "interactiveMode": "Never"}
        shared["users"][0]["user"] = {"exec": {**command, "args": ["-c", TOKEN_OF_THE_PROCESS]}}
        (directory / "kubeconfig").write_text(yaml.safe_dump(shared))

    def start(self, *words: str, log_file: Path, task: str = ADMINISTRATOR) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tasks.cli", *words, *self._place]
        environment = {**self._environment, "EMULATED_ACCOUNT": str(self.accounts.get(task, ""))}
        with log_file.open("wb") as log:
            return subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True
            )

    def run(self, *words: str, log_file: Path, task: str = ADMINISTRATOR) -> int:
        """Exit status; what the command says goes to ``log_file``."""
        return self.start(*words, log_file=log_file, task=task).wait(500)


def trouble(stack: LiveStack, workspace: Path, stopped: threading.Event) -> None:
    """From its first injection on: an API that fails for a while, a rotated token, a Loki that fails twice."""
    before = set((workspace / "journal").glob("*.json"))
    while not stopped.is_set() and set((workspace / "journal").glob("*.json")) <= before:
        time.sleep(0.2)
    if not stopped.wait(3):
        stack.cluster.misbehave(status=500, times=6)
    if not stopped.wait(25):
        stack.cluster.rotate_token()
    stack.loki_failures = 2


def by_fault(workspace: Workspace) -> dict[str, Case]:
    return {case.record.fault_label: case for case in read_cases(workspace.cases)}


def test_a_campaign_on_an_emulated_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One case by steps in processes of their own, with the accounts that Airflow gives them; ``rcarena campaign`` does
    the others.

    The load of the first attempt is killed: nothing is published. The others have two faults at once, and one after
    the other.
    """
    workspace = Workspace(tmp_path / "workspace")
    with live_stack(tmp_path) as stack:
        params = params_for(stack, tmp_path / "params.yaml")
        commands = Commands(params, workspace.root, stack.cluster, tmp_path)
        monkeypatch.setenv("EMULATED_ACCOUNT", str(commands.accounts[ADMINISTRATOR]))  # for looks of this process
        record_by_steps(commands, params, workspace, tmp_path)
        assert stack.cluster.refused == []
        (first,) = read_cases(workspace.cases)
        written = (first.path / "manifest.json").stat().st_mtime_ns

        stopped = threading.Event()
        troubles = threading.Thread(target=trouble, args=(stack, workspace.root, stopped), daemon=True)
        troubles.start()
        status = commands.run("campaign", log_file=tmp_path / "campaign.log")
        stopped.set()
        troubles.join()
        assert status == 0, (tmp_path / "campaign.log").read_text()
        assert (first.path / "manifest.json").stat().st_mtime_ns == written
        assert stack.leftovers() == []
        assert stack.agent.machine.limit(GPU) == stack.agent.machine.limit(OTHER_GPU) == FULL_POWER_W
        assert stack.cluster.objects("ray.io/v1", "RayService") == []
    assert residue(workspace) == []
    cases = by_fault(workspace)
    together, cascade = "cpu-stress+gpu-power-limit", "cpu-stress+network-delay"
    assert set(cases) == {"cpu-stress", together, cascade}, [
        (injection.kind, injection.verdict, injection.reason)
        for case in cases.values()
        for injection in case.record.injections
    ]
    for case in cases.values():
        assert validate_case(case.path) == []
        assert case.record.stack.backend == "kubernetes"
        assert {case.record.completeness[signal].status for signal in ("requests", "spans", "topology")} <= {
            "complete",
            "partial",
        }, case.record.completeness
        assert set(case.metrics["service"].unique()) == {"nginx-proxy", "ray-head", "ray-replicas-0", "ray-replicas-1"}
        assert len(case.logs) > 50
    for case in cases.values():
        fault = case.record.phase("fault")
        assert fault is not None
        for injection, planned in zip(case.record.injections, planned_of(case, params).injections, strict=True):
            assert injection.verdict == "effective", f"{injection.kind}: {injection.reason}"
            assert injection.verified is not None
            assert (injection.planned.start - fault.start).total_seconds() == planned.offset_s
            assert (injection.planned.end - injection.planned.start).total_seconds() == planned.duration_s
    assert [each.planned.start for each in cases[together].record.injections] == [
        cases[together].record.phases[1].start
    ] * 2
    first, second = cases[cascade].record.injections
    assert (second.planned.start - first.planned.start).total_seconds() == 4
    assert (first.planned.end - second.planned.end).total_seconds() == 2
    scores = json.loads((workspace.scores / "metrics.json").read_text())
    assert scores["cases"]["scored"] == 3
    assert scores["methods"]["nsigma"]["avg5"] > scores["chance"]["avg5"]
    assert (workspace.report / "index.html").exists()


@pytest.mark.slow  # tests/campaign/test_side_by_side.py shows it on toy stacks
def test_two_stacks_one_campaign_killed_in_the_middle_and_run_again(tmp_path: Path) -> None:
    """Every process of the campaign is killed while a fault is on: no case is lost, none is recorded twice."""
    workspace = Workspace(tmp_path / "workspace")
    with live_stack(tmp_path, ("rcarena-0", "rcarena-1")) as stack:
        params = params_for(stack, tmp_path / "params.yaml", FOUR_CASES)
        commands = Commands(params, workspace.root, stack.cluster, tmp_path)
        first = commands.start("collect", log_file=tmp_path / "first.log")
        until(lambda: bool(finished(workspace) and stack.leftovers()) or first.poll() is not None)
        os.killpg(first.pid, signal.SIGKILL)
        assert first.wait() == -signal.SIGKILL, (tmp_path / "first.log").read_text()
        before = finished(workspace)
        assert len(before) < 4

        status = commands.run("collect", log_file=tmp_path / "second.log")
        said = (tmp_path / "second.log").read_text()
        assert status == 0, said
        assert stack.leftovers() == []
        assert stack.cluster.objects("ray.io/v1", "RayService") == []
    after = finished(workspace)
    assert {name: after[name] for name in before} == before, said
    cases = list(read_cases(workspace.cases))
    assert {case.record.case_id for case in cases} == {each.case_id for each in plan_campaign(load_params(params))}
    assert {case.record.stack.index for case in cases} == {0, 1}
    for case in cases:
        assert validate_case(case.path) == []
        assert all(injection.verdict == "effective" for injection in case.record.injections), case.record.injections
    traces = [
        {trace for case in cases if case.record.stack.index == index for trace in case.spans["trace_id"]}
        for index in (0, 1)
    ]
    assert all(traces)
    assert traces[0] & traces[1] == set(), "spans of the other stack"
    for place in workspace.on_disk():
        assert residue(place) == []


@pytest.mark.slow
def test_two_clusters_one_campaign(tmp_path: Path) -> None:
    """One stack in each of two contexts of a kubeconfig. The process of one stack is killed while its fault is on: the
    campaign records that case on the other cluster, and takes both stacks down."""
    workspace = Workspace(tmp_path / "workspace")
    hosts = ("127.0.1.0", "127.0.1.1")
    ports = free_ports(hosts)
    with ExitStack() as held:
        stacks = []
        for index, host in enumerate(hosts):
            (tmp_path / str(index)).mkdir()
            stacks.append(held.enter_context(live_stack(tmp_path / str(index), host=host, ports=ports)))
        parts = [
            yaml.safe_load(stack.cluster.kubeconfig(tmp_path / name, context=name).read_text())
            for stack, name in zip(stacks, CONTEXTS, strict=True)
        ]
        lists = {key: [each for part in parts for each in part[key]] for key in ("clusters", "users", "contexts")}
        (tmp_path / "kubeconfig").write_text(yaml.safe_dump({**parts[0], **lists}))
        params = params_for(stacks[0], tmp_path / "params.yaml", SIDE_BY_SIDE)
        document = yaml.safe_load(params.read_text())
        urls = {name: url.replace(hosts[0], "127.0.1.{stack}") for name, url in document["deploy"]["endpoints"].items()}
        document["deploy"] |= {"contexts": list(CONTEXTS), "endpoints": urls}
        params.write_text(yaml.safe_dump(document))

        command = [sys.executable, "-m", "tasks.cli", "collect", "--params", params, "--workspace", workspace.root]
        with (tmp_path / "log").open("wb") as log:
            campaign = subprocess.Popen(
                command, stdout=log, stderr=log, env={**os.environ, "KUBECONFIG": str(tmp_path / "kubeconfig")}
            )
        held.callback(campaign.terminate)
        until(lambda: bool(stacks[1].leftovers()) or campaign.poll() is not None, seconds=3 * HANG_S)
        os.kill(process_of_stack(1, workspace), signal.SIGKILL)
        assert campaign.wait(500) == 0, (tmp_path / "log").read_text()
        said = (tmp_path / "log").read_text()
        assert "a stack was lost: stack 1: exit status -9" in said
        for stack in stacks:
            assert stack.leftovers() == []
            assert stack.cluster.objects("ray.io/v1", "RayService") == []
    cases = list(read_cases(workspace.cases))
    assert {case.record.case_id for case in cases} == {each.case_id for each in plan_campaign(load_params(params))}
    assert [problem for case in cases for problem in validate_case(case.path)] == []
    assert {case.record.stack.index for case in cases} == {0}


def process_of_stack(index: int, workspace: Workspace) -> int:
    """The process of ``collect`` that records cases on this stack."""
    words = f"\0collect\0--stack\0{index}\0"
    lines = {int(path.parent.name): path.read_text() for path in Path("/proc").glob("[0-9]*/cmdline")}
    (found,) = [pid for pid, line in lines.items() if words in line and str(workspace.root) in line]
    return found


def finished(workspace: Workspace) -> dict[str, int]:
    """When each finished case was written."""
    return {path.parent.name: path.stat().st_mtime_ns for path in workspace.cases.glob("case-*/manifest.json")}


def record_by_steps(commands: Commands, params: Path, workspace: Workspace, logs: Path) -> None:
    """Bring up the stack and record the case with faults by Chaos Mesh and by the node agent, at the second attempt,
    each step with the rights of its task."""
    wanted = ["cpu-stress", "gpu-power-limit"]
    plans = plan_campaign(load_params(params))
    (planned,) = [each for each in plans if sorted(injection.kind for injection in each.injections) == wanted]
    case_id = planned.case_id

    def step(name: str, *options: str) -> tuple[int, str]:
        log = logs / f"{name}.log"
        task = {"prepare": "inject", "verify": "inject"}.get(name, name)
        return commands.run("step", name, case_id, *options, log_file=log, task=task), log.read_text()

    def start_both(attempt: tuple[str, str]) -> list[subprocess.Popen[bytes]]:
        return [
            commands.start("step", name, case_id, *attempt, log_file=logs / name, task=name)
            for name in ("load", "inject")
        ]

    assert commands.run("deploy", "up", log_file=logs / "up.log") == 0, (logs / "up.log").read_text()
    assert step("load", "--attempt", "one")[0] == 1  # not prepared

    first = ("--attempt", "one")
    status, text = step("prepare", *first)
    assert status == 0, text
    both = start_both(first)
    requests = workspace.run(case_id, "one") / "requests.jsonl"
    until(lambda: requests.exists() and requests.stat().st_size > 0)
    both[0].kill()
    status, text = step("load", *first)  # another one in its place comes too late
    assert (status, "without this process" in text) == (1, True), text
    assert both[1].wait(HANG_S) == 0, (logs / "inject").read_text()
    status, text = step("inject", *first)  # whose pod had ended before anybody asked
    assert (status, "is done already" in text) == (0, True), text
    status, text = step("export", *first)
    assert (status, "the load of this attempt did not finish" in text) == (1, True), text
    status, text = step("verify")
    assert (status, "unfinished" in text) == (1, True), text
    assert residue(workspace) == []

    second = ("--attempt", "two")
    assert step("prepare", *second)[0] == 0
    both = start_both(second)
    assert [each.wait(HANG_S) for each in both] == [0, 0], (logs / "inject").read_text()
    assert step("load", *second)[0] == 0  # again: nothing to do
    assert step("export", *second)[0] == 0
    assert step("export", *second)[0] == 0  # again: nothing to do
    assert step("verify")[0] == 0
    assert step("prepare", "--attempt", "three")[0] == 99
    assert not workspace.run(case_id, "two").exists()
    for command, task in (("score", "score"), ("report", "score"), ("inject --recover", "inject")):
        log = logs / "offline.log"
        assert commands.run(*command.split(), log_file=log, task=task) == 0, log.read_text()


def planned_of(case: Case, params: Path) -> CasePlan:
    """The plan of the case by the parameters as a person wrote them; the case holds what shaped it."""
    (plan,) = [each for each in plan_campaign(load_params(params)) if each.case_id == case.record.case_id]
    assert differences(case.record.parameters, plan.parameters) == []
    assert case.record.parameters["load"]["rate"] == 4
    return plan
