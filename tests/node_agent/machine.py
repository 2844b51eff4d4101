"""A GPU node for the agent's tests: the stand-in for ``nvidia-smi`` and a ``/proc`` with pods in it."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tasks.kube.node_fault import API_VERSION, KIND, NodeFault
from tasks.node_agent.actions import Node
from tasks.node_agent.journal import Journal
from tasks.node_agent.keeper import Keeper
from tasks.node_agent.nvidia_smi import NvidiaSmi, NvidiaSmiError
from tasks.node_agent.processes import ProcessTable
from tests.node_agent import fake_nvidia_smi

GPU = "GPU-11111111-2222-3333-4444-555555555555"
OTHER_GPU = "GPU-66666666-7777-8888-9999-aaaaaaaaaaaa"
POD = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"
OTHER_POD = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"
NODE = "gpu-0"


class InProcessSmi(NvidiaSmi):
    """The stand-in without a process per call."""

    def __init__(self, state_file: Path) -> None:
        super().__init__()
        self._state_file = state_file

    def _run(self, *arguments: str) -> str:
        status, output = fake_nvidia_smi.run(self._state_file, list(arguments))
        if status:
            raise NvidiaSmiError(f"nvidia-smi {' '.join(arguments)}: exit status {status}: {output.strip()}")
        return output


class Machine:
    """Files below ``root``: the GPUs' state, ``proc`` and the agent's journal."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.state_file = root / "gpus.json"
        self.proc = root / "proc"
        self.journal = root / "journal"
        self.proc.mkdir(parents=True)
        self.journal.mkdir()
        self.set(gpus={GPU: fake_nvidia_smi.gpu(), OTHER_GPU: fake_nvidia_smi.gpu(300.0)}, apps=[])

    @property
    def smi_command(self) -> tuple[str, ...]:
        return (sys.executable, "-S", "-E", fake_nvidia_smi.__file__, str(self.state_file))

    def node(self) -> Node:
        return Node(InProcessSmi(self.state_file), ProcessTable(self.proc))

    def keeper(self) -> Keeper:
        return Keeper(Journal(self.journal), self.node())

    @property
    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads(self.state_file.read_text())
        return state

    def set(self, **changes: Any) -> None:
        state = self.state if self.state_file.exists() else {}
        staging = self.state_file.with_suffix(".test")
        staging.write_text(json.dumps(state | changes))
        staging.replace(self.state_file)

    def change_gpu(self, uuid: str = GPU, **figures: Any) -> None:
        gpus = self.state["gpus"]
        gpus[uuid] |= figures
        self.set(gpus=gpus)

    def limit(self, uuid: str = GPU) -> float:
        return float(self.state["gpus"][uuid]["limit"])

    def calls(self) -> list[str]:
        path = self.state_file.with_suffix(".calls")
        return path.read_text().splitlines() if path.exists() else []

    def add_process(
        self,
        pid: int,
        pod: str = POD,
        gpu: str | None = None,
        title: str = "VLLM::EngineCore",
        environment: str = "",
        real: bool = False,
    ) -> None:
        """``real``: its state is that of the process ``pid`` of this machine."""
        folder = self.proc / str(pid)
        folder.mkdir()
        slices = f"kubepods-burstable-pod{pod.replace('-', '_')}.slice/cri-containerd-{'c' * 64}.scope"
        (folder / "cgroup").write_text(f"0::/kubepods.slice/kubepods-burstable.slice/{slices}\n")
        (folder / "cmdline").write_bytes(title.encode() + b"\0")
        (folder / "environ").write_text(environment)
        if real:
            (folder / "stat").symlink_to(f"/proc/{pid}/stat")
        else:
            (folder / "stat").write_text(f"{pid} (python3) S {' '.join('0' for _ in range(18))} 4711 0 0\n")
        if gpu is not None:
            self.set(apps=[*self.state["apps"], [pid, gpu]])


def fault_document(name: str = "fault-1", uid: str = "uid-1", **spec: Any) -> dict[str, Any]:
    """A NodeFault as an injector makes it: 150 W on the pod's GPU, unless ``spec`` says otherwise."""
    wanted = {
        "action": "power-limit",
        "nodeName": NODE,
        "podUid": POD,
        "podName": "ray-replicas-1-abc",
        "durationSeconds": 60,
        **spec,
    }
    if wanted["action"] == "power-limit" and not {"value", "fraction"} & set(wanted):
        wanted["value"] = 150
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {
            "name": name,
            "namespace": "rcarena",
            "uid": uid,
            "creationTimestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        },
        "spec": wanted,
    }


def fault(name: str = "fault-1", uid: str = "uid-1", **spec: Any) -> NodeFault:
    return NodeFault.of(fault_document(name, uid, **spec))
