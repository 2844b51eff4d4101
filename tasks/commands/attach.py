"""``rcarena attach``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tasks.commands.options import AsJson
from tasks.errors import ParamsError


def attach(
    kubernetes: Annotated[bool, typer.Option("--kubernetes", help="Look at the pods of --namespace.")] = False,
    namespace: Annotated[
        str | None,
        typer.Option("--namespace", "-n", metavar="NS", help="Namespace of the stack; implies --kubernetes."),
    ] = None,
    context: Annotated[
        str | None, typer.Option("--context", metavar="NAME", help="Context of the kubeconfig; default: the current.")
    ] = None,
    prometheus: Annotated[
        str | None, typer.Option("--prometheus", metavar="URL", help="Prometheus that scrapes the stack.")
    ] = None,
    loki: Annotated[str | None, typer.Option("--loki", metavar="URL", help="Loki with its logs.")] = None,
    traces: Annotated[
        str | None,
        typer.Option("--traces", metavar="KIND=URL", help="Server with its spans: tempo=URL, jaeger=URL or files=URL."),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE", help="Where the proposed parameters go; never overwritten.")
    ] = Path("attached.yaml"),
    bearer_file: Annotated[str | None, typer.Option("--bearer-file", metavar="FILE", help="Holds a token.")] = None,
    bearer_env: Annotated[
        str | None, typer.Option("--bearer-env", metavar="NAME", help="Variable of the environment with a token.")
    ] = None,
    user: Annotated[str | None, typer.Option("--user", metavar="NAME", help="Basic authentication.")] = None,
    password_file: Annotated[
        str | None, typer.Option("--password-file", metavar="FILE", help="Holds the password of --user.")
    ] = None,
    password_env: Annotated[
        str | None, typer.Option("--password-env", metavar="NAME", help="Variable with the password of --user.")
    ] = None,
    service_account: Annotated[
        bool, typer.Option("--service-account", help="Use the token of the pod that this runs in.")
    ] = False,
    ca_file: Annotated[str | None, typer.Option("--ca-file", metavar="FILE", help="PEM of the authority.")] = None,
    certificate: Annotated[
        str | None, typer.Option("--certificate", metavar="FILE", help="PEM of this client's certificate (mTLS).")
    ] = None,
    key: Annotated[str | None, typer.Option("--key", metavar="FILE", help="PEM of its key.")] = None,
    tenant: Annotated[str | None, typer.Option("--tenant", metavar="ID", help="Value of X-Scope-OrgID.")] = None,
    as_json: AsJson = False,
) -> None:
    """Look at a stack that somebody else deployed, without changing it, and propose its parameters.

    Says what was recognised, and which metrics its Prometheus fills from which series.
    """
    from tasks.backends import find
    from tasks.backends.base import Attachment, backends_with
    from tasks.commands.answers import show
    from tasks.params import validated
    from tasks.system.durable import write_durably

    if kubernetes and namespace is None:
        raise ParamsError(["--namespace: is needed with --kubernetes"])
    if context is not None and namespace is None:
        raise ParamsError(["--context: needs --namespace"])
    if (password_file or password_env) and not user:
        raise ParamsError(["--password-file, --password-env: need --user"])
    if out.exists():
        raise ParamsError([f"--out: {out} exists; give another name or remove it"])
    kind, equals, url = (traces or "").partition("=")
    if traces is not None and not (kind and equals and url):
        raise ParamsError([f"--traces: '{traces}' is not KIND=URL, such as tempo=http://tempo:3200"])
    auth: dict[str, Any] = {}
    if bearer_file or bearer_env:
        auth["bearer"] = _secret(bearer_file, bearer_env)
    if user and not (password_file or password_env):
        raise ParamsError(["--user: needs --password-file or --password-env"])
    if user:
        auth["basic"] = {"user": user, "password": _secret(password_file, password_env)}
    if service_account:
        auth["service_account"] = True
    if tenant:
        auth["tenant"] = tenant
    files = {"ca_file": ca_file, "certificate_file": certificate, "key_file": key}
    if any(files.values()):
        auth["tls"] = {name: file for name, file in files.items() if file}
    (backend,) = backends_with("propose")
    answer = find(backend).propose(
        Attachment(namespace, context, prometheus, loki, auth, (kind, url) if traces else None)
    )
    validated(answer.document["params"], str(out))
    write_durably(out, answer.document["file"].encode())
    show(answer, as_json)
    if not as_json:
        typer.echo(f"{out}: written; next: rcarena preflight --params {out}")


def _secret(file: str | None, env: str | None) -> dict[str, str]:
    return {name: value for name, value in (("file", file), ("env", env)) if value}
