"""How the commands around recorded cases grow with their number: ``python benchmarks/many_cases.py [SIZES…]``.

A case of each kind is simulated; the others are copies under the ids of the plan, whose tables are links to the same
files, and the rankings of copies are those of their originals. So the data is there without being made, and every
command does on it what it does on any other. Prints, for each command and size, seconds of CPU and of wall-clock time
and the peak memory of its largest process, and the exponent of growth between the two largest sizes: 1 is linear.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
SIZES = (100, 1000, 10_000)
METHODS = ("random", "nsigma", "baro", "peerwise")
TARGETS = 9
"""A tenth of the cases is free of faults, another tenth has a fault on each of these."""
MISSING = 10
"""Cases whose rankings are not there, as after an interrupted scoring."""
GIT = ("-c", "user.name=benchmark", "-c", "user.email=benchmark@localhost")


@dataclass(frozen=True)
class Cost:
    """What a command took: seconds, and the peak memory of its largest process in MiB."""

    cpu_s: float
    wall_s: float
    peak_mb: float


def params_of(cases: int) -> dict[str, Any]:
    """Return the parameters of a campaign of so many cases."""
    document = yaml.safe_load((ROOT / "presets" / "simulated.yaml").read_text())
    each, rest = divmod(cases, TARGETS + 1)
    if rest or each > 1000:
        raise SystemExit(f"{cases}: must be a multiple of {TARGETS + 1}, up to {1000 * (TARGETS + 1)}")
    windows = {"warmup_s": 5, "baseline_s": 22, "fault_s": 22, "recovery_s": 2}
    document["campaign"].update(name="many", repetitions=each, fault_free_cases=each, windows=windows)
    replicas = [f"ray-replicas-{i}" for i in range(3)]
    document["inject"] = {
        "faults": [
            {"kind": "cpu-stress", "targets": replicas, "parameters": {"workers": 2}},
            {"kind": "process-freeze", "targets": replicas},
            {"kind": "network-delay", "targets": replicas, "parameters": {"delay_ms": 300}},
        ]
    }
    document["score"]["methods"] = list(METHODS)
    return document


def rcarena(*words: str | Path) -> list[str]:
    return [sys.executable, "-m", "tasks.cli", *map(str, words)]


def measured(command: Sequence[str], log: Path) -> Cost:
    """Run the command, with what it says in ``log``. Raises SystemExit when it fails."""
    began = time.perf_counter()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "RCARENA_PARAMS": ""}
    with log.open("wb") as said:
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, env=environment, cwd=log.parent)
        _, status, usage = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status) != 0:
        raise SystemExit(f"{' '.join(command[2:6])} …: {log.read_text()[-2000:]}")
    return Cost(usage.ru_utime + usage.ru_stime, time.perf_counter() - began, usage.ru_maxrss / 1024)


class Campaign:
    """A campaign of ``cases`` cases below ``folder``, collected and scored but for ``MISSING`` cases."""

    def __init__(self, folder: Path, cases: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.size = folder, cases
        self.file = folder / "params.yaml"
        self.file.write_text(yaml.safe_dump(params_of(cases)))
        self.root = folder / "workspace"
        self.repository = folder / "repository"

    @property
    def options(self) -> list[str]:
        return ["--params", str(self.file), "--workspace", str(self.root)]

    def fill(self) -> None:
        """Make an original of each kind, copies of it, and their rankings."""
        from tasks.campaign.make import make_one
        from tasks.campaign.plan import plan_campaign
        from tasks.params import load_params
        from tasks.score.campaign import rank_campaign
        from tasks.score.store import PairStore
        from tasks.workspace import Workspace

        self.params, self.place = load_params(self.file), Workspace(self.root)
        store = PairStore(self.place.pairs)
        plans = plan_campaign(self.params)
        originals = {plan.label: plan for plan in plans if plan.repetition == 1}
        for plan in originals.values():
            problem = make_one(self.params, self.place, plan).problem
            if problem:
                raise SystemExit(f"{plan.short_label}: {problem}")
        rank_campaign(self.place.cases, self.params.score, store)
        left_out = MISSING
        for plan in plans:
            if plan.repetition == 1:
                continue
            label = plan.label.rpartition(" #")[0]
            self._copy(originals[label].case_id, plan)
            if left_out:
                left_out -= 1
            else:
                self._keep_rankings(originals[label].case_id, plan.case_id, store)

    def _copy(self, original: str, plan: Any) -> None:
        """Link the tables of a case, under another id and with another start of the file that says it."""
        from tasks.case import MANIFEST_FILE, RECORD_FILE, _file_entry

        source, target = self.place.cases / original, self.place.cases / plan.case_id
        target.mkdir()
        for file in source.glob("*.parquet"):
            os.link(file, target / file.name)
        record = json.loads((source / RECORD_FILE).read_text())
        (target / RECORD_FILE).write_text(json.dumps(record | {"case_id": plan.case_id, "seed": plan.seed}))
        manifest = json.loads((source / MANIFEST_FILE).read_text())
        manifest["files"][RECORD_FILE] = _file_entry(target / RECORD_FILE)
        (target / MANIFEST_FILE).write_text(json.dumps(manifest))

    def _keep_rankings(self, original: str, copy: str, store: Any) -> None:
        from tasks.rca.registry import entry_of
        from tasks.score.fingerprint import pair_key, traits_key, view_key

        score = self.params.score
        paths = [self.place.cases / each for each in (original, copy)]
        theirs, ours = (view_key(path, score) for path in paths)
        store.keep_view(ours, store.view(theirs))
        store.keep_traits(traits_key(paths[1]), store.traits(traits_key(paths[0])))
        for label in score.methods:
            entry = entry_of(label, score.profile)
            parameters = entry.parameters(score.method_parameters)
            keys = [pair_key(key, entry.method, parameters, score) for key in (theirs, ours)]
            store.keep_pair(entry.method.name, keys[1], store.pair(entry.method.name, keys[0]))

    def clone(self) -> None:
        """Make the results repository: the code at work, with DVC, and no outputs."""
        files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True).stdout
        for name in files.decode().split("\0"):
            if name and not name.startswith(("data/", "docs/", "tests/")) and (ROOT / name).is_file():
                (self.repository / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, self.repository / name)
        for words in (["init", "-q", "-b", "main"], ["add", "-A"], ["commit", "-q", "-m", "code"]):
            subprocess.run(["git", *GIT, *words], cwd=self.repository, check=True, capture_output=True)

    def commands(self) -> Iterator[tuple[str, Callable[[], list[str]]]]:
        record = ["record", "--repository", self.repository, "--no-push", *self.options]
        yield "plan", lambda: rcarena("plan", *self.options)
        yield "collect (all there)", lambda: rcarena("collect", *self.options)
        yield "validate", lambda: rcarena("validate", *sorted((self.root / "cases").glob("case-*")))
        yield f"score ({MISSING} missing)", lambda: rcarena("score", *self.options)
        yield "score (all there)", lambda: rcarena("score", *self.options)
        yield "report", lambda: rcarena("report", *self.options)
        yield "benchmark --as-is", lambda: rcarena("benchmark", f"many={self.root}", "--as-is")
        yield "record", lambda: rcarena(*record)
        yield "record (again)", lambda: rcarena(*record)
        yield (
            "compare",
            lambda: rcarena("compare", "results", "--repository", self.repository, *self.options),
        )


def table(found: Mapping[int, Mapping[str, Cost]]) -> str:
    """Return Markdown: a row per command, per size CPU, wall and memory, and the exponents of the last step."""
    sizes = list(found)
    head = ["command", *(f"{size:,} cases: CPU s, wall s, MiB" for size in sizes), "exponent of CPU", "of memory"]
    rows = [head, ["---"] * len(head)]
    for name in next(iter(found.values())):
        costs = [found[size].get(name) for size in sizes]
        cells = [f"{c.cpu_s:.1f}, {c.wall_s:.1f}, {c.peak_mb:.0f}" if c else "–" for c in costs]
        known = [(size, cost) for size, cost in zip(sizes, costs, strict=True) if cost]
        rows.append([name, *cells, *(_exponent(known, field) for field in ("cpu_s", "peak_mb"))])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _exponent(known: Sequence[tuple[int, Cost]], field: str) -> str:
    if len(known) < 2:
        return "–"
    (small, before), (large, after) = known[-2:]
    return f"{math.log(getattr(after, field) / getattr(before, field)) / math.log(large / small):.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sizes", nargs="*", type=int, default=SIZES, help="numbers of cases, ascending")
    parser.add_argument("--only", help="commands whose name begins so, separated by commas")
    parser.add_argument("--keep", type=Path, help="leave the workspaces in this folder")
    parser.add_argument("--fill", type=Path, help="only make the campaign of the size in this folder")
    given = parser.parse_args()
    if given.fill:
        Campaign(given.fill, given.sizes[0]).fill()
        return
    only = tuple(given.only.split(",")) if given.only else ("",)
    found: dict[int, dict[str, Cost]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for size in given.sizes:
            folder = (given.keep or Path(scratch)) / f"many-{size}"
            command = [sys.executable, __file__, str(size), "--fill", str(folder)]
            subprocess.run(command, check=True)  # a large process here would count as memory of its children
            campaign = Campaign(folder, size)
            campaign.clone()
            found[size] = {}
            for name, command in campaign.commands():
                if name.startswith(only):
                    cost = measured(command(), campaign.folder / "log")
                    found[size][name] = cost
                    print(f"{size:>7} {name:<22} {cost.cpu_s:8.1f} {cost.wall_s:8.1f} {cost.peak_mb:8.0f}", flush=True)
    print(table(found))


if __name__ == "__main__":
    main()
