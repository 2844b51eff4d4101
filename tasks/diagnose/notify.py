"""Tells others of a diagnosis: a chat, Grafana, Alertmanager, a file. A secret URL appears in no message."""

from __future__ import annotations

import html
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import urllib3

from tasks.diagnose.alerts import OWN_ALERT
from tasks.diagnose.diagnosis import Diagnosis, who
from tasks.diagnose.recording import clock
from tasks.errors import RCArenaError
from tasks.export.dashboard import TAG
from tasks.export.sources.http import SecretSource, SourceError
from tasks.live_params import NotifyParams
from tasks.text import some

TIMEOUT_S = 10.0
MOST_FILE_BYTES = 10 * 2**20
"""A file that is larger is set aside (one, with the ending ``.1``), and a new one begins."""
_SENTENCES = 3


class NotifyError(RCArenaError):
    """A diagnosis could not be told to somebody."""


def notify(target: NotifyParams, diagnosis: Diagnosis) -> None:
    """Tell ``target``. Raises NotifyError."""
    try:
        _SENDERS[target.kind](target, diagnosis)
    except urllib3.exceptions.HTTPError as error:
        raise NotifyError(f"{target.kind}: does not answer ({type(error).__name__})") from None
    except OSError as error:
        raise NotifyError(f"{target.kind}: {error.filename or ''}: {error.strerror or type(error).__name__}") from None
    except ValueError as error:  # an address or a header that cannot be sent: its message may hold the secret
        raise NotifyError(f"{target.kind}: cannot be sent ({type(error).__name__})") from None


def summary(diagnosis: Diagnosis) -> str:
    """Return some lines for people."""
    lines = [f"{diagnosis.headline} (change at {clock(diagnosis.change)}, {diagnosis.incident})"]
    for root in diagnosis.roots:
        lines += [f"• {evidence.sentence}" for evidence in root.evidence[:_SENTENCES]]
    if diagnosis.alerts:
        lines.append(f"asked by: {some([alert.name for alert in diagnosis.alerts], 5)}")
    return "\n".join([*lines, *([f"page: {diagnosis.page}"] if diagnosis.page else [])])


def _slack(target: NotifyParams, diagnosis: Diagnosis) -> None:
    _post(target, "", {"text": html.escape(summary(diagnosis), quote=False)})


def annotation(diagnosis: Diagnosis) -> dict[str, Any]:
    """Return the body of a request to Grafana's annotations; its tags find it again.

    Source: Grafana, HTTP API, annotations.
    """
    roots = [f"{who(root)}: {root.kind}" for root in diagnosis.roots]
    campaign = [diagnosis.campaign] if diagnosis.campaign else []
    return {
        "time": round(diagnosis.change.timestamp() * 1000),
        "timeEnd": round(diagnosis.end.timestamp() * 1000),
        "tags": [TAG, "diagnosis", *campaign, diagnosis.incident, *roots],
        "text": summary(diagnosis),
    }


def _grafana(target: NotifyParams, diagnosis: Diagnosis) -> None:
    _post(target, "/api/annotations", annotation(diagnosis))


def _alertmanager(target: NotifyParams, diagnosis: Diagnosis) -> None:
    """Post an alert of its own, which Alertmanager routes like any other. Source: Alertmanager's API v2."""
    labels = {"alertname": OWN_ALERT, "severity": "info", "incident": diagnosis.incident}
    if diagnosis.roots:
        labels |= {"root": who(diagnosis.roots[0]), "kind": diagnosis.roots[0].kind}
    annotations = {"summary": diagnosis.headline, "description": summary(diagnosis)}
    alert = {"labels": labels, "annotations": annotations, "startsAt": diagnosis.change.isoformat()}
    _post(target, "/api/v2/alerts", [alert])


def _file(target: NotifyParams, diagnosis: Diagnosis) -> None:
    assert target.path is not None
    target.path.parent.mkdir(parents=True, exist_ok=True)
    if target.path.exists() and target.path.stat().st_size > MOST_FILE_BYTES:
        target.path.replace(target.path.with_name(f"{target.path.name}.1"))
    line = {
        "incident": diagnosis.incident,
        "change": diagnosis.change.isoformat(),
        "named": diagnosis.named,
        "headline": diagnosis.headline,
        "roots": [{"service": root.service, "kind": root.kind, "p": root.significance} for root in diagnosis.roots],
        "alerts": [alert.name for alert in diagnosis.alerts],
        "page": str(diagnosis.page),
    }
    with target.path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(line) + "\n")


_SENDERS: dict[str, Callable[[NotifyParams, Diagnosis], None]] = {
    "slack": _slack,
    "grafana": _grafana,
    "alertmanager": _alertmanager,
    "file": _file,
}


def _post(target: NotifyParams, path: str, document: Any) -> None:
    url = target.url or _secret(target.url_file, target.kind)
    headers = {"Content-Type": "application/json"}
    if target.token_file:
        headers["Authorization"] = f"Bearer {_secret(target.token_file, target.kind)}"
    retries = urllib3.Retry(2, redirect=0, raise_on_redirect=False, backoff_factor=0.5)
    with _quiet_urllib3(), urllib3.PoolManager(timeout=TIMEOUT_S, retries=retries) as pool:
        answer = pool.request("POST", url.rstrip("/") + path, body=json.dumps(document), headers=headers)
        if not 200 <= answer.status < 300:
            raise NotifyError(f"{target.kind}: HTTP {answer.status}")


@contextmanager
def _quiet_urllib3() -> Iterator[None]:
    """urllib3 logs the path of each try, which is the secret of a webhook."""
    logger = logging.getLogger("urllib3")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def _secret(file: Path | None, kind: str) -> str:
    try:
        return SecretSource(file=file).read("secret")
    except SourceError as error:
        raise NotifyError(f"{kind}: {error}") from None
