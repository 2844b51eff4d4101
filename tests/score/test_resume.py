"""A run that was killed goes on where it stopped, and what decides a result decides whether it is still good."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.params import ScoreParams
from tasks.rca.registry import get_method
from tasks.rca.run.pool import Limits, PairPool
from tasks.score import fingerprint
from tasks.score.campaign import rank_campaign, score_campaign
from tasks.score.errors import ScoreError
from tasks.score.files import TABLES
from tasks.score.fingerprint import pair_key, view_key
from tasks.score.store import PairStore
from tests.rca import misbehaving  # noqa: F401 (registers its methods)
from tests.rca.views import score_params
from tests.score.processes import InThisProcess, contents, scoring
from tests.synthetic import synthetic_case

PAUSE = {"test_counts_its_calls": {"pause_s": 0.3}}
PARAMS = score_params(methods=["random", "test_counts_its_calls", "test_raises"], method_parameters=PAUSE)
CASES = 6


@pytest.fixture(scope="module")
def cases_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("cases")
    for seed in range(CASES):
        synthetic_case(directory, f"c{seed}", seed=seed)
    return directory


class Calls:
    """The calls of ``test_counts_its_calls``, whichever process they were made in."""

    def __init__(self, receiver: socket.socket) -> None:
        self._receiver = receiver
        self._counts: Counter[str] = Counter()

    def count(self) -> Counter[str]:
        with contextlib.suppress(BlockingIOError):
            while True:
                self._counts[self._receiver.recv(1000).decode()] += 1
        return self._counts.copy()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[Calls]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.setblocking(False)
        monkeypatch.setenv("RCARENA_TEST_CALLS", str(receiver.getsockname()[1]))
        yield Calls(receiver)


def count(calls: Calls) -> Counter[str]:
    return calls.count()


def test_a_killed_run_goes_on_where_it_stopped(cases_dir: Path, tmp_path: Path, calls: Calls) -> None:
    script = (
        "from tests.score.test_resume import PARAMS, PairStore\n"
        "score_campaign(Path(sys.argv[1]), PARAMS, Path(sys.argv[2]), store=PairStore(Path(sys.argv[3])),\n"
        "               progress=lambda *args: print(*args, flush=True), workers=1)\n"
    )
    process = scoring(script, cases_dir, tmp_path / "out", tmp_path / "kept")
    assert process.stdout is not None
    finished = 0
    while finished < 2:
        finished += process.stdout.readline().split(" ", 2)[2].startswith("test_counts_its_calls")
    process.send_signal(signal.SIGKILL)
    finished += sum(line.split(" ", 2)[2].startswith("test_counts") for line in process.stdout.read().splitlines())
    process.wait()
    assert 2 <= finished < CASES
    assert not (tmp_path / "out").exists()
    before = count(calls)

    result = score_campaign(cases_dir, PARAMS, tmp_path / "out", store=PairStore(tmp_path / "kept"), workers=2)
    after = count(calls)
    assert len(after) == CASES
    assert sum(after.values()) - sum(before.values()) == CASES - finished

    whole = score_campaign(cases_dir, PARAMS, tmp_path / "whole", open_pool=InThisProcess)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert len(contents(tmp_path / "out")) == len(TABLES) + 1
    assert result.costs["test_counts_its_calls"]["wall_s_mean"] > 0.3
    assert whole.failures == result.failures == CASES

    again = score_campaign(cases_dir, PARAMS, tmp_path / "again", store=PairStore(tmp_path / "kept"))
    assert count(calls) - after == Counter(after.keys())  # those of the whole run only
    assert contents(tmp_path / "again") == contents(tmp_path / "whole")
    assert json.loads((tmp_path / "again" / "timings.json").read_text()) == json.loads(
        (tmp_path / "out" / "timings.json").read_text()
    )
    assert again.costs == result.costs


@pytest.fixture
def quick() -> ScoreParams:
    return score_params(methods=["test_counts_its_calls"])


@pytest.fixture
def small(cases_dir: Path, tmp_path: Path) -> Path:
    """A folder with two of the cases."""
    folder = tmp_path / "cases"
    folder.mkdir()
    for name in ("c0", "c1"):
        (folder / name).symlink_to(cases_dir / name)
    return folder


def test_only_what_changed_runs_again(small: Path, tmp_path: Path, calls: Calls, quick: ScoreParams) -> None:
    def run(params: ScoreParams = quick, fresh: bool = False) -> int:
        before = sum(count(calls).values())
        store = PairStore(tmp_path / "kept", fresh=fresh)
        score_campaign(small, params, tmp_path / "out", store=store, open_pool=InThisProcess)
        return sum(count(calls).values()) - before

    assert run() == 2
    assert run() == 0
    assert run(fresh=True) == 2
    assert run(quick.model_copy(update={"methods": ("random", "test_counts_its_calls")})) == 0
    assert run(quick.model_copy(update={"bootstrap_samples": 100})) == 0
    assert run(quick.model_copy(update={"seed": 1})) == 2
    victim = next((tmp_path / "kept" / "test_counts_its_calls").glob("*.json"))
    victim.write_bytes(victim.read_bytes()[:100])
    changed = sum(run(quick.model_copy(update={"seed": seed})) for seed in (42, 1))
    assert changed == 1
    for file in (tmp_path / "kept" / "views").iterdir():
        file.write_text("spoiled")
    assert run() in (1, 2)


def test_nothing_is_built_or_started_when_all_is_there(
    small: Path, tmp_path: Path, calls: Calls, quick: ScoreParams
) -> None:
    store = PairStore(tmp_path / "kept")
    score_campaign(small, quick, tmp_path / "out", store=store, open_pool=InThisProcess)

    def no_pool(limits: Limits) -> PairPool:
        raise AssertionError("a pool was opened")

    score_campaign(small, quick, tmp_path / "again", store=store, open_pool=no_pool)
    assert contents(tmp_path / "again") == contents(tmp_path / "out")


def test_a_time_out_is_tried_again_and_never_hides_behind_a_limit(small: Path, tmp_path: Path, calls: Calls) -> None:
    params = score_params(
        methods=["test_counts_its_calls"], method_parameters={"test_counts_its_calls": {"pause_s": 3.0}}, timeout_s=0.1
    )

    def run(params: ScoreParams) -> tuple[set[str], int]:
        before = sum(count(calls).values())
        store = PairStore(tmp_path / "kept")
        result = score_campaign(small, params, tmp_path / "out", store=store, workers=2)
        return set(result.rankings["status"]), sum(count(calls).values()) - before

    assert run(params) == ({"timeout"}, 2)
    assert run(params) == ({"timeout"}, 2)
    assert run(params.model_copy(update={"timeout_s": 5.0})) == ({"ok"}, 2)
    assert run(params.model_copy(update={"timeout_s": 5.0})) == ({"ok"}, 0)


def test_two_runs_at_once_do_not_get_in_each_others_way(
    small: Path, tmp_path: Path, calls: Calls, quick: ScoreParams
) -> None:
    """The second into the same folder is refused; one into another folder shares what is kept."""
    refused: list[Exception] = []
    others: list[threading.Thread] = []

    def score_elsewhere() -> None:
        score_campaign(small, quick, tmp_path / "other", store=PairStore(tmp_path / "kept"), workers=1)

    def progress(done: int, total: int, what: str) -> None:
        if done == 1:
            with pytest.raises(ScoreError, match="another process is writing scores there") as error:
                score_campaign(small, quick, tmp_path / "out", store=PairStore(tmp_path / "kept"))
            refused.append(error.value)
            others.append(threading.Thread(target=score_elsewhere))
            others[0].start()

    score_campaign(small, quick, tmp_path / "out", store=PairStore(tmp_path / "kept"), progress=progress, workers=1)
    others[0].join()
    assert len(refused) == 1
    assert contents(tmp_path / "other") == contents(tmp_path / "out")
    assert not list((tmp_path / "kept").rglob("*.partial"))


def test_the_key_is_what_decides_the_result(cases_dir: Path) -> None:
    method, params = get_method("nsigma"), score_params()
    view = view_key(cases_dir / "c0", params)
    assert view == view_key(cases_dir / "c0", params.model_copy(update={"timeout_s": 5, "seed": 1}))
    changes: list[dict[str, object]] = [
        {"profile": "paper"},
        {"baseline_s": 10},
        {"fault_s": 10},
        {"inject_time": "detected"},
        {"include_ineffective": True},
    ]
    others = [view_key(cases_dir / "c0", score_params(**change)) for change in changes]
    assert len({view, view_key(cases_dir / "c1", params), *others}) == 7
    key = pair_key(view, method, {"direction": "up"}, params)
    assert key == pair_key(view, method, {"direction": "up"}, params)
    numbers = [pair_key(view, method, {"a": value, "b": [value]}, params) for value in (1, 1.0, True)]
    assert numbers[0] == numbers[1] != numbers[2]
    different = [
        pair_key("other", method, {"direction": "up"}, params),
        pair_key(view, get_method("baro"), {"direction": "up"}, params),
        pair_key(view, method, {"direction": "both"}, params),
        *(pair_key(view, method, {"direction": "up"}, params.model_copy(update=change))
          for change in ({"seed": 1}, {"timeout_s": 5}, {"memory_mb": 999})),
    ]  # fmt: skip
    assert len({key, *different}) == 7


def test_a_library_decides_too(cases_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = view_key(cases_dir / "c0", score_params())
    monkeypatch.setattr(fingerprint, "libraries", lambda: {"numpy": "0.1"})
    assert view_key(cases_dir / "c0", score_params()) != before


def test_methods_ranked_one_by_one_are_found_by_the_scoring(cases_dir: Path, tmp_path: Path, calls: Calls) -> None:
    store = PairStore(tmp_path / "pairs")
    for method in PARAMS.methods:
        alone = PARAMS.model_copy(update={"methods": (method,)})
        assert rank_campaign(cases_dir, alone, store, workers=1) == CASES
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pairs"]
    assert score_campaign(cases_dir, PARAMS, tmp_path / "scores", store=store).kept == CASES * len(PARAMS.methods)
    assert set(count(calls).values()) == {1}
