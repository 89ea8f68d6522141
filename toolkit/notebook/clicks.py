"""Clicks that arrive while a cell awaits something, for ipykernel 6.

ipykernel 6 takes one message of the browser after the other, also while a cell awaits: a click on Cancel would wait for
the end of what it is to cancel. From 7 on, what widgets send is handled beside such a cell. Here it is taken out of the
queue by a coroutine on the kernel's own event loop, which runs only while no cell computes. All else stays in the
queue, in its order: cells still run one after the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

LOOK_S: Final = 0.1
"""Pause between two looks into the queue."""

_COMM: Final = "comm_msg"


def listen(kernel: Any, while_: Callable[[], object]) -> None:
    """Let widgets be heard while a cell awaits, for as long as `while_` says so; nothing to do from ipykernel 7 on.

    Parameters
    ----------
    kernel : ipykernel Kernel
        Of this process.
    while_ : callable
        Asked on the kernel's event loop before each look.
    """
    if getattr(kernel, "msg_queue", None) is None or getattr(kernel, "_toolkit_listens", False):
        return
    kernel._toolkit_listens = True  # noqa: SLF001 - one coroutine a kernel, however many views it shows

    async def look() -> None:
        while while_():
            await take(kernel)
            await asyncio.sleep(LOOK_S)
        kernel._toolkit_listens = False  # noqa: SLF001 - as above

    kernel.io_loop.add_callback(look)


async def take(kernel: Any) -> None:
    """Handle what widgets sent, which waits behind a cell; what the kernel knows of the cell is put back after it."""
    waiting = [kernel.msg_queue.get_nowait() for _ in range(kernel.msg_queue.qsize())]
    clicks = [entry for entry in waiting if _is_click(kernel, entry)]
    for entry in waiting:
        if entry not in clicks:
            kernel.msg_queue.put_nowait(entry)
    if not clicks:
        return
    # Only while a message is being handled others wait: its parent is where what the cell shows belongs.
    parent, ident = kernel.get_parent("shell"), kernel._parent_ident["shell"]  # noqa: SLF001 - nothing public has it
    on_interrupt = getattr(kernel, "saved_sigint_handler", None)
    try:
        for _, dispatch, args in clicks:
            await dispatch(*args)
    finally:
        kernel.set_parent(ident, parent, "shell")
        kernel.saved_sigint_handler = on_interrupt
        kernel._publish_status("busy", "shell")  # noqa: SLF001 - the cell goes on


def _is_click(kernel: Any, entry: Any) -> bool:
    _, dispatch, args = entry
    if dispatch != kernel.dispatch_shell:
        return False
    try:
        _, frames = kernel.session.feed_identities(args[0], copy=False)
        header = kernel.session.deserialize(frames, content=False, copy=False)["header"]
    except (ValueError, TypeError, KeyError):  # the kernel itself says what is wrong with it
        return False
    return bool(header["msg_type"] == _COMM)
