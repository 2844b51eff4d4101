"""Credentials against real servers: NGINX with TLS before the distribution's Prometheus."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.backends.attached.params import Auth
from tasks.export.sources.http import SourceError
from tasks.export.sources.prometheus import PrometheusClient
from tests.waiting import until

SECRET = "hunter2"

pytestmark = pytest.mark.skipif(
    any(shutil.which(each) is None for each in ("nginx", "openssl")), reason="nginx or openssl is not installed"
)


def _openssl(*words: str, folder: Path) -> None:
    subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True, timeout=60)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an authority, a certificate for 127.0.0.1, one for a client, and another authority."""
    folder = tmp_path_factory.mktemp("certificates")
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    for name in ("ca", "other"):
        _openssl(
            "req", "-x509", *key, "-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", f"/CN={name}", folder=folder
        )
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1")
    for name in ("server", "client"):
        _openssl("req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}", folder=folder)
        signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "names", "-days", "2")
        _openssl("x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.pem", *signed, folder=folder)
    return folder


@pytest.fixture
def secured(certificates: Path, start_prometheus: Callable[..., str], tmp_path: Path) -> Iterator[str]:
    """URL of NGINX; each path before Prometheus asks for other credentials."""
    upstream = start_prometheus("# TYPE up gauge\nup 1 1760000000\n")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    hashed = subprocess.run(["openssl", "passwd", "-apr1", SECRET], capture_output=True, text=True, check=True).stdout
    (tmp_path / "users").write_text(f"me:{hashed}")
    asks = {
        "open": "",
        "bearer": f'if ($http_authorization != "Bearer {SECRET}") {{ return 401; }}',
        "basic": f"auth_basic on; auth_basic_user_file {tmp_path}/users;",
        "mtls": "if ($ssl_client_verify != SUCCESS) { return 403; }",
        "tenant": 'if ($http_x_scope_orgid != "team-a") { return 401; }',
        "header": f'if ($http_x_api_key != "{SECRET}") {{ return 401; }}',
    }
    places = "".join(f"location /{name}/ {{ {ask} proxy_pass {upstream}/; }}\n" for name, ask in asks.items())
    (tmp_path / "nginx.conf").write_text(
        f"{'user root; ' if os.geteuid() == 0 else ''}daemon off; pid {tmp_path}/pid;\n"
        f"error_log {tmp_path}/error.log; events {{}}\n"
        f"http {{ access_log off; client_body_temp_path {tmp_path}/body; proxy_temp_path {tmp_path}/proxy;\n"
        f"fastcgi_temp_path {tmp_path}/f; uwsgi_temp_path {tmp_path}/u; scgi_temp_path {tmp_path}/s;\n"
        f"server {{ listen 127.0.0.1:{port} ssl; ssl_certificate {certificates}/server.pem;\n"
        f"ssl_certificate_key {certificates}/server.key; ssl_client_certificate {certificates}/ca.pem;\n"
        f"ssl_verify_client optional;\n{places} }} }}\n"
    )
    server = subprocess.Popen(["nginx", "-c", f"{tmp_path}/nginx.conf", "-e", f"{tmp_path}/error.log"])

    def listens() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    until(listens, (tmp_path / "nginx.conf").read_text)
    yield f"https://127.0.0.1:{port}"
    server.terminate()
    server.wait(10)


def _ask(url: str, auth: dict[str, Any]) -> str:
    """Return "ok", or the problem."""
    try:
        with PrometheusClient(url, timeout_s=10, retries=1, access=Auth.model_validate(auth).access) as client:
            client.now()
    except SourceError as error:
        return str(error)
    return "ok"


def test_each_kind_of_credentials_lets_in_and_is_named_when_refused(
    secured: str, certificates: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "good").write_text(f"{SECRET}\n")
    (tmp_path / "bad").write_text("wrong-secret")
    monkeypatch.setenv("GOOD_SECRET", SECRET)
    authority = {"tls": {"ca_file": str(certificates / "ca.pem")}}
    good, bad = {"file": str(tmp_path / "good")}, {"file": str(tmp_path / "bad")}
    client = {"certificate_file": str(certificates / "client.pem"), "key_file": str(certificates / "client.key")}
    cases: list[tuple[str, dict[str, Any], str]] = [
        ("open", authority, "ok"),
        ("open", {}, "TLS: SSLError: [SSL: CERTIFICATE_VERIFY_FAILED]"),
        ("open", {"tls": {"ca_file": str(certificates / "other.pem")}}, "CERTIFICATE_VERIFY_FAILED"),
        ("open", {"tls": {"ca_file": str(certificates / "names")}}, "TLS"),
        ("bearer", {**authority, "bearer": good}, "ok"),
        ("bearer", {**authority, "bearer": {"env": "GOOD_SECRET"}}, "ok"),
        ("bearer", {**authority, "bearer": bad}, f"HTTP 401: the bearer token in {tmp_path}/bad is refused"),
        ("bearer", {**authority, "bearer": {"env": "NOWHERE"}}, "bearer token $NOWHERE: is not set"),
        ("bearer", authority, "HTTP 401: the server asks for credentials"),
        ("basic", {**authority, "basic": {"user": "me", "password": good}}, "ok"),
        (
            "basic",
            {**authority, "basic": {"user": "me", "password": bad}},
            f"HTTP 401: user 'me' with the password in {tmp_path}/bad is refused",
        ),
        ("mtls", {"tls": {**authority["tls"], **client}}, "ok"),
        ("mtls", authority, "HTTP 403: the server asks for credentials"),
        ("tenant", {**authority, "tenant": "team-a"}, "ok"),
        ("tenant", {**authority, "tenant": "team-b"}, "HTTP 401"),
        ("header", {**authority, "headers": {"X-Api-Key": good}}, "ok"),
        ("header", {**authority, "headers": {"X-Api-Key": bad}}, "HTTP 401: the server refuses what X-Api-Key holds"),
    ]
    for place, auth, expected in cases:
        told = _ask(f"{secured}/{place}", auth)
        assert expected in told, (place, auth)
        assert SECRET not in told
        assert "wrong-secret" not in told
        assert "\n" not in told


def test_a_pod_uses_its_service_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("of-the-pod")
    monkeypatch.setattr("tasks.backends.attached.params.SERVICE_ACCOUNT", tmp_path)
    access = Auth.model_validate({"service_account": True}).access
    assert access.headers() == {"Authorization": "Bearer of-the-pod"}
    assert "of-the-pod" not in repr(access)
