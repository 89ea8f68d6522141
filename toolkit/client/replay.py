"""The same run in this process: inline, or one item of it again."""

from __future__ import annotations

import socket
import sys
import threading
import time
from types import FunctionType
from typing import Any

from toolkit import codec
from toolkit.client.notices import Notices
from toolkit.errors import LedgerError, RunStateError
from toolkit.execution import Task, as_task, resolve
from toolkit.execution.modules import own_file
from toolkit.ledger import Ledger
from toolkit.records import RunSpec
from toolkit.transport.loop import BatchLoop, Hooks, make_context
from toolkit.transport.marker import Marker


def local_task(spec: RunSpec, task: Task | None = None) -> Task:
    """The run's task as this process has it: given, imported, or a function of a module of the user's, loaded already.

    Raises
    ------
    RunStateError
        It was shipped by value, or belongs to a Celery application, and is not at hand here.
    """
    if task is not None:
        return task
    if spec.kind == "task":
        return resolve(spec.path or spec.task, allow_import=True, sys_path=spec.sys_path)
    found = _function_of_a_module(spec.task) if spec.kind == "function" else None
    if found is not None and found.batched == spec.batched:
        return found
    module, colon, _ = spec.task.partition(":")
    hint = f"import {module} here, or " if colon and module != "__main__" and spec.kind == "function" else ""
    raise RunStateError(
        f"task {spec.task!r} of run {spec.run_id} cannot be found from this process (it is of the kind {spec.kind!r}); "
        f"{hint}pass it: run.replay(index, task=your_function)"
    )


def _function_of_a_module(path: str) -> Task | None:
    """What a run names that was submitted with a plain function.

    The name comes from the server, where others may write too. So nothing is imported, and nothing is taken that is
    not of the user's own modules: it could be ``os:system``.
    """
    name, _, qualname = path.partition(":")
    module = sys.modules.get(name)
    found = vars(module).get(qualname) if module is not None and own_file(name, module) else None
    if isinstance(found, Task):
        return found
    return as_task(found) if isinstance(found, FunctionType) and found.__module__ == name else None


def replay_item(ledger: Ledger, spec: RunSpec, item: Any, fn: Any = None) -> Any:
    """Call the task, or `fn` in its place, on one item, as a worker would, and let its error rise."""
    task = local_task(spec, None if fn is None else as_task(fn))
    _, encoded = ledger.function(spec.run_id)
    kwargs = codec.decode(encoded) if encoded else {}
    state = (task.setup(),) if task.setup is not None else ()
    if task.batched:
        return task.fn([item], *state, **kwargs)[0]
    if spec.call == "args":
        return task.fn(*item, *state, **kwargs)
    if spec.call == "kwargs":
        return task.fn(*state, **item, **kwargs)
    return task.fn(item, *state, **kwargs)


def run_inline(ledger: Ledger, spec: RunSpec, task: Task, kwargs: bytes) -> None:
    """Execute a whole run in this process: same ledger, same accounting, and a debugger sees every frame.

    Time limits are not kept here, and nothing is killed: the process is the user's, and perhaps waits in a debugger.
    """
    context = make_context(spec, task, kwargs, host=socket.gethostname(), node="inline", passthrough=True)
    marker = Marker()
    hooks = Hooks(marker, 0, lambda _spec: False, lambda: False, lambda _spec, _ticket: None)
    stop, notice = threading.Event(), Notices()
    renewal = threading.Thread(target=_renew, args=(ledger, spec, marker, stop), daemon=True, name="toolkit-inline")
    renewal.start()
    try:
        while True:
            ended = BatchLoop(ledger, context, hooks).serve()
            swept = ledger.sweep(spec.run_id, known_workers=1, idle_workers=0, lease_s=spec.lease_s)
            if swept.state not in ("running", "paused"):
                return
            if swept.state == "paused":
                notice.look(ledger.status(spec.run_id, spec))
            if ended.reason in ("empty", "paused", "busy"):
                time.sleep(0.05)
    finally:
        stop.set()
        renewal.join()


def _renew(ledger: Ledger, spec: RunSpec, marker: Marker, stop: threading.Event) -> None:
    while not stop.wait(0.25):
        for work in marker.works():
            if not work.claim_id:
                continue
            try:
                renewed = ledger.renew(spec.run_id, 1, [work.claim_id])
            except LedgerError:
                continue  # tried again soon; the loop itself reports a server that stays away
            if renewed.state in ("cancelling", "cancelled") or work.claim_id in renewed.gone:
                marker.stop(work.slot, work.claim_id)
