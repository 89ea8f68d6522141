"""A Celery application as `toolkit.transport.make_app` sets it up, under whatever users the environment names.

With ``SECURED_AUDIT`` its processes write down, once they have started, each time something is unpickled, compiled or
executed, and from where; what imports of installed modules do is left out.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from celery import signals

import toolkit
from toolkit.transport import make_app

WATCHED = {"pickle.find_class", "marshal.loads", "exec", "compile"}
_started: list[str] = []


def note(event: str, args: tuple[Any, ...]) -> None:
    """Append one line about an event of the interpreter."""
    if event not in WATCHED or not _started:
        return
    frame, files = sys._getframe(1), []
    while frame is not None:
        files.append(frame.f_code.co_filename)
        frame = frame.f_back  # type: ignore[assignment]
    if any("importlib._bootstrap" in file for file in files):
        return
    line = json.dumps({"event": event, "what": repr(args)[:200], "files": files}) + "\n"
    descriptor = os.open(os.environ["SECURED_AUDIT"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, line.encode())
    os.close(descriptor)


def _start(**_: Any) -> None:
    _started.append("started")


if os.environ.get("SECURED_AUDIT"):
    sys.addaudithook(note)
    signals.worker_process_init.connect(_start, weak=False)
    signals.worker_ready.connect(_start, weak=False)

app = make_app(os.environ["SECURED_BROKER"], "celery", "secured")
app.conf.imports = ("tests.acceptance.shop",)
# the scripts of the messaging library run every half a second instead of every 100 s
app.conf.broker_transport_options |= {"unacked_restore_interval": 0.5, "unacked_restore_throttle": 1}
toolkit.install(app)
