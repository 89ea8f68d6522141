"""The ledger of runs: one typed method per server-side transition."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from toolkit import codec
from toolkit.errors import InvalidInput, LedgerCorrupt, LedgerError, LedgerFull, RunNotFound, RunStateError
from toolkit.ledger import keys
from toolkit.ledger.calls import (
    SILENCE_S,
    TICKET_EXPIRY_S,
    Ask,
    Claim,
    Committed,
    Contact,
    Death,
    NoClaim,
    Progress,
    Renewed,
    Swept,
    Weighed,
)
from toolkit.ledger.connection import Connection
from toolkit.ledger.pages import Page
from toolkit.ledger.stored import StoredClaim
from toolkit.records import CATEGORIES, RunSpec, RunState, RunStatus, check_name, one_line
from toolkit.settings import LedgerSettings, ServerAddress


@dataclass(frozen=True, slots=True)
class Stored:
    """What a run is, as its head says.

    Attributes
    ----------
    spec : RunSpec
        What it was asked to be.
    function, kwargs : bytes
        The shipped function and the shared keyword arguments, both encoded.
    born : int
        When it was created, milliseconds since the epoch by the server's clock: tells it from another run that has had
        its id.
    generation : int
        How often dead letters of it were sent back to work.
    """

    spec: RunSpec
    function: bytes
    kwargs: bytes
    born: int
    generation: int


class Ledger:
    """Transitions of runs on one server.

    Every method may be called again with the same arguments without a second effect.

    Parameters
    ----------
    address : ServerAddress
        The server.
    settings : LedgerSettings, optional
        Limits and periods.
    """

    def __init__(self, address: ServerAddress, settings: LedgerSettings | None = None) -> None:
        self.connection = Connection(address, settings)
        self.settings = self.connection.settings

    def __repr__(self) -> str:
        return f"Ledger({self.connection.address.url!r})"

    def close(self) -> None:
        """Close the connections of this process."""
        self.connection.close()

    # ------------------------------------------------------------------ input

    def create(  # noqa: PLR0913 - one argument a field of the head
        self, spec: RunSpec, *, function: bytes = b"", kwargs: bytes = b"", batch_size: int, auto: bool,
        max_workers: int, known_workers: int = 0, release: bool = False, weight_size: float | None = None,
    ) -> None:  # fmt: skip
        """Write the head of a run.

        Parameters
        ----------
        batch_size : int
            Items per batch; 0 with `auto` lets the controller choose.
        auto : bool
            Whether batches taper and the controller steers.
        max_workers : int
            Most batches at a time, 0 for no cap.
        release : bool
            Delete each page of items once all of them ended.
        weight_size : float, optional
            Of a run whose items have weights, the weight of a batch, which takes the place of `batch_size`.

        Raises
        ------
        RunStateError
            A different run has this id.
        """
        answer = self.connection.call(
            "create", keys.of_run(spec.run_id), codec.encode(spec.to_dict()), function, kwargs,
            int(spec.lease_s * 1000), int((spec.retention_s or 0) * 1000), batch_size, int(auto), max_workers, 3,
            known_workers, int(release), repr(spec.breaker), spec.breaker_items,
            "" if weight_size is None else weight_size,
        )  # fmt: skip
        if answer != b"ok":
            raise RunStateError(f"run {spec.run_id} exists already with another description; choose another run_id")

    def append(
        self, run_id: str, page: Page | None, *, expected: int, close: bool = False, digest: str = "", before: str = ""
    ) -> tuple[int, int]:
        """Store one page of items; returns how many the run has now, and how many of them workers have taken.

        Other input than what the run holds is told by `digest` and `before`, where they are given: the
        `pages.InputDigest` of all items with this page and without it.

        Raises
        ------
        InvalidInput
            The run holds other items before this page.
        RunStateError
            The run was cancelled, its input is closed, or it holds another page there.
        LedgerFull
            The server is out of memory; nothing was stored.
        """
        n, items, keyed = (page.stop - page.start, page.items, page.keys) if page else (0, b"", b"")
        weights = (page.weights, page.alone) if page and page.weights else ()
        answer, submitted, taken = self.connection.call(
            "append", keys.of_run(run_id), expected, n, items, keyed, int(close), digest, before, *weights
        )
        if answer == b"norun":
            raise _not_found(run_id)
        if answer == b"differs":
            raise InvalidInput(f"run {run_id} holds other items before item {expected:,}")
        if answer != b"ok":
            raise RunStateError(
                f"run {run_id} takes no more items: {answer.decode()} at {submitted} items (expected {expected})"
            )
        return int(submitted), int(taken)

    # ------------------------------------------------------------------ work

    def claim(self, run_id: str, ask: Ask) -> Claim | NoClaim:
        """Take a batch under a lease."""
        return _parse_claim(ask.claim_id, self.connection.call("claim", keys.of_run(run_id), *ask.arguments()))

    def commit(self, run_id: str, progress: Progress, ask: Ask | None = None) -> Committed:
        """Account a finished prefix of a claim, and take the next batch in the same round trip.

        A server that is out of memory still accounts, but hands out nothing: `NoClaim` with the reason ``full``.
        """
        p = progress
        failed = [
            value for f in p.failed for value in (f.position, f.kind, int(f.delay_s * 1000), f.category, f.letter)
        ]
        said = (
            p.claim_id, p.start, p.stop, int(p.last), int(p.split), repr(p.item_s) if p.item_s > 0 else "", p.row,
            p.output, p.pause, int(p.unless_ok), len(p.failed), *failed,
        )  # fmt: skip
        if ask is not None:
            try:
                answer = self.connection.call("commit", keys.of_run(run_id), *said, *ask.arguments())
            except LedgerFull:
                committed = self.commit(run_id, progress)
                return committed._replace(claim=NoClaim("full", committed.left))
        else:
            answer = self.connection.call("commit_only", keys.of_run(run_id), *said)
        following = answer[3] if len(answer) > 3 else None
        claim = _parse_claim(ask.claim_id, following) if ask and following is not None else None
        return Committed(answer[0] == b"ok", answer[1].decode(), int(answer[2]), claim)

    def renew(self, run_id: str, known_workers: int, claim_ids: Sequence[bytes]) -> Renewed:
        """Extend leases."""
        answer = self.connection.call("renew", keys.of_run(run_id), known_workers, *claim_ids, retry_s=0.0)
        return Renewed(answer[0].decode(), bool(answer[3]), frozenset(answer[4:]))

    def lost(self, run_id: str, claim_id: bytes, death: Death, *, retry_s: float | None = None) -> str:
        """Report that the process holding a claim died or gave it up, and of what; returns the run's state."""
        _, state = self.connection.call(
            "lost", keys.of_run(run_id), claim_id, death.blamed, death.category, death.limit,
            int(death.delay_s * 1000), death.letter, retry_s=retry_s,
        )  # fmt: skip
        return str(state.decode())

    def sweep(
        self, run_id: str, *, known_workers: int, idle_workers: int, lease_s: float, dead_workers: Sequence[int] = (),
        contact: Contact | None = None,
    ) -> Swept:  # fmt: skip
        """Expire leases, promote due retries, end what is done, count missing tickets.

        `dead_workers` are codes of workers (`Reader.workers`) whose processes are known to be dead: their claims expire
        at once, like those whose lease has run out. After a time without sweeps each claim gets one more lease, since
        the server may have been away; unless the caller's `contact` says that it was not.
        """
        since, seen = (contact.since, contact.seen) if contact else (0.0, 0.0)
        answer = self.connection.call(
            "sweep", keys.of_run(run_id), int(1000 * max(lease_s / 2, SILENCE_S)), known_workers, idle_workers,
            int(TICKET_EXPIRY_S * 1000), int(since * 1000), int(seen * 1000), *dead_workers, retry_s=0.0,
        )  # fmt: skip
        left, active, expired, delayed, tickets, due_ms = (int(x) for x in answer[1:7])
        due_s = due_ms / 1000 if due_ms >= 0 else None
        return Swept(answer[0].decode(), left, active, expired, delayed, tickets, due_s)

    def register_tickets(self, run_id: str, ticket_ids: Sequence[str], *, lacking: bool = False) -> int:
        """Count tickets as outstanding before they are published; `lacking` takes no more than the run has use for."""
        if not ticket_ids:
            return 0
        return int(
            self.connection.call("tickets", keys.of_run(run_id), int(TICKET_EXPIRY_S * 1000), int(lacking), *ticket_ids)
        )

    # ------------------------------------------------------------------ commands

    def steer(self, run_id: str, verb: str, reason: str = "", grace_s: float | None = None) -> str:
        """``cancel``, ``pause`` or ``resume`` a run; returns its state.

        With `grace_s`, what still runs of a cancelled run after so many seconds is killed.
        """
        grace_ms = "" if grace_s is None else int(grace_s * 1000)
        state = self.connection.call("steer", keys.of_run(run_id), verb, reason, grace_ms).decode()
        if state == "norun":
            raise _not_found(run_id)
        return str(state)

    def update(
        self, run_id: str, *, batch_size: float | None = None, auto: bool | None = None,
        max_workers: int | None = None, detail: str = "", steered: bool = False,
    ) -> None:  # fmt: skip
        """Change what has not been claimed yet; `batch_size` is in weight where items have one.

        `steered`: by a controller, which changes nothing once a user has fixed the batch size.
        """
        values = ["" if v is None else v for v in (batch_size, None if auto is None else int(auto), max_workers)]
        state = self.connection.call("update", keys.of_run(run_id), *values, detail, int(steered))
        if state == b"norun":
            raise _not_found(run_id)

    def note(self, run_id: str, kind: str, detail: str) -> None:
        """Write a remark into a run's events, for people and for ``toolkit doctor``; a run that is gone keeps none."""
        self.connection.command(
            "XADD", keys.of(run_id, "events"), "NOMKSTREAM", "MAXLEN", "~", 10_000, "*", "event", kind, "detail",
            detail[:1000].encode("utf-8", "replace"),
        )  # fmt: skip

    def store_profile(self, run_id: str, stacks: bytes, most: int) -> bool:
        """Keep the profile of a batch among the run's events, unless it has `most` already; returns whether."""
        command, head = self.connection.command, keys.of(run_id, "head")
        state, stored = command("HMGET", head, "state", "profiles")
        if state is None or not (stored or b"0").isdigit() or int(stored or 0) >= most:
            return False
        command("HINCRBY", head, "profiles", 1)
        fields = ("event", "profile", "detail", "", "stacks", stacks)
        command("XADD", keys.of(run_id, "events"), "NOMKSTREAM", "MAXLEN", "~", 10_000, "*", *fields)
        return True

    def retry_dead(self, run_id: str, indexes: Sequence[int]) -> int:
        """Send dead letters back to work, as one generation; returns how many."""
        return self._revive("retry_dead", run_id, indexes)

    def drop_dead(self, run_id: str, indexes: Sequence[int]) -> int:
        """Forget dead letters, counted as skipped; returns how many."""
        return self._revive("drop_dead", run_id, indexes)

    def _revive(self, verb: str, run_id: str, indexes: Sequence[int]) -> int:
        done = 0
        for at in range(0, len(indexes), 1000):
            part = indexes[at : at + 1000]
            state, n = self.connection.call(verb, keys.of_run(run_id), os.urandom(8).hex(), int(not done), *part)
            if state == b"norun":
                raise _not_found(run_id)
            done += int(n)
        return done

    # ------------------------------------------------------------------ look

    def status(self, run_id: str, spec: RunSpec | None = None) -> RunStatus:
        """One consistent snapshot, one round trip.

        Raises
        ------
        RunNotFound
            There is no such run, or its data expired.
        """
        answer = self.connection.call("status", keys.of_run(run_id))
        if not answer:
            raise _not_found(run_id)
        return _parse_status(run_id, spec, answer)

    def spec(self, run_id: str) -> RunSpec:
        """What the run was asked to be.

        Raises
        ------
        RunNotFound, LedgerCorrupt
        """
        return _parse_spec(run_id, self.connection.command("HGET", keys.of(run_id, "head"), "spec"))

    def stored(self, run_id: str, *, arguments: bool = True) -> Stored:
        """What a worker has to know of a run before its first batch; without `arguments`, who looks after it.

        Raises
        ------
        RunNotFound, LedgerCorrupt
        """
        fields = ("spec", "created_at", "generation", *(("function", "kwargs") if arguments else ()))
        data, created_at, generation, *encoded = self.connection.command("HMGET", keys.of(run_id, "head"), *fields)
        spec = _parse_spec(run_id, data)
        born, nth = _parse_count(run_id, "created_at", created_at), _parse_count(run_id, "generation", generation)
        function, kwargs = (value or b"" for value in encoded or (b"", b""))
        return Stored(spec, function, kwargs, born, nth)

    def generation(self, run_id: str) -> int:
        """How often dead letters of a run were sent back to work.

        Raises
        ------
        RunNotFound, LedgerCorrupt
        """
        found = self.connection.command("HGET", keys.of(run_id, "head"), "generation")
        if found is None:
            raise _not_found(run_id)
        return _parse_count(run_id, "generation", found)

    def input_digest(self, run_id: str) -> str:
        """What `append` was told of all items when it closed the input; empty where it was told nothing."""
        return (self.connection.command("HGET", keys.of(run_id, "head"), "digest") or b"").decode("ascii", "replace")

    def function(self, run_id: str) -> tuple[bytes, bytes]:
        """The shipped function and the shared keyword arguments, both encoded."""
        function, kwargs = self.connection.command("HMGET", keys.of(run_id, "head"), "function", "kwargs")
        return function or b"", kwargs or b""


def _not_found(run_id: str) -> RunNotFound:
    return RunNotFound(f"no run {run_id} on this server: a typing error, another server, or its retention has passed")


def _parse_spec(run_id: str, data: bytes | None) -> RunSpec:
    if data is None:
        raise _not_found(run_id)
    try:
        spec = RunSpec.from_dict(dict(codec.decode(data)))
        check_name(spec.queue, "queue")  # it becomes part of a key, and whoever wrote it may have checked nothing
    except (LedgerError, TypeError, ValueError) as error:
        raise LedgerCorrupt(f"run {run_id}: field spec of key head does not parse ({error})") from error
    if spec.run_id != run_id:
        raise LedgerCorrupt(f"run {run_id}: field spec of key head describes another run, {spec.run_id!r:.100}")
    return spec


def _parse_count(run_id: str, field: str, value: bytes | None) -> int:
    if value is None or not value.isdigit():
        raise LedgerCorrupt(f"run {run_id}: field {field} of key head does not parse: {value!r:.50}")
    return int(value)


def _parse_claim(claim_id: bytes, a: Any) -> Claim | NoClaim:
    if a[0] != b"ok":
        return NoClaim(a[0].decode(), int(a[1]))
    stored, pages = StoredClaim.parse(a[1]), a[9]
    return Claim(
        claim_id=claim_id, at=stored.at_ms / 1000, worker=stored.worker, active=stored.active, known_workers=a[2],
        left=a[3], spawn=bool(a[4]), item_s=float(a[5] or 0), last_batch=a[6], max_workers=a[7], offset=stored.offset,
        asked=stored.asked, ranges=stored.ranges, pages=tuple(zip(pages[::3], pages[1::3], pages[2::3], strict=True)),
        batch_size=a[8], weighed=Weighed(*stored.weights, *map(float, a[10:])) if stored.weights else None,
    )  # fmt: skip


_STATUS_FIELDS = (
    "state", "closed", "submitted", "cursor", "ready", "delayed", "claimed", "ok", "dead", "skipped", "retried", "rows",
    "lost", "batch_size", "auto", "max_workers", "known_workers", "last_batch", "item_s", "generation", "created_at",
    "started_at", "finished_at", "finals", "reason", *(f"errors:{c}" for c in CATEGORIES[1:]),
)  # fmt: skip
"""Fields of the head that `status` answers, in the order of ``6_commands.lua``."""


def _parse_status(run_id: str, spec: RunSpec | None, answer: Any) -> RunStatus:
    at, active, v = answer
    head = dict(zip(_STATUS_FIELDS, v, strict=True))

    def read(field: str, kind: Callable[[Any], Any]) -> Any:
        value = head[field]
        try:
            return kind(value)
        except (ValueError, TypeError, AttributeError) as error:
            shown = "missing" if value is None else repr(value[:40])
            raise LedgerCorrupt(
                f"run {run_id}: a counter of key head does not parse: field {field}, {shown}"
            ) from error

    state = read("state", lambda x: RunState(x.decode()))
    (closed, submitted, cursor, ready, delayed, claimed, ok, dead, skipped, retried, batches, lost, batch_size, auto,
     max_workers, known, last_batch) = (read(field, int) for field in _STATUS_FIELDS[1:18])  # fmt: skip
    item_s = read("item_s", float)
    generation, created, started, finished = (read(field, int) for field in _STATUS_FIELDS[19:23])
    reason = one_line((head["reason"] or b"").decode("utf-8", "replace"), 500)
    errors = {c: n for c in CATEGORIES[1:] if (n := read(f"errors:{c}", lambda x: int(x or 0)))}
    return RunStatus(
        run_id=run_id, name=spec.name if spec else "", task=spec.task if spec else "", state=state,
        closed=bool(closed), submitted=submitted, remaining=submitted - cursor, ready=ready,
        delayed=delayed, claimed=claimed, ok=ok, dead=dead, skipped=skipped, retried=retried,
        batches=batches, active=int(active), known_workers=known, lost=lost, batch_size=batch_size or last_batch,
        auto=bool(auto), max_workers=max_workers, item_s=item_s, generation=generation, created_at=created / 1000,
        started_at=started / 1000, finished_at=finished / 1000, at=int(at) / 1000, reason=reason, errors=errors,
    )  # fmt: skip
