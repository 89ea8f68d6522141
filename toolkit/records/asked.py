"""A run as it was asked for: its retry policy and its spec."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from toolkit.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class Retry:
    """When and how often an item is tried again.

    Attributes
    ----------
    max_attempts : int
        Executions of an item before it becomes a dead letter, the first one included.
    on : tuple of exception classes or of their qualified names
        Errors worth another try. Stored by name; a subclass counts.
    backoff_s : float
        Delay before the second attempt; doubled for each further one.
    max_backoff_s : float
        Longest delay.
    jitter : float
        The delay is multiplied by a random factor from ``1 - jitter`` to 1.
    bury : tuple of exception classes or of their qualified names
        Errors never worth another try, even where a base class of theirs is in `on`.
    pause : tuple of exception classes or of their qualified names
        Errors that pause the run, with the error as its reason: whatever failed goes back uncharged, to be tried after
        ``run.resume()``. For what no retry mends and no item is to blame for: a wrong password, an empty quota.
    breaker : float
        Pause the run, with the reason, once more than this share of the latest items failed with one category;
        0 never does.
    breaker_items : int
        How many items must have been executed before the breaker may pause.

    Examples
    --------
    >>> Retry(on=(OSError,), bury=(FileNotFoundError,), pause=("mylib.QuotaExceeded",), breaker=0.5).max_attempts
    4
    """

    max_attempts: int = 4
    on: tuple[type[BaseException] | str, ...] = (OSError,)
    backoff_s: float = 0.5
    max_backoff_s: float = 60.0
    jitter: float = 0.5
    bury: tuple[type[BaseException] | str, ...] = ()
    pause: tuple[type[BaseException] | str, ...] = ()
    breaker: float = 0.0
    breaker_items: int = 20

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            raise InvalidInput(f"Retry(max_attempts={self.max_attempts}): at least 1, the first attempt counts")
        if self.backoff_s < 0 or self.max_backoff_s < 0 or not 0 <= self.jitter <= 1:
            raise InvalidInput("Retry: backoff_s and max_backoff_s must be >= 0 and jitter between 0 and 1")
        if not 0 <= self.breaker < 1 or self.breaker_items < 1:
            raise InvalidInput("Retry: breaker must be a share from 0 to below 1, and breaker_items at least 1")
        for rule in ("on", "bury", "pause"):
            given = getattr(self, rule)
            classes = given if isinstance(given, tuple) else (given,)
            for cls in classes:
                if not (isinstance(cls, str) or (isinstance(cls, type) and issubclass(cls, BaseException))):
                    raise InvalidInput(f"Retry({rule}=...): {cls!r} is neither an exception class nor its name")
            object.__setattr__(self, rule, classes)

    def names(self, rule: str = "on") -> tuple[str, ...]:
        """Qualified names of the errors under a rule: ``on``, ``bury`` or ``pause``."""
        return tuple(c if isinstance(c, str) else qualified_name(c) for c in getattr(self, rule))

    def delay_s(self, attempt: int, uniform: float) -> float:
        """Delay after failed attempt number `attempt` (from 1), with `uniform` drawn from [0, 1)."""
        base = min(self.max_backoff_s, self.backoff_s * 2.0 ** min(attempt - 1, 30))
        return base * (1.0 - self.jitter * uniform)


def qualified_name(cls: type) -> str:
    """``module.QualName`` of a class, without the module for builtins."""
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


_TUPLES = ("retry_names", "bury_names", "pause_names", "sys_path")


@dataclass(frozen=True, slots=True)
class RunSpec:
    """What a run was asked to be; written once, at create.

    Attributes
    ----------
    run_id : str
        Its id.
    task : str
        Name of the task, as shown everywhere.
    path : str
        ``module:qualname`` by which a worker finds it, where that is not its name.
    kind : str
        ``task`` (a `toolkit.task` found by name), ``celery`` (registered in the application)
        or ``function`` (shipped by value, signed).
    call : str
        How an item becomes arguments: ``item``, ``args`` or ``kwargs``.
    batched : bool
        One call per batch, list in and list out.
    name : str
        The user's name for the run.
    queue : str
        Celery queue of its tickets.
    priority : str
        One of `PRIORITIES`.
    lease_s : float
        How long a claim lives without renewal.
    retention_s : float or None
        How long its data stay after the end.
    keep_results : bool
        Whether results are stored.
    retry_names : tuple of str
        Errors worth another try.
    bury_names, pause_names : tuple of str
        Errors that bury an item at once, and that pause the run.
    max_attempts, backoff_s, max_backoff_s, jitter, breaker, breaker_items
        See `Retry`.
    item_time_limit_s, batch_time_limit_s, deadline_s : float or None
        Limits; `deadline_s` steers and does not kill.
    max_result_bytes : int
        Largest encoded result of one item.
    tags : mapping of str to str
        The user's labels.
    code_version : str
        Digest of the task's source, as the client saw it.
    sys_path : tuple of str
        Directories that a local worker adds to find the task's module.
    python : str
        ``major.minor`` of the client.
    toolkit_version : str
        Version of this package that submitted it.
    protocol : int
        Version of the ledger's layout.
    row_schema : int
        Version of the layout of its metric rows; 1 where a run says none.
    trace : mapping of str to str
        The trace that it was submitted in (W3C Trace Context), where there was one.
    profile : bool
        Whether some of its batches are sampled.
    weighted : bool
        Whether its items have weights, by which batches are cut.
    """

    run_id: str
    task: str
    path: str = ""
    kind: str = "task"
    call: str = "item"
    batched: bool = False
    name: str = ""
    queue: str = "celery"
    priority: str = "normal"
    lease_s: float = 10.0
    retention_s: float | None = None
    keep_results: bool = True
    retry_names: tuple[str, ...] = ()
    max_attempts: int = 4
    backoff_s: float = 0.5
    max_backoff_s: float = 60.0
    jitter: float = 0.5
    bury_names: tuple[str, ...] = ()
    pause_names: tuple[str, ...] = ()
    breaker: float = 0.0
    breaker_items: int = 20
    item_time_limit_s: float | None = None
    batch_time_limit_s: float | None = None
    deadline_s: float | None = None
    max_result_bytes: int = 16 * 1024 * 1024
    tags: Mapping[str, str] = field(default_factory=dict)
    code_version: str = ""
    sys_path: tuple[str, ...] = ()
    python: str = ""
    toolkit_version: str = ""
    protocol: int = 1
    trace: Mapping[str, str] = field(default_factory=dict)
    profile: bool = False
    row_schema: int = 1
    weighted: bool = False

    @property
    def retry(self) -> Retry:
        """The retry policy, with errors by name."""
        return Retry(
            self.max_attempts, self.retry_names, self.backoff_s, self.max_backoff_s, self.jitter,
            self.bury_names, self.pause_names, self.breaker, self.breaker_items,
        )  # fmt: skip

    @staticmethod
    def of_retry(retry: Retry) -> dict[str, Any]:
        """Fields of a spec that carry a policy."""
        return {
            "retry_names": retry.names(), "bury_names": retry.names("bury"), "pause_names": retry.names("pause"),
            "max_attempts": retry.max_attempts, "backoff_s": retry.backoff_s, "max_backoff_s": retry.max_backoff_s,
            "jitter": retry.jitter, "breaker": retry.breaker, "breaker_items": retry.breaker_items,
        }  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the codec."""
        values = asdict(self)
        values["tags"], values["trace"] = dict(self.tags), dict(self.trace)
        for name in _TUPLES:
            values[name] = list(values[name])
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunSpec:
        """Inverse of `to_dict`; fields of a newer minor version are ignored."""
        known = {k: v for k, v in values.items() if k in cls.__dataclass_fields__}
        for name in _TUPLES:
            if name in known:
                known[name] = tuple(known[name])
        return cls(**known)
