"""The watch: alerts, storms, looks, trouble, what is told to whom. Diagnoses are made up, Alertmanager is real."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.diagnose import attached, openmetrics, prometheus
from tasks.diagnose import incidents
from tasks.diagnose.alerts import MOST_REMEMBERED, MOST_WAITING, OWN_ALERT, Inbox, Receiver, address_of
from tasks.diagnose.diagnosis import Alert, Diagnosis, MethodAnswer
from tasks.diagnose.notify import NotifyError, notify
from tasks.diagnose.watch import AGAIN_S, NEAR_S, Ask, ChildProcess, Reply, Watch
from tasks.errors import ParamsError
from tasks.live_params import DiagnoseParams, NotifyParams
from tasks.rca.method import Evidence, Finding
from tests.command import ROOT
from tests.export.emulators import Request, Response, serving
from tests.synthetic import synthetic_case
from tests.waiting import until

NOW = datetime.now(UTC).replace(microsecond=0)


def diagnosis(
    folder: Path, *, root: str | None = "ray-head", change: datetime = NOW, after_s: float = 180
) -> Diagnosis:
    evidence = (Evidence("latency_p50", f"{root}: calls over its link are late"),)
    findings = () if root is None else (Finding(root, "network-delay", 1e-6, evidence=evidence),)
    name = incidents.name_of(change)
    found = Diagnosis(
        incident=name,
        campaign="staging",
        backend="attached",
        services=3,
        metrics=10,
        start=change - timedelta(seconds=300),
        change=change,
        end=change + timedelta(seconds=after_s),
        detected=True,
        answers=(MethodAnswer(method="peerwise", status="ok", findings=findings),),
        case=folder / name,
        page=folder / f"{name}.html",
    )
    (folder / name).mkdir(parents=True, exist_ok=True)
    return found


class Asked:
    """Answers with the given replies, the last one again and again, and keeps what was asked."""

    def __init__(self, *replies: Reply) -> None:
        self.replies = list(replies)
        self.asks: list[Ask] = []

    def __call__(self, ask: Ask) -> Reply:
        self.asks.append(ask)
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if reply.diagnosis is not None and ask.alerts:
            return Reply(reply.diagnosis.model_copy(update={"alerts": ask.alerts}))
        return reply


def watch(folder: Path, asked: Asked, look: bool = False, **params: Any) -> tuple[Watch, list[str]]:
    said: list[str] = []
    given = DiagnoseParams(**{"join_s": 0.05, "every_s": 1, **params})
    return Watch(asked, given, folder, said.append, look=look), said


def alert(name: str = "Slow", started: datetime = NOW) -> Alert:
    return Alert(name=name, started=started)


def webhook(*names: str, status: str = "firing", started: datetime = NOW) -> bytes:
    alerts = [
        {"status": status, "labels": {"alertname": name}, "startsAt": started.isoformat(), "fingerprint": name}
        for name in names
    ]
    return json.dumps({"version": "4", "status": status, "alerts": alerts}).encode()


def test_only_new_firing_alerts_of_others_are_taken() -> None:
    inbox = Inbox()
    assert inbox.put(webhook("A", "B", OWN_ALERT)) == 2
    assert inbox.put(webhook("A")) == 0
    assert inbox.put(webhook("A", started=NOW + timedelta(hours=1))) == 1
    assert inbox.put(webhook("C", status="resolved")) == 0
    assert [each.name for each in inbox.wait(0)] == ["A", "B", "A"]
    assert inbox.wait(0) == ()


def test_a_name_from_outside_changes_no_terminal() -> None:
    inbox = Inbox()
    inbox.put(webhook("a\x1b[2Jb\n" + "c" * 1000))
    (name,) = (each.name for each in inbox.wait(0))
    assert name.startswith("a [2Jb c")
    assert len(name) == 200


def test_the_inbox_is_bounded() -> None:
    inbox = Inbox()
    for i in range(MOST_REMEMBERED + 10):
        inbox.put(webhook(f"a{i}"))
    assert len(inbox.wait(0)) == MOST_WAITING
    assert inbox.dropped == MOST_REMEMBERED + 10 - MOST_WAITING
    for i in range(MOST_REMEMBERED + 10):
        inbox.put(webhook(f"b{i}"))
        inbox.wait(0)
    assert len(inbox._known) == MOST_REMEMBERED


def test_an_alert_that_was_dropped_is_taken_when_it_comes_again() -> None:
    inbox = Inbox()
    for i in range(MOST_WAITING):
        inbox.put(webhook(f"a{i}"))
    assert inbox.put(webhook("late")) == 0
    assert len(inbox.wait(0)) == MOST_WAITING
    assert inbox.put(webhook("late")) == 1
    assert inbox.put(webhook("late", "a0")) == 0


def test_a_storm_is_one_diagnosis(tmp_path: Path) -> None:
    asked = Asked(Reply(diagnosis(tmp_path)))
    loop, said = watch(tmp_path, asked)
    loop.inbox.put(webhook("A", "B"))
    threading.Timer(0.02, loop.inbox.put, [webhook("C")]).start()
    loop.step()
    (ask,) = asked.asks
    assert [each.name for each in ask.alerts] == ["A", "B", "C"]
    assert said[0] == "alert: A, B, C (3)"
    assert f"{incidents.name_of(NOW)}: ray-head: network-delay" in said[1]


def test_an_alert_that_the_last_diagnosis_explains_joins_it(tmp_path: Path) -> None:
    target = NotifyParams(kind="file", path=tmp_path / "told.jsonl")
    asked = Asked(Reply(diagnosis(tmp_path)))
    loop, said = watch(tmp_path, asked, notify=(target,))
    loop.answer((alert("A"),))
    loop.answer((alert("B", NOW + timedelta(seconds=30)),))
    loop.answer((alert("C", NOW + timedelta(hours=1)),))
    assert len(asked.asks) == 2
    assert said[2] == f"B (1): joins {incidents.name_of(NOW)}: ray-head: network-delay"
    told = [json.loads(line)["alerts"] for line in (tmp_path / "told.jsonl").read_text().splitlines()]
    assert told == [["A"], ["B"], ["C"]]
    kept = incidents.read(tmp_path, incidents.name_of(NOW))
    assert kept is not None
    assert [each.name for each in kept.alerts] == ["A", "B"]


def test_an_alert_without_a_change_is_judged_at_its_own_time(tmp_path: Path) -> None:
    asked = Asked(Reply(), Reply(diagnosis(tmp_path)))
    loop, _ = watch(tmp_path, asked)
    loop.answer((alert("A", NOW - timedelta(seconds=100)),))
    assert asked.asks[0].at is None
    assert asked.asks[1].at == NOW - timedelta(seconds=100)
    assert 100 + NEAR_S <= (asked.asks[0].since_s or 0) < 100 + 1800


def test_an_alert_without_a_root_is_looked_at_once_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = diagnosis(tmp_path, root=None)
    asked = Asked(Reply(nothing))
    loop, said = watch(tmp_path, asked)
    loop.answer((alert(),))
    assert not nothing.case.exists()
    assert loop._again is not None
    assert 0 < loop._again[0] - time.monotonic() <= AGAIN_S
    loop._again = (time.monotonic(), loop._again[1])
    nothing.case.mkdir()
    loop.step()
    assert loop._again is None
    assert [ask.at for ask in asked.asks] == [None, NOW, None, NOW, None]
    near, *_, far = asked.asks
    assert (near.since_s or 0) < 1800 <= (far.since_s or 0), "an old change is thought of last"
    assert "nothing significant" in said[-1]
    assert nothing.case.exists()


def test_alerts_that_wait_for_a_second_look_share_it(tmp_path: Path) -> None:
    asked = Asked(Reply(diagnosis(tmp_path, root=None)))
    loop, _ = watch(tmp_path, asked)
    loop.answer((alert("A"),))
    assert loop._again is not None
    soonest = loop._again[0]
    loop.answer((alert("B"),))
    assert loop._again == (soonest, (alert("A"), alert("B")))


def test_a_look_keeps_only_what_names_a_root(tmp_path: Path) -> None:
    first, second = diagnosis(tmp_path, root=None), diagnosis(tmp_path, change=NOW + timedelta(minutes=20))
    asked = Asked(Reply(first), Reply(), Reply(second))
    loop, said = watch(tmp_path, asked, look=True)
    loop.glance()
    assert not first.case.exists()
    loop.glance()
    loop.glance()
    assert [ask.not_before for ask in asked.asks] == [None, NOW + timedelta(seconds=15), NOW + timedelta(seconds=15)]
    assert second.case.exists()
    assert len(said) == 1


def test_a_change_with_little_telemetry_is_looked_at_again(tmp_path: Path) -> None:
    asked = Asked(Reply(diagnosis(tmp_path, root=None, after_s=20)))
    loop, _ = watch(tmp_path, asked, look=True)
    loop.glance()
    loop.glance()
    assert asked.asks[1].not_before is None


def test_the_same_roots_again_are_the_same_incident(tmp_path: Path) -> None:
    later = diagnosis(tmp_path, change=NOW + timedelta(minutes=5))
    other = diagnosis(tmp_path, change=NOW + timedelta(minutes=6), root="ray-replicas-0")
    loop, said = watch(tmp_path, Asked(Reply(diagnosis(tmp_path)), Reply(later), Reply(other)), look=True)
    for _ in range(3):
        loop.glance()
    assert said[1] == "ray-head: network-delay: goes on"
    assert not later.case.exists()
    assert other.case.exists()


def test_trouble_is_said_once_and_its_end_too(tmp_path: Path) -> None:
    away = Reply(problem="rcarena: Prometheus: http://x: no answer")
    loop, said = watch(tmp_path, Asked(away, away, away, Reply(), Reply()), look=True)
    for _ in range(5):
        loop.glance()
    assert said == ["rcarena: Prometheus: http://x: no answer", "it can be diagnosed again"]


def test_what_follows_a_diagnosis_is_called_where_a_root_is_named(tmp_path: Path) -> None:
    followed: list[str] = []
    found = diagnosis(tmp_path)
    asked = Asked(Reply(found))
    loop, _ = watch(tmp_path, asked)
    loop.after = (lambda each: followed.append(each.headline),)
    loop.answer((alert(),))
    asked.replies = [Reply(diagnosis(tmp_path, root=None, change=NOW + timedelta(hours=2)))]
    loop._diagnose((alert("B", NOW + timedelta(hours=2)),), last_try=True)
    assert followed == ["ray-head: network-delay"]


def test_looks_and_alerts_take_turns(tmp_path: Path) -> None:
    asked = Asked(Reply(diagnosis(tmp_path)))
    loop, _ = watch(tmp_path, asked, look=True, every_s=1)
    loop.step()
    loop.inbox.put(webhook("A", started=NOW + timedelta(hours=1)))
    loop.step()
    assert [bool(ask.alerts) for ask in asked.asks] == [False, True]


def test_one_diagnosis_at_a_time_while_alerts_pour_in(tmp_path: Path) -> None:
    running = 0
    most = 0
    asks: list[Ask] = []

    def slow(ask: Ask) -> Reply:
        nonlocal running, most
        running += 1
        most = max(most, running)
        asks.append(ask)
        time.sleep(0.15)
        running -= 1
        return Reply(diagnosis(tmp_path, change=NOW + timedelta(hours=len(asks))))

    loop, _ = watch(tmp_path, Asked(Reply()))
    loop.ask = slow
    loop.inbox.put(webhook("first"))
    worker = threading.Thread(target=lambda: [loop.step() for _ in range(2)])
    worker.start()
    until(lambda: asks, "the first diagnosis")
    for i in range(50):
        loop.inbox.put(webhook(f"a{i}", started=NOW + timedelta(days=1)))
    worker.join()
    assert most == 1
    assert [len(ask.alerts) for ask in asks] == [1, 50]


@pytest.fixture
def receiver() -> Iterator[tuple[Receiver, Inbox]]:
    inbox = Inbox()
    with Receiver("0", inbox) as server:
        yield server, inbox


def post(url: str, body: bytes, **headers: str) -> int:
    request = urllib.request.Request(url, data=body, headers=headers, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_the_receiver_takes_webhooks_and_nothing_else(receiver: tuple[Receiver, Inbox]) -> None:
    server, inbox = receiver
    assert server.url.startswith("http://127.0.0.1:")
    assert post(server.url, webhook("A")) == 202
    assert post(server.url, b"{}") == 400
    assert post(server.url, b"not JSON") == 400
    assert post(server.url.replace("/alerts", "/other"), webhook("A")) == 404
    assert post(server.url, b" " * (2**20 + 1)) == 413
    with urllib.request.urlopen(server.url.replace("/alerts", "/health"), timeout=10) as answer:
        assert answer.status == 200
    assert [each.name for each in inbox.wait(0)] == ["A"]


@pytest.mark.parametrize("length", ["9" * 5000, "ten", "-1", "1.5", "\u00b2"])
def test_a_length_that_is_none_is_refused(
    length: str, receiver: tuple[Receiver, Inbox], capfd: pytest.CaptureFixture[str]
) -> None:
    server, inbox = receiver
    assert post(server.url, b"", **{"Content-Length": length}) == 400
    assert post(server.url, webhook("A")) == 202
    assert len(inbox.wait(0)) == 1
    assert "Traceback" not in capfd.readouterr().err


def test_the_receiver_asks_for_its_token(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("s3cret\n")
    with Receiver("0", Inbox(), token) as server:
        assert post(server.url, webhook("A")) == 401
        assert post(server.url, webhook("A"), Authorization="Bearer other") == 401
        assert post(server.url, webhook("A"), Authorization="Bearer s3cret") == 202
        token.unlink()
        assert post(server.url, webhook("A"), Authorization="Bearer s3cret") == 401


def test_addresses() -> None:
    assert (address_of("9095"), address_of("0.0.0.0:9095")) == (("127.0.0.1", 9095), ("0.0.0.0", 9095))
    for wrong in ("", "here", "1.2.3.4:", "1.2.3.4:99999"):
        with pytest.raises(ParamsError, match="is no address"):
            address_of(wrong)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ParamsError, match="Address already in use"):
            Receiver(str(taken.getsockname()[1]), Inbox())


def told(kind: str, tmp_path: Path, status: int = 200, **params: Any) -> list[tuple[Request, bytes]]:
    """What a server got that a diagnosis was told to."""
    got: list[tuple[Request, bytes]] = []

    def take(request: Request) -> Response:
        got.append((request, b""))
        return Response(b"ok", status)

    with serving(take) as url:
        secret = tmp_path / "url"
        secret.write_text(f"{url}/hook/S3CRET\n")
        where = {"url_file": secret} if kind == "slack" else {"url": url}
        notify(NotifyParams(kind=kind, **where, **params), diagnosis(tmp_path))
    return got


def test_a_chat_and_grafana_are_told(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("glsa_1")
    ((slack, _),) = told("slack", tmp_path)
    assert slack.path == "/hook/S3CRET"
    ((grafana, _),) = told("grafana", tmp_path, token_file=token)
    name = incidents.name_of(NOW)
    (body,) = grafana.fields  # the emulator reads a body as a form
    assert json.loads(body)["tags"] == ["rcarena", "diagnosis", "staging", name, "ray-head: network-delay"]
    assert (grafana.path, grafana.headers["Authorization"]) == ("/api/annotations", "Bearer glsa_1")


def test_a_secret_url_appears_in_no_message(tmp_path: Path) -> None:
    with pytest.raises(NotifyError) as refused:
        told("slack", tmp_path, status=404)
    assert str(refused.value) == "slack: HTTP 404"
    secret = tmp_path / "url"
    secret.write_text("http://127.0.0.1:1/S3CRET")
    with pytest.raises(NotifyError, match=r"slack: does not answer \(\w+\)") as away:
        notify(NotifyParams(kind="slack", url_file=secret), diagnosis(tmp_path))
    assert "S3CRET" not in str(away.value)
    with pytest.raises(NotifyError, match=r"slack: .*nowhere: No such file"):
        notify(NotifyParams(kind="slack", url_file=tmp_path / "nowhere"), diagnosis(tmp_path))


def test_a_file_that_is_too_large_is_set_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.diagnose.notify.MOST_FILE_BYTES", 100)
    file = tmp_path / "told.jsonl"
    for _ in range(4):
        notify(NotifyParams(kind="file", path=file), diagnosis(tmp_path))
    assert sorted(path.name for path in tmp_path.glob("told*")) == ["told.jsonl", "told.jsonl.1"]
    assert json.loads(file.read_text().splitlines()[0])["roots"][0]["service"] == "ray-head"


def test_trouble_with_a_notice_does_not_end_the_watch(tmp_path: Path) -> None:
    target = NotifyParams(kind="slack", url_file=tmp_path / "nowhere")
    loop, said = watch(tmp_path, Asked(Reply(diagnosis(tmp_path))), notify=(target,))
    loop.answer((alert(),))
    assert said[-1].startswith("notify: slack: ")


def test_a_child_that_fails_says_why(tmp_path: Path) -> None:
    child = ChildProcess(["--params", str(tmp_path / "none.yaml")])
    reply = child(Ask(since_s=600))
    assert reply.problem == f"rcarena: {tmp_path}/none.yaml: cannot be read: No such file or directory"


def test_a_child_is_ended_with_the_watch(tmp_path: Path) -> None:
    child = ChildProcess([])
    child._command = [sys.executable, "-c", "import time; time.sleep(60)"]
    marks: list[subprocess.Popen[str]] = []
    original = subprocess.Popen.communicate

    def interrupted(self: subprocess.Popen[str], *arguments: Any, **more: Any) -> Any:
        marks.append(self)
        raise KeyboardInterrupt

    subprocess.Popen.communicate = interrupted  # type: ignore[method-assign]
    try:
        with pytest.raises(KeyboardInterrupt):
            child(Ask())
    finally:
        subprocess.Popen.communicate = original  # type: ignore[method-assign]
    assert marks[0].poll() is not None


@pytest.fixture
def alertmanager(tmp_path: Path) -> Iterator[Any]:
    """``start(webhook_url) -> url``: the distribution's Alertmanager, which sends every alert there."""
    program = shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")
    if program is None:
        pytest.skip("Alertmanager is not installed")
    processes: list[subprocess.Popen[bytes]] = []

    def start(url: str) -> str:
        config = tmp_path / "alertmanager.yml"
        config.write_text(
            "route: {receiver: rcarena, group_wait: 0s, group_interval: 1s, repeat_interval: 1m, group_by: ['...']}\n"
            f"receivers: [{{name: rcarena, webhook_configs: [{{url: '{url}', send_resolved: true}}]}}]\n"
        )
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [program, f"--config.file={config}", f"--storage.path={tmp_path}/am", "--cluster.listen-address="]
        processes.append(
            subprocess.Popen(
                [*command, f"--web.listen-address=127.0.0.1:{port}"],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )
        address = f"http://127.0.0.1:{port}"
        until(lambda: _ready(f"{address}/-/ready"), "Alertmanager to be ready")
        return address

    yield start
    for process in processes:
        process.kill()
        process.wait()


def _ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _alerts_of(url: str) -> list[dict[str, Any]]:
    with urllib.request.urlopen(f"{url}/api/v2/alerts", timeout=10) as answer:
        return list(json.load(answer))


def test_alertmanager_end_to_end(tmp_path: Path, alertmanager: Any) -> None:
    """Its alerts come in, the diagnosis goes back as an alert of its own, and that one asks for no diagnosis."""
    asked = Asked(Reply(diagnosis(tmp_path)))
    loop, said = watch(tmp_path, asked)
    with Receiver("0", loop.inbox) as server:
        url = alertmanager(server.url)
        target = NotifyParams(kind="alertmanager", url=url)
        loop.params = loop.params.model_copy(update={"notify": (target,), "join_s": 0.3, "every_s": 30})
        fired = [
            {"labels": {"alertname": name, "service": "ray-head"}, "startsAt": NOW.isoformat()}
            for name in ("Slow", "Errors")
        ]
        assert post(f"{url}/api/v2/alerts", json.dumps(fired).encode(), **{"Content-Type": "application/json"}) == 200
        loop.step()
        assert {each.name for ask in asked.asks for each in ask.alerts} <= {"Slow", "Errors"}
        assert len(asked.asks) == 1
        until(lambda: len(_alerts_of(url)) == 3, "the diagnosis to be an alert")
        (own,) = [each for each in _alerts_of(url) if each["labels"]["alertname"] == OWN_ALERT]
        assert (own["labels"]["root"], own["labels"]["kind"]) == ("ray-head", "network-delay")
        assert own["annotations"]["summary"] == "ray-head: network-delay"
        assert "calls over its link are late" in own["annotations"]["description"]
        time.sleep(0.5)
        assert all(each.name != OWN_ALERT for each in loop.inbox.wait(0))
    assert not [line for line in said if line.startswith("notify")]


def _params(folder: Path, document: dict[str, Any], **section: Any) -> Path:
    file = folder / "attached.yaml"
    file.write_text(yaml.safe_dump({**document, "diagnose": {"methods": ["nsigma"], "join_s": 0.5, **section}}))
    return file


@contextmanager
def watching(*arguments: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """``rcarena diagnose`` in a process of its own; what it says is in ``log``."""
    command = [sys.executable, "-u", "-m", "tasks.cli", "diagnose", *arguments]
    with log.open("wb") as stream:
        process = subprocess.Popen(command, cwd=ROOT, stdout=stream, stderr=stream)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_from_an_alert_to_a_notice_by_processes(tmp_path: Path, alertmanager: Any) -> None:
    """Alertmanager fires, a process diagnoses what Prometheus holds, the answer comes back, Ctrl-C ends it all."""
    if shutil.which("prometheus") is None:
        pytest.skip("prometheus is not installed")
    case = synthetic_case(tmp_path / "cases", baseline_s=300, fault_s=400, recovery_s=1, strength=20)
    began = int(time.time()) - 60
    told_file, log = tmp_path / "told.jsonl", tmp_path / "watch.log"
    with prometheus(tmp_path, openmetrics(case, began + 401)) as url:
        told_file_section = [{"kind": "file", "path": str(told_file)}]
        params = _params(tmp_path, attached(case, url, 1), notify=told_file_section)
        arguments = ["--alerts", "0", "--params", str(params), "--workspace", str(tmp_path / "w")]
        with watching(*arguments, log=log) as process:
            until(lambda: "alerts are taken at http" in log.read_text(), log.read_text)
            hook = re.findall(r"http://\S+/alerts", log.read_text())[0]
            fired = [{"labels": {"alertname": "Slow"}, "startsAt": datetime.fromtimestamp(began + 20, UTC).isoformat()}]
            address = alertmanager(hook)
            body = json.dumps(fired).encode()
            assert post(f"{address}/api/v2/alerts", body, **{"Content-Type": "application/json"}) == 200
            until(told_file.exists, log.read_text, seconds=300)
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0
    line = json.loads(told_file.read_text())
    assert (line["named"], line["alerts"]) == (True, ["Slow"])
    assert "ray-replicas-1 is the first suspect of nsigma" in line["headline"]
    assert abs(datetime.fromisoformat(line["change"]).timestamp() - began) < 20
    assert log.read_text().rstrip().endswith("watch: ended")


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_watch_lives_on_without_prometheus(tmp_path: Path) -> None:
    case, log = synthetic_case(tmp_path / "cases"), tmp_path / "watch.log"
    params = _params(tmp_path, attached(case, "http://127.0.0.1:1", 1), every_s=1)
    with watching("--watch", "--params", str(params), "--workspace", str(tmp_path / "w"), log=log) as process:
        until(lambda: "no answer after retries" in log.read_text(), log.read_text, seconds=300)
        time.sleep(3)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    assert log.read_text().count("no answer after retries") == 1


def test_no_log_line_holds_a_secret_url(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    secret = tmp_path / "url"
    secret.write_text("http://127.0.0.1:1/S3CRET")
    with caplog.at_level("DEBUG"), pytest.raises(NotifyError):
        notify(NotifyParams(kind="slack", url_file=secret), diagnosis(tmp_path))
    assert "S3CRET" not in caplog.text


@pytest.mark.parametrize("content", [b"S3CRET\nS3CRET", b"S3CRET\xff", "S3CRETé".encode(), b"S3CRET\x00", b" "])
def test_an_odd_token_is_one_line_without_it(content: bytes, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_bytes(content)
    with pytest.raises(NotifyError) as odd:
        notify(NotifyParams(kind="grafana", url="http://127.0.0.1:1", token_file=token), diagnosis(tmp_path))
    assert "S3CRET" not in str(odd.value)
    with pytest.raises(NotifyError) as odd:
        notify(NotifyParams(kind="slack", url_file=token), diagnosis(tmp_path))
    assert "S3CRET" not in str(odd.value)
    assert "\n" not in str(odd.value)


def test_no_alert_calls_a_whole_channel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []
    monkeypatch.setattr("tasks.diagnose.notify._post", lambda target, path, document: sent.append(document))
    calling = diagnosis(tmp_path).model_copy(update={"alerts": (alert("<!channel> & more"),)})
    notify(NotifyParams(kind="slack", url="http://x"), calling)
    assert "&lt;!channel&gt; &amp; more" in sent[0]["text"]
