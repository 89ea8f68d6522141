"""The broker's users, where the broker is Redis or Valkey: one that only publishes tickets, one that consumes them.

They are apart from the ledger's users (`toolkit.ledger.acl`), also on one server: Celery's messaging library keeps
its own keys, and from version 5.7 on runs small scripts of its own, which no user of the ledger may.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from toolkit.errors import InvalidInput
from toolkit.ledger.acl import Role, check_prefix

_CONNECT = "auth hello ping quit reset select client|setinfo client|setname info"
_PUBLISH = "exec exists llen lpush multi sadd smembers"
_CONSUME = (
    "brpop del discard eval evalsha get hdel hget hset pexpire psubscribe publish punsubscribe rpop rpush "
    "script|exists script|load set srem subscribe time unsubscribe unwatch watch zadd zrange zrangebyscore zrem "
    "zrevrangebyscore"
)
_QUEUE: Final = re.compile(r"[A-Za-z0-9._:@-]{1,200}")
_SEPARATOR = "??"  # two control characters between a queue's name and its priority, which an ACL file cannot hold


def broker_roles(queues: Sequence[str], key_prefix: str = "", db: int = 0) -> tuple[Role, ...]:
    """Return the users of a broker.

    Parameters
    ----------
    queues : sequence of str
        Every queue that tickets are sent to.
    key_prefix : str
        Celery's ``global_keyprefix``, where the application sets one.
    db : int
        Number of the broker's database, which stands in the names of its channels.

    Raises
    ------
    InvalidInput
        A queue's name, or the prefix, holds what a key pattern cannot: anything but letters, digits and ``. _ : @ -``.
    """
    key = check_prefix(key_prefix)
    for queue in queues:
        if not isinstance(queue, str) or not _QUEUE.fullmatch(queue):
            raise InvalidInput(f"queue {queue!r}: expected 1 to 200 letters, digits and . _ : @ -")
    lists = [f"~{key}{queue}{end}" for queue in queues for end in ("", f"{_SEPARATOR}[0-9]")]
    names = "".join(f" {queue}" for queue in queues)
    # A subscription to a pattern is granted only by that very pattern.
    channels = [f"&{key}/{int(db)}.{name}" for name in ("celery.pidbox", "celeryev/*", "celeryev/worker.*")]
    own = ("unacked", "unacked_index", "unacked_mutex", "*.celery.pidbox*", "celeryev.*")
    return (
        Role(
            "broker-client",
            f"publishes tickets, database {db}, queues:{names}",
            tuple(sorted({*_CONNECT.split(), *_PUBLISH.split()})),
            (*lists, f"~{key}_kombu.binding*"),
        ),
        Role(
            "broker-worker",
            f"the broker URL of the nodes, database {db}, queues:{names}",
            tuple(sorted({*_CONNECT.split(), *_PUBLISH.split(), *_CONSUME.split()})),
            (*lists, f"~{key}_kombu.binding*", *(f"~{key}{name}" for name in own), *channels),
        ),
    )
