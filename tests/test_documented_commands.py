"""Every command line in the docs is one that ``rcarena`` takes: the command, and each of its options."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command import ROOT
from tests.test_cli import COMMANDS

PAGES = sorted(
    path for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md"), *ROOT.glob("*/README.md"))
)
GROUPS = {name.split()[0] for name in COMMANDS if " " in name}
_LINE = re.compile(r"(?<!-n )\brcarena((?: +[^\s`|;&#()]+)+)")
_EVERYWHERE = {"--help", "-h", "--version", "--verbose", "-v"}


def command_lines(text: str) -> Iterator[str]:
    """What stands after ``rcarena`` in code, inline or in a block; lines that go on are one."""
    text = re.sub(r"\\\n\s*", " ", text)
    for code in re.findall(r"^```.*?^```|`[^`\n]+`", text, re.M | re.S):
        yield from (match[1] for match in _LINE.finditer(code.strip("`")))


def problem(line: str) -> str | None:
    words = line.split()
    while words and words[0] in _EVERYWHERE:
        words.pop(0)
    if not words or not re.fullmatch(r"[a-z][a-z-]*", words[0]):
        return None  # the program alone, as in `rcarena …`
    name = " ".join(words[: 2 if words[0] in GROUPS else 1])
    if name in GROUPS:
        return None
    if name not in COMMANDS:
        return f"no command '{name}'"
    known = {each for option in COMMANDS[name].params for each in (*option.opts, *option.secondary_opts)}
    asked = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
    wrong = sorted(asked - known - _EVERYWHERE) if name != "deploy exec" else []
    return f"{name} has no {', '.join(wrong)}" if wrong else None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_in_the_docs_exist(page: Path) -> None:
    lines = list(command_lines(page.read_text(encoding="utf-8")))
    assert [f"{line.strip()}: {why}" for line in lines if (why := problem(line))] == []


def test_a_command_that_does_not_exist_is_seen() -> None:
    text = (
        "`rcarena plan --jsn` and\n```sh\nrcarena deploy \\\n  sideways   # no such thing\nrcarena score --fresh\n```"
    )
    found = [problem(line) for line in command_lines(text)]
    assert found == ["plan has no --jsn", "no command 'deploy sideways'", None]
