from __future__ import annotations

import json
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.deploy.local.runtime import ServiceRuntime
from tasks.inject.errors import FaultError, ForeignJournalError, JournalError
from tasks.inject.executors.local.target import LocalTarget
from tasks.inject.executors.local.undo import EndProcesses, KillTracked, RestoreEgress, RestoreQuota
from tasks.inject.journal import Journal, journal_files, journal_lock, journal_path, read_journal, write_journal
from tasks.inject.recover import recover, recover_journal, residue
from tasks.inject.start import injection_record
from tasks.injection import Injection
from tasks.system.process import ProcessId, boot_id, machine_id
from tasks.workspace import Workspace


def a_journal(**changes: object) -> Journal:
    service = ServiceRuntime(name="s", role="replica", address="10.77.0.10", cgroups={"cpu": "/nowhere/cpu"})
    target = LocalTarget(service=service, supervisor=ProcessId(pid=1, start_ticks=0), boot_id=boot_id())
    values: dict[str, object] = {
        "injection_id": "case-0",
        "kind": "cpu-stress",
        "parameters": {"workers": 2},
        "target": target,
        "start_at": datetime(2026, 1, 2, tzinfo=UTC),
        "duration_s": 3.0,
        "start_monotonic": time.monotonic(),
        "resources": (),
        "undo": (
            RestoreQuota(cores=0.6),
            KillTracked(tracker="fault-case-0"),
            RestoreEgress(),
            EndProcesses(journal=Path("/j/case-0.json")),
        ),
        "machine": machine_id(),
        "owner": ProcessId.current(),
    }
    return Journal.model_validate(values | changes)


def test_what_is_written_is_read(tmp_path: Path):
    path = journal_path(tmp_path, "case-0")
    journal = a_journal(state="active", notes=["n"])
    write_journal(path, journal)
    assert read_journal(path) == journal
    assert [file.name for file in tmp_path.iterdir()] == ["case-0.json"]
    assert journal_files(tmp_path) == [path]


@pytest.mark.parametrize("injection_id", ["", "..", "a/b", ".hidden", "a b", "x" * 200])
def test_an_id_that_is_no_file_name_is_refused(tmp_path: Path, injection_id: str):
    with pytest.raises(ValueError, match="allowed are letters"):
        journal_path(tmp_path, injection_id)


@given(cut=st.floats(0, 0.99), garbage=st.binary(max_size=40))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
def test_a_torn_journal_is_an_error_never_a_wrong_journal(tmp_path: Path, cut: float, garbage: bytes):
    path = journal_path(tmp_path, "case-0")
    write_journal(path, a_journal())
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * cut)] + garbage)
    with pytest.raises(JournalError, match=r"case-0\.json"):
        read_journal(path)


def test_an_unknown_undo_step_is_an_error(tmp_path: Path):
    path = journal_path(tmp_path, "case-0")
    write_journal(path, a_journal())
    path.write_text(path.read_text(encoding="utf-8").replace("restore-quota", "restore-peace"), encoding="utf-8")
    with pytest.raises(JournalError):
        read_journal(path)


def test_a_lock_is_held_by_one(tmp_path: Path):
    path = journal_path(tmp_path, "case-0")
    with journal_lock(path), pytest.raises(JournalError, match="held by another"), journal_lock(path, timeout_s=0.1):
        pass
    with journal_lock(path, timeout_s=0.1):
        pass


OLD = Path(__file__).parent / "old_journals"
"""Written by commit 82ada8b: ``local.json`` is open; ``kubernetes.json`` is closed, with its record beside it."""


@pytest.mark.parametrize("name", ["local", "kubernetes"])
def test_a_journal_of_an_earlier_version_says_what_it_said(name: str):
    path = OLD / f"{name}.json"
    wanted = {"role": "root", "outcome": None, "what": "fault", "finishes": False} | json.loads(path.read_bytes())
    if name == "local":
        wanted["target"] |= {"directory": None, "prometheus_url": ""}
    assert json.loads(read_journal(path).model_dump_json()) == wanted


def test_a_journal_of_an_earlier_version_gives_the_same_record():
    record = injection_record(read_journal(OLD / "kubernetes.json"))
    assert record == Injection.model_validate_json((OLD / "kubernetes.record.json").read_bytes())
    assert record.role == "root"


def test_the_record_has_the_role_of_the_injection():
    journal = a_journal(state="recovered", role="disturbance")
    assert injection_record(journal).role == "disturbance"


def test_an_open_journal_of_an_earlier_version_and_boot_is_closed(tmp_path: Path):
    path = journal_path(tmp_path, "case-0123456789ab-0")
    shutil.copy(OLD / "local.json", path)
    assert recover_journal(path) == "case-0123456789ab-0: accelerator-throttle on ray-replicas-0: undone"
    journal = read_journal(path)
    assert (journal.open, journal.reason) == (False, "cut short and undone by recover")
    assert recover_journal(path) is None


def test_a_journal_of_a_backend_that_is_not_installed_is_named_and_kept_as_it_is(tmp_path: Path):
    place = Workspace(tmp_path)
    path = journal_path(place.journal, "case-0")
    path.parent.mkdir()
    content = a_journal(state="active").model_dump_json().replace('"backend":"local"', '"backend":"elsewhere"')
    path.write_text(content)
    with pytest.raises(ForeignJournalError, match=r"case-0\.json: unknown backend 'elsewhere'; .*local"):
        read_journal(path)
    with pytest.raises(FaultError, match="unknown backend 'elsewhere'"):
        recover(place)
    assert any("unknown backend 'elsewhere'" in line for line in residue(place))
    assert [(each.name, each.read_text()) for each in place.journal.iterdir()] == [("case-0.json", content)]


def test_a_published_stack_of_a_backend_that_is_not_installed_is_a_trace(tmp_path: Path):
    place = Workspace(tmp_path)
    place.stack.mkdir()
    (place.stack / "runtime.json").write_text('{"backend": "elsewhere"}')
    (trace,) = residue(place)
    assert trace.startswith("cannot look for residue: unknown backend 'elsewhere'; allowed: ")
    with pytest.raises(FaultError, match="unknown backend 'elsewhere'"):
        recover(place)
