"""``python -m tasks.node_agent``: what the DaemonSet runs on every GPU node."""

from __future__ import annotations

import json
import logging
import shlex
import signal
from pathlib import Path
from typing import Annotated, Any

import typer

from tasks.kube.address import ClusterAddress
from tasks.kube.client import Cluster
from tasks.node_agent import health
from tasks.node_agent.actions import Node
from tasks.node_agent.agent import ROUND_S, Agent, Settings
from tasks.node_agent.gpu_publisher import observe
from tasks.node_agent.journal import Journal
from tasks.node_agent.nvidia_smi import COMMANDS, NvidiaSmi
from tasks.node_agent.processes import ProcessTable

DEFAULT_JOURNAL = Path("/var/lib/rcarena/node-agent")
API_DEADLINE_S = 8.0

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command()
def node_agent(
    node_name: Annotated[str, typer.Option("--node-name", envvar="NODE_NAME", help="This node, as the API calls it.")],
    namespace: Annotated[str, typer.Option("--namespace", envvar="POD_NAMESPACE", help="Where the NodeFaults are.")],
    journal: Annotated[
        Path, typer.Option("--journal", metavar="DIR", help="The journal, on the node's own disk.")
    ] = DEFAULT_JOURNAL,
    health_file: Annotated[
        Path, typer.Option("--health-file", metavar="FILE", help="Touched by the watchdog.")
    ] = health.DEFAULT_FILE,
    nvidia_smi: Annotated[
        str | None,
        typer.Option(
            "--nvidia-smi",
            envvar="RCARENA_NVIDIA_SMI",
            help="The command, with what stands before it. Default: found in the container or on the node.",
        ),
    ] = None,
    kubeconfig: Annotated[
        str | None, typer.Option("--kubeconfig", help="Instead of the pod's service account; needs --context.")
    ] = None,
    context: Annotated[str | None, typer.Option("--context", help="Context of the kubeconfig.")] = None,
    interval_s: Annotated[
        float, typer.Option("--interval", min=0.05, max=60, help="Seconds between looks at the API.")
    ] = ROUND_S,
    probe: Annotated[
        bool, typer.Option("--probe", help="Print what can be read on this node; change nothing.")
    ] = False,
) -> None:
    """Carry out the NodeFaults of this node and take every one of them back.

    Whatever happens to the API, to the owner of a fault or to this process: a fault ends with its duration, with its
    object, with this agent, or at the start of the next one.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    commands = COMMANDS if nvidia_smi is None else (tuple(shlex.split(nvidia_smi)),)
    node = Node(NvidiaSmi(commands), ProcessTable())
    if probe:
        typer.echo(json.dumps(_probe(node, node_name, journal), indent=1))
        return
    address = ClusterAddress(namespace=namespace, kubeconfig=kubeconfig, context=context)
    settings = Settings(node_name, journal, health_file, interval_s)
    agent = Agent(settings, node, lambda: Cluster(address, deadline_s=API_DEADLINE_S, read_timeout_s=API_DEADLINE_S))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: agent.stop())
    try:
        status = agent.run()
    except OSError as error:
        typer.echo(f"rcarena-node-agent: {error}", err=True)
        status = 1
    raise typer.Exit(status)


def _probe(node: Node, node_name: str, journal: Path) -> dict[str, Any]:
    entries = Journal(journal).read(set_aside=False)
    return {
        **observe(node, node_name, {}).model_dump(mode="json"),
        "journal": [entry.model_dump(mode="json") for entry in entries],
    }


def main() -> None:
    app(prog_name="rcarena-node-agent")
