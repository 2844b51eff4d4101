"""What `diagnose --remediate` says of a diagnosis, and that a dry run does nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tasks.actions import act as actions
from tasks.actions.errors import ActionError
from tasks.diagnose import remedy
from tasks.diagnose.diagnosis import Diagnosis, MethodAnswer
from tasks.diagnose.remedy import Remedy, as_guards_see, load_share
from tasks.live_params import RemediateParams
from tasks.rca.method import Finding
from tasks.rca.run.pair import Suspect
from tasks.workspace import Workspace

TARGET = "ray-replicas-1"


def sure(diagnosis: Diagnosis, kind: str = "cpu-stress", significance: float = 1e-6) -> Diagnosis:
    """The same incident, with one root."""
    suspects = (Suspect(1, TARGET, 9.0, False, None), Suspect(2, "ray-head", 1.0, False, None))
    answer = MethodAnswer(
        method="peerwise", status="ok", suspects=suspects, findings=(Finding(TARGET, kind, significance),)
    )
    return diagnosis.model_copy(update={"answers": (answer,), "end": datetime.now(UTC)})


def said(diagnosis: Diagnosis, place: Path, carry_out: bool = False) -> list[str]:
    lines: list[str] = []
    Remedy(RemediateParams(), Workspace(place), lines.append, carry_out)(diagnosis)
    return lines


@pytest.fixture
def possible(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """A stack that can carry out everything, and what it was asked for."""
    asked: list[tuple[Any, ...]] = []

    class Done:
        open = True

    monkeypatch.setattr(remedy, "published", lambda _: SimpleNamespace(backend="local"))
    monkeypatch.setattr(remedy, "load_share", lambda _: 0.3)
    monkeypatch.setattr(remedy, "refusal", lambda *_: None)
    monkeypatch.setattr(remedy, "act", lambda _, __, *rest: asked.append(rest[:3]) or Done())
    return asked


def test_a_dry_run_says_what_it_would_do(diagnosis: Diagnosis, tmp_path: Path, possible: list[tuple[Any, ...]]):
    assert said(sure(diagnosis), tmp_path) == [
        f"remedy: would eject {TARGET} (cpu-stress); nothing is done without --act"
    ]
    assert possible == []


def test_it_is_done_when_asked_for(diagnosis: Diagnosis, tmp_path: Path, possible: list[tuple[Any, ...]]):
    (line,) = said(sure(diagnosis), tmp_path, carry_out=True)
    assert line.endswith(f"is done; `rcarena act eject {TARGET} --undo` takes it back")
    assert possible == [("eject", TARGET, diagnosis.incident)]


def test_guards_refuse_with_their_reasons(diagnosis: Diagnosis, tmp_path: Path, possible: list[tuple[Any, ...]]):
    first, *reasons = said(sure(diagnosis, significance=0.04), tmp_path, carry_out=True)
    assert first == f"remedy: eject {TARGET} (cpu-stress) is refused"
    assert reasons == [f"  significant: p = 0.04 of {TARGET} is above 0.01"]
    assert possible == []


def test_an_incident_that_may_be_over_is_left_alone(
    diagnosis: Diagnosis, tmp_path: Path, possible: list[tuple[Any, ...]]
):
    old = sure(diagnosis).model_copy(update={"end": datetime.now(UTC) - timedelta(minutes=10)})
    assert any(line.startswith("  fresh: ") for line in said(old, tmp_path, carry_out=True))
    assert possible == []


def test_the_next_action_of_the_table_where_the_stack_lacks_the_first(
    diagnosis: Diagnosis, tmp_path: Path, possible: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
):
    incident = sure(diagnosis, "gpu-contention")
    assert said(incident, tmp_path)[0].startswith(f"remedy: would eject {TARGET} (gpu-contention)")
    monkeypatch.setattr(remedy, "published", lambda _: SimpleNamespace(backend="kubernetes"))
    assert said(incident, tmp_path)[0].startswith(f"remedy: would evict {TARGET} (gpu-contention)")


def test_what_was_done_to_a_target_counts_whatever_the_incident_is_called(
    diagnosis: Diagnosis, tmp_path: Path, possible: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
):
    done = SimpleNamespace(
        began=True,
        start_at=datetime.now(UTC) - timedelta(seconds=5),
        undone_at=None,
        injection_id="incident-of-before.eject",
        kind="eject",
        target=SimpleNamespace(name=TARGET),
    )
    monkeypatch.setattr(remedy, "actions_of", lambda _: [done])
    lines = said(sure(diagnosis), tmp_path, carry_out=True)
    assert any(line.startswith("  cool-down: ") for line in lines)
    monkeypatch.setattr(done.target, "name", "ray-replicas-0")
    lines = said(sure(diagnosis), tmp_path, carry_out=True)
    assert any(line.startswith("  few-out: ") for line in lines), "it is not back yet"
    assert possible == []


def test_a_replica_that_was_readmitted_just_now_is_left_alone(
    diagnosis: Diagnosis, tmp_path: Path, possible: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
):
    incident = sure(diagnosis)
    done = SimpleNamespace(
        began=True,
        start_at=incident.start - timedelta(minutes=20),
        undone_at=incident.start + timedelta(seconds=5),
        injection_id="by-hand.eject",
        kind="eject",
        target=SimpleNamespace(name=TARGET),
    )
    monkeypatch.setattr(remedy, "actions_of", lambda _: [done])
    assert said(incident, tmp_path, carry_out=True)[1:] == [
        f"  own-doing: the end of eject changed {TARGET} within the time that the diagnosis looks at"
    ]
    monkeypatch.setattr(done, "undone_at", incident.start - timedelta(minutes=15))
    (line,) = said(incident, tmp_path, carry_out=True)
    assert " is done" in line


def test_the_guards_are_asked_again_when_it_is_its_turn(
    diagnosis: Diagnosis, tmp_path: Path, possible: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
):
    other = SimpleNamespace(
        began=True,
        start_at=datetime.now(UTC),
        undone_at=None,
        injection_id="another.eject",
        kind="eject",
        target=SimpleNamespace(name="ray-replicas-0"),
    )

    def meanwhile(*asked: Any) -> None:
        monkeypatch.setattr(remedy, "actions_of", lambda _: [other])
        raise ActionError(asked[-1]())

    monkeypatch.setattr(remedy, "act", meanwhile)
    (line,) = said(sure(diagnosis), tmp_path, carry_out=True)
    assert line.startswith(f"remedy: eject {TARGET} (cpu-stress) failed: few-out: 2 replicas would be out")


def test_nothing_is_done_to_a_stack_that_is_not_ours(diagnosis: Diagnosis, tmp_path: Path):
    _, *reasons = said(sure(diagnosis), tmp_path, carry_out=True)
    assert "  stack: it was not started here, and nobody has allowed actions on it" in reasons
    assert "  capacity: how much of its capacity the stack needs is not known" in reasons  # an old recording


@pytest.mark.parametrize("kind", ["process-kill", "telemetry-loss"])
def test_there_may_be_nothing_to_do(diagnosis: Diagnosis, tmp_path: Path, kind: str):
    (line,) = said(sure(diagnosis, kind), tmp_path)
    assert line.startswith("remedy: nothing to do")


def test_a_method_that_only_ranks_is_no_reason_to_act(diagnosis: Diagnosis, tmp_path: Path):
    ranking = MethodAnswer(method="nsigma", status="ok", suspects=(Suspect(1, TARGET, 9.0, False, None),))
    only = diagnosis.model_copy(update={"answers": (ranking,)})
    assert as_guards_see(only) is None
    assert said(only, tmp_path)[0].startswith("remedy: nothing to do")


def test_the_load_is_the_share_of_seats_in_work(diagnosis: Diagnosis):
    from tasks.case import read_case

    share = load_share(read_case(diagnosis.case))
    assert share is None or 0 <= share < 1
    assert actions.actions_of(Workspace(diagnosis.case)) == []
