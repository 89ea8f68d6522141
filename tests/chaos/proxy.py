"""A TCP proxy between nodes and server that can break the connections in the ways a network does."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_CHUNK = 256 * 1024


class Proxy:
    """Forwards connections of 127.0.0.1 to a server, faithfully until told otherwise.

    Parameters
    ----------
    target : int
        Port of the server, on 127.0.0.1.

    Attributes
    ----------
    port : int
        Where it listens.
    connections : int
        Accepted so far.
    cut : int
        Answers dropped so far.
    """

    def __init__(self, target: int) -> None:
        self.port = 0
        self.connections = 0
        self.cut = 0
        self._target = target
        self._delay_s = 0.0
        self._to_cut = 0
        self._links: set[_Link] = set()
        self._loop = asyncio.new_event_loop()
        self._moving = asyncio.Event()
        self._moving.set()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="chaos-proxy", daemon=True)
        self._thread.start()
        if not self._ready.wait(10):
            raise RuntimeError("the proxy does not start: is 127.0.0.1 reachable?")

    def close(self) -> None:
        """End it and all its connections."""
        if self._thread.is_alive():
            self._do(self._finish)
            self._thread.join(10)

    # ------------------------------------------------------------------ faults

    def latency(self, delay_s: float) -> None:
        """Hold every chunk back for so long, each way; 0 ends it."""
        self._delay_s = delay_s

    def reset(self) -> None:
        """Reset every connection, as a router does that lost its table."""
        self._do(self._reset_all)

    @contextmanager
    def half_open(self) -> Iterator[None]:
        """Forward nothing and close nothing while in the block; then reset what was left hanging."""
        self._do(self._moving.clear)
        try:
            yield
        finally:
            self.reset()
            self._do(self._moving.set)

    def cut_replies(self, n: int = 1) -> None:
        """Let the next `n` requests through, drop what the server answers, and reset those connections."""

        def add() -> None:
            self._to_cut += n

        self._do(add)

    def restore(self) -> None:
        """Forward faithfully again."""

        def forget() -> None:
            self._to_cut, self._delay_s = 0, 0.0
            self._moving.set()

        self._do(forget)

    # ------------------------------------------------------------------ in the loop's thread

    def _do(self, action: Callable[[], object]) -> None:
        done = threading.Event()

        def act() -> None:
            try:
                action()
            finally:
                done.set()

        self._loop.call_soon_threadsafe(act)
        done.wait(10)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        listening = self._loop.run_until_complete(asyncio.start_server(self._accept, "127.0.0.1", 0))
        self.port = listening.sockets[0].getsockname()[1]
        self._ready.set()
        try:
            self._loop.run_forever()
        finally:
            listening.close()
            left = asyncio.all_tasks(self._loop)
            for task in left:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            self._loop.close()

    def _reset_all(self) -> None:
        for link in tuple(self._links):
            link.reset()

    def _finish(self) -> None:
        self._reset_all()
        self._loop.stop()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            _abort(writer)  # the server is away: so is the proxy
            return
        link = _Link(writer, up_writer)
        self._links.add(link)
        try:
            with contextlib.suppress(asyncio.CancelledError):  # the proxy ends
                await asyncio.gather(
                    self._pump(reader, up_writer, link, answers=False),
                    self._pump(up_reader, writer, link, answers=True),
                )
        finally:
            self._links.discard(link)
            link.reset()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, link: _Link, *, answers: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK):
                if self._delay_s:
                    await asyncio.sleep(self._delay_s)
                await self._moving.wait()
                if link.ended:
                    return
                if not answers and self._to_cut:
                    self._to_cut -= 1
                    link.cutting = True
                elif answers and link.cutting:
                    self.cut += 1
                    break
                writer.write(data)
                await writer.drain()
        link.reset()


class _Link:
    """One connection through the proxy."""

    def __init__(self, near: asyncio.StreamWriter, far: asyncio.StreamWriter) -> None:
        self._writers = (near, far)
        self.cutting = False
        self.ended = False

    def reset(self) -> None:
        """End both sides without a farewell."""
        if not self.ended:
            self.ended = True
            for writer in self._writers:
                _abort(writer)


def _abort(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close sends a reset
    writer.transport.abort()
