"""The server's users: who may do what with the ledger, each role with no more than it needs.

A function on the server runs with the rights of its caller, so a role that may call one has the commands inside it
too, on the keys named here and on no others. Nobody may flush, list or reconfigure the server, and only `admin` may
install functions: what workers execute on the server is then decided by whoever holds that password.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Final

from toolkit.errors import InvalidInput

MIN_PASSWORD: Final = 16
"""Characters of a password at least."""

_CONNECT = "auth hello ping quit reset select client|setinfo client|setname info time"
_READ = (
    "exists fcall_ro get getrange hexists hget hgetall hkeys hlen hmget hscan hstrlen hvals llen lrange smembers "
    "strlen type xlen xrange xread xrevrange zcard zcount zrange zrangebyscore zrevrange zrevrangebyscore zscore"
)
_WRITE = (
    "append del fcall hdel hincrby hset lpop lpush ltrim persist pexpire pttl rpush sadd set unlink xadd zadd zrem "
    "zremrangebyrank zremrangebyscore"
)
_OPERATE = (
    "acl|log acl|whoami client|list function|delete function|list function|load function|stats memory|usage slowlog|get"
)
_SINCE_7_2 = {"client|setinfo"}
_RUNS = "~{tk:*}:*"
_SAFE = re.compile(r"[A-Za-z0-9._:-]{0,64}")


@dataclass(frozen=True, slots=True)
class Role:
    """One user of a server.

    Attributes
    ----------
    name : str
        What follows the common prefix in the user's name.
    purpose : str
        Who connects as this user.
    commands : tuple of str
        Commands, lower case; ``command|subcommand`` where only one is meant.
    patterns : tuple of str
        Keys (``~``, ``%R~`` for reading only) and channels (``&``), as the server writes them.
    """

    name: str
    purpose: str
    commands: tuple[str, ...]
    patterns: tuple[str, ...]

    def rule(self, prefix: str, digest: str, *, redis_7_0: bool = False) -> str:
        """Return the line of an ACL file for a user whose password has the SHA-256 `digest`.

        A server refuses a whole file for a command that it does not know; `redis_7_0` leaves out what came later.
        """
        allowed = " ".join(f"+{c}" for c in self.commands if not (redis_7_0 and c in _SINCE_7_2))
        return f"user {prefix}{self.name} reset on #{digest} {' '.join(self.patterns)} -@all {allowed}"


def _commands(*groups: str) -> tuple[str, ...]:
    return tuple(sorted({command for group in groups for command in group.split()}))


ROLES: Final = (
    Role(
        "admin",
        "installs the ledger's functions (toolkit install-functions) and looks after it",
        _commands(_CONNECT, _READ, _WRITE, _OPERATE),
        (_RUNS, "~tk:*"),
    ),
    Role(
        "client",
        "submits and steers runs",
        _commands(_CONNECT, _READ, _WRITE),
        (_RUNS, "~tk:runs", "~tk:queues", "~tk:active:*", "%R~tk:nodes"),
    ),
    Role(
        "worker",
        "the ledger URL of the nodes",
        _commands(_CONNECT, _READ, _WRITE),
        (_RUNS, "~tk:active:*", "~tk:nodes", "~tk:sweeper:*", "%R~tk:queues", "%R~tk:runs"),
    ),
    Role("dashboard", "looks, and changes nothing", _commands(_CONNECT, _READ), ("%R~{tk:*}:*", "%R~tk:*")),
)
"""Users of the server that holds the ledger."""


def check_prefix(prefix: str) -> str:
    """Return `prefix` when users may be named so.

    Raises
    ------
    InvalidInput
        It holds anything but letters, digits and ``. _ : -``.
    """
    if not isinstance(prefix, str) or not _SAFE.fullmatch(prefix):
        raise InvalidInput(f"prefix {prefix!r}: expected at most 64 letters, digits and . _ : -")
    return prefix


def password_digest(password: str) -> str:
    """SHA-256 of a password in hex digits, which is all that an ACL file needs.

    Raises
    ------
    InvalidInput
        It is shorter than `MIN_PASSWORD` characters.
    """
    if len(password) < MIN_PASSWORD:
        raise InvalidInput(f"a password of {len(password)} characters: at least {MIN_PASSWORD} are needed")
    return hashlib.sha256(password.encode()).hexdigest()
