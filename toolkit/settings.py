"""Settings: small frozen values, read once at the edge.

Only `Settings.from_env` reads the environment. Everything else is handed a value.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from toolkit.errors import InvalidInput

_SCHEMES = {"redis", "rediss", "valkey", "valkeys", "unix"}
_OPTIONS = {
    "client_name": ".+",
    "db": "[0-9]+",
    "health_check_interval": "[0-9]+",
    "max_connections": "[0-9]+",
    "protocol": "[23]",
    "socket_connect_timeout": r"[0-9]+(\.[0-9]+)?",
    "socket_keepalive": "(?i:true|false|yes|no|0|1)",
    "socket_timeout": r"[0-9]+(\.[0-9]+)?",
    "ssl_ca_certs": ".+",
    "ssl_ca_path": ".+",
    "ssl_cert_reqs": "none|optional|required",
    "ssl_certfile": ".+",
    "ssl_check_hostname": "(?i:true|false|yes|no|0|1)",
    "ssl_ciphers": ".+",
    "ssl_keyfile": ".+",
}
"""What may follow ``?`` in a URL, as redis-py calls it, and what it may say."""


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """Where a Redis or Valkey server is, and how to authenticate; its repr shows no secret.

    Attributes
    ----------
    url : str
        ``redis://``, ``rediss://`` or ``unix://`` URL without credentials.
    username : str or None
        ACL user; None is the server's default user.
    password : str or None
        Password, kept out of repr.
    password_file : pathlib.Path or None
        A file that holds the password, read at each connect. Wins over `password`.
    """

    url: str
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    password_file: Path | None = None

    @classmethod
    def of(cls, given: str | ServerAddress) -> ServerAddress:
        """An address as it is, or a URL by `parse`."""
        return given if isinstance(given, ServerAddress) else cls.parse(given)

    @classmethod
    def parse(cls, url: str) -> ServerAddress:
        """Split a URL into address and credentials; ``valkey://`` is read as ``redis://``.

        Raises
        ------
        InvalidInput
            The scheme is none of redis, rediss, valkey, valkeys, unix, or the URL cannot be split safely: a password
            with ``/ ? # @`` must be percent-encoded, and none belongs in the query. Or its database is no number, or
            an option is none that a connection has.
        """
        try:
            parts = urlsplit(url)
            _ = parts.port  # raises where a password was mistaken for a port
            # what follows the host is shown and logged: no part of a secret may be in it
            rest = f"{parts.path}?{parts.query}#{parts.fragment}"
            unsafe = bool(parts.fragment) or "password=" in rest.lower() or (parts.scheme != "unix" and "@" in rest)
        except ValueError:
            unsafe = True
        if unsafe:
            raise InvalidInput(
                "the ledger URL cannot be split into user, password and host (it is not repeated here, it may hold a "
                "secret): percent-encode the characters / ? # @ : of the password, as urllib.parse.quote does, and put "
                "it in front of the host: redis://user:password@host:6379/0"
            ) from None
        if parts.scheme not in _SCHEMES:
            raise InvalidInput(
                f"ledger URL {redact_url(url)!r}: scheme must be one of {', '.join(sorted(_SCHEMES))}, "
                "for example redis://127.0.0.1:6379/0"
            )
        if parts.scheme != "unix" and not re.fullmatch(r"/?|/[0-9]+", parts.path):
            # redis-py takes database 0 instead: a run would be looked for, or stored, where nobody expects it
            raise InvalidInput(
                f"ledger URL {redact_url(url)!r}: {parts.path[1:]!r} is no database; a server numbers them, "
                "for example redis://127.0.0.1:6379/0"
            )
        _check_options(redact_url(url).partition("?")[0], parts.query)
        scheme = {"valkey": "redis", "valkeys": "rediss"}.get(parts.scheme, parts.scheme)
        username = unquote(parts.username) if parts.username else None
        password = unquote(parts.password) if parts.password else None
        host = parts.netloc.rpartition("@")[2]
        query = f"?{parts.query}" if parts.query else ""
        return cls(f"{scheme}://{host}{parts.path}{query}", username, password)

    def read_password(self) -> str | None:
        """Return the password, from the file where one is named."""
        if self.password_file is not None:
            return self.password_file.read_text().strip()
        return self.password

    def __str__(self) -> str:
        return self.url


def _check_options(url: str, query: str) -> None:
    """Look at what follows ``?``; the value of an option that nobody knows is not repeated, it may be a secret."""
    for name, value in parse_qsl(query, keep_blank_values=True):
        pattern = _OPTIONS.get(name)
        if pattern is None:
            close = difflib.get_close_matches(name, _OPTIONS, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(_OPTIONS)}"
            raise InvalidInput(f"ledger URL {url!r}: {name!r} is no option of a connection; {hint}")
        if not re.fullmatch(pattern, value):
            raise InvalidInput(f"ledger URL {url!r}: {name}={value!r} is no value for this option of a connection")


def redact_url(url: str) -> str:
    """Return `url` with any password replaced by ``***``."""
    return re.sub(r"(?<=://)([^/@\s:]*):\S*@", lambda m: f"{m.group(1)}:***@", url)


def url_with_password(address: ServerAddress) -> str:
    """Return the URL with credentials, for libraries that take nothing else."""
    password = address.read_password()
    if not password and not address.username:
        return address.url
    scheme, rest = address.url.split("://", 1)
    return f"{scheme}://{quote(address.username or '', safe='')}:{quote(password or '', safe='')}@{rest}"


@dataclass(frozen=True, slots=True)
class LedgerSettings:
    """Limits and periods of a ledger connection.

    Attributes
    ----------
    lease_s : float
        How long a claim lives without renewal.
    retention_s : float or None
        How long the data of an ended run stay; None keeps them for ever. On a LocalCluster they stay beyond it until a
        client has archived them.
    retry_s : float
        How long a call is tried again while the server does not answer.
    max_item_bytes, max_result_bytes : int
        Largest encoded item and result.
    look_ahead_bytes : int
        Memory of the server for items of a stream that no worker has taken yet (without kept results: that did not
        end yet, and at least a fourth of it for those that no worker has taken); submission waits beyond it.
    full_wait_s : float
        How long submission waits for a server that is out of memory, counted from the run's latest progress.
    """

    lease_s: float = 10.0
    retention_s: float | None = 7 * 86400.0
    retry_s: float = 30.0
    max_item_bytes: int = 16 * 1024 * 1024
    max_result_bytes: int = 16 * 1024 * 1024
    look_ahead_bytes: int = 64 * 1024 * 1024
    full_wait_s: float = 60.0


def default_state_dir() -> Path:
    """Directory of this user's LocalCluster: ``TOOLKIT_STATE_DIR``, else the XDG state directory."""
    return Settings.from_env().state_dir


@dataclass(frozen=True, slots=True)
class Settings:
    """What the environment says; nothing else in the package reads it.

    Attributes
    ----------
    app : str or None
        ``TOOLKIT_APP``: ``module:attribute`` of a Celery application.
    ledger_url : str or None
        ``TOOLKIT_LEDGER_URL``, kept out of repr.
    state_dir : pathlib.Path
        ``TOOLKIT_STATE_DIR``: where the LocalCluster keeps its data.
    function_key_file : pathlib.Path or None
        ``TOOLKIT_FUNCTION_KEY_FILE``: the key that signs functions typed in a cell.
    server_binary : str or None
        ``TOOLKIT_SERVER_BINARY``: a ``valkey-server`` or ``redis-server`` to start.
    progress : bool
        ``TOOLKIT_PROGRESS``: 0 silences progress bars and live panels.
    disabled : bool
        ``TOOLKIT_DISABLED``: 1 switches instrumentation off.
    archive : pathlib.Path or None
        ``TOOLKIT_ARCHIVE``: directory of the archive of ended runs.
    colour : bool
        No ``NO_COLOR``, as of https://no-color.org: terminals may be sent colours.
    """

    app: str | None = None
    ledger_url: str | None = field(default=None, repr=False)
    state_dir: Path = Path()
    function_key_file: Path | None = None
    server_binary: str | None = None
    progress: bool = True
    disabled: bool = False
    archive: Path | None = None
    colour: bool = True

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Read the settings from `environ`, by default the process's own."""
        env = os.environ if environ is None else environ
        state = env.get("TOOLKIT_STATE_DIR")
        if not state:
            base = env.get("XDG_STATE_HOME") or str(Path(env.get("HOME") or Path.home()) / ".local" / "state")
            state = str(Path(base) / "batch-analytics-toolkit")
        key_file = env.get("TOOLKIT_FUNCTION_KEY_FILE")
        archive = env.get("TOOLKIT_ARCHIVE")
        return cls(
            app=env.get("TOOLKIT_APP") or None,
            ledger_url=env.get("TOOLKIT_LEDGER_URL") or None,
            state_dir=Path(state).expanduser().absolute(),
            function_key_file=Path(key_file) if key_file else None,
            server_binary=env.get("TOOLKIT_SERVER_BINARY") or None,
            progress=env.get("TOOLKIT_PROGRESS", "1") != "0",
            disabled=env.get("TOOLKIT_DISABLED", "0") == "1",
            archive=Path(archive).expanduser().absolute() if archive else None,
            colour=not env.get("NO_COLOR"),
        )
