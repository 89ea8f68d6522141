"""Executes one batch: user code, its durations, its errors. Knows no server.

What happens to an item that failed is decided in `failures`, what is handed over is made in `parts`; here is the
loop between them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any, Final

from toolkit.errors import BatchError, InvalidInput, TimeLimitExceeded
from toolkit.execution import calls as _calls
from toolkit.execution import states as _states
from toolkit.execution.calls import Call, bind, bind_state, check, limited, named_positions, results_of
from toolkit.execution.context import NO_ITEM, Slot
from toolkit.execution.failures import (
    MAX_LOGS_BYTES,
    MAX_MESSAGE_BYTES,
    Described,
    Failure,
    Verdict,
    clip,
    describe,
    judge,
    python_handlers,
    share_bytes,
    termination_behind,
)
from toolkit.execution.guarding import Guard, GuardStack
from toolkit.execution.parts import Outputs, Part, Stats, Storable, Tally
from toolkit.execution.tasks import Task
from toolkit.records import RunSpec

__all__ = ["Failure", "Guard", "Part", "Runner", "Stats"]

MAX_FAILURES: Final = 256
"""Failures after which a part is handed over: each may carry 24 KiB of text."""

_OWN_FILES: Final = frozenset((__file__, _calls.__file__, _states.__file__))
_AGAIN: Final = Verdict(True, "retryable", charged=False)
_OTHERS_FAILED: Final = Described(
    "toolkit.errors.BatchError",
    "other items of the batch failed, and a BatchError brings no results: this one runs again",
    "",
)

OnItem = Callable[[int], bool]


class Runner:
    """Executes batches of one run with one task.

    Parameters
    ----------
    task : Task
        What to call.
    spec : RunSpec
        How: `call`, `batched`, `keep_results`, the retry policy, `max_result_bytes`.
    kwargs : mapping
        Keyword arguments of every call.
    guards : sequence of Guard
        Put around user code, the first one outermost.
    states : States
        Where values of setup functions are kept; by default those of this process.
    uniform : callable
        Draws from [0, 1) for the jitter of retries.
    interrupts : bool
        Whether a KeyboardInterrupt is somebody's who interrupts this process, as in the user's own. Workers are not
        interrupted so: there an item has raised it, and failed.

    Raises
    ------
    InvalidInput
        `call` is not ``item`` though the task is batched or has a setup, or is none of item, args, kwargs.
    UnknownTask
        Run and task disagree about `batched`.
    """

    def __init__(  # noqa: PLR0913
        self,
        task: Task,
        spec: RunSpec,
        kwargs: Mapping[str, Any],
        *,
        guards: Sequence[Guard] = (),
        states: _states.States = _states.PROCESS_STATES,
        uniform: Callable[[], float] = random.random,
        interrupts: bool = True,
    ) -> None:
        check(task, spec)
        self._task = task
        self._spec = spec
        self._kwargs = dict(kwargs)
        self._retry = spec.retry
        self._guards = GuardStack(guards, spec.run_id)
        self._states = states
        self._uniform = uniform
        self._interrupts = interrupts
        self._storable = Storable()
        # Now and not when a SystemExit arrives: a handler that ends the process uninstalls itself first.
        self._handlers = python_handlers()

    def run(  # noqa: PLR0913
        self,
        items: Sequence[Any],
        indexes: Sequence[int],
        attempts: Sequence[int] | int,
        keys: Sequence[Any] | None = None,
        *,
        on_item: OnItem,
        on_rest: Callable[[], object] = bool,
        progress_s: float = 1.0,
    ) -> Generator[Part, None, None]:
        """Execute a batch and hand over its parts.

        Parameters
        ----------
        items : sequence
            The items of the batch.
        indexes : sequence of int
            Index in the run of each item; a range is fine.
        attempts : sequence of int, or int
            Number of this execution of each item, from 1, or one number for all.
        keys : sequence, optional
            The user's key of each item.
        on_item : callable
            Called with the position of each item right before it, or once with 0 before a batched call. True stops
            the batch there. It is in the hot loop: it must not do more than note the position somewhere.
        on_rest : callable
            Called at the end of each stretch of items, before results are encoded: no user code runs from here on.
        progress_s : float
            Seconds after which a part is handed over, at the end of the item that is then running.

        Yields
        ------
        Part
            In order and without a gap from 0 to the number of items, or to where it was stopped. At least one;
            the final one says `last`. While the caller holds a part, no guard is in place.

        Raises
        ------
        KeyboardInterrupt
            Comes through with `interrupts`. So does a SystemExit raised by the process's own signal handler; any other
            one is a failure of its item.
        """
        n = len(items)
        if len(indexes) != n or (not isinstance(attempts, int) and len(attempts) != n):
            raise InvalidInput(f"{n} items, {len(indexes)} indexes: a batch needs one index and attempt for each item")
        if keys is not None and len(keys) != n:
            raise InvalidInput(f"{n} items and {len(keys)} keys: a batch needs one key for each item, or none at all")
        slot = Slot(self._spec.run_id, indexes, attempts, keys, self._task.batched)
        outputs = Outputs(self._spec.keep_results, self._spec.max_result_bytes, storable=self._storable)
        batch = _Batch(items, slot, outputs)
        step = self._call_once if self._task.batched else self._advance
        last = False
        while not last:
            with self._guards.around(slot, batch.tally.add):
                call = self._prepare(batch)
                stopped = call is not None and step(batch, call, on_item, progress_s)
                on_rest()
            last = stopped or batch.position >= n
            for part in batch.parts(last, stopped):
                if not part.last and any(failure.pause for failure in part.failures):
                    yield part._replace(last=True, stopped=True)
                    return
                yield part

    # ----------------------------------------------------------------------- item by item

    def _advance(self, batch: _Batch, call: Call, on_item: OnItem, progress_s: float) -> bool:
        """Execute items until a part is due; True when stopped on request."""
        due = perf_counter() + progress_s
        n = len(batch.items)
        while batch.position < n:
            room = batch.outputs.room(batch.results)
            if batch.position > batch.start and (not room or perf_counter() >= due or batch.full):
                return False
            if self._loop(batch, call, on_item, min(n, batch.position + room), due):
                return True
        return False

    def _loop(self, batch: _Batch, call: Call, on_item: OnItem, stop: int, due: float) -> bool:
        """The hot loop: all of it is paid once an item, so names are local and the clock is read once."""
        slot, append, clock = batch.slot, batch.results.append, perf_counter
        start, reached, stopped = batch.position, stop, False
        total = squares = longest = 0.0
        first = began = clock()
        for position, item in enumerate(batch.items[start:stop], start):
            if on_item(position):
                reached, stopped = position, True
                break
            slot.position = position
            try:
                append(call(item))
                now = clock()
            except BaseException as exc:  # noqa: BLE001 - SystemExit of user code is a failure of its item
                now = clock()
                failure = self._fail_item(batch, position, exc)
                batch.failures.append(failure)
                stopped = failure.pause
                described = clock()
                began += described - now  # writing the failure down is not the item's own time
                now = described
                if batch.full or stopped:
                    due = now
            spent = now - began
            began = now
            total += spent
            squares += spent * spent
            longest = max(longest, spent)
            if now >= due:
                reached = position + 1
                break
        slot.position = NO_ITEM
        batch.position = reached
        batch.tally.add(
            {"service_s": began - first, "item_sum_s": total, "item_sumsq_s2": squares, "item_max_s": longest}
        )
        return stopped

    def _fail_item(self, batch: _Batch, position: int, error: BaseException) -> Failure:
        self._pass_on(error)
        return self._fail(batch, position, error, describe(error, _OWN_FILES), self._guards.logs())

    def _fail(self, batch: _Batch, position: int, error: Any, told: Described, logs: str) -> Failure:
        verdict, attempt = judge(error, self._retry), batch.slot.attempt(position)
        retry = verdict.retries(attempt, self._retry)
        delay_s = verdict.delay(attempt, self._retry, self._uniform()) if retry else 0.0
        return _failure(position, verdict, told, retry, delay_s, clip(logs, MAX_LOGS_BYTES))

    def _pass_on(self, error: BaseException) -> None:
        """Raise what is not about the item: an interrupt, and the end of the process."""
        if isinstance(error, KeyboardInterrupt) and self._interrupts:
            raise error
        termination = termination_behind(error, self._handlers)
        if termination is not None:
            raise termination

    # ----------------------------------------------------------------------- setup

    def _prepare(self, batch: _Batch) -> Call | None:
        """Return what to call with an item; None if the setup failed, and with it every item that is left."""
        if self._task.setup is None:
            return self._limited(bind(self._task.fn, self._spec.call, self._kwargs))
        began = perf_counter()
        try:
            state = self._states.get(self._task)
        except BaseException as exc:  # noqa: BLE001 - as for items
            self._pass_on(exc)
            self._fail_rest(batch, exc, "setup failed: ")
            return None
        finally:
            batch.tally.add({"service_s": perf_counter() - began})
        return self._limited(bind_state(self._task.fn, state, self._kwargs))

    def _limited(self, call: Call) -> Call:
        """Put the frame around user code by which an interrupt knows that it may raise; only where it may come."""
        spec = self._spec
        return call if spec.item_time_limit_s is None and spec.batch_time_limit_s is None else limited(call)

    def _fail_rest(self, batch: _Batch, error: BaseException, prefix: str = "", verdict: Verdict | None = None) -> None:
        """Every item from the present position fails with one error, due again together."""
        positions = range(batch.position, len(batch.items))
        share = share_bytes(len(positions))
        told = describe(error, _OWN_FILES)
        told = replace(told, message=clip(prefix + told.message, MAX_MESSAGE_BYTES)).within(share)
        logs = clip(self._guards.logs(), min(share, MAX_LOGS_BYTES))
        verdict = verdict or judge(error, self._retry)
        highest = max(map(batch.slot.attempt, positions), default=1)
        delay_s = verdict.delay(highest, self._retry, self._uniform())
        for position in positions:
            retry = verdict.retries(batch.slot.attempt(position), self._retry)
            batch.failures.append(_failure(position, verdict, told, retry, delay_s if retry else 0.0, logs))
        batch.position = len(batch.items)

    # ----------------------------------------------------------------------- one call for all

    def _call_once(self, batch: _Batch, call: Call, on_item: OnItem, progress_s: float) -> bool:
        """Execute a batched task; True when stopped on request. It has no progress to report before its end."""
        del progress_s
        n = len(batch.items)
        if not n:
            return False
        if on_item(0):
            return True
        batch.slot.position = 0
        began = perf_counter()
        try:
            returned = call(list(batch.items))  # a copy: user code may empty its list, ours is still needed
            spent = perf_counter() - began
            batch.results, problem = results_of(returned, n)
            if problem:
                self._fail_rest(batch, InvalidInput(problem), verdict=Verdict(False, "fatal"))
        except BaseException as exc:  # noqa: BLE001 - as for items
            spent = perf_counter() - began
            self._pass_on(exc)
            self._batch_failed(batch, exc)
        batch.slot.position = NO_ITEM
        batch.position = n
        batch.tally.add(
            {"service_s": spent, "item_sum_s": spent, "item_sumsq_s2": spent * spent / n, "item_max_s": spent / n}
        )
        return False

    def _batch_failed(self, batch: _Batch, error: BaseException) -> None:
        n = len(batch.items)
        named = named_positions(error, n) if isinstance(error, BatchError) else {}
        if named:
            self._fail_named(batch, named)
        elif n == 1 or (judge(error, self._retry).retryable and not isinstance(error, TimeLimitExceeded)):
            self._fail_rest(batch, error)
        else:
            batch.cause = self._fail_item(batch, 0, error)

    def _fail_named(self, batch: _Batch, named: Mapping[int, Any]) -> None:
        """Fail the items that a BatchError names. It brings no results, so the others run again, at once."""
        share = share_bytes(len(named))
        logs = clip(self._guards.logs(), min(share, MAX_LOGS_BYTES))
        for position in range(len(batch.items)):
            if position in named:
                error = named[position]
                told = describe(error, _OWN_FILES).within(share)
                batch.failures.append(self._fail(batch, position, error, told, logs))
            else:
                # Whatever its attempt: it has done nothing wrong, and each round settles or charges another item.
                batch.failures.append(_failure(position, _AGAIN, _OTHERS_FAILED, True, 0.0, ""))


class _Batch:
    """A batch in progress: what has been executed and not yet handed over."""

    __slots__ = ("cause", "failures", "items", "outputs", "position", "results", "slot", "start", "tally")

    def __init__(self, items: Sequence[Any], slot: Slot, outputs: Outputs) -> None:
        self.items = items
        self.slot = slot
        self.outputs = outputs
        self.start = 0  # the first item not yet handed over
        self.position = 0  # the first item not yet executed
        self.results: list[Any] = []
        self.failures: list[Failure] = []
        self.cause: Failure | None = None
        self.tally = Tally()

    @property
    def full(self) -> bool:
        """Whether failures alone make a part due."""
        return len(self.failures) >= MAX_FAILURES

    def parts(self, last: bool, stopped: bool) -> Iterator[Part]:
        """Hand over what has been executed, in one part or, where the output is large, in several."""
        if self.cause is not None:
            yield Part(self.start, self.position, None, 0, (), last, stopped, True, self.cause, self.tally.stats())
            return
        results, failures, end = self.results, self.failures, self.position
        first, self.start, self.results, self.failures = self.start, self.position, [], []
        began = perf_counter()
        for start, stop, output, failed in self.outputs.encode(first, end, results, failures):
            self.tally.add({"store_s": perf_counter() - began, "output_bytes": len(output or b"")})
            final = stop == end
            n_ok = stop - start - len(failed)
            yield Part(
                start,
                stop,
                output,
                n_ok,
                tuple(failed),
                last and final,
                stopped and final,
                False,
                None,
                self.tally.stats(),
            )
            began = perf_counter()


def _failure(position: int, verdict: Verdict, told: Described, retry: bool, delay_s: float, logs: str) -> Failure:
    return Failure(
        position,
        retry,
        delay_s,
        verdict.category,
        told.error_type,
        told.message,
        told.traceback_text,
        logs,
        verdict.charged,
        verdict.pause,
    )
