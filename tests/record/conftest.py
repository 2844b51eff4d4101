"""A finished campaign (made once) and a results repository, for each test its own copy."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tasks.record import record as recording
from tasks.record import staging
from tasks.workspace import Workspace
from tests.record.campaigns import Campaign, finished_campaign, results_repository
from tests.record.pretend_dvc import PretendDvc


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    return finished_campaign(tmp_path_factory.mktemp("finished"))


@pytest.fixture
def campaign(finished: Campaign, tmp_path: Path) -> Campaign:
    return copied(finished, tmp_path)


def copied(campaign: Campaign, directory: Path) -> Campaign:
    shutil.copytree(campaign.workspace.root, directory / "workspace")
    (directory / "params.yaml").write_text(campaign.text)
    return Campaign(Workspace(directory / "workspace"), campaign.text, campaign.params)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return results_repository(tmp_path / "repository", remote=tmp_path / "store")


@pytest.fixture
def pretend_dvc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Recording without DVC's seconds, outputs taken at their word; gives the store that it pushes to."""
    monkeypatch.setattr(PretendDvc, "store", tmp_path / "store", raising=False)
    monkeypatch.setattr(staging, "Dvc", PretendDvc)
    for name in ("stale_scores_reason", "stale_report_reason"):
        monkeypatch.setattr(recording, name, lambda place, params: None)
    return PretendDvc.store
