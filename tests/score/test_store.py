from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.rca.method import Coverage, Evidence, Finding
from tasks.rca.run.builder import ViewFacts
from tasks.rca.run.pair import MetricSuspect, PairResult, Status, Suspect
from tasks.score.store import PairStore

RESULT = PairResult(
    "ok",
    suspects=(Suspect(1, "a", 0.1 + 0.2, False, "cpu"), Suspect(2, "b", -1e-300, True, None)),
    metrics=(MetricSuspect(1, "a", "cpü", 1e300, False),),
    findings=(
        Finding("a", "cpu-stress", 1e-300, "root", 0.1 + 0.2, (Evidence("cpu", "ü", "cores", None, 0.1, -0.0),) * 2),
        Finding(None, "workload", 1.0),
    ),
    coverage=Coverage(("CPU",), ("GPU clocks", "spans")),
    wall_s=0.123456789,
    peak_mb=100.5,
)
FACTS = ViewFacts((("a", "cpu"), ("b", "memory")), "2026-01-02T03:04:05+00:00")


def kept_file(folder: Path) -> Path:
    return next(folder.rglob("*.json"))


def test_what_was_kept_comes_back_as_it_was(tmp_path: Path) -> None:
    store = PairStore(tmp_path)
    store.keep_pair("m", "k", RESULT)
    store.keep_view("v", FACTS)
    assert PairStore(tmp_path).pair("m", "k") == RESULT
    assert PairStore(tmp_path).view("v") == FACTS
    assert store.pair("m", "other") is None
    assert store.pair("other", "k") is None
    assert not list(tmp_path.rglob("*.partial"))


def test_a_result_from_before_coverage_is_read(tmp_path: Path) -> None:
    store, older = PairStore(tmp_path), replace(RESULT, coverage=None)
    store.keep_pair("m", "k", older)
    file = kept_file(tmp_path)
    document = json.loads(file.read_bytes().partition(b"\n")[2])
    del document["coverage"]
    content = json.dumps(document).encode()
    file.write_bytes(hashlib.sha256(b"2" + content).hexdigest().encode() + b"\n" + content)
    assert store.pair("m", "k") == older


@pytest.mark.parametrize("findings", [None, ()])
def test_no_findings_and_no_fault_stay_apart(tmp_path: Path, findings: tuple[Finding, ...] | None) -> None:
    store = PairStore(tmp_path)
    store.keep_pair("m", "k", PairResult("ok", findings=findings))
    kept = store.pair("m", "k")
    assert kept is not None
    assert kept.findings == findings


@pytest.mark.parametrize("status", ["missing", "error", "invalid"])
def test_failures_of_the_method_are_kept(tmp_path: Path, status: Status) -> None:
    store, failure = PairStore(tmp_path), PairResult(status, "because", traceback="Traceback …")
    store.keep_pair("m", "k", failure)
    assert store.pair("m", "k") == failure


@pytest.mark.parametrize("status", ["timeout", "memory", "crash"])
def test_what_the_machine_may_have_caused_is_not_kept(tmp_path: Path, status: Status) -> None:
    store = PairStore(tmp_path)
    store.keep_pair("m", "k", PairResult(status, "because"))
    assert store.pair("m", "k") is None
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        lambda content: b"",
        lambda content: b"\0" * len(content),
        lambda content: content.replace(b"cpu", b"gpu"),
        lambda content: content + b" ",
        lambda content: b"{}",
    ],
)
def test_a_damaged_file_is_no_result(tmp_path: Path, damage) -> None:
    store = PairStore(tmp_path)
    store.keep_pair("m", "k", RESULT)
    file = kept_file(tmp_path)
    file.write_bytes(damage(file.read_bytes()))
    assert store.pair("m", "k") is None
    store.keep_pair("m", "k", RESULT)
    assert store.pair("m", "k") == RESULT


def test_fresh_finds_nothing_and_keeps_all(tmp_path: Path) -> None:
    PairStore(tmp_path).keep_pair("m", "k", RESULT)
    fresh = PairStore(tmp_path, fresh=True)
    assert fresh.pair("m", "k") is None
    other = PairResult("error", "now it fails")
    fresh.keep_pair("m", "k", other)
    assert PairStore(tmp_path).pair("m", "k") == other


def test_without_a_folder_nothing_is_kept() -> None:
    store = PairStore(None)
    store.keep_pair("m", "k", RESULT)
    assert store.pair("m", "k") is None
