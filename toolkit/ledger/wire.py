"""The client library with a shorter way for function calls, which are what a worker waits for after each batch.

Around each command the library locks its pool, looks whether the connection was closed, counts for telemetry and counts
retries: a good part of a worker's processor time when batches are short. A function of the ledger may be called again
without a second effect, so none of it is needed: a connection that was closed meanwhile is found out by using it.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import redis
from hiredis import pack_command

_SHORT = ("FCALL", "FCALL_RO")
_PIECE = 1024 * 1024
"""Bytes of a command that have the socket's timeout for themselves: counted for all of it at once, as the operating
system's call does, 16 MiB would have to go out within the five seconds that a silent server is given."""
_SLOWEST = 500_000
"""Bytes a second of the slowest network to be waited for, while the last of a command are on their way."""
_BUFFERED = 8 * 1024 * 1024
"""Bytes of a command that may be on their way when all of it counts as sent: what an operating system buffers."""


_USUAL: dict[str, float] = {}


@lru_cache(maxsize=256)
def _head(words: tuple[Any, ...]) -> bytes:
    """What all calls of a function on a run begin with: the call up to its keys, packed, without the count of words."""
    return bytes(pack_command(words)).partition(b"\r\n")[2]


def _packed(connection: Any, args: tuple[Any, ...]) -> Any:
    """The command as bytes, at once where nothing has to be converted first."""
    try:
        values = 3 + args[2]  # behind command, function, number of keys and keys
        tail = pack_command(args[values:])
    except TypeError:
        return connection.pack_command(*args)
    return [b"*%d\r\n%b%b" % (len(args), _head(args[:values]), tail.partition(b"\r\n")[2])]


def _in_pieces(connection: Any, parts: Sequence[Any]) -> tuple[list[Any], dict[str, float]]:
    """Cut a large command -> its pieces, and options by which its answer is awaited for as long as they take."""
    pieces = [memoryview(part)[at : at + _PIECE] for part in parts for at in range(0, len(part), _PIECE)]
    usual: float | None = connection.socket_timeout
    if usual is None:
        return pieces, {}
    return pieces, {"timeout": usual + min(sum(map(len, parts)), _BUFFERED) / _SLOWEST}


class Client(redis.Redis):
    """`redis.Redis`; connections of function calls are its own, one for each thread that calls at a time."""

    _mine: deque[Any] | None = None
    _pid = 0

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Execute one command and return its answer."""
        if args[0] in _SHORT:
            return self._call(args)
        return super().execute_command(*args, **options)  # type: ignore[no-untyped-call]  # redis leaves it untyped

    def close(self) -> None:
        """Close all connections of this process."""
        mine, self._mine = self._mine, None
        if self._pid == os.getpid():
            for connection in mine or ():
                connection.disconnect()
        super().close()

    def _call(self, args: tuple[Any, ...]) -> Any:
        mine = self._mine
        if mine is None or self._pid != os.getpid():  # what a fork inherited belongs to the parent
            mine = self._mine = deque()
            self._pid = os.getpid()
        try:
            connection, fresh = mine.pop(), False
        except IndexError:
            # Not the pool's `make_connection`: it counts, and what breaks here never comes back to be counted off.
            pool = self.connection_pool
            connection, fresh = pool.connection_class(**pool.connection_kwargs), True
        try:
            parts, patience = _packed(connection, args), _USUAL
            if len(parts[0]) > _PIECE or len(parts) > 1:
                parts, patience = _in_pieces(connection, parts)
            connection.send_packed_command(parts, check_health=False)
            answer = connection.read_response(**patience)
        except redis.exceptions.ConnectionError:
            connection.disconnect()
            if fresh:
                raise
            return self._call(args)  # the server was restarted perhaps, since this connection was used
        except redis.exceptions.ResponseError:
            mine.append(connection)  # an answer like any other
            raise
        except BaseException:
            connection.disconnect()  # its answer may still come
            raise
        mine.append(connection)
        return answer
