"""Real ``celery worker`` processes for tests of shared deployments."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]


@contextmanager
def celery_node(module: str, name: str, environment: Mapping[str, str], log: Path, *options: str) -> Iterator[int]:
    """One node of the application in `module`, ended at the end; gives the id of its main process."""
    command = [sys.executable, "-m", "celery", "-A", module, "worker", "-n", f"{name}@%h", *options]
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, env={**os.environ, **environment}, stdout=out, stderr=out, start_new_session=True, cwd=ROOT
        )
        try:
            yield process.pid
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
