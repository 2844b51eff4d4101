#!/usr/bin/env python3
"""Every test that can run here: `make test`. The tests of Airflow run beside the unit tests: both mostly wait.

scripts/run_tests.py
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TASKS, AIRFLOW = (ROOT / name / "bin" / "python" for name in (".venv", ".venv-airflow"))
UNIT = [TASKS, "-m", "pytest", "-n", "3", "--dist", "worksteal"]
UNIT += ["-m", "not privileged and not local_stack and not airflow"]
REAL_STACK = [TASKS, "-m", "pytest", "-m", "(privileged or local_stack) and not airflow"]
ORCHESTRATION = [AIRFLOW, "-m", "pytest", "-m", "airflow", "--confcutdir=tests/airflow", "tests/airflow"]


def main() -> int:
    with tempfile.TemporaryFile() as output:
        beside = subprocess.Popen(ORCHESTRATION, cwd=ROOT, stdout=output, stderr=output, start_new_session=True)
        try:
            failed = [subprocess.run(UNIT, cwd=ROOT, check=False).returncode]
            print("waiting for the tests of Airflow", flush=True)
            failed.append(beside.wait())
        finally:
            if beside.poll() is None:
                os.killpg(beside.pid, signal.SIGINT)
                beside.wait()
        output.seek(0)
        sys.stdout.buffer.write(output.read())
        sys.stdout.flush()
    # The real stack measures latencies: nothing runs beside it.
    failed.append(subprocess.run(REAL_STACK, cwd=ROOT, check=False).returncode)
    return int(any(failed))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
