"""Importing: what is there is kept, nothing half-written shows, whatever is wrong is one line."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from tasks.case import read_cases
from tasks.cli import app
from tasks.datasets.dataset import DatasetError
from tasks.datasets.importing import unpacked
from tests.command import params_with_score, rcarena_here
from tests.datasets.layouts import as_json, as_parquet, imported, nezha, petshop, rcaeval


def rcaeval_set(root: Path) -> Path:
    rcaeval(root / "checkoutservice_cpu/1", events=True)
    rcaeval(root / "frontend_delay/1")
    return root


LAYOUTS: dict[str, Callable[[Path], Path]] = {"petshop": petshop, "nezha": nezha, "rcaeval": rcaeval_set}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_importing_again_keeps_the_cases(layout: str, tmp_path: Path) -> None:
    source = LAYOUTS[layout](tmp_path / "set")
    first = imported(layout, source, tmp_path / "cases")
    files = {file: file.read_bytes() for file in (tmp_path / "cases").rglob("*") if file.is_file()}
    again = imported(layout, source, tmp_path / "cases")
    assert len(first.imported) == 2
    assert (again.imported, again.kept, again.failed) == ((), first.imported, ())
    assert {file: file.read_bytes() for file in (tmp_path / "cases").rglob("*") if file.is_file()} == files


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_same_files_give_the_same_bytes(layout: str, tmp_path: Path) -> None:
    contents = []
    for run in ("a", "b"):
        imported(layout, LAYOUTS[layout](tmp_path / run), tmp_path / f"cases-{run}")
        root = tmp_path / f"cases-{run}"
        contents.append({f.relative_to(root).as_posix(): f.read_bytes() for f in root.rglob("*") if f.is_file()})
    assert contents[0] == contents[1]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_case_id_names_no_service_and_no_fault(layout: str, tmp_path: Path) -> None:
    imported(layout, LAYOUTS[layout](tmp_path / "set"), tmp_path / "cases")
    for case in read_cases(tmp_path / "cases"):
        prefix, _, digits = case.path.name.partition("-")
        assert prefix == layout
        assert len(digits) == 16
        assert int(digits, 16) >= 0


def rcaeval_1_8(root: Path) -> Path:
    as_parquet(rcaeval(root / "re2ob_checkoutservice_cpu_1", events=True))
    as_json(rcaeval(root / "re1ob_frontend_delay_1"))
    index = {"case": ["re1ob_frontend_delay_1"], "root_cause_service": ["frontend"], "fault": ["delay"]}
    pd.DataFrame(index).to_parquet(root / "cases.parquet")
    return root


@pytest.mark.parametrize(("layout", "make"), [*LAYOUTS.items(), ("rcaeval", rcaeval_1_8)])
@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_never_crash_an_import(
    layout: str, make: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    root = tmp_path_factory.mktemp("damaged")
    source = make(root / "set")
    files = sorted(file for file in source.rglob("*") if file.is_file())
    file = data.draw(st.sampled_from(files), label="file")
    content = file.read_bytes()
    at = data.draw(st.integers(0, len(content)), label="at")
    junk = data.draw(
        st.sampled_from(
            [b"", b"\xff\xfe", b"\0", b",", b'"', b"\n", b"nan", b"-1", b"9" * 30, b"null", b"{", b"[]", b"1e400", b";"]
        ),
        label="junk",
    )
    skip = data.draw(st.sampled_from([0, 1, 3, len(content)]), label="skip")
    file.write_bytes(content[:at] + junk + content[at + skip :])
    try:
        result = imported(layout, source, root / "cases")
    except DatasetError:
        return
    assert all(len(line.splitlines()) == 1 for line in (*result.failed, *result.left_out))
    unforeseen = ("TypeError", "KeyError", "IndexError", "AttributeError", "StopIteration")
    assert not any(name in line for line in result.failed for name in unforeseen)
    assert len(read_cases(root / "cases")) == len(set(result.imported))


def test_an_archive_is_unpacked_and_removed(tmp_path: Path) -> None:
    rcaeval_set(tmp_path / "set")
    with tarfile.open(tmp_path / "set.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "set", "set")
    with unpacked(tmp_path / "set.tar.gz") as directory:
        result = imported("rcaeval", directory, tmp_path / "cases")
    assert len(result.imported) == 2
    assert not directory.exists()


def test_an_archive_that_reaches_outside_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "evil.tar", "w") as archive:
        member = tarfile.TarInfo("../../evil.txt")
        member.size = 4
        archive.addfile(member, io.BytesIO(b"evil"))
    with (
        pytest.raises(DatasetError, match="expected a directory, or a whole tar or zip archive"),
        unpacked(tmp_path / "evil.tar"),
    ):
        pass
    assert not list(tmp_path.parent.rglob("evil.txt"))


def test_the_command_says_what_it_did_and_score_takes_the_cases(tmp_path: Path) -> None:
    rcaeval_set(tmp_path / "set")
    (tmp_path / "set/frontend_delay/1/inject_time.txt").unlink()
    done = rcarena_here("import", "rcaeval", str(tmp_path / "set"), "--workspace", str(tmp_path / "w"))
    assert done.exit_code == 1, "one of two failed"
    assert "1 cases imported, 0 kept, 1 failed" in done.stdout
    assert done.stderr.splitlines() == [
        "rcarena: frontend_delay/1: frontend_delay/1/inject_time.txt: cannot be read: No such file or directory; "
        "or give --inject-time"
    ]
    params = params_with_score(tmp_path, methods=["nsigma"], profile="llm")
    scored = rcarena_here("score", "--params", str(params), "--workspace", str(tmp_path / "w"))
    assert scored.exit_code == 0, scored.stderr
    assert "AC@1 (1 cases)" in scored.stdout
    away = rcarena_here("export", "rcaeval", "--workspace", str(tmp_path / "w"), "--to", str(tmp_path / "out"))
    assert away.exit_code == 0, away.stderr
    assert (tmp_path / "out/checkoutservice_cpu/1/data.csv").is_file()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("import rcaeval missing", "missing: no such directory"),
        ("import petshop .", "expected the scenarios of PetShop"),
        ("import nezha params.yaml", "params.yaml: expected a directory, or a whole tar or zip archive"),
        ("import elsewhere .", "elsewhere"),
        ("export rcaeval --to out", "no finished case"),
    ],
)
def test_wrong_usage_ends_with_2_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: str, expected: str
) -> None:
    (tmp_path / "params.yaml").write_text("no archive")
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, arguments.split())
    assert done.exit_code == 2
    assert expected in done.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["params.yaml"]
