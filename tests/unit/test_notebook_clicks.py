"""Clicks while a cell awaits, on the queue of ipykernel 6; the journeys of ``make kernels`` click in a real one."""

from __future__ import annotations

import asyncio
from typing import Any

import zmq
from jupyter_client.session import Session
from tornado.ioloop import IOLoop
from tornado.queues import Queue

from toolkit.notebook.clicks import listen


class Old:
    """What ipykernel 6 has of a kernel: a queue of signed messages, which it handles one after the other."""

    def __init__(self) -> None:
        self.session = Session(key=b"key")
        self.msg_queue: Queue[Any] = Queue()
        self.io_loop = IOLoop.current()
        self._parent_ident = {"shell": [b"browser"]}
        self.parent: Any = "the cell"
        self.saved_sigint_handler: Any = "the cell's"
        self.done: list[str] = []
        self.said: list[tuple[str, Any]] = []

    def send(self, kind: str, name: str, key: bytes = b"key") -> None:
        packed = Session(key=key).serialize(Session().msg(kind, {"name": name}), ident=b"browser")
        frames = [zmq.Message(part) for part in packed]
        self.msg_queue.put_nowait((len(self.done), self.dispatch_shell, (frames,)))

    async def dispatch_shell(self, frames: list[zmq.Message]) -> None:
        message = self.session.deserialize(self.session.feed_identities(frames, copy=False)[1], copy=False)
        self.set_parent([b"other"], message, "shell")
        self.saved_sigint_handler = "of the message"
        self.done.append(message["content"]["name"])

    def get_parent(self, channel: str) -> Any:
        return self.parent

    def set_parent(self, ident: list[bytes], parent: Any, channel: str) -> None:
        self._parent_ident[channel], self.parent = ident, parent

    def _publish_status(self, status: str, channel: str) -> None:
        self.said.append((status, self.parent))


def test_clicks_are_heard_while_a_cell_awaits_and_cells_keep_their_order():
    async def story() -> None:
        # Given a cell that awaits, and messages of cells and widgets behind it
        kernel, live = Old(), ["a view"]
        for kind, name in (("execute_request", "one"), ("comm_msg", "click"), ("comm_info_request", "ask")):
            kernel.send(kind, name)
        kernel.send("comm_msg", "forged", key=b"another")
        kernel.send("execute_request", "two")
        kernel.send("comm_msg", "again")
        # When a view is shown, and another one
        listen(kernel, lambda: live)
        listen(kernel, lambda: live)
        while len(kernel.done) < 2:
            await asyncio.sleep(0.001)
        # Then the clicks alone were handled, and the cell is as it was
        assert kernel.done == ["click", "again"]
        assert (kernel.parent, kernel._parent_ident) == ("the cell", {"shell": [b"browser"]})
        assert kernel.saved_sigint_handler == "the cell's"
        assert kernel.said == [("busy", "the cell")]
        rest = [kernel.msg_queue.get_nowait() for _ in range(kernel.msg_queue.qsize())]
        peeked = [
            kernel.session.unpack(kernel.session.feed_identities(args[0], copy=False)[1][4].bytes)["name"]
            for _, _, args in rest
        ]
        assert peeked == ["one", "ask", "forged", "two"]
        # And once no view lives, the queue is left alone until there is one again
        live.clear()
        while kernel._toolkit_listens:
            await asyncio.sleep(0.001)
        live.append("another view")
        kernel.send("comm_msg", "later")
        listen(kernel, lambda: live)
        while len(kernel.done) < 3:
            await asyncio.sleep(0.001)
        live.clear()
        while kernel._toolkit_listens:
            await asyncio.sleep(0.001)

    asyncio.run(story())


def test_a_kernel_that_hears_them_by_itself_is_left_alone():
    class New:
        io_loop = None

    listen(New(), lambda: True)
    listen(None, lambda: True)
