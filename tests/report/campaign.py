"""A campaign as the paper's: nine cases, 24 methods of different skill, some that fail, a bias to the gateway."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from tasks.case import CaseRecord
from tasks.rca.method import Family
from tasks.rca.run.pair import PairResult
from tests.report.scores import Ranker, columns_of, ranked, write_scores
from tests.score.cases import with_metrics
from tests.synthetic import synthetic_case

FAMILIES: dict[str, Family] = {
    **dict.fromkeys(
        (
            *("random", "nsigma", "baro", "e_diagnosis", "circa", "rcd", "microcause", "causalrca", "causalai"),
            *("pc_pagerank", "pc_randomwalk", "fci_pagerank", "fci_randomwalk", "granger_pagerank"),
            *("granger_randomwalk", "lingam_pagerank", "lingam_randomwalk", "microrca", "microscope", "monitorrank"),
        ),
        "metric",
    ),
    **dict.fromkeys(("microrank", "tracerca"), "trace"),
    **dict.fromkeys(("mmbaro", "pdiagnose"), "multi-source"),
}
NAMES_METRICS = ("random", "nsigma", "baro", "e_diagnosis", "circa", "rcd", "causalai", "mmbaro")
FAULTS = {
    "cpu-stress": ("cpu_usage",),
    "memory-stress": ("memory_working_set",),
    "network-delay": (),
    "gpu-power-limit": ("accelerator_utilization", "inter_token_latency_mean"),
}
TARGETS = ("ray-replicas-0", "ray-replicas-1", "ray-head", "nginx-proxy", "ray-replicas-2")


def write_campaign(root: Path, cases: int = 9, *, detected: bool = False) -> None:
    """``root/cases`` and ``root/scores``; the last case is fault-free, the one before had no effect."""
    kinds = list(FAULTS)
    for i in range(cases):
        kind = None if i == cases - 1 else kinds[i % len(kinds)]
        name = f"{kind or 'quiet'}-{i:03d}"
        verdict = "ineffective" if i == cases - 2 else "effective"
        case = synthetic_case(
            root / "cases", name, kind=kind, target=TARGETS[i % len(TARGETS)], verdict=verdict, seed=i
        )
        if kind and FAULTS[kind]:
            with_metrics(case, *FAULTS[kind])
    late: dict[str, float | None] = {
        case.name: 1.5 * i - 4 for i, case in enumerate(sorted((root / "cases").iterdir()))
    }
    rankers = {name: _ranker(i, name) for i, name in enumerate(FAMILIES)}
    write_scores(root / "cases", root / "scores", rankers, families=FAMILIES, late_s=late if detected else None)


def _ranker(position: int, method: str) -> Ranker:
    skill = 3.0 * (position * 7 % len(FAMILIES)) / len(FAMILIES)

    def rank(record: CaseRecord) -> PairResult:
        seed = hashlib.sha256(f"{method}|{record.case_id}".encode()).digest()[:8]
        rng = np.random.default_rng(int.from_bytes(seed, "little"))
        cost = {
            "wall_s": float(rng.gamma(4) * 0.02 * (60 if method == "causalrca" else 1)),
            "cpu_s": 0.1,
            "peak_mb": float(180 + 20 * rng.random() + (400 if method == "causalrca" else 0)),
            "grown_mb": 1.0,
        }
        if method == "pdiagnose" or (method == "microrank" and rng.random() < 0.4):
            return PairResult("missing", "no span of the front end before the fault", **cost)
        if method == "granger_pagerank" and rng.random() < 0.3:
            return PairResult("timeout", "longer than 120 s", **cost)
        truth = {injection.target for injection in record.injections}
        columns = columns_of(record)
        lead = {"nginx-proxy": 1.0, "ray-head": 0.5}
        of_service = {s: rng.normal() + skill * (s in truth) + lead.get(s, 0.0) for s in record.service_names}
        services = sorted(of_service, key=lambda service: -of_service[service])
        if method not in NAMES_METRICS:
            return replace(ranked(services), **cost)
        of_metric = {(s, m): of_service[s] + rng.normal() for s, m in columns}
        order = sorted(of_metric, key=lambda column: -of_metric[column])
        services = list(dict.fromkeys(service for service, _ in order))
        return replace(ranked(services, order), **cost)

    return rank
