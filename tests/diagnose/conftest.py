"""A diagnosis of a recorded case, made once: the case has two roots and a recovery after them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.case import read_case
from tasks.diagnose.diagnose import Question, diagnose
from tasks.diagnose.diagnosis import Diagnosis
from tasks.diagnose.recording import CaseRecording
from tasks.params import Params, load_params
from tests.score.processes import InThisProcess

ROOT = Path(__file__).parents[2]
TWO_ROOTS = ROOT / "tests/recorded_cases/case-e86d42d8879f"


@pytest.fixture(scope="session")
def params() -> Params:
    return load_params(ROOT / "params.yaml")


@pytest.fixture(scope="session")
def incidents_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("incidents")


@pytest.fixture(scope="session")
def diagnosis(params: Params, incidents_folder: Path) -> Diagnosis:
    recording = CaseRecording(read_case(TWO_ROOTS))
    found = diagnose(recording, Question(("peerwise", "nsigma")), params, incidents_folder, open_pool=InThisProcess)
    assert isinstance(found, Diagnosis)
    return found
