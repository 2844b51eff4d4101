"""Start the load generator and read what it wrote."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.errors import RCArenaError
from tasks.load.api_key import ApiKey
from tasks.load.spec import LoadSpec
from tasks.params import LoadParams

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from tasks.case import LoadRecord


class LoadError(RCArenaError):
    """The generator ended without writing its rows, or what it wrote cannot be read."""


def start_generator(
    spec: LoadSpec,
    out: Path,
    *,
    argv_prefix: Sequence[str] = (),
    nice: int = 0,
    progress: bool = False,
    log_file: Path | None = None,
    api_key: ApiKey | None = None,
) -> subprocess.Popen[bytes]:
    """Start the generator as a child process that ends with this process, whichever way this one ends.

    SIGTERM stops it early: it then writes what it has and exits with status 0. The specification stays beside ``out``.

    Args:
        out: where the rows go; read them with ``read_run`` once the process has ended.
        argv_prefix: put before the command, for example ``["nsenter", "--net=/run/netns/x"]``.
        nice: change of the scheduling priority; below 0 needs root and is left out without it.
        progress: show a progress line on standard error.
        log_file: where its standard error goes; by default where this process's goes.
        api_key: sent with every request. It goes through a pipe: no file, command line or environment has it.
    """
    spec_file = out.with_name(f"{out.name}.spec.json")
    spec.write(spec_file)
    command = [*argv_prefix, sys.executable, "-m", "tasks.load.generator", str(spec_file), str(out)]
    command += ["--parent", str(os.getpid()), "--nice", str(nice), *(["--progress"] if progress else [])]
    secret = api_key.secret if api_key else None
    command += ["--api-key-on-stdin"] if secret else []
    environment = {name: value for name, value in os.environ.items() if secret is None or value.strip() != secret}
    environment["OPENBLAS_NUM_THREADS"] = "1"
    with (log_file or Path(os.devnull)).open("ab") as log:
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE if secret else subprocess.DEVNULL,
            stderr=None if log_file is None else log,
        )
    if secret is not None and process.stdin is not None:
        with contextlib.suppress(BrokenPipeError), process.stdin:
            process.stdin.write(secret.encode())
    return process


def run_foreground(spec: LoadSpec, out: Path, *, api_key: ApiKey | None = None) -> Run:
    """Run the load and wait for it. Ctrl-C stops it early; what was sent until then is recorded.

    Raises:
        LoadError: the generator failed; it has said why on standard error.
    """
    process = start_generator(spec, out, nice=0, progress=True, api_key=api_key)
    while True:
        try:
            status = process.wait()
            break
        except KeyboardInterrupt:
            process.terminate()
    if status != 0:
        raise LoadError(f"the load generator ended with exit status {status}")
    return read_run(out)


def record_requests(spec: LoadSpec, out: Path, *, api_key: ApiKey | None = None) -> LoadRecord:
    """Run the load and write every request to the Parquet file ``out``.

    Raises:
        LoadError: the generator failed; it has said why on standard error.
    """
    import pyarrow.parquet as pq

    rows = out.with_name(f".{out.name}.rows")
    try:
        run = run_foreground(spec, rows, api_key=api_key)
        pq.write_table(run.requests, out, compression="zstd")
    finally:
        for leftover in (rows, rows.with_name(f"{rows.name}.spec.json")):
            leftover.unlink(missing_ok=True)
    return load_record(run.requests, spec.params, run.oddities)


@dataclass(frozen=True)
class Run:
    """``requests``: in the schema ``tasks.case.REQUESTS``, in the order of scheduling. ``oddities``: what was wrong
    with answers that were read all the same, and with how many."""

    requests: pa.Table
    oddities: Mapping[str, int]


def read_run(out: Path) -> Run:
    """Read what a run of the generator wrote. A last line cut short (the generator was killed) is left out.

    Raises:
        LoadError: the file cannot be read or is not the output of the generator.
    """
    import pyarrow as pa
    from pyarrow import json as pa_json

    from tasks.case import REQUESTS, as_signal
    from tasks.load.generator import ODDITIES

    try:
        content = out.read_bytes()
    except OSError as error:
        raise LoadError(f"{out}: cannot be read: {error.strerror}") from error
    whole_lines = content[: content.rfind(b"\n") + 1]
    if not whole_lines:
        return Run(REQUESTS.empty_table(), {})
    stored = [
        pa.field(field.name, pa.int64() if pa.types.is_timestamp(field.type) else field.type) for field in REQUESTS
    ]
    schema = pa.schema([*stored, pa.field(ODDITIES, pa.list_(pa.string()))])
    parse = pa_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="error")
    try:
        rows = pa_json.read_json(pa.BufferReader(whole_lines), parse_options=parse)
    except pa.ArrowInvalid as error:
        raise LoadError(f"{out}: not the output of the load generator: {error}") from error
    oddities = Counter(rows.column(ODDITIES).combine_chunks().flatten().to_pylist())
    return Run(as_signal("requests", rows.drop_columns(ODDITIES)).sort_by("scheduled"), oddities)


def load_record(
    requests: pa.Table | pd.DataFrame, params: LoadParams, oddities: Mapping[str, int] | None = None
) -> LoadRecord:
    """Summarise the load for ``case.json``. Send lag is ``sent - scheduled``; the verdict compares its 99th
    percentile with ``params.max_send_lag_ms`` and is ``unknown`` when nothing was sent."""
    import numpy as np
    import pyarrow.compute as pc

    from tasks.case import LoadRecord, as_signal
    from tasks.requests import failed

    table = as_signal("requests", requests)
    lag = pc.subtract(table.column("sent"), table.column("scheduled")).drop_null()
    lag_ms = lag.cast("int64").to_numpy() / 1e6
    record = LoadRecord(
        parameters=params.model_dump(mode="json"),
        requests=table.num_rows,
        oddities=dict(oddities or {}),
        failed=int(failed(table.select(["status", "error", "last_token"]).to_pandas()).sum()),
    )
    if not len(lag_ms):
        return record
    p50, p99 = (float(value) for value in np.percentile(lag_ms, (50, 99)))
    verdict = "on-schedule" if p99 <= params.max_send_lag_ms else "fell-behind"
    return record.model_copy(update={"send_lag_p50_ms": p50, "send_lag_p99_ms": p99, "verdict": verdict})
