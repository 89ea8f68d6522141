"""The Celery application of the nodes that `bench_recovery` kills and `costs` slows down, and a task for them."""

from __future__ import annotations

import os
import time

import toolkit
from toolkit.transport import make_app, node

QUEUE = "recovery"

app = make_app(os.environ["RECOVERY_BROKER"], QUEUE, "recovery")
app.conf.imports = (__name__, "tests.benchmarks.work")
if os.environ.get("RECOVERY_HINT") == "0":
    node.place = lambda: ""  # as if each node were on a machine of its own
toolkit.install(app, ledger_url=os.environ["RECOVERY_LEDGER"])


@toolkit.task
def stamp(x: int, journal: str, pause_s: float) -> int:
    """Note on disk which process began the item, and when."""
    line = f"{x} {os.getpid()} {time.monotonic()!r}\n".encode()
    file = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, line)
    finally:
        os.close(file)
    time.sleep(pause_s)
    return x
