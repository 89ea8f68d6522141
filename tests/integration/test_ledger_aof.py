"""A power loss at any byte: the append-only file is cut, a real server starts from it, and the ledger is consistent.

A run that makes every call is recorded with ``appendfsync always``; after each call its file's length and a digest of
all data are kept. A file cut at byte `n` must bring back exactly the data of the latest call whose record ends at or
before `n`: no call is half there. From each of these states workers then bring the run to its end.

``LEDGER_CUTS=all`` cuts at every byte (Valkey; on Redis at every 40th), about ten minutes; ``make faults`` does that.
"""

from __future__ import annotations

import copy
import os
import random
import shutil
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis

from tests import conftest
from tests.integration.ledger_play import PAGE, N, Play
from tests.integration.ledgers import items_of, page_of
from tests.integration.test_ledger_connection import OwnServer
from toolkit.ledger import Claim, Ledger, Reader

ALL = os.environ.get("LEDGER_CUTS") == "all"
CUTS = 60  # of each recording, in the short form
EVERY = {"valkey": 1, "redis": 40}  # bytes from cut to cut, in the long form
Scene = Callable[..., OwnServer]


@dataclass
class Record:
    """What a server wrote, and how things stood whenever its file had grown.

    Attributes
    ----------
    folder : Path
        A copy of its append-only directory.
    data : bytes
        The append-only file in it.
    lengths, digests : list
        Bytes of the file and a digest of all data, after each command that wrote; first those of the empty server.
    play : Play
        What was played.
    """

    folder: Path
    data: bytes
    lengths: list[int]
    digests: list[bytes]
    play: Play

    def expected(self, cut: int) -> int:
        """Number of the command that is the last one in a file of `cut` bytes."""
        return bisect_right(self.lengths, cut) - 1

    def cuts(self, every: int) -> list[int]:
        """Where to cut: everywhere, or spread over the file, at ends of records and beside them."""
        if ALL:
            return list(range(0, len(self.data) + 1, every))
        chosen = random.Random(len(self.data))
        ends = chosen.sample(self.lengths, CUTS // 3)
        spread = range(0, len(self.data), len(self.data) // (CUTS // 3))
        return sorted({*ends, *(max(0, end - 1) for end in ends), *(a + chosen.randrange(400) for a in spread)})


class Recorder:
    """A connection that looks at the server after each command."""

    def __init__(self, real: Any, file: Path, record: Record) -> None:
        self._real, self._file, self._record = real, file, record

    def execute_command(self, *args: Any) -> Any:
        answer = self._real.execute_command(*args)
        length = self._file.stat().st_size
        if length > self._record.lengths[-1]:
            self._record.lengths.append(length)
            self._record.digests.append(digest(self._real))
        return answer

    def close(self) -> None:
        self._real.close()


def digest(client: Any) -> bytes:
    return bytes(client.execute_command("DEBUG", "DIGEST"))


@pytest.fixture(scope="module")
def scene(server: conftest.Server) -> Iterator[Scene]:
    """Start servers of the engine under test, each in a directory of its own."""
    binary = conftest._valkey_binary() if server.engine == "valkey" else conftest._redis_binary()
    with ExitStack() as stack:

        def start(*lines: str) -> OwnServer:
            directory = stack.enter_context(conftest._short_directory())
            own = OwnServer(binary, directory, ("enable-debug-command yes", "auto-aof-rewrite-percentage 0", *lines))
            own.start()
            stack.callback(own.stop)
            return own

        yield start


@pytest.fixture(scope="module", params=[False, True], ids=["to the end", "cancelled"])
def record(scene: Scene, request: pytest.FixtureRequest) -> Record:
    own = scene("appendonly yes", "appendfsync always")
    folder = own.directory / "appendonlydir"
    (file,) = folder.glob("*.incr.aof")
    with closing(Ledger(own.address)) as ledger, closing(Ledger(own.address)) as boss:
        play = Play(ledger, boss, {}, request.param)
        record = Record(folder, b"", [0], [digest(boss.connection.redis)], play)
        for one in (ledger, boss):
            one.connection.redis = Recorder(one.connection.redis, file, record)  # type: ignore[assignment]
        play.perform().audit()
    record.data = file.read_bytes()
    assert record.lengths[-1] == len(record.data)
    own.stop()
    return record


def cut(record: Record, at: int, folder: Path) -> None:
    """Lay down the directory of a server whose file ends at byte `at`."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(record.folder, folder)
    (file,) = folder.glob("*.incr.aof")
    file.write_bytes(record.data[:at])


def load(own: OwnServer, record: Record, at: int, ledger: Ledger) -> bytes:
    """Digest of what a server makes of a file that ends at byte `at`.

    It is started on the file; where there are many to try, on Valkey, it loads the file while it runs.
    """
    client = ledger.connection.redis
    if ALL and at % 500 and "valkey" in own.binary:
        cut(record, at, own.directory / "appendonlydir")
        with suppress(redis.exceptions.ResponseError):  # says that the file was cut, after loading it
            client.execute_command("DEBUG", "LOADAOF")
        return digest(client)
    own.stop()
    cut(record, at, own.directory / "appendonlydir")
    own.start()
    client.connection_pool.disconnect()
    return digest(client)


@pytest.mark.timeout(1800)
def test_a_file_cut_at_any_byte_is_a_ledger_after_some_call(
    server: conftest.Server, scene: Scene, record: Record
) -> None:
    own, finished = scene("appendonly yes", "appendfsync no", "aof-load-truncated yes"), set[int]()
    with closing(Ledger(own.address)) as ledger:
        for at in record.cuts(EVERY[server.engine]):
            number = record.expected(at)
            assert load(own, record, at, ledger) == record.digests[number], f"cut at byte {at}: a call is half there"
            if number not in finished:
                finished.add(number)
                go_on(record, ledger)
    assert len(finished) >= 12


def go_on(record: Record, ledger: Ledger) -> None:
    """Check the ledger as it was found, then bring the run to its end: the client submits the rest, workers work."""
    run = copy.copy(record.play.run)
    run.ledger, run.reader = ledger, Reader(ledger.connection, run.run_id)
    ledger.create(run.spec, **run.sizes)
    run.check()
    status = run.status()
    if not status.closed:
        for start in range(status.submitted, N, PAGE):
            ledger.append(run.run_id, page_of(start, min(start + PAGE, N)), expected=start, close=start + PAGE >= N)
    for _ in range(20):
        state = ledger.steer(run.run_id, "resume")
        if state in ("finished", "cancelled"):
            break
        run.make_due()
        for claim_id in run.reader.claims():  # who held them is gone
            run.lease_until(claim_id, 1)
        run.last_swept(1)
        run.sweep()
        while isinstance(claim := ledger.claim(run.run_id, run.ask()), Claim):
            assert items_of(claim) == list(claim.indexes())
            run.commit(claim)
    run.check()
    status = run.status()
    assert status.state.final
    assert status.ok + status.dead + status.skipped == N == status.submitted
    assert set(run.results()).isdisjoint(run.reader.dead_indexes())
