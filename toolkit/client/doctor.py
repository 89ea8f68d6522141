"""Why nothing moves: checks from the server to one run, each with what to do next."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from toolkit._version import PROTOCOL, __version__
from toolkit.errors import LedgerError, LedgerUnsafe, RunNotFound
from toolkit.ledger import Ledger, Reader, Registry
from toolkit.records import INLINE_QUEUE, NodeInfo, RunSpec, RunState, RunStatus, quantity


@dataclass(frozen=True, slots=True)
class Finding:
    """One result of a check.

    Attributes
    ----------
    level : str
        ``ok``, ``note``, ``warning`` or ``problem``.
    text : str
        What was found, and what to do about it.
    """

    level: str
    text: str


def examine(
    ledger: Ledger,
    registry: Registry,
    ask_broker: Callable[[], tuple[str, str]],
    run_id: str | None = None,
    queue: str | None = None,
    coming: Finding | None = None,
) -> Iterator[Finding]:
    """Yield findings about the servers, the nodes, the queues, and unfinished runs (or just `run_id`).

    Parameters
    ----------
    ask_broker : callable
        Says where the broker is, and why it takes no tickets, empty where it answers.
    run_id : str, optional
        Look at one run only.
    queue : str, optional
        Queue that a new run of this client would use.
    coming : Finding, optional
        Why the node of a LocalCluster is not there yet: then its absence is no finding of its own.
    """
    try:
        version = ledger.connection.check_server()
        yield Finding("ok", f"server {ledger.connection.address} answers, version {version}, keeps what it is given")
    except LedgerUnsafe as error:
        yield Finding("problem", str(error))
    except LedgerError as error:
        yield Finding("problem", str(error))
        return
    yield _about_broker(*ask_broker())
    nodes = registry.nodes(alive_only=False)
    alive = {n.node for n in registry.nodes()}
    yield from _about_nodes(nodes, alive, coming)
    living = [n for n in nodes if n.node in alive]
    if queue is not None and run_id is None:
        yield from _about_queue(queue, living)
    if run_id is not None:
        spec = ledger.spec(run_id)
        yield from _about_run(ledger, spec, ledger.status(run_id, spec), living, coming)
        return
    unfinished = 0
    for name in registry.queues():
        for listed, _ in registry.active_runs(name):
            try:
                spec = ledger.spec(listed)
                status = ledger.status(listed, spec)
            except RunNotFound:
                continue
            except LedgerError as error:
                yield Finding("problem", f"run {listed}: {error}")
                continue
            unfinished += not status.state.final
            yield from _about_run(ledger, spec, status, living, coming)
    if not unfinished:
        yield Finding("note", "no run is unfinished")


def _about_broker(address: str, trouble: str) -> Finding:
    if not trouble:
        return Finding("ok", f"broker {address} answers")
    return Finding(
        "problem",
        f"the broker {address} does not answer this client as it should ({trouble}). Check that it runs, and the "
        "application's broker_url; where nodes cannot reach it either, none gets a ticket, and runs stand still. "
        "Their items are safe in the ledger",
    )


def _about_nodes(nodes: list[NodeInfo], alive: set[str], coming: Finding | None) -> Iterator[Finding]:
    if coming is not None:
        yield coming
    elif not alive:
        yield Finding(
            "problem",
            "no node is alive: nobody takes tickets. Start one (celery -A yourapp worker, beside tk.install), or use "
            "tk.LocalCluster()",
        )
    for node in nodes:
        if node.node not in alive:
            yield Finding(
                "warning", f"node {node.node} (pid {node.pid} on {node.host}) has not reported lately: it died or hangs"
            )
        elif node.protocol != PROTOCOL or node.toolkit_version.split(".")[:2] != __version__.split(".")[:2]:
            yield Finding(
                "warning",
                f"node {node.node} has version {node.toolkit_version}, this client {__version__}: it declines this "
                "client's runs. Install the same minor version on both",
            )
        else:
            yield Finding(
                "ok", f"node {node.node}: {node.busy} of {node.workers} workers busy, queues {', '.join(node.queues)}"
            )


def _about_queue(queue: str, nodes: list[NodeInfo]) -> Iterator[Finding]:
    if not any(queue in n.queues for n in nodes):
        yield Finding("problem", f"nobody listens to queue {queue!r}: start a node with -Q {queue}, or pass queue=...")


def _about_run(
    ledger: Ledger, spec: RunSpec, status: RunStatus, nodes: list[NodeInfo], coming: Finding | None
) -> Iterator[Finding]:
    run = f"run {spec.run_id} ({spec.task})"
    if status.state.final:
        ended = f"{status.ok:,} ok, {quantity(status.dead, 'dead letter')}, {status.skipped:,} skipped"
        yield Finding("ok", f"{run} is {status.state}: {ended}")
        return
    if spec.queue == INLINE_QUEUE:
        yield Finding(
            "note", f"{run} executes in the process that submitted it; {status.done:,}/{status.submitted:,} items done"
        )
        return
    if coming is None:
        yield from _about_queue(spec.queue, nodes)
    if spec.kind == "celery" and nodes and not any(spec.task in n.tasks for n in nodes):
        yield Finding("problem", f"{run}: no node that is alive knows the task; restart them with its module imported")
    if spec.kind == "function" and nodes and not any(n.functions for n in nodes):
        yield Finding("problem", f"{run}: its function is shipped by value, and no node has a function key")
    declined = [f["detail"] for _, f in Reader(ledger.connection, spec.run_id).events() if f.get("event") == "declined"]
    if declined:
        yield Finding("warning", f"{run}: declined, last by {declined[-1]}")
    yield _progress(run, status, nodes)


def _progress(run: str, status: RunStatus, nodes: list[NodeInfo]) -> Finding:
    if status.state is RunState.PAUSED:
        return Finding("note", f"{run} is paused; run.resume() goes on")
    if not status.closed:
        text = (
            f"its input is not complete, {status.submitted:,} items so far, {status.done:,} done; a client submits it"
        )
        again = f"client.map(..., run_id={status.run_id!r}) with the same task and items goes on, run.cancel() ends it"
        return Finding("note", f"{run}: {text}. If that client died, {again}")
    if status.active:
        text = f"{status.active} batches are being executed, {status.done:,}/{status.submitted:,} items done"
        return Finding("ok", f"{run}: {text}")
    waiting = status.remaining + status.ready
    if status.delayed and not waiting:
        return Finding("note", f"{run}: {status.delayed:,} items wait for their next attempt")
    return Finding("warning", f"{run}: {waiting:,} items wait, {sum(n.busy for n in nodes)} workers are busy elsewhere")
