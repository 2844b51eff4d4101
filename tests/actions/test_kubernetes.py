"""What an emulated cluster shows of actions: a restart is a new pod, and the rest is refused with its reason."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tasks.actions.act import act
from tasks.actions.errors import ActionRefusedError
from tasks.inject.recover import residue
from tests.inject.cluster_stack import ClusterStack, cluster_stack
from tests.waiting import until

REPLICA = "ray-replicas-0"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterStack]:
    with cluster_stack(tmp_path_factory.mktemp("actions")) as running:
        yield running


def test_a_restart_is_a_new_pod_once(stack: ClusterStack):
    before = stack.pod()["metadata"]["uid"]
    act(stack.runtime, stack.workspace, "restart", REPLICA, "case-1")

    def is_new() -> bool:
        pods = stack.target().pods()
        return bool(pods) and pods[0]["metadata"]["uid"] != before

    until(is_new, "no new pod")
    after = stack.target().pods()[0]["metadata"]["uid"]
    assert act(stack.runtime, stack.workspace, "restart", REPLICA, "case-1").state == "recovered"
    assert stack.target().pods()[0]["metadata"]["uid"] == after
    assert residue(stack.workspace) == []


def test_a_head_is_not_restarted(stack: ClusterStack):
    with pytest.raises(ActionRefusedError, match=r"restart cannot act on 'ray-head' \(role head\)"):
        act(stack.runtime, stack.workspace, "restart", "ray-head", "case-1")


@pytest.mark.parametrize(
    ("action", "why"),
    [("eject", "Serve cannot take one out"), ("reschedule", "to cordon a node"), ("restore", "agent")],
)
def test_what_a_cluster_cannot_show_is_refused_with_the_reason(stack: ClusterStack, action: str, why: str):
    with pytest.raises(ActionRefusedError, match=f"the kubernetes backend has no {action}: .*{why}"):
        act(stack.runtime, stack.workspace, action, REPLICA, "case-1")
