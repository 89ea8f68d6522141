"""A network so slow that a large value takes longer than a silent server is waited for."""

from __future__ import annotations

import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from tests.integration.ledgers import Run
from toolkit import codec
from toolkit.ledger import Ledger, Page
from toolkit.settings import ServerAddress

TIMEOUT_S = 0.5
LINK_BYTES_S = 8_000_000
ITEM_BYTES = 10_000_000
_CHUNK = 64 * 1024


@contextmanager
def slow_link(address: ServerAddress) -> Iterator[ServerAddress]:
    """The same server at the end of a slow link, by a client that waits for `TIMEOUT_S`."""
    closed = threading.Event()

    def carry(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(_CHUNK):
                target.sendall(data)
                closed.wait(len(data) / LINK_BYTES_S)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def accept(listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.socket(socket.AF_UNIX)
                far.connect(address.url.removeprefix("unix://"))
                ends.extend((near, far))
                for pair in ((near, far), (far, near)):
                    threads.append(threading.Thread(target=carry, args=pair, daemon=True))
                    threads[-1].start()

    with tempfile.TemporaryDirectory(prefix="tk-") as directory, socket.socket(socket.AF_UNIX) as listener:
        path = Path(directory) / "link"
        listener.bind(str(path))
        listener.listen()
        ends: list[socket.socket] = []
        threads = [threading.Thread(target=accept, args=(listener,), daemon=True)]
        threads[0].start()
        yield ServerAddress(f"unix://{path}?socket_timeout={TIMEOUT_S}", password=address.password)
        closed.set()
        for end in (listener, *ends):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join(10)
        for end in ends:
            end.close()


def test_a_value_that_takes_longer_than_the_timeout_to_send_is_stored(address: ServerAddress) -> None:
    assert ITEM_BYTES / LINK_BYTES_S > 2 * TIMEOUT_S
    item = os.urandom(ITEM_BYTES)
    with closing(Ledger(address)) as near, slow_link(address) as far, closing(Ledger(far)) as ledger:
        run = Run(near, batch_size=1)
        page = Page(0, 1, codec.encode_page([item]))
        assert ledger.append(run.run_id, page, expected=0, close=True) == (1, 0)
        claim = run.claim()
        assert codec.decode_page(claim.pages[0][1]) == [item]
        committed = ledger.commit(run.run_id, run.progress(claim))  # the connection waits as before for what is small
        assert committed.accepted
        assert ledger.connection.redis.connection_pool.connection_kwargs["socket_timeout"] == TIMEOUT_S
