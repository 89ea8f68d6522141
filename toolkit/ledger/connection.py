"""The one door to Redis or Valkey: connect, call, try again, translate errors."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable
from typing import Any

import redis
from redis.credentials import CredentialProvider

from toolkit.errors import LedgerCorrupt, LedgerError, LedgerFull, LedgerRefused, LedgerUnavailable, LedgerUnsafe
from toolkit.ledger import library
from toolkit.ledger.wire import Client
from toolkit.records import one_line
from toolkit.settings import LedgerSettings, ServerAddress

# Errors of a server that is away, restarting, loading, or cannot write for now.
_PASSING = (
    redis.exceptions.ConnectionError,
    redis.exceptions.TimeoutError,
    redis.exceptions.BusyLoadingError,
    redis.exceptions.ReadOnlyError,
    redis.exceptions.TryAgainError,
)
_CORRUPT = re.compile(r"CORRUPT <(.*?)> <(.*?)>")  # written by `corrupt` in functions/1_common.lua
# Redis answers the last to a client without password whose command is long.
_REFUSED_PREFIXES = ("WRONGPASS", "NOAUTH", "NOPERM", "Protocol error: unauthenticated")
# What passes, and what to look at when it does not.
_PASSING_ANSWERS = {
    "MISCONF": "It cannot write to its disk: look whether the disk is full, and into the server's log",
    "READONLY": "It is a replica, or became one: give the address of the primary",
    "NOREPLICAS": "It wants more replicas than it has (min-replicas-to-write) before it stores anything",
    "MASTERDOWN": "It is a replica without its primary: give the address of the primary",
    "CLUSTERDOWN": "Its cluster is not complete: look at CLUSTER INFO",
    "TRYAGAIN": "Its cluster moves these keys to another node: wait until that is done",
    "LOADING": "It is still loading its data: wait for it",
    "BUSY": "It executes a long script of somebody: wait for it, or SCRIPT KILL and FUNCTION KILL",
    "UNKILLABLE": "It executes a long script of somebody that has written already: wait for it",
    "UNBLOCKED": "Somebody unblocked this client: nothing to do",
}
# How a server that expects TLS answers a client that speaks without; others answer so while they end.
_CLOSED = re.compile("closed by server|reset by peer", re.IGNORECASE)


class _Credentials(CredentialProvider):
    """Reads the password at each connect, so that a rotated one is picked up."""

    def __init__(self, address: ServerAddress) -> None:
        self._address = address

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        password = self._address.read_password() or ""
        return (self._address.username, password) if self._address.username else (password,)


class Connection:
    """A thread-safe, fork-safe connection pool to one server.

    Parameters
    ----------
    address : ServerAddress
        Where, and with which credentials.
    settings : LedgerSettings
        `retry_s` bounds how long a call is tried again.

    Attributes
    ----------
    gone : callable
        Asked when the server does not answer: text says why it will not come back by itself, so that nothing is tried
        again; empty where nobody knows. For whoever has the server in hand.
    """

    def __init__(self, address: ServerAddress, settings: LedgerSettings | None = None) -> None:
        self.address = address
        self.settings = settings or LedgerSettings()
        options: dict[str, Any] = {"socket_timeout": 5.0, "socket_connect_timeout": 2.0, "protocol": 2}
        if address.password is not None or address.password_file is not None:
            options["credential_provider"] = _Credentials(address)
        if address.url.startswith("rediss:"):
            # The client library's defaults, said here so that no version of it decides; the URL has the last word.
            options |= {"ssl_cert_reqs": "required", "ssl_check_hostname": True}
        if address.url.startswith("unix:"):
            options.pop("socket_connect_timeout")
        else:
            options["socket_keepalive"] = True
        # Retrying is done here, where the time limit and the meaning of each error are known.
        options["retry"] = redis.retry.Retry(redis.backoff.NoBackoff(), 0)
        self.redis: redis.Redis = Client.from_url(address.url, **options)
        self._prefix = library.prefix()
        self.gone: Callable[[], str] = lambda: ""

    def __repr__(self) -> str:
        return f"Connection({self.address.url!r})"

    def close(self) -> None:
        """Close all sockets of this process."""
        self.redis.close()

    def call(self, function: str, keys: tuple[bytes, ...], *args: Any, retry_s: float | None = None) -> Any:
        """Call a server-side function; every one of them may be repeated safely.

        Parameters
        ----------
        function : str
            Its name without prefix.
        keys : tuple of bytes
            `keys.of_run` of the run.
        *args
            Its arguments, as bytes, str or numbers.
        retry_s : float, optional
            Instead of the settings' value.

        Raises
        ------
        LedgerUnavailable, LedgerRefused, LedgerFull, LedgerCorrupt, LedgerError
            See `toolkit.errors`.
        """
        command = "FCALL_RO" if function == "status" else "FCALL"
        return self.command(command, self._prefix + function, len(keys), *keys, *args, retry_s=retry_s)

    def command(self, *args: Any, retry_s: float | None = None) -> Any:
        """Execute one command, tried again while the server is away."""
        limit = self.settings.retry_s if retry_s is None else retry_s
        deadline = time.monotonic() + limit
        pause = 0.02
        while True:
            try:
                return self.redis.execute_command(*args)  # type: ignore[no-untyped-call]  # redis leaves it untyped
            except redis.exceptions.RedisError as error:
                if "Function not found" in str(error):
                    self.load_functions(retry_s=max(0.0, deadline - time.monotonic()))
                elif not _is_passing(error) or time.monotonic() + pause > deadline:
                    raise self._translate(error, args) from error
                elif why := self.gone():
                    raise LedgerUnavailable(why) from error
                else:
                    time.sleep(pause * (0.5 + random.random() / 2))  # noqa: S311 - jitter, not a secret
                    pause = min(1.0, pause * 2)

    def fields(self, key: str | bytes, retry_s: float | None = None) -> dict[bytes, bytes]:
        """All fields of a hash, whichever protocol the answer came by."""
        flat = self.command("HGETALL", key, retry_s=retry_s)
        return dict(flat.items() if isinstance(flat, dict) else zip(flat[::2], flat[1::2], strict=True))

    def load_functions(self, retry_s: float | None = None) -> None:
        """Install the function library where it is missing."""
        try:
            self.command("FUNCTION", "LOAD", library.source(), retry_s=retry_s)
        except LedgerRefused as error:
            if not isinstance(error.__cause__, redis.exceptions.NoPermissionError):
                raise
            raise LedgerRefused(
                f"the server at {self.address} lacks the ledger's functions of this version of the toolkit, and this "
                "user may not install them. Whoever holds the admin user of `toolkit acl` runs, once for each version: "
                "TOOLKIT_LEDGER_URL=... toolkit install-functions"
            ) from error
        except LedgerError as error:
            if "already exists" not in str(error):
                raise

    def check_server(self) -> str:
        """Return the server's version after checking that it can keep a ledger.

        Raises
        ------
        LedgerUnsafe
            It may evict keys, or is older than Redis 7.0.
        LedgerUnavailable, LedgerRefused
            It does not answer, or not to us.
        """
        info = self.command("INFO", "everything", retry_s=0.0)
        version = str(info.get("valkey_version") or info.get("redis_version") or "0")
        compatible = str(info.get("redis_version", "0"))
        if int(compatible.split(".", maxsplit=1)[0]) < 7:
            raise LedgerUnsafe(
                f"the server at {self.address} is version {version}; Redis 7.0 or Valkey 7.2 is needed. "
                "Upgrade it, or use tk.LocalCluster()"
            )
        policy = info.get("maxmemory_policy")
        policy = policy.decode() if isinstance(policy, bytes) else policy
        if policy is not None and policy != "noeviction":
            raise LedgerUnsafe(
                f"the server at {self.address} has maxmemory-policy {policy}: it may drop parts of a run when memory "
                "gets tight. Set it to noeviction (CONFIG SET maxmemory-policy noeviction), or use another server; "
                "nothing was stored"
            )
        return version

    def _translate(self, error: redis.exceptions.RedisError, args: tuple[Any, ...]) -> LedgerError:
        text = str(error)
        where = f"the server at {self.address}"
        if isinstance(error, redis.exceptions.OutOfMemoryError) or text.startswith("OOM"):
            return LedgerFull(
                f"{where} is out of memory; nothing was stored. Free memory or raise maxmemory, then retry"
            )
        if isinstance(
            error, redis.exceptions.AuthenticationError | redis.exceptions.NoPermissionError
        ) or text.startswith(_REFUSED_PREFIXES):
            return LedgerRefused(
                f"{where} refused these credentials or a right is missing ({_safe(text)}). "
                "Check user and password in the ledger URL"
            )
        if _is_untrusted(error):
            return LedgerUnavailable(
                f"{where}: its certificate does not verify ({_safe(text.partition(']')[2])}). Name the authority that "
                "signed it, rediss://host:port/0?ssl_ca_certs=FILE, and use a host name that stands in the certificate"
            )
        corrupt = _CORRUPT.search(text)
        if corrupt is not None:
            return LedgerCorrupt(f"{where}: key {corrupt[1]} does not parse: {corrupt[2]!r}")
        if _code(error) == "WRONGTYPE" and not str(args[0]).startswith("FCALL"):
            key = args[1].decode() if isinstance(args[1], bytes) else args[1]
            return LedgerCorrupt(f"{where}: key {key} is of another type than {args[0]} works on")
        if _is_passing(error):
            hint = _PASSING_ANSWERS.get(_code(error), "Check that it runs and that the address is right")
            if self.address.url.startswith("redis://") and _CLOSED.search(text):
                hint += ", and that it expects no TLS: then the URL begins with rediss://"
            return LedgerUnavailable(
                f"{where} does not answer as it should ({type(error).__name__}: {_safe(text)}). {hint}; toolkit doctor "
                "tells more"
            )
        return LedgerError(f"{where}: {_safe(text)}")


def _is_passing(error: redis.exceptions.RedisError) -> bool:
    if isinstance(error, redis.exceptions.AuthenticationError) or _is_untrusted(error):
        return False
    return isinstance(error, _PASSING) or _code(error) in _PASSING_ANSWERS


def _code(error: redis.exceptions.RedisError) -> str:
    """The first word of the server's answer, which the client library takes away where it has a class for it."""
    return getattr(error, "status_code", None) or str(error).partition(" ")[0]


def _is_untrusted(error: redis.exceptions.RedisError) -> bool:
    """Whether the server's certificate did not verify: no time mends that."""
    return "CERTIFICATE_VERIFY_FAILED" in str(error)


def _safe(text: str) -> str:
    """One bounded line of a server's message."""
    return one_line(text, 200)
