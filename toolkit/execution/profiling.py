"""A sampling profiler for user code of one thread: where it is, a couple of hundred times a second.

Looks at the interpreter's frames from a thread of its own, so the code under it runs as it always does: no tracing
function, no slower call. It sees Python functions; time inside C code counts for the Python function that called it.
"""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Final

from toolkit.execution import calls, runner, states

INTERVAL_S: Final = 0.005
MAX_DEPTH: Final = 96
MAX_STACKS: Final = 300
"""Different stacks of one profile that are kept, the most frequent ones; samples of the others are counted as such."""
ELSEWHERE: Final = "(less frequent stacks)"
_NAME_CHARS: Final = 120
_OWN_FILES: Final = frozenset((runner.__file__, calls.__file__, states.__file__))

Stacks = Counter[tuple[str, ...]]


class Sampler:
    """Samples of one thread.

    Attributes
    ----------
    stacks : Counter of tuple of str
        Samples by stack, the function that was called by the runner first.
    """

    def __init__(self, thread_id: int, interval_s: float = INTERVAL_S) -> None:
        self.stacks: Stacks = Counter()
        self._thread_id = thread_id
        self._interval_s = interval_s
        self._names: dict[CodeType, str] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="toolkit-profiler", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> Stacks:
        """End, and return what was seen, bounded."""
        self._stop.set()
        self._thread.join()
        return bounded(self.stacks)

    def _run(self) -> None:
        while not self._stop.wait(self._interval_s):
            frame = sys._current_frames().get(self._thread_id)  # noqa: SLF001 - the interpreter's own way to ask for it
            stack = self._user_stack(frame)
            del frame  # it would keep the user's local variables alive until the next look
            if stack:
                self.stacks[stack] += 1

    def _user_stack(self, frame: FrameType | None) -> tuple[str, ...]:
        """Functions above the runner's; none while the thread is not in user code."""
        found: list[str] = []
        while frame is not None and frame.f_code.co_filename not in _OWN_FILES:
            found.append(self._name(frame))
            frame = frame.f_back
        return tuple(found[::-1][:MAX_DEPTH]) if frame is not None else ()

    def _name(self, frame: FrameType) -> str:
        code = frame.f_code
        name = self._names.get(code)
        if name is None:
            module = frame.f_globals.get("__name__")
            text = f"{module if isinstance(module, str) else '?'}:{code.co_qualname}"
            # A stack is written as names between semicolons.
            name = self._names[code] = text.replace(";", ",")[:_NAME_CHARS]
        return name


@contextmanager
def sampling(interval_s: float = INTERVAL_S) -> Iterator[Stacks]:
    """Sample this thread inside; the counter that is given is filled at the end."""
    sampler, found = Sampler(threading.get_ident(), interval_s), Stacks()
    sampler.start()
    try:
        yield found
    finally:
        found.update(sampler.stop())


def bounded(stacks: Stacks, most: int = MAX_STACKS) -> Stacks:
    """The most frequent stacks; the samples of the others under one name, so that their sum stays."""
    kept = Counter(dict(stacks.most_common(most)))
    rest = stacks.total() - kept.total()
    if rest:
        kept[(ELSEWHERE,)] += rest
    return kept


def fold(stacks: Stacks) -> str:
    """The usual text form: a line a stack, names between semicolons, then a blank and the number of samples."""
    return "".join(f"{';'.join(stack)} {n}\n" for stack, n in stacks.most_common())


def unfold(text: str) -> Stacks:
    """Inverse of `fold`.

    Raises
    ------
    ValueError
        A line is no stack.
    """
    found: Stacks = Counter()
    for line in text.splitlines():
        stack, _, n = line.rpartition(" ")
        if not stack or not n.isdecimal():
            raise ValueError("a line is no folded stack")
        found[tuple(stack.split(";"))] += int(n)
    return found
