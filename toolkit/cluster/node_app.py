"""The Celery application of a LocalCluster's nodes; ``celery -A toolkit.cluster.node_app inspect`` works too.

It belongs to the state directory in ``TOOLKIT_STATE_DIR`` and to the Python environment that runs it.
"""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from typing import Any

from celery import signals

from toolkit.cluster.layout import StateDir, broker_url, node_key, queue_name, socket_address
from toolkit.cluster.leases import NodeKeepAlive
from toolkit.errors import ClusterError
from toolkit.settings import Settings
from toolkit.transport import give_back, install, make_app

GRACE_S = 30.0  # how long batches may go on once the guard has died
_LAST_S = 2.0  # before the end of it: what still runs is given back

_state = StateDir(Settings.from_env().state_dir)
_key = node_key()
_socket = _state.server().get("socket")
if not _socket:
    raise ClusterError(f"no local cluster runs in {_state.path}; nodes are started by LocalCluster, not by hand")
_keep_alive = NodeKeepAlive(_state.leases)

app = make_app(broker_url(_state, _socket), queue_name(_key))
install(
    app,
    socket_address(_state, _socket),
    function_key_file=_state.function_key_file,
    allow_imports=True,
    keep_alive=_keep_alive,
)


def _watch_guard() -> None:
    """Wait for what the guard says on standard input, whose other end it holds, and end the node.

    A byte says that the time to finish batches is over; the end of it, that the guard has died.
    """
    while not select.select([0], [], [], 1.0)[0]:
        _keep_alive.lapse()
    if not os.read(0, 1):
        signal.setitimer(signal.ITIMER_REAL, GRACE_S)  # its signal ends the process, if nothing else does
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE_S - _LAST_S)
    give_back(app)
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def _ready(**_: Any) -> None:
    _state.node_file(_key, "ready").write_text(str(os.getpid()), encoding="ascii")
    threading.Thread(target=_watch_guard, name="toolkit-guard-watch", daemon=True).start()


signals.worker_ready.connect(_ready)
