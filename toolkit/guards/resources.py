"""Guard: processor time and peak memory of the process while user code runs."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Mapping

from toolkit.execution import Guard, Slot
from toolkit.records import RunSpec


class Resources(Guard):
    """Differences of ``getrusage``, and the peak resident set.

    Processor time is that of all threads of the process and not of its children. The peak counts from the start of
    the batch where the system allows to reset it (Linux), else from the start of the process.

    Parameters
    ----------
    reset_peak : bool
        Whether the process's peak may be reset at the start of a batch. It is the process's own and visible to
        whoever else looks at it, so not in a process of the user's.
    """

    def __init__(self, reset_peak: bool) -> None:
        self._reset_peak = reset_peak and sys.platform == "linux"
        self._slot: Slot | None = None
        self._user_s = 0.0
        self._system_s = 0.0

    @classmethod
    def for_run(cls, spec: RunSpec, passthrough: bool) -> Resources:
        """Make the guard; `spec` has no say in it."""
        del spec
        return cls(reset_peak=not passthrough)

    def enter(self, slot: Slot) -> None:
        """Note where the counters stand."""
        if self._reset_peak and slot is not self._slot:
            self._reset_peak = _reset_peak()
        self._slot = slot
        usage = resource.getrusage(resource.RUSAGE_SELF)
        self._user_s, self._system_s = usage.ru_utime, usage.ru_stime

    def leave(self) -> Mapping[str, float]:
        """Return cpu_user_s, cpu_system_s and peak_rss_kib."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return {
            "cpu_user_s": usage.ru_utime - self._user_s,
            "cpu_system_s": usage.ru_stime - self._system_s,
            "peak_rss_kib": usage.ru_maxrss // 1024 if sys.platform == "darwin" else usage.ru_maxrss,
        }


def _reset_peak() -> bool:
    """Make ``ru_maxrss`` count from now; False where that is not possible. Takes 5 µs.

    Writing 5 to ``clear_refs`` resets the high-water mark that ``getrusage`` reports, see proc(5).
    """
    try:
        # Opened each time: a descriptor kept open would mean the parent's memory after a fork.
        descriptor = os.open("/proc/self/clear_refs", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, b"5")
        finally:
            os.close(descriptor)
    except OSError:
        return False
    return True
