from __future__ import annotations

from datetime import UTC, datetime

from tasks.export.sources.placement import Placement, PodPlacement, inherit_gpus, merge_pods

T0 = 1_760_000_000
SERVICES = ("ray-head", "ray-replicas-0", "ray-replicas-1")


def _at(seconds: float) -> datetime:
    return datetime.fromtimestamp(T0 + seconds, UTC)


def _pod(service: str, pod: str, **fields: object) -> PodPlacement:
    return PodPlacement(service, pod, **{"uid": f"uid-{pod}", "node": "n1", **fields})  # type: ignore[arg-type]


OLD = _pod("ray-replicas-0", "worker-a", gpus=("GPU-1", "GPU-2"), address="10.0.0.1", end=_at(100))
NEW = _pod("ray-replicas-0", "worker-b", start=_at(110), address="10.0.0.9")
OTHER = _pod("ray-replicas-1", "worker-c", gpus=("GPU-3",), node="n2", address="10.0.0.3")


def _services(placement: Placement, labels: dict[str, str], join: str) -> list[str]:
    return [holding.service for holding in placement.holdings(labels, join)]  # type: ignore[arg-type]


def test_labels_of_dcgm_in_each_of_its_forms() -> None:
    placement = Placement(SERVICES, (OLD, OTHER), "rcarena")
    exporter_pod = {"pod": "dcgm-exporter-x", "namespace": "gpu-operator"}
    assert _services(placement, {"UUID": "GPU-3"}, "gpu") == ["ray-replicas-1"]
    assert _services(placement, {"UUID": "GPU-3", **exporter_pod}, "gpu") == ["ray-replicas-1"]
    by_pod = {"UUID": "GPU-9", "exported_pod": "worker-c", "exported_namespace": "rcarena", **exporter_pod}
    assert _services(placement, by_pod, "gpu") == ["ray-replicas-1"]
    assert _services(placement, {**by_pod, "exported_namespace": "elsewhere"}, "gpu") == []
    assert _services(placement, {"UUID": "GPU-9", "pod": "worker-c", "namespace": "rcarena"}, "gpu") == [
        "ray-replicas-1"
    ]
    assert _services(placement, {"UUID": "GPU-9", "service": "ray-replicas-1"}, "gpu") == ["ray-replicas-1"]
    assert _services(placement, {"UUID": "GPU-9", **exporter_pod}, "gpu") == []


def test_peers_of_the_mesh_by_address_before_name_and_not_from_other_namespaces() -> None:
    placement = Placement(SERVICES, (OLD, OTHER), "rcarena", {"ray-serve": "ray-head"})
    labels = {"destination_canonical_service": "ray-head", "destination_address": "10.0.0.3:8000"}
    assert placement.of_peer(labels, "destination")[0].service == "ray-replicas-1"
    assert placement.of_peer({**labels, "destination_address": "unknown"}, "destination")[0].service == "ray-head"
    assert placement.of_peer({"source_service_name": "ray-serve"}, "source")[0].service == "ray-head"
    assert placement.of_peer({**labels, "destination_workload_namespace": "other"}, "destination") == ()
    assert placement.of_peer({**labels, "destination_workload_namespace": "rcarena"}, "destination")


def test_names_that_two_services_claim_stand_for_neither() -> None:
    reused = _pod("ray-replicas-1", "worker-d", address="10.0.0.1")
    names = Placement(SERVICES, (OLD, reused)).names
    assert "10.0.0.1" not in names
    assert (names["worker-a"], names["uid-worker-d"]) == ("ray-replicas-0", "ray-replicas-1")


def test_what_is_stated_counts_and_what_was_seen_completes_it() -> None:
    stated = PodPlacement("ray-replicas-0", "worker-a", uid="uid-worker-a", node="n1", gpus=("GPU-1",))
    seen = (OLD, NEW, _pod("ray-replicas-0", "worker-a", uid="another", start=_at(5)))
    merged = merge_pods((stated,), seen)
    assert [(pod.pod, pod.uid) for pod in merged] == [
        ("worker-a", "uid-worker-a"),
        ("worker-b", "uid-worker-b"),
        ("worker-a", "another"),
    ]
    assert merged[0].gpus == ("GPU-1",)
    assert merged[0].end == OLD.end
    assert merge_pods((stated,), ()) == (stated,)


def test_a_pod_that_replaces_another_inherits_its_gpus_and_it_is_said() -> None:
    pods, said = inherit_gpus((NEW, OLD, OTHER))
    by_name = {pod.pod: pod for pod in pods}
    assert by_name["worker-b"].gpus == ("GPU-1", "GPU-2")
    assert said == ["GPU GPU-1, GPU-2 is taken to stay with ray-replicas-0 when its pod was replaced"]
    holdings = Placement(SERVICES, pods).holdings({"UUID": "GPU-1"}, "gpu")
    assert [(h.service, h.unit) for h in holdings] == [("ray-replicas-0", "GPU-1")] * 2
    assert (holdings[0].end_ns, holdings[1].start_ns) == ((T0 + 100) * 10**9, (T0 + 110) * 10**9)


def test_gpus_are_not_inherited_across_nodes_services_or_claims() -> None:
    for other in (
        _pod("ray-replicas-0", "worker-b", start=_at(110), node="n2"),
        _pod("ray-replicas-1", "worker-b", start=_at(110)),
    ):
        assert inherit_gpus((OLD, other)) == ((OLD, other), [])
    taken = _pod("ray-replicas-1", "worker-d", start=_at(105), gpus=("GPU-1", "GPU-2"))
    pods, said = inherit_gpus((OLD, taken, NEW))
    assert {pod.pod: pod.gpus for pod in pods}["worker-b"] == ()
    assert said == []
    alive = _pod("ray-replicas-0", "worker-a", gpus=("GPU-1",))
    assert inherit_gpus((alive, NEW))[1] == []
