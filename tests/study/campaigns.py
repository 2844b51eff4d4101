"""Two small campaigns with made-up rankings for the tests of a study, scored by the score stage itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from tasks.case import CaseRecord
from tasks.injection import Injection, InjectionRole
from tasks.rca.method import Family, Finding
from tasks.rca.run.pair import PairResult
from tasks.study.plan import folder_of
from tests.report.scores import YARDSTICK, Ranker, ranked, truth_at, write_scores
from tests.score.cases import with_injections
from tests.synthetic import synthetic_case

METHOD = "nsigma"
"""The names are of registered methods; the rankings are made up."""
Planted = tuple[str, str, InjectionRole]
CASES: Mapping[str, tuple[Planted, ...]] = {
    "a-single": (("cpu-stress", "ray-replicas-0", "root"),),
    "b-single": (("network-delay", "ray-head", "root"),),
    "c-pair": (("cpu-stress", "ray-replicas-0", "root"), ("network-delay", "ray-replicas-1", "root")),
    "d-cascade": (("cpu-stress", "ray-head", "root"), ("memory-stress", "nginx-proxy", "victim")),
    "e-disturbed": (("cpu-stress", "ray-replicas-2", "root"), ("service-restart", "ray-replicas-0", "disturbance")),
    "f-quiet": (),
    "g-restart": (("service-restart", "ray-replicas-1", "disturbance"),),
    "h-weak": (("cpu-stress", "ray-head", "root"),),
}
"""By case what was injected; the last had no effect."""


def sharp(record: CaseRecord) -> PairResult:
    """Right, but for ``b-single`` (another service), ``c-pair`` (a kind) and ``g-restart`` (a false root)."""
    roots = [(injection.target, injection.kind) for injection in record.counted()]
    if record.case_id == "b-single":
        roots = [("nginx-proxy", "network-delay")]
    if record.case_id == "c-pair":
        roots = [("ray-replicas-0", "unknown"), roots[1]]
    if record.case_id == "g-restart":
        roots = [("ray-replicas-1", "process-kill")]
    first = list(dict.fromkeys(service for service, _ in roots))
    order = [*first, *(name for name in record.service_names if name not in first)]
    return replace(ranked(order), findings=tuple(Finding(service, kind, 0.01) for service, kind in roots))


def blunt(record: CaseRecord) -> PairResult:
    """Always the gateway, of a kind that it does not know."""
    result = ranked(list(record.service_names))
    return replace(result, findings=(Finding("nginx-proxy", "unknown", 0.2),))


RANKERS: Mapping[str, Ranker] = {
    METHOD: sharp,
    "baro": blunt,
    "tracerca": truth_at(2),
    "tracerca@paper": truth_at(1),
    "mmbaro": truth_at(4),
    YARDSTICK: truth_at(3),
}


def write_study(root: Path, variants: tuple[str, ...] = (), times: tuple[str, ...] = (), older: str = "") -> None:
    """Below ``root``: ``dev`` (the first two cases) and ``new`` (all) with cases, and ``place/<campaign>`` with the
    scores; in those of ``variants``, of ``times`` and in the folder ``older`` the sharp method is blunt."""
    for campaign, names in (("dev", list(CASES)[:2]), ("new", list(CASES))):
        for seed, name in enumerate(names):
            _case(root / campaign / "cases", name, seed)
        place = root / "place" / campaign
        families: dict[str, Family] = {"tracerca": "trace", "tracerca@paper": "trace", "mmbaro": "multi-source"}
        write_scores(root / campaign / "cases", place / "scores", RANKERS, families=families, beyond=(METHOD, "baro"))
        for variant in variants:
            write_scores(root / campaign / "cases", place / folder_of(variant), {METHOD: blunt})
        for time in times:
            write_scores(root / campaign / "cases", place / folder_of(time, "time"), {METHOD: blunt, "baro": blunt})
        if older:
            write_scores(root / campaign / "cases", root / older / campaign, {METHOD: blunt})


def _case(cases: Path, name: str, seed: int) -> None:
    planted = CASES[name]
    verdict = "ineffective" if name == "h-weak" else "effective"
    kind, target, _ = planted[0] if planted else (None, "ray-head", "root")
    case = synthetic_case(cases, name, kind=kind, target=target, seed=seed, verdict=verdict)
    if len(planted) > 1 or (planted and planted[0][2] != "root"):
        first = case.record.injections[0]
        with_injections(case, tuple(_injection(first, *each, 2.0 * i) for i, each in enumerate(planted)))


def _injection(like: Injection, kind: str, target: str, role: InjectionRole, later_s: float) -> Injection:
    later = timedelta(seconds=later_s)
    moved = {
        name: window.model_copy(update={"start": window.start + later})
        for name in ("planned", "observed", "verified")
        if (window := getattr(like, name)) is not None
    }
    return like.model_copy(update={"kind": kind, "group": kind, "target": target, "role": role, **moved})
