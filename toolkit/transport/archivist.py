"""A node that archives: what ended on the server goes into the archive of ``TOOLKIT_ARCHIVE`` before it expires.

A thread of the node's main process looks, which costs little; what is missing is written by a process of its own, so
that neither leases nor the sweep wait for it. Several nodes may do so at once: the archive's own lock lets one write.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from contextlib import closing, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from toolkit.archive import Lookout
from toolkit.errors import LedgerRefused, ToolkitError
from toolkit.ledger import Ledger, Registry
from toolkit.ledger.series import SEGMENT_ROWS
from toolkit.records import one_line
from toolkit.settings import LedgerSettings, ServerAddress

logger = logging.getLogger(__name__)

PERIOD_S: Final = 5.0
"""How often a node looks whether something is to be archived."""
_PAUSE_S: Final = 60.0
"""How long it waits after something could not be archived."""
_ALL_OVER_LOOKS: Final = 120
"""After so many looks it asks for everything again."""
_NICE: Final = 10


class Archivist:
    """Keeps an archive complete, from a thread of a node's main process.

    Parameters
    ----------
    address : ServerAddress
        The ledger's server.
    path : pathlib.Path
        The archive.
    period_s : float
        Seconds between two looks.
    """

    def __init__(self, address: ServerAddress, path: Path, period_s: float = PERIOD_S) -> None:
        self._address = address
        self._path = path
        self._period_s = period_s
        self._stop = threading.Event()
        self._child: subprocess.Popen[str] | None = None
        self._told = ""
        self._thread = threading.Thread(target=self._run, name="toolkit-archivist", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        if find_spec("pyarrow") is None:
            logger.warning(
                "TOOLKIT_ARCHIVE is set, and this node archives nothing: install 'batch-analytics-toolkit[archive]'"
            )
            return
        self._thread.start()

    def stop(self) -> None:
        """End; what is half written is cleared away by the next one who archives."""
        self._stop.set()
        child = self._child
        if child is not None:
            with suppress(OSError):
                child.terminate()

    def _run(self) -> None:
        with closing(Ledger(self._address, LedgerSettings(retry_s=0.0))) as ledger:
            lookout = Lookout(ledger, Registry(ledger.connection), self._path, SEGMENT_ROWS)
            looks, pause_s = 0, self._period_s
            while not self._stop.wait(pause_s):
                pause_s, looks = self._period_s, looks + 1
                if looks % _ALL_OVER_LOOKS == 0:
                    lookout.forget()
                try:
                    if lookout.lacks() and not self._archive():
                        pause_s = _PAUSE_S
                except LedgerRefused as error:  # until a password is changed, or a right granted
                    if str(error) != self._told:
                        logger.warning("nothing is archived from this node for now: %s", error)
                    self._told, pause_s = str(error), _PAUSE_S
                except ToolkitError as error:
                    logger.debug("the archive is not looked after now: %s", error)
                except Exception:
                    logger.exception("the archive is not looked after now")
                    pause_s = _PAUSE_S

    def _archive(self) -> bool:
        """Write what is missing; whether all of it is there."""
        said = json.dumps({
            "url": self._address.url, "username": self._address.username, "password": self._address.password,
            "password_file": str(self._address.password_file) if self._address.password_file else None,
            "path": str(self._path), "least": SEGMENT_ROWS,
        })  # fmt: skip
        self._child = child = subprocess.Popen(
            [sys.executable, "-m", "toolkit.archive"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, child.pid, _NICE)
        _, error = child.communicate(said)
        self._child = None
        why = one_line(error.strip(), 1000)
        if child.returncode and not self._stop.is_set() and why != self._told:
            logger.warning("not everything could be archived: %s", why or f"exit status {child.returncode}")
        self._told = why if child.returncode else ""
        return child.returncode == 0
