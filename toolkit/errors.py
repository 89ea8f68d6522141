"""Every error this package raises, drawn as one tree.

::

    ToolkitError
    ├── InvalidInput                 the caller's: wrong argument, nothing was enqueued
    │   ├── EncodeError              an item, result or argument that cannot be stored exactly
    │   ├── UnknownTask              no worker and no application knows this task
    │   └── FunctionNotAllowed       a function typed in a cell, on a deployment without a key
    ├── RunError                     about one run
    │   ├── RunNotFound              no run with this id on this server
    │   ├── RunFailed                results asked for, and some items are dead letters
    │   ├── RunCancelled             results asked for, and the run was cancelled
    │   ├── RunStateError            the run's state does not allow this
    │   └── WaitTimeout              ``wait`` or ``results`` took longer than asked
    ├── LedgerError                  the server's
    │   ├── LedgerUnavailable        no answer, or the connection broke and did not come back
    │   ├── LedgerRefused            wrong password, missing rights
    │   ├── LedgerUnsafe             the server may drop keys (an evicting memory policy), or is too old
    │   ├── LedgerFull               the server is out of memory
    │   └── LedgerCorrupt            a stored field does not parse
    ├── TransportError               a ticket could not be handed to the broker
    ├── ClusterError                 the local server or a local node does not start
    ├── ArchiveError                 a file of the archive cannot be written or read
    ├── TuningError                  the data do not support the question asked
    ├── MissingDependency            an optional extra is not installed
    └── TimeLimitExceeded            raised in user code that runs for longer than its run allows
    BatchError                       raised by user code of a batched task: which of its items failed
    RemoteError                      an item's error on a worker, with the traceback as text

Messages say what happened, where, and what to do next.
"""

from __future__ import annotations

from collections.abc import Mapping


class ToolkitError(Exception):
    """Base of every error raised by this package."""


class InvalidInput(ToolkitError, ValueError):
    """An argument that cannot be used; nothing was enqueued."""


class EncodeError(InvalidInput):
    """A value that cannot be stored and read back exactly.

    Parameters
    ----------
    reason : str
        What is wrong and what to do instead.
    index : int or None
        Index of the item in its run, where there is one.
    path : str
        Where inside the value, for example ``['rows'][3]``.
    """

    def __init__(self, reason: str, index: int | None = None, path: str = "") -> None:
        self.reason = reason
        self.index = index
        self.path = path
        where = "" if index is None else f"item {index}"
        where += path and f" at value{path}"
        super().__init__(f"{where.strip()}: {reason}" if where else reason)

    def at(self, index: int) -> EncodeError:
        """Return the same error, naming item `index`."""
        return type(self)(self.reason, index, self.path)


class UnknownTask(InvalidInput):
    """No application and no worker knows the task."""


class FunctionNotAllowed(InvalidInput):
    """A function shipped by value, refused: unsigned, wrongly signed, or not allowed here."""


class RunError(ToolkitError):
    """Something about one run."""


class RunNotFound(RunError, LookupError):
    """No run with this id on this server."""


class RunStateError(RunError):
    """The state of the run does not allow what was asked."""


class RunFailed(RunError):
    """Results were asked for and some items are dead letters."""


class RunCancelled(RunError):
    """Results were asked for and the run was cancelled."""


class WaitTimeout(RunError, TimeoutError):
    """The run did not end within the time given; it goes on."""


class LedgerError(ToolkitError):
    """The server that holds the ledger, or what it stores."""


class LedgerUnavailable(LedgerError, ConnectionError):
    """No server answers at the address, or it stopped answering."""


class LedgerRefused(LedgerError, PermissionError):
    """The server refused the credentials, or they lack a right."""


class LedgerUnsafe(LedgerError):
    """The server's version or settings would lose data."""


class LedgerFull(LedgerError):
    """The server is out of memory; nothing was stored."""


class LedgerCorrupt(LedgerError):
    """A stored field does not parse; the message names key and field."""


class TransportError(ToolkitError, ConnectionError):
    """The broker did not take a ticket."""


class ClusterError(ToolkitError):
    """The local server, or a local node, does not start or stop."""


class ArchiveError(ToolkitError):
    """The archive cannot be written, or a file of it cannot be read."""


class TuningError(ToolkitError):
    """The recorded data do not support the question."""


class MissingDependency(ToolkitError, ImportError):
    """An optional extra is needed and not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package!r}. Install it with: pip install 'batch-analytics-toolkit[{extra}]'"
        )
        self.package = package
        self.extra = extra


class TimeLimitExceeded(ToolkitError, TimeoutError):
    """Raised in the user code of an item, or of a batched call, that runs for longer than its run allows.

    User code may catch it to clean up, for about a second; then its process is killed. It is a TimeoutError, hence an
    OSError: the default retry policy tries the item again.
    """


class BatchError(Exception):
    """Raised by a batched function to say which of its items failed.

    Parameters
    ----------
    errors : mapping of int to Exception
        Position in the batch (0 is the first item of the list) to its error.
    """

    def __init__(self, errors: Mapping[int, BaseException]) -> None:
        self.errors = dict(errors)
        super().__init__(f"{len(self.errors)} items of the batch failed")


class RemoteError(ToolkitError):
    """The error of an item, as it happened on a worker.

    Parameters
    ----------
    index : int
        Index of the item in its run.
    type_name : str
        Qualified name of the remote exception class. The class itself is never imported.
    message : str
        ``str`` of the remote exception.
    traceback_text : str
        The remote traceback, as text.
    category : str
        Error category, see `toolkit.records.CATEGORIES`.
    """

    def __init__(self, index: int, type_name: str, message: str, traceback_text: str = "", category: str = "") -> None:
        self.index = index
        self.type_name = type_name
        self.remote_message = message
        self.traceback_text = traceback_text
        self.category = category
        super().__init__(f"item {index}: {type_name}: {message}")
