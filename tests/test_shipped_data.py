"""The recorded campaigns that come with the repository, and the command that a newcomer runs first."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.case import MANIFEST_FILE, RECORD_FILE, validate_case
from tasks.params import load_params
from tests.command import ROOT

REMOTE = ROOT / "data" / "remote" / "files" / "md5"
CAMPAIGNS = sorted(path.parent for path in (ROOT / "data").rglob("cases.dvc"))
DEMO = ROOT / "data" / "demo"
each_campaign = pytest.mark.parametrize("campaign", CAMPAIGNS, ids=[str(c.relative_to(ROOT)) for c in CAMPAIGNS])


def output(campaign: Path) -> dict[str, Any]:
    (found,) = yaml.safe_load((campaign / "cases.dvc").read_text())["outs"]
    return found


def stored(md5: str) -> Path:
    return REMOTE / md5[:2] / md5[2:]


def listed(campaign: Path) -> dict[str, str]:
    """Path below the folder of cases -> MD5, as DVC keeps it."""
    return {entry["relpath"]: entry["md5"] for entry in json.loads(stored(output(campaign)["md5"]).read_text())}


def test_there_is_a_demo() -> None:
    assert DEMO in CAMPAIGNS
    assert len({path.split("/")[0] for path in listed(DEMO)}) == 12


@each_campaign
def test_the_remote_holds_what_a_campaign_names(campaign: Path) -> None:
    found = output(campaign)
    assert (found["path"], found["hash"], found["remote"]) == ("cases", "md5", "shipped")
    files = listed(campaign)
    assert len(files) == found["nfiles"]
    assert sum(stored(md5).stat().st_size for md5 in files.values()) == found["size"]
    for md5 in {found["md5"].removesuffix(".dir"), *files.values()}:
        place = stored(md5) if stored(md5).exists() else stored(f"{md5}.dir")
        assert hashlib.md5(place.read_bytes(), usedforsecurity=False).hexdigest() == md5


@each_campaign
def test_a_campaign_is_whole_cases_and_parameters_that_can_be_used(campaign: Path, tmp_path: Path) -> None:
    load_params(campaign / "params.yaml")
    cases: dict[str, dict[str, str]] = defaultdict(dict)
    for path, md5 in listed(campaign).items():
        case, name = path.split("/")
        cases[case][name] = md5
    for case, files in cases.items():
        assert {RECORD_FILE, MANIFEST_FILE} < set(files)
        (tmp_path / case).mkdir()
        for name, md5 in files.items():
            shutil.copy(stored(md5), tmp_path / case / name)
        assert validate_case(tmp_path / case) == []


def test_the_remote_holds_nothing_else() -> None:
    named = {output(campaign)["md5"] for campaign in CAMPAIGNS}
    named |= {md5 for campaign in CAMPAIGNS for md5 in listed(campaign).values()}
    assert {path.parent.name + path.name for path in REMOTE.rglob("*") if path.is_file()} == named


@pytest.mark.timeout(600)
def test_make_demo(tmp_path: Path) -> None:
    """In a copy, with nothing but what the repository holds: no set-up, no cache, an empty home, no network."""
    pytest.importorskip("dvc.repo", reason="DVC is not in this environment")
    copy, home = tmp_path / "copy", tmp_path / "home"
    home.mkdir()
    shutil.copytree(ROOT / "data", copy / "data", ignore=shutil.ignore_patterns("cases", "pairs", "scores", "report"))
    (copy / ".dvc").mkdir()
    (copy / "scripts").mkdir()
    for name in (".dvc/config", ".dvc/.gitignore", ".dvcignore", ".gitignore", ".gitattributes", "Makefile"):
        shutil.copy(ROOT / name, copy / name)
    (copy / "scripts" / "setup").write_text("#!/bin/sh\n")
    (copy / "scripts" / "setup").chmod(0o755)
    for command in (
        ["init", "-q"],
        ["add", "-A"],
        ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "all"],
    ):
        subprocess.run(["git", *command], cwd=copy, check=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RCARENA", "DVC", "XDG"))}
    environment |= {"HOME": str(home), "PYTHONPATH": str(ROOT), "https_proxy": "http://127.0.0.1:9"}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(["make", "demo"], cwd=copy, env=environment | {"PATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "accelerator-throttle" in done.stdout
    assert "nsigma" in done.stdout
    report = copy / "data" / "demo" / "report" / "index.html"
    assert f"report: {report}" in done.stdout
    assert "ray-replicas-1" in report.read_text()
    status = subprocess.run(["git", "status", "--porcelain"], cwd=copy, check=True, capture_output=True, text=True)
    assert status.stdout == ""
